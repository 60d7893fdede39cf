"""The whole demo, read from its committed records: wall time, CPU seconds by stop, peak memory.

Each record's circumstances say when its work finished, how many seconds by the clock and of CPU it
took, and how much memory its process had taken by then. A process of the downstream stop does the
runs of a job of the grid: it lasts from the start of its first run to the end of its last, and its
peak is the largest that one of them tells; what it does before, mostly imports, is in no record.
All other processes have one record.

    wall    last finish - first start + the report's parts
    peak    largest sum of the peaks of processes that overlap in time + Snakemake's own

The report's parts (tables, figures, page) leave no record: they are run here, in a clone of the
repository, one after another, which is how the demo runs them. Snakemake's memory is that of a dry
run over the same grid. Both sums are bounds from above: processes need not peak at the same time,
and shared libraries count in each.

Records tell a wall time only if one build made all of them: if all name one commit and there is no
pause in which no job ran for two minutes. Otherwise the row says so; CPU seconds hold either way. A
toy leaves out the report and Snakemake.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import runner
from benchmarks.rows import Row, measured, not_measured
from cxrmim import grid
from cxrmim import params as params_module
from cxrmim.paths import Paths

STOPS = ("phantom", "manifest", "shards", "pretrain", "downstream")
PARTS = ("tables", "figures", "page")
TARGET_MINUTES, TARGET_GB, PAUSE = 12, 4, 120
SCALE, ENDING = "demo", ".circumstances.json"


@dataclass(frozen=True)
class Process:
    """A process of the demo: seconds since 1970, CPU seconds, MB, and the commits of its code."""

    stop: str
    start: float
    end: float
    cpu: float
    peak: float
    commits: frozenset[str]


def measure(toy: bool = False) -> list[Row]:
    """What the records tell, and what they leave out."""
    params = params_module.load(runner.REPO / "params.yaml", SCALE)
    runs = {run.id: job.id for job in grid.jobs(params) for run in job.runs}
    found = processes(runner.REPO / Paths(SCALE).results / "records", runs)
    trained = [
        entry.checkpoint
        for entry in grid.pretrainings(params)
        if params.pretraining(entry.entry)[1].trains
    ]
    counts = {"trained pretrainings": len(trained), "runs": len(runs), "processes": len(found)}
    parts, own = ({}, 0.0) if toy else outside(runner.REPO)
    return [
        wall(found, sum(seconds for seconds, _, _ in parts.values()), counts),
        measured(
            f"the demo: CPU, all stops ({', '.join(f'{n} {k}' for k, n in counts.items())})",
            "s",
            [sum(p.cpu for p in found) + sum(cpu for _, cpu, _ in parts.values())],
            details=counts,
        ),
        *(
            measured(f"of these, {stop}", "s", [sum(p.cpu for p in found if p.stop == stop)])
            for stop in STOPS
        ),
        measured("of these, report", "s", [sum(cpu for _, cpu, _ in parts.values())]),
        measured(
            "the demo: peak memory of all processes at once",
            "GB",
            [max(overlap(found), *(mb for _, _, mb in parts.values()), 0) / 1e3 + own / 1e3],
            target=TARGET_GB,
            details={"Snakemake's, MB": own, "the largest process, MB": max(p.peak for p in found)},
        ),
    ]


def wall(found: list[Process], report: float, details: dict[str, Any]) -> Row:
    """The row of wall time; not measured if the records are of several builds."""
    what, commits = "the demo: wall, on 2 cores", {c for p in found for c in p.commits}
    ordered = sorted(found, key=lambda p: p.start)
    pause, end = 0.0, ordered[0].end
    for each in ordered:
        pause, end = max(pause, each.start - end), max(end, each.end)
    if len(commits) > 1 or pause > PAUSE:
        why = (
            f"the committed records are of several builds ({len(commits)} commits, longest pause "
            f"{pause / 60:.0f} min); `make demo` in a clone without records, then "
            f"`python -m benchmarks --only demo`, measures it"
        )
        return not_measured(what, "min", why, target=TARGET_MINUTES, details=details)
    minutes = (end - ordered[0].start + report) / 60
    return measured(what, "min", [minutes], target=TARGET_MINUTES, details=details)


def processes(records: Path, runs: dict[str, str]) -> list[Process]:
    """The processes that left records.

    Args:
        records: their folder.
        runs: job of each downstream run; a run of no job counts as a process of its own.
    """
    units: dict[tuple[str, str], list[Process]] = {}
    for path in sorted(records.rglob(f"*{ENDING}")):
        stop = path.relative_to(records).parts[0]
        unit = path.relative_to(records / stop).as_posix().removesuffix(ENDING)
        tree = json.loads(path.read_text(encoding="utf-8"))
        cost, end = tree["cost"], datetime.fromisoformat(tree["finished"]).timestamp()
        start, commits = end - cost["seconds"], frozenset([tree["commit"]])
        one = Process(stop, start, end, cost["cpu_seconds"], cost["peak_mb"], commits)
        units.setdefault((stop, runs.get(unit, unit)), []).append(one)
    return [
        Process(
            stop,
            min(p.start for p in each),
            max(p.end for p in each),
            sum(p.cpu for p in each),
            max(p.peak for p in each),
            frozenset().union(*(p.commits for p in each)),
        )
        for (stop, _), each in units.items()
    ]


def overlap(found: list[Process]) -> float:
    """Largest sum of the peaks of processes that overlap in time, MB.

    Finish times are whole seconds: what ends in the second in which another begins has ended.
    """
    sums = [
        sum(q.peak for q in found if q.start <= p.start and (q.end > p.start + 1 or q is p))
        for p in found
    ]
    return max(sums)


def outside(repo: Path) -> tuple[dict[str, tuple[float, float, float]], float]:
    """Seconds by the clock, CPU seconds and MB of the report's parts, and MB of Snakemake."""
    with TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(repo), str(clone)], check=True)
        modules = {part: ["cxrmim.report", "--part", part, "--scale", SCALE] for part in PARTS}
        parts = {part: process(clone, module) for part, module in modules.items()}
        dry = ["snakemake", "-n", "--quiet", "--cores", "2", "--config", f"scale={SCALE}"]
        return parts, process(clone, dry)[2]


def process(folder: Path, module: list[str]) -> tuple[float, float, float]:
    """Seconds by the clock, CPU seconds and peak MB of `python -m` with arguments, in a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, use = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(module)}: {said.strip().splitlines()[-1:]}")
    seconds = time.perf_counter() - started
    return seconds, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
