# Shards -> checkpoint: one job per entry and seed. `update` keeps what is there until the job has seen
# whether it is current: days of training may have ended after Snakemake was killed.


rule pretrain:
    input:
        records=lambda wildcards: plan.pretrain_records(wildcards.checkpoint),
        artifacts=lambda wildcards: [
            ancient(path) for path in plan.pretrain_artifacts(wildcards.checkpoint)
        ],
    output:
        weights=update(plan.paths.checkpoint("{checkpoint}")),
        record=update(plan.paths.record("pretrain", "{checkpoint}")),
    log:
        plan.paths.log("pretrain", "{checkpoint}"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.pretrain * plan.processes_per_node
    resources:
        **plan.resources("pretrain"),
    params:
        state=lambda wildcards: plan.state("pretrain", wildcards.checkpoint),
        launcher=plan.pretrain_launcher,
        each=lambda wildcards, threads: max(1, threads // plan.processes_per_node),
        options=plan.options,
    message:
        "pretrain: {wildcards.checkpoint}"
    shell:
        "{params.launcher} --checkpoint {wildcards.checkpoint}"
        " --threads {params.each} {params.options}"
