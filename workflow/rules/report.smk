# Records -> tables, figures and the page; reads nothing else, so a clone without data remakes them.


rule tables:
    input:
        plan.run_records,
        plan.train_records,
        plan.data_records,
    output:
        report(
            plan.report_outputs["tables"],
            caption="../report/tables.rst",
            category="Tables",
        ),
    log:
        plan.paths.log("report", "tables"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.report
    params:
        state=plan.report_state,
        options=plan.options,
    message:
        "report: tables"
    shell:
        "$PYTHON -m cxrmim.report --part tables --threads {threads} {params.options}"


rule figures:
    input:
        plan.run_records,
        plan.train_records,
    output:
        report(
            plan.report_outputs["figures"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        plan.paths.log("report", "figures"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.report
    params:
        state=plan.report_state,
        options=plan.options,
    message:
        "report: figures"
    shell:
        "$PYTHON -m cxrmim.report --part figures --threads {threads} {params.options}"


rule page:
    input:
        plan.run_records,
        plan.train_records,
        plan.data_records,
        plan.report_outputs["tables"],
        plan.report_outputs["figures"],
    output:
        plan.report_outputs["page"],
    log:
        plan.paths.log("report", "page"),
    conda:
        "../../environment.yml"
    threads: plan.params.threads.report
    params:
        state=plan.report_state,
        options=plan.options,
    message:
        "report: page"
    shell:
        "$PYTHON -m cxrmim.report --part page --threads {threads} {params.options}"
