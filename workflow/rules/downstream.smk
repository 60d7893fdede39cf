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
        log:
            plan.paths.log("downstream", job.id),
        conda:
            "../../environment.yml"
        threads: plan.params.threads.downstream
        resources:
            **job.resources,
        params:
            state=job.state,
            job=job.id,
            options=plan.options,
        message:
            "downstream: {params.job}"
        shell:
            "$PYTHON -m cxrmim.downstream --job {params.job}"
            " --threads {threads} {params.options}"
