"""A process and what it cost."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import runner

# Linux counts into a child's peak what its parent held when it was started: a small one waits.
WAITER = """
import json, os, sys
number = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(number, 0)
with open(sys.argv[1], "w") as file:
    json.dump([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024], file)
sys.exit(status != 0)
"""


def process(folder: Path, command: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a command and its children, one thread each.

    Args:
        folder: where it runs; what it says goes into a file beside that.
        command: program and arguments.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    told, said = (folder.parent / f"{folder.name}.{suffix}" for suffix in ("json", "out"))
    path = os.pathsep.join([str(runner.REPO / "src"), str(runner.REPO)])
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | runner.THREADS | {"PYTHONPATH": path, "PATH": programs}
    waiter = [sys.executable, "-S", "-c", WAITER, str(told), *command]
    with said.open("wb") as out:
        result = subprocess.run(
            waiter, cwd=folder, env=environment, stdout=out, stderr=out, check=False
        )
    if result.returncode:
        text = said.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{command[1:]}: {text[-1500:]}")
    cpu, peak = json.loads(told.read_text(encoding="utf-8"))
    return cpu, peak
