"""`python -m cxrmim.shards --dataset NAME`: turn a manifest into arrays, or audit its pixels."""

from collections.abc import Sequence

from cxrmim import job
from cxrmim.job import Context


def work(ctx: Context) -> None:
    """Write one dataset's shards and their record, or for an audited entry the record alone.

    Raises:
        CheckError: the manifest is missing or not the one of its record.
    """
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from cxrmim import grid, record

    record.verify(record.read(ctx.paths.record("manifest", ctx.unit)), "manifest")
    if ctx.unit in grid.audited(ctx.params):
        _audit(ctx)
    else:
        _build(ctx)


def _build(ctx: Context) -> None:
    import shutil

    from cxrmim import grid, record
    from cxrmim.paths import raw_root
    from cxrmim.shards import reports
    from cxrmim.shards.build import build

    dataset, params = ctx.unit, ctx.params.storing(ctx.unit)
    manifest, folder = ctx.paths.manifest(dataset), ctx.paths.shards(dataset)
    building = ctx.paths.building(dataset)
    root = raw_root(params, dataset)
    metrics, details = build(dataset, params, manifest, root, folder, building, ctx.threads)
    inputs = {"manifest": manifest}
    if dataset == params.pretrain.corpus:
        inputs |= reports.inputs(params.shards.text)
    record.write(
        params,
        "shards",
        dataset,
        inputs=inputs,
        outputs={file.stem: file for file in sorted(folder.iterdir())},
        parents=grid.parents(params, "shards", dataset),
        metrics=metrics,
        details=details,
    )
    shutil.rmtree(building)


def _audit(ctx: Context) -> None:
    import pandas as pd

    from cxrmim import grid, record
    from cxrmim.shards import audit

    entry, params = ctx.unit, ctx.params
    inputs = {"manifest": ctx.paths.manifest(entry)}
    for kind, dataset in grid.parents(params, "shards", entry):
        if kind == "shards":
            record.verify(record.read(ctx.paths.record("shards", dataset)), "table")
            inputs[dataset] = ctx.paths.shards(dataset) / "table.parquet"
    tables = {name: pd.read_parquet(path) for name, path in inputs.items()}
    manifest = tables.pop("manifest")
    record.write(
        params,
        "shards",
        entry,
        inputs=inputs,
        parents=grid.parents(params, "shards", entry),
        metrics=audit.work(entry, manifest, pd.concat(tables.values())),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stop for one dataset; returns the exit status."""
    parser = job.parser("shards", "dataset", "turn a manifest into arrays")
    return job.run("shards", parser, work, argv)


if __name__ == "__main__":
    job.leave(main())
