# Shards -> checkpoint: one job per entry and seed.


rule pretrain:
    input:
        records=lambda wildcards: plan.pretrain_records(wildcards.checkpoint),
        artifacts=lambda wildcards: [
            ancient(path) for path in plan.pretrain_artifacts(wildcards.checkpoint)
        ],
    output:
        weights=plan.paths.checkpoint("{checkpoint}"),
        record=plan.paths.record("pretrain", "{checkpoint}"),
    log:
        plan.paths.log("pretrain", "{checkpoint}"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.pretrain * plan.params.pretrain.processes
    params:
        state=lambda wildcards: plan.state("pretrain", wildcards.checkpoint),
        launcher=plan.pretrain_launcher,
        each=lambda wildcards, threads: max(
            1, threads // plan.params.pretrain.processes
        ),
        options=plan.options,
    message:
        "pretrain: {wildcards.checkpoint}"
    # SIGUSR1 asks the training to save. The shell and torchrun, which a cluster signals too, would
    # die of it and leave the training to itself; Python sets its own handler over this.
    shell:
        "trap '' USR1; $PYTHON {params.launcher} --checkpoint {wildcards.checkpoint}"
        " --threads {params.each} {params.options}"
