"""`python -m cxrmim.shards --dataset NAME`: turn a manifest into arrays."""

from collections.abc import Sequence

from cxrmim import job
from cxrmim.job import Context


def work(ctx: Context) -> None:
    """Write one dataset's shards and their record.

    Raises:
        CheckError: the manifest is missing or not the one of its record.
    """
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from cxrmim import record
    from cxrmim.paths import atomic_folder, raw_root
    from cxrmim.shards import tokenizer
    from cxrmim.shards.build import build

    dataset, params = ctx.unit, ctx.params
    manifest = ctx.paths.manifest(dataset)
    record.verify(record.read(ctx.paths.record("manifest", dataset)), "manifest")
    folder = ctx.paths.shards(dataset)
    root = raw_root(params, dataset)
    with atomic_folder(folder) as temporary:
        metrics, details = build(dataset, params, manifest, root, temporary, ctx.threads)
    inputs = {"manifest": manifest}
    if dataset == params.pretrain.corpus and params.shards.text.tokenizer == "bioclinicalbert":
        inputs["vocabulary"] = tokenizer.VOCABULARY
    record.write(
        params,
        "shards",
        dataset,
        inputs=inputs,
        outputs={file.stem: file for file in sorted(folder.iterdir())},
        parents=[("manifest", dataset)],
        metrics=metrics,
        details=details,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stop for one dataset; returns the exit status."""
    parser = job.parser("shards", "dataset", "turn a manifest into arrays")
    return job.run("shards", parser, work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
