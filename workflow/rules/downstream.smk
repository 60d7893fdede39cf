# Checkpoint -> predictions and metrics. A job holds the runs that share a checkpoint, as params cut
# the grid; its runs are outputs of their own, and `update` keeps the finished ones when one is redone.

for job in plan.jobs:

    rule:
        name:
            f"downstream_{job.rule}"
        input:
            records=job.inputs,
            artifacts=ancient(job.artifacts),
        output:
            update(job.outputs),
        params:
            state=job.state,
            job=job.id,
            options=plan.options,
        log:
            plan.paths.log("downstream", job.id),
        threads: plan.params.threads.downstream
        conda:
            "../../environment.yml"
        message:
            "downstream: {params.job}"
        shell:
            "{sys.executable} -m cxrmim.downstream --job {params.job}"
            " --threads {threads} {params.options}"
