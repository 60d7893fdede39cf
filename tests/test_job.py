"""How a job's process ends."""

import subprocess
import sys


def test_leaving_flushes_and_runs_no_exit_handlers() -> None:
    code = (
        "import atexit, sys; from cxrmim import job;"
        "atexit.register(lambda: print('taken apart'));"
        "print('told'); sys.stderr.write('warned'); job.leave(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "told\n", "warned")
