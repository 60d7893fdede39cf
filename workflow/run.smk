# A whole run: how its jobs are started, what it says and checks at its start and at its end.

import shlex
import sys

# Jobs run with the interpreter that runs Snakemake; a bare `python` on a cluster node is another one.
shell.prefix(f"set -euo pipefail; PYTHON={shlex.quote(sys.executable)}; ")

if workflow.is_main_process:
    logger.info(plan.announcement)
