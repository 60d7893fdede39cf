"""A toy workflow that Snakemake really runs: four units of three stops, no data, no torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.watched import REPO

BIN = Path(sys.executable).parent
SNAKEFILE = """
import sys

from cxrmim import ending
from cxrmim.plan import lay_out

plan = lay_out(config)
units = {"phantom": ["mimic"], "pretrain": ["mae-s0", "mgca-s0"], "report": ["page"]}
records = {s: [str(plan.paths.record(s, u)) for u in names] for s, names in units.items()}


onsuccess:
    ending.succeeded(workflow, plan)


onerror:
    ending.failed(workflow, plan)


rule all:
    input:
        list(records.values()),


for stop, inputs in {"phantom": [], "pretrain": records["phantom"], "report": []}.items():

    rule:
        name:
            "page" if stop == "report" else stop
        input:
            inputs,
        output:
            plan.paths.record(stop, "{unit}"),
        log:
            plan.paths.log(stop, "{unit}"),
        params:
            stop=stop,
            python=sys.executable,
        message:
            "{params.stop}: {wildcards.unit}"
        shell:
            "{params.python} work.py {params.stop} --unit {wildcards.unit} {output}"
"""
# What a unit does is told by a file of its name in the folder `does`.
WORK = """
import sys, time
from pathlib import Path

does = Path("does") / sys.argv[3]
told = does.read_text() if does.exists() else ""
if told == "silent":
    sys.exit(7)
from cxrmim import job
from cxrmim.errors import DataError


def work(ctx):
    time.sleep(0.2)
    Path("began").open("a").write(ctx.unit + " ")
    if told == "once":
        does.unlink()
    if told in ("bad", "once"):
        raise DataError(f"{ctx.unit}: source row 12 is bad; mend it")
    if told == "sleep":
        time.sleep(600)
    path = Path(sys.argv[4])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


raise SystemExit(job.run(sys.argv[1], job.parser(sys.argv[1], "unit", "toy"), work, sys.argv[2:4]))
"""


class Toy:
    """The toy in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "does").mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE)
        (folder / "work.py").write_text(WORK)
        shutil.copy(REPO / "params.yaml", folder / "params.yaml")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO / "src"),
        }

    def does(self, unit: str, what: str | None) -> None:
        path = self.folder / "does" / unit
        if what is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(what)

    @property
    def began(self) -> list[str]:
        """Units whose work has begun, in order."""
        path = self.folder / "began"
        return path.read_text().split() if path.exists() else []

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.shell(" ".join(["snakemake", *(arguments or ("--cores", "2", "--keep-going"))]))
