# Raw layout -> one table per dataset: ids, labels, split, label subsets.


rule manifest:
    input:
        **plan.raw,
    output:
        table=plan.paths.manifest("{dataset}"),
        record=plan.paths.record("manifest", "{dataset}"),
    params:
        state=lambda wildcards: plan.state("manifest", wildcards.dataset),
        options=plan.options,
    log:
        plan.paths.log("manifest", "{dataset}"),
    threads: plan.params.threads.manifest
    conda:
        "../../environment.yml"
    message:
        "manifest: {wildcards.dataset}"
    shell:
        "{sys.executable} -m cxrmim.manifest --dataset {wildcards.dataset}"
        " --threads {threads} {params.options}"
