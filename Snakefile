# Index of the workflow: `rule all` makes every table and figure of both papers.
# What is run is params.yaml's business (src/cxrmim/grid.py), where it lies src/cxrmim/paths.py's.
from snakemake.utils import min_version

min_version("9.20")

import sys

from cxrmim import workflow

# The one thing that can be set from outside: `--config scale=phantom` for another scale.
plan = workflow.plan(config)


wildcard_constraints:
    dataset="|".join(plan.datasets),
    checkpoint="|".join(plan.checkpoints),


include: "workflow/rules/phantom.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/shards.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/downstream.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    report,


rule all:
    default_target: True
    input:
        plan.report_outputs,
