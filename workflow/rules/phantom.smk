# Generated radiographs and reports in the raw layout of each dataset; not run on real data.


rule phantom:
    output:
        folder=directory(plan.paths.phantom("{dataset}")),
        record=plan.paths.record("phantom", "{dataset}"),
    params:
        state=lambda wildcards: plan.state("phantom", wildcards.dataset),
        options=plan.options,
    log:
        plan.paths.log("phantom", "{dataset}"),
    threads: plan.params.threads.phantom
    conda:
        "../../environment.yml"
    message:
        "phantom: generate {wildcards.dataset}"
    shell:
        "{sys.executable} -m cxrmim.phantom --dataset {wildcards.dataset}"
        " --threads {threads} {params.options}"


rule phantom_sheet:
    output:
        plan.paths.figure("phantom_sheet", "png"),
    params:
        state=plan.sheet_state,
        options=plan.options,
    log:
        plan.paths.log("phantom", "sheet"),
    conda:
        "../../environment.yml"
    message:
        "phantom: contact sheet"
    shell:
        "{sys.executable} -m cxrmim.phantom --dataset sheet {params.options}"
