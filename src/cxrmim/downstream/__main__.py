"""``python -m cxrmim.downstream --job NAME``: the downstream runs of one job."""

from collections.abc import Sequence

from cxrmim import grid, job
from cxrmim.errors import ParamsError
from cxrmim.explain import unknown


def work(ctx: job.Context) -> None:
    """Do the runs of the job that are not current."""
    jobs = {item.id: item for item in grid.jobs(ctx.params)}
    if ctx.unit not in jobs:
        raise ParamsError(unknown("downstream job", ctx.unit, list(jobs)))
    from cxrmim.downstream import runs

    found = jobs[ctx.unit]
    runs.do(found, grid.view(ctx.params, found.runs[0]), ctx.threads)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit status."""
    parser = job.parser("downstream", "job", "Evaluate checkpoints on the downstream tasks.")
    return job.run("downstream", parser, work, argv)


if __name__ == "__main__":
    job.leave(main())
