"""`python -m cxrmim.report --part tables|figures|page|local`: one part of the report."""

from collections.abc import Sequence

from cxrmim import job
from cxrmim.errors import ParamsError
from cxrmim.explain import unknown
from cxrmim.report.outputs import PARTS

LOCAL = "local"  # no part of the shared report: see `report.local`


def work(context: job.Context) -> None:
    """Build the part that the context names."""
    known = [*PARTS, LOCAL]
    if context.unit not in known:
        raise ParamsError(f"--part: {unknown('part of the report', context.unit, known)}")
    from cxrmim.report import build, local

    parts = {
        "tables": build.build_tables,
        "figures": build.build_figures,
        "page": build.build_page,
        LOCAL: local.build,
    }
    parts[context.unit](context.params)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, build, return the exit status."""
    parser = job.parser(
        "report",
        "part",
        "build tables, figures or the pages from the records; local: draw withheld images",
    )
    return job.run("report", parser, work, argv)


if __name__ == "__main__":
    job.leave(main())
