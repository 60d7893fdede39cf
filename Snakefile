# Index of the workflow: `rule all` makes every table and figure of both papers.
# What is run is params.yaml's business (src/cxrmim/grid.py), where it lies src/cxrmim/paths.py's.
from snakemake.utils import min_version

min_version("9.20")

from cxrmim.plan import lay_out

# The one thing that can be set from outside: `--config scale=phantom` for another scale.
plan = lay_out(config, head=workflow.is_main_process)


wildcard_constraints:
    root="|".join(plan.roots) or "none",
    dataset="|".join([*plan.datasets, *plan.audited]) or "none",
    stored="|".join(plan.datasets) or "none",
    audited="|".join(plan.audited) or "none",
    checkpoint="|".join(plan.checkpoints) or "none",


include: "workflow/run.smk"
include: "workflow/rules/phantom.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/shards.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/downstream.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    phantom_sheet,
    tables,
    figures,
    page,


rule all:
    default_target: True
    input:
        plan.targets,
