"""Train one checkpoint: ``python -m cxrmim.pretrain --checkpoint medim-s0``."""

from collections.abc import Sequence

from cxrmim import job
from cxrmim.errors import ParamsError
from cxrmim.explain import unknown
from cxrmim.grid import entries, entry_of, pending_entry, target


def work(ctx: job.Context) -> None:
    """Train the checkpoint and write its weights and record.

    Raises:
        ParamsError: there is no such entry, or it has no code yet.
    """
    entry, known = ctx.unit.rpartition("-s")[0], entries(ctx.params)
    if entry not in known or not ctx.unit.rpartition("-s")[2].isdecimal():
        raise ParamsError(f"--checkpoint {ctx.unit}: {unknown('pretrain entry', entry, known)}")
    if target(ctx.params, entry) != entry:
        raise ParamsError(
            f"--checkpoint {ctx.unit}: {entry} is another name of {target(ctx.params, entry)}; "
            f"train that"
        )
    reason = pending_entry(ctx.params, entry_of(ctx.unit).entry)
    if reason:
        raise ParamsError(f"--checkpoint {ctx.unit}: {reason}")
    from cxrmim.pretrain import loop

    loop.run(ctx.params, ctx.unit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    parser = job.parser("pretrain", "checkpoint", "Train a pretraining method on the corpus.")
    return job.run("pretrain", parser, work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
