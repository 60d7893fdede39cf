# Generated radiographs and reports in the raw layout of each dataset; not run on real data.


rule phantom:
    output:
        folder=directory(plan.paths.phantom("{root}")),
        record=plan.paths.record("phantom", "{root}"),
    log:
        plan.paths.log("phantom", "{root}"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.phantom
    resources:
        **plan.resources("phantom"),
    params:
        state=lambda wildcards: plan.state("phantom", wildcards.root),
        options=plan.options,
    message:
        "phantom: generate {wildcards.root}"
    shell:
        "$PYTHON -m cxrmim.phantom --dataset {wildcards.root}"
        " --threads {threads} {params.options}"


rule phantom_sheet:
    output:
        plan.paths.figure("phantom_sheet", "png"),
    log:
        plan.paths.log("phantom", "sheet"),
    conda:
        "../../environment.yml"
    params:
        state=plan.sheet_state,
        options=plan.options,
    message:
        "phantom: contact sheet"
    shell:
        "$PYTHON -m cxrmim.phantom --dataset sheet {params.options}"
