"""Runs of Snakemake on the cluster of the tests, in the background."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from tests.slurm.cluster import Cluster

BIN = Path(sys.executable).parent
COMMAND = ("snakemake", "--cores", "all", "--profile", "slurm")
# A status is asked for 40 s after a start otherwise; without accounting there is squeue alone.
HASTE = ("--slurm-init-seconds-before-status-checks", "1", "--slurm-status-command", "squeue")
LIMIT = 900.0  # seconds for anything that is waited for


def environment(folder: Path) -> dict[str, str]:
    """That of a user who works in a checkout."""
    out = Cluster.environment()
    return out | {"PATH": f"{BIN}:{out['PATH']}", "PYTHONPATH": str(folder / "src")}


def until(true: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    limit = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < limit, f"waited {LIMIT:.0f} s in vain: {what}"
        time.sleep(0.2)


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in a checkout."""
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


class Run:
    """`snakemake --cores all --profile slurm` in a checkout, started at once.

    Args:
        folder: the checkout.
        *targets: files to make; none for everything.
    """

    def __init__(self, folder: Path, *targets: str) -> None:
        self.folder = folder
        self.log = folder / "run.log"
        with self.log.open("w") as handle:
            self.process = subprocess.Popen(
                [str(BIN / COMMAND[0]), *COMMAND[1:], *HASTE, "--", *targets],
                cwd=folder,
                env=environment(folder),
                stdout=handle,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8")

    def jobs(self, unit: str = "") -> list[dict[str, str]]:
        """Jobs of this folder that have been submitted, in order; of a unit's, if one is named."""
        jobs = Cluster.jobs(self.folder)
        return [job for job in jobs if not unit or job["Comment"].endswith(f"_wildcards_{unit}")]

    def states(self, unit: str) -> list[str]:
        """States of a unit's jobs, in order."""
        return [job["JobState"] for job in self.jobs(unit)]

    def wait(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(LIMIT)

    def must(self) -> None:
        """Wait for its end, which has to be a good one."""
        assert self.wait() == 0, self.text[-5000:] + self.slurm_logs[-3000:]

    @property
    def slurm_logs(self) -> str:
        """What its jobs have printed that did not end well."""
        logs = sorted(self.folder.glob(".snakemake/slurm_logs/**/*.log"))
        return "\n".join(path.read_text(encoding="utf-8") for path in logs)

    def kill(self) -> None:
        """SIGKILL, of Snakemake alone."""
        self.process.kill()
        self.process.wait()


class Watched(Run):
    """A run of a pretraining whose saved states are noted: the training removes them at its end.

    Attributes:
        saved: steps of the states that have been there.
    """

    def __init__(self, folder: Path, *targets: str) -> None:
        super().__init__(folder, *targets)
        self.saved: set[int] = set()
        Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            states = self.folder.glob("results/demo/training/slow-s0/[0-9]*.pt")
            self.saved |= {int(path.name.split("-")[0]) for path in states}
            time.sleep(0.2)


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Bytes of results by path; circumstances, which hold times, are left out."""
    base = folder / "results/demo"
    found = (path for pattern in patterns for path in sorted(base.glob(pattern)))
    return {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in found
        if path.is_file() and "circumstances" not in path.name
    }


def submissions(text: str) -> int:
    """How many submissions a run has printed."""
    return len(re.findall(r"has been submitted with SLURM jobid", text))
