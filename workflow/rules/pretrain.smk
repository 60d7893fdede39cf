# Shards -> checkpoint: one job per entry and seed.


rule pretrain:
    input:
        records=lambda wildcards: plan.pretrain_records(wildcards.checkpoint),
        arrays=ancient(plan.paths.shards(plan.params.pretrain.corpus)),
    output:
        weights=plan.paths.checkpoint("{checkpoint}"),
        record=plan.paths.record("pretrain", "{checkpoint}"),
    params:
        state=lambda wildcards: plan.state("pretrain", wildcards.checkpoint),
        options=plan.options,
    log:
        plan.paths.log("pretrain", "{checkpoint}"),
    threads: plan.params.threads.pretrain
    conda:
        "../../environment.yml"
    message:
        "pretrain: {wildcards.checkpoint}"
    shell:
        "{sys.executable} -m cxrmim.pretrain --checkpoint {wildcards.checkpoint}"
        " --threads {threads} {params.options}"
