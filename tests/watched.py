"""A small scale whose records, logs and journal are made up: what `cxrmim status` reads."""

import json
import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from cxrmim import grid, journal, tally
from cxrmim import params as params_module
from cxrmim.paths import Paths
from tests.workflow.conftest import shrink

REPO = Path(__file__).resolve().parents[1]
GONE = 2**22 + 1  # no process has this number: Linux stops at 2**22


class Watched:
    """The tiny grid of tests/workflow in the working directory."""

    def __init__(self) -> None:
        tree = shrink(yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8")))
        Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        self.params = params_module.load("params.yaml", "demo")
        self.paths = Paths("demo")
        self.job = next(job for job in grid.jobs(self.params) if len(job.runs) > 2)

    def unit(self, stop: str, name: str) -> tally.Unit:
        return next(u for u in tally.units(self.params) if (u.stop, u.name) == (stop, name))

    def units(self, stop: str) -> list[tally.Unit]:
        return [unit for unit in tally.units(self.params) if unit.stop == stop]

    def write(self, path: Path, text: str, age: float = 0.0) -> Path:
        """A file that was written `age` seconds ago."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (time.time() - age,) * 2)
        return path

    def done(self, stop: str, name: str, *, seconds: float = 10.0, age: float = 0.0, **tree: Any):
        """Record and circumstances of a unit (of a run, for the downstream stop)."""
        self.write(self.paths.record(stop, name), json.dumps(tree), age)
        told = {"schema": 1, "cost": {"seconds": seconds}, "slurm_job": tree.get("slurm")}
        self.write(self.paths.circumstances(stop, name), json.dumps(told), age)

    def all_done(self) -> None:
        """Everything, the report too."""
        for kind, unit in grid.units(self.params):
            self.done(kind, unit)
        for unit in tally.units(self.params):
            for path in unit.files:
                if not path.exists():
                    self.write(path, "")

    def entry(self, stop: str, unit: str, *, age: float = 60.0, **over: Any) -> journal.Entry:
        """A journal entry, of a process that lives (this one) unless `over` says otherwise."""
        path = self.paths.log(stop, unit)
        entry = journal.Entry(
            stop,
            unit,
            "running",
            socket.gethostname(),
            os.getpid(),
            max(time.time() - age, psutil.Process().create_time()),
            None,
            path.as_posix(),
        )
        entry = replace(entry, **over)
        self.write(self.paths.journal(stop, unit), json.dumps(asdict(entry)))
        return entry

    def failed(self, stop: str, unit: str, line: str = "bad", **over: Any) -> journal.Entry:
        told: dict[str, Any] = {"state": "failed", "line": line, "status": 3}
        return self.entry(stop, unit, **told | {"ended": time.time() - 1, "pid": GONE} | over)

    def log(self, stop: str, unit: str, *lines: str) -> Path:
        return self.write(self.paths.log(stop, unit), "".join(f"{line}\n" for line in lines))
