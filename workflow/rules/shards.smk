# Manifest -> memory-mapped uint8 images, masks and tokenised reports.


rule shards:
    input:
        record=plan.paths.record("manifest", "{dataset}"),
        table=ancient(plan.paths.manifest("{dataset}")),
    output:
        folder=directory(plan.paths.shards("{dataset}")),
        record=plan.paths.record("shards", "{dataset}"),
    log:
        plan.paths.log("shards", "{dataset}"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.shards
    params:
        state=lambda wildcards: plan.state("shards", wildcards.dataset),
        options=plan.options,
    message:
        "shards: {wildcards.dataset}"
    shell:
        "$PYTHON -m cxrmim.shards --dataset {wildcards.dataset}"
        " --threads {threads} {params.options}"
