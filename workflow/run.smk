# A whole run: how its jobs are started, what it checks at its start and says at its end.

import os
import shlex
import sys

from cxrmim import beginning, ending, recover

# Jobs run with the interpreter that runs Snakemake; a bare `python` on a cluster node is another one.
shell.prefix(f"set -euo pipefail; PYTHON={shlex.quote(sys.executable)}; ")

os.environ[recover.MARK] = str(os.getpid())  # jobs inherit it: whose they are

if workflow.is_main_process:
    for line in beginning.announced(plan):
        logger.info(line)


onstart:
    beginning.allowed(workflow, plan)


onsuccess:
    ending.succeeded(workflow, plan)


onerror:
    ending.failed(workflow, plan)
