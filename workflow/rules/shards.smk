# Manifest -> memory-mapped uint8 images, masks and tokenised reports.


rule shards:
    input:
        record=plan.paths.record("manifest", "{stored}"),
        table=ancient(plan.paths.manifest("{stored}")),
    output:
        folder=directory(plan.paths.shards("{stored}")),
        record=plan.paths.record("shards", "{stored}"),
    log:
        plan.paths.log("shards", "{stored}"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.shards
    resources:
        **plan.resources("shards"),
    params:
        state=lambda wildcards: plan.state("shards", wildcards.stored),
        options=plan.options,
    message:
        "shards: {wildcards.stored}"
    shell:
        "$PYTHON -m cxrmim.shards --dataset {wildcards.stored}"
        " --threads {threads} {params.options}"


rule shards_audit:
    input:
        record=plan.paths.record("manifest", "{audited}"),
        table=ancient(plan.paths.manifest("{audited}")),
        stored=lambda wildcards: plan.stored(wildcards.audited),
    output:
        record=plan.paths.record("shards", "{audited}"),
    log:
        plan.paths.log("shards", "{audited}"),
    conda:
        "../../environment.yml"
    params:
        state=lambda wildcards: plan.state("shards", wildcards.audited),
        options=plan.options,
    message:
        "shards: audit of {wildcards.audited}"
    shell:
        "$PYTHON -m cxrmim.shards --dataset {wildcards.audited} {params.options}"
