"""`python -m cxrmim.manifest --dataset ENTRY`: read a dataset's raw layout into its manifest."""

from collections.abc import Sequence

from cxrmim import job
from cxrmim.job import Context


def work(ctx: Context) -> None:
    """Build and write one manifest and its record."""
    from cxrmim import grid, record
    from cxrmim.manifest.build import build
    from cxrmim.manifest.contract import write_table
    from cxrmim.paths import atomic

    manifest = build(ctx.unit, ctx.params)
    path = ctx.paths.manifest(ctx.unit)
    with atomic(path) as temporary:
        write_table(manifest.table, temporary)
    record.write(
        ctx.params,
        "manifest",
        ctx.unit,
        inputs=manifest.raw,
        outputs={"manifest": path},
        parents=grid.parents(ctx.params, "manifest", ctx.unit),
        metrics=manifest.metrics,
        details=manifest.details,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stop for one dataset; returns the exit status."""
    parser = job.parser("manifest", "dataset", "read a dataset's raw layout into its manifest")
    return job.run("manifest", parser, work, argv)


if __name__ == "__main__":
    job.leave(main())
