"""What is asked once, in the first moment of a run, so that nothing is started in vain."""

from collections.abc import Iterator
from typing import Any

from cxrmim import disk, doctor, recover
from cxrmim.errors import CxrmimError
from cxrmim.plan import Plan


def announced(plan: Plan) -> Iterator[str]:
    """What is said before anything is looked at, dry runs included: the scale, and a lock.

    Snakemake's own words about a lock advise `--unlock`, after which an orphan of the killed run
    and its replacement would write the same files.
    """
    yield plan.announcement
    if any(recover.LOCKS.glob("*.lock")):
        yield (
            "cxrmim: this folder is locked: a run is at work here, or was killed; `cxrmim status` "
            "shows what runs, `cxrmim recover` mends the latter (do not `--unlock` before it)"
        )


def allowed(workflow: Any, plan: Plan) -> None:
    """Refuse a run that cannot end well: for ``onstart``.

    Snakemake runs itself again for every Slurm job; those inner runs ask nothing.

    Args:
        workflow: Snakemake's object of that name.
        plan: the scale's workflow.

    Raises:
        WorkflowError: jobs of another run of this folder are there, results cannot be written,
            or weights from which a pretraining of this run starts are not there.
    """
    from snakemake.exceptions import WorkflowError

    if not workflow.is_main_process:
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name == "pretrain"]
    try:
        recover.require_alone()
        disk.require_writable(plan.paths.results)
        doctor.require_weights(plan.params, [job.wildcards.checkpoint for job in jobs])
    except CxrmimError as error:
        raise WorkflowError(f"{error}; nothing was started") from None
