# Records -> tables, figures and the report; reads nothing else, so a clone without data remakes them.


rule report:
    input:
        plan.run_records,
    output:
        plan.report_outputs_made,
    params:
        state=plan.report_state,
        options=plan.options,
    log:
        plan.paths.log("report", "report"),
    threads: plan.params.threads.report
    conda:
        "../../environment.yml"
    message:
        "report: tables, figures, page"
    shell:
        "{sys.executable} -m cxrmim.report --part all --threads {threads} {params.options}"
