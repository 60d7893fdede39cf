"""`python -m cxrmim.report --part tables|figures|page`: one part of the report."""

from collections.abc import Sequence

from cxrmim import job
from cxrmim.errors import ParamsError
from cxrmim.explain import unknown
from cxrmim.report.outputs import PARTS


def work(context: job.Context) -> None:
    """Build the part that the context names."""
    if context.unit not in PARTS:
        raise ParamsError(f"--part: {unknown('part of the report', context.unit, list(PARTS))}")
    from cxrmim.report import build

    parts = {
        "tables": build.build_tables,
        "figures": build.build_figures,
        "page": build.build_page,
    }
    parts[context.unit](context.params)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, build, return the exit status."""
    parser = job.parser("report", "part", "build tables, figures or the page from the records")
    return job.run("report", parser, work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
