"""How the cost of every stop grows with images, runs and seeds, on a tiny grid.

Four folders are built, each job a process of its own with one thread: the tiny grid of `tiny`, one
of 4 times the patients, one of 4 times the runs (each row beside three of its variants), one of 4
times the downstream seeds. What of a folder is the base's to the letter (the data stops where only
runs or seeds grow) is copied and counts with the base's figures. A stop's cost is the sum over its
jobs of CPU seconds, user and system, children included (`wait4`); its memory is the largest peak of
any of them.

    growth = cost(grown) / cost(base)                       target: 4.4
    above start = cost - sum over jobs of cost(start)

`start` is what a job's process spends on the interpreter and on imports, told by the process; it is
constant and hides growth, so both figures are given. Memory of readers is that of the process alone
(RssAnon): mapped pages are the kernel's to take back. Targets: 4.4 for costs, 1.1 for memory of
readers and report. The shards stop reads nothing back: it holds its dataset's table and what its
workers hand over, and its peak is for orientation.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks import growth_readers, runner
from benchmarks.process import process
from benchmarks.rows import Row, measured
from cxrmim import grid
from cxrmim import params as params_module
from cxrmim.params import Params

FACTOR, TARGET, CONSTANT = 4, 4.4, 1.1
SEEDS = 2
ROWS = {"medim": ("medim-kwm", "medim-low", "medim-r25")}  # a row and the variants that join it
PATIENTS = {"mimic": 60, "chexpert": 120, "siim": 100}
REPORT = ("tables", "figures", "page")
TOY = ("phantom", "manifest")
# A job that tells at its end how many of its CPU seconds went into starting and imports.
JOB = """
import atexit, builtins, importlib, os, runpy, sys, threading, time
out, module, *sys.argv[1:] = sys.argv[1:]
spent, depth = time.process_time(), 0

def timed(work):
    def call(*args, **other):
        global spent, depth
        if depth or threading.current_thread() is not threading.main_thread():
            return work(*args, **other)
        started, depth = time.process_time(), 1
        try:
            return work(*args, **other)
        finally:
            depth, spent = 0, spent + time.process_time() - started
    return call

def tell():
    with open(out, "w") as file:
        file.write(str(spent))

def leave(status, leave=os._exit):
    tell()
    leave(status)

atexit.register(tell)
os._exit = leave  # how a job ends
builtins.__import__ = timed(builtins.__import__)
importlib.import_module = timed(importlib.import_module)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
Tree = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """CPU seconds and peak memory in MB of processes, and CPU seconds of only starting them."""

    cpu: float = 0.0
    peak: float = 0.0
    start: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other."""
        return Cost(self.cpu + other.cpu, max(self.peak, other.peak), self.start + other.start)

    @property
    def above(self) -> float:
        """CPU seconds above those of starting, at least a hundredth, so that it can divide."""
        return max(self.cpu - self.start, 0.01)


@dataclass(frozen=True)
class Task:
    """A job: its stop in the table's words, the module, its arguments, and what it is made of."""

    stop: str
    module: str
    arguments: tuple[str, ...]
    content: tuple[Any, ...] = ()


def tiny(tree: Tree) -> Tree:
    """The demo's parameters as the workflow tests shrink them, less what would only repeat them."""
    demo = tree["scales"]["demo"]
    demo["seeds"] = {"downstream": list(range(SEEDS))}
    demo["phantom"]["patients"] = dict(PATIENTS)
    demo["shards"]["text"]["vocab"] = 300
    for block in demo["pretrain"]["methods"].values():
        block["epochs"] = 1
    demo["pretrain"]["methods"]["mgca"]["batch"] = 16
    down = demo["downstream"]
    down["cut"] = "dataset"
    down["probe"]["epochs"] = 3
    down["segment"] |= {"epochs": 1, "epoch_steps": 1}
    down["finetune"] |= {"batch": 8, "schedule": {"chexpert": {"100": [1, 3, 1.0e-2]}}}
    down["bootstrap"] = 20
    entries = tree["manifest"]["entries"]
    for name in [n for n, e in entries.items() if e.get("audit") and n != "chexpert-mgca"]:
        del entries[name]
    probe = {"dataset": "chexpert", "task": "probe", "percents": [10, 100]}
    segment = {"dataset": "siim", "task": "segment", "percents": [100]}
    finetune = {"dataset": "chexpert", "task": "finetune", "percents": [100]}
    rows = {"paper": "medim", "rows": list(ROWS)}
    demo["grid"] = {
        "medim_table1": rows | {"cells": [probe, segment]},
        "cmitm_table1": rows | {"paper": "cmitm", "cells": [finetune]},
        "medim_table2": tree["grid"]["medim_table2"] | {"rows": list(ROWS)},
    }
    return tree


def more_images(tree: Tree) -> None:
    """Four times the patients."""
    patients = tree["scales"]["demo"]["phantom"]["patients"]
    patients |= {name: FACTOR * count for name, count in patients.items()}


def more_runs(tree: Tree) -> None:
    """Four times the rows: each beside three of its variants."""
    for block in tree["scales"]["demo"]["grid"].values():
        block["rows"] = [name for row in block["rows"] for name in (row, *ROWS[row])]


def more_seeds(tree: Tree) -> None:
    """Four times the downstream seeds."""
    tree["scales"]["demo"]["seeds"]["downstream"] = list(range(FACTOR * SEEDS))


GROWN: dict[str, Callable[[Tree], None]] = {
    "images": more_images,
    "runs": more_runs,
    "seeds": more_seeds,
}


def measure(toy: bool = False) -> list[Row]:
    """Growth of every stop with images, runs and seeds; memory of the readers."""
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        base = Built(here / "base", lambda tree: None, toy)
        base.build(None)
        out, worst = [], []
        for name, edit in GROWN.items():
            if toy and name != "images":
                continue
            grown = Built(here / name, edit, toy)
            grown.build(base if name != "images" else None)
            found = compared(name, base.stops(), grown.stops())
            out += found
            worst.append(summary(name, found))
            shutil.rmtree(grown.folder)
    return [*worst, *out, *growth_readers.measure(toy)]


class Built:
    """A folder with a tiny params.yaml and what its jobs have cost.

    Args:
        folder: is made.
        edit: of the tiny parameters.
        toy: whether only the first stops are run.
    """

    def __init__(self, folder: Path, edit: Callable[[Tree], None], toy: bool) -> None:
        self.folder, self.toy = folder, toy
        folder.mkdir()
        tree = tiny(yaml.safe_load((runner.REPO / "params.yaml").read_text(encoding="utf-8")))
        edit(tree)
        text = yaml.safe_dump(tree, sort_keys=False)
        (folder / "params.yaml").write_text(text, encoding="utf-8")
        self.params = params_module.load(folder / "params.yaml", "demo")
        self.costs: dict[Task, Cost] = {}

    def build(self, base: "Built | None") -> None:
        """Plan, run every job that a base has not run already, check and attest."""
        self.costs[DRY] = self.run(DRY)
        if base is not None:
            self.take(base)
        known = {} if base is None else base.costs
        for task in tasks(self.params):
            if not self.toy or task.stop in TOY:
                self.costs[task] = known.get(task) or self.run(task)
        if self.toy:
            return
        self.repository()
        self.costs[CHECK] = self.run(CHECK)
        repro = self.run(REPRO)
        parts = [self.costs[CHECK], *(c for t, c in self.costs.items() if t.stop in REPORT)]
        start = repro.start + sum(part.start for part in parts)
        self.costs[REPRO] = Cost(repro.cpu, repro.peak, start)

    def run(self, task: Task) -> Cost:
        """A job's cost."""
        told = self.folder / "start.txt"
        arguments = ["-c", JOB, str(told), task.module, *task.arguments]
        cpu, peak = process(self.folder, [sys.executable, *arguments])
        start = float(told.read_text(encoding="utf-8"))
        sys.stderr.write(f"{self.folder.name}, {task.stop}: {cpu:.2f} CPU s, start {start:.2f}\n")
        return Cost(cpu, peak, start)

    def stops(self) -> dict[str, Cost]:
        """Cost by stop."""
        out: dict[str, Cost] = {}
        for task, cost in self.costs.items():
            out[task.stop] = out.get(task.stop, Cost()) + cost
        return out

    def take(self, base: "Built") -> None:
        """Copy what a base has made, without the runs of its jobs that are others here."""
        skip = shutil.ignore_patterns("*.dvc", "snakemake")
        shutil.copytree(base.folder / "results", self.folder / "results", ignore=skip)
        own = {run for task in tasks(self.params) if task in base.costs for run in task.content}
        for run in grid.runs(base.params):
            if run not in own:
                for part in self.folder.glob(f"results/demo/*/*/{run.id}.*"):
                    part.unlink()

    def repository(self) -> None:
        """Make the folder a git and DVC repository with its state recorded."""
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(runner.REPO / name, self.folder / name)
        user = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        process(self.folder, ["git", "init", "-q"])
        process(self.folder, [sys.executable, "-m", "dvc", "init", "-q"])
        shutil.copy(runner.REPO / ".dvc" / "config", self.folder / ".dvc" / "config")
        process(self.folder, [sys.executable, "-m", "cxrmim", "attest"])
        process(self.folder, ["git", "add", "-A"])
        process(self.folder, ["git", *user, "commit", "-qm", "state"])


STAGES = ("phantom", "manifest", "shards", "pretrain", "downstream", "artifacts", "pointers")
CHECK = Task("cxrmim check", "cxrmim", ("check", "--scale", "demo", "--stop", *STAGES))
REPRO = Task("dvc repro", "dvc", ("repro",))
DRY = Task(
    "snakemake -n", "snakemake",
    ("--snakefile", str(runner.REPO / "Snakefile"), "--cores", "1", "--quiet", "all",
     "--config", "scale=demo", "--forceall", "--dry-run"),
)  # fmt: skip


def tasks(params: Params) -> Iterator[Task]:
    """Every job of the grid, upstream first."""
    common = ("--scale", "demo", "--threads", "1")

    def task(stop: str, module: str, option: str, unit: str, *content: Any) -> Task:
        return Task(stop, f"cxrmim.{module}", (f"--{option}", unit, *common), content)

    for name in grid.roots(params):
        yield task("phantom", "phantom", "dataset", name)
    yield task("contact sheet", "phantom", "dataset", "sheet")
    for stop in ("manifest", "shards"):
        for name in [*grid.datasets(params), *grid.audited(params)]:
            yield task(stop, stop, "dataset", name)
    for item in grid.pretrainings(params):
        yield task("pretrain", "pretrain", "checkpoint", item.checkpoint)
    for job in grid.jobs(params):
        first = job.runs[0]
        stop = f"{first.task}" if first.baseline is None else f"baseline {first.baseline}"
        yield task(stop, "downstream", "job", job.id, *job.runs)
    for part in REPORT:
        shown = grid.all_runs(params)
        yield task(part, "report", "part", part, *shown)


def compared(name: str, base: dict[str, Cost], grown: dict[str, Cost]) -> list[Row]:
    """A row for each stop that grows: its cost; and for the report's parts, its memory."""
    out = []
    for stop, after in grown.items():
        before = base[stop]
        if after == before:
            continue
        details = {
            "CPU s": [round(before.cpu, 2), round(after.cpu, 2)],
            "CPU s above start": [round(before.above, 2), round(after.above, 2)],
            "growth above start": round(after.above / before.above, 2),
            "peak MB": [round(before.peak), round(after.peak)],
        }
        what = f"{stop}, {FACTOR} x {name}"
        ratio = [after.cpu / before.cpu]
        out.append(measured(f"{what}: CPU s", "x", ratio, target=TARGET, details=details))
        if stop in REPORT or stop in ("cxrmim check", "shards"):
            ratio = [after.peak / before.peak]
            bound = None if stop == "shards" else CONSTANT
            out.append(measured(f"{what}: peak memory", "x", ratio, target=bound))
    return out


def summary(name: str, rows: list[Row]) -> Row:
    """The fastest growth above start of any stop."""
    costs = [row for row in rows if row.details]
    worst = max(costs, key=lambda row: row.details["growth above start"])
    what = f"fastest growth of any stop above its start, {FACTOR} x {name}"
    details = {"stop": worst.what, **worst.details}
    return measured(
        what, "x", [worst.details["growth above start"]], target=TARGET, details=details
    )


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
