# Raw layout -> one table per dataset: ids, labels, split, label subsets.


rule manifest:
    input:
        lambda wildcards: plan.raw(wildcards.dataset),
    output:
        table=plan.paths.manifest("{dataset}"),
        record=plan.paths.record("manifest", "{dataset}"),
    log:
        plan.paths.log("manifest", "{dataset}"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.manifest
    resources:
        **plan.resources("manifest"),
    params:
        state=lambda wildcards: plan.state("manifest", wildcards.dataset),
        options=plan.options,
    message:
        "manifest: {wildcards.dataset}"
    shell:
        "$PYTHON -m cxrmim.manifest --dataset {wildcards.dataset}"
        " --threads {threads} {params.options}"
