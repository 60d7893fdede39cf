"""Train one checkpoint: ``python -m cxrmim.pretrain --checkpoint medim-s0``."""

from collections.abc import Sequence

from cxrmim import job, record
from cxrmim.errors import ParamsError
from cxrmim.explain import unknown
from cxrmim.grid import entries, pending_entry, target


def work(ctx: job.Context) -> None:
    """Train the checkpoint and write its weights and record; one that is current stays.

    Raises:
        ParamsError: there is no such entry, or it has no code yet.
    """
    entry, mark, seed = ctx.unit.rpartition("-s")
    known = entries(ctx.params)
    if not mark or not seed.isdecimal():
        raise ParamsError(
            f"--checkpoint {ctx.unit}: must be <entry>-s<seed>, for instance {known[0]}-s0"
        )
    if entry not in known:
        raise ParamsError(f"--checkpoint {ctx.unit}: {unknown('pretrain entry', entry, known)}")
    if target(ctx.params, entry) != entry:
        raise ParamsError(
            f"--checkpoint {ctx.unit}: {entry} is another name of {target(ctx.params, entry)}; "
            f"train that"
        )
    reason = pending_entry(ctx.params, entry)
    if reason:
        raise ParamsError(f"--checkpoint {ctx.unit}: {reason}")
    if record.current(ctx.params, "pretrain", ctx.unit):
        # It had ended, but whoever started it was killed before it could note that.
        job.log.info("%s: current, not trained again", ctx.unit)
        return
    from cxrmim.pretrain import loop

    loop.run(ctx.params.training(entry), ctx.unit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    parser = job.parser("pretrain", "checkpoint", "Train a pretraining method on the corpus.")
    return job.run("pretrain", parser, work, argv)


if __name__ == "__main__":
    job.leave(main())
