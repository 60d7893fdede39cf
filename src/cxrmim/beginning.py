"""What is asked once, in the first moment of a run, so that nothing is started in vain."""

from typing import Any

from cxrmim import disk, doctor, recover
from cxrmim.errors import CxrmimError
from cxrmim.plan import Plan


def allowed(workflow: Any, plan: Plan) -> None:
    """Refuse a run that cannot end well: for ``onstart``.

    Snakemake runs itself again for every Slurm job; those inner runs ask nothing.

    Args:
        workflow: Snakemake's object of that name.
        plan: the scale's workflow.

    Raises:
        WorkflowError: jobs of an earlier, killed run are left, results cannot be written, or
            weights from which a pretraining of this run starts are not there.
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
