"""Kill the tiny grid's runs at random moments, and compare what they make with an undisturbed one.

``python -m tests.workflow.killing --kills 100 --seed 0 --folder DIR --report FILE``: every kill is
a SIGKILL of all processes of a run. Then the user's two commands: `cxrmim recover`, and the same
run again in the same folder, until the grid is complete; the next kills hit a build in another
folder. A run is killed a random while after its first job was seen, or the moment that a file is
seen half written, or before there is any job.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.workflow.conftest import REPO, Place, place
from tests.workflow.inspecting import PATHS, Inspector, compare, half_written, results_of, writer
from tests.workflow.processes import Job, Run, command

EARLY, LATEST = 0.08, 4.0  # share of kills before any job, and seconds of a start that they spread
WRITES, SKIPPED = 0.2, 8  # share of kills in a write, and how many writes may be let pass before
MEDIAN, SPREAD = 6.0, 0.9  # of the other delays, s: every 20th is over 26 s, so long jobs end too
PATIENCE = 30.0  # seconds that a write is waited for
TICK, LOOK = 0.05, 0.003  # seconds between looks for a job, for a write
EPOCHS = 16
ENOUGH, HIT, TRAINED = 50, 0.8, 0.1  # kills from which on these shares are asked for
RESUMED = "going on from the state"

Edit = Callable[[dict[str, Any]], Any]


def often(tree: dict[str, Any]) -> None:
    """More epochs, and a state after every step: pretrainings that are killed in their training.

    One of the tiny grid trains for a second, and never comes to the first of its usual states.
    """
    tree["pretrain"]["save"]["minutes"] = 0
    for block in tree["scales"]["demo"]["pretrain"]["methods"].values():
        block["epochs"] = EPOCHS


@dataclass(frozen=True)
class Moment:
    """When a run is killed.

    Attributes:
        kind: "early", in the first seconds of the run; "delay", after its first job was seen;
            "write", when something half written is seen.
        seconds: from the run's start, or from its first job; at most this long for a write.
        skip: writes that are let pass.
    """

    kind: Literal["early", "delay", "write"]
    seconds: float
    skip: int = 0


def draw(chance: random.Random) -> Moment:
    """A random moment."""
    share = chance.random()
    if share < EARLY:
        return Moment("early", chance.uniform(0, LATEST))
    if share < EARLY + WRITES:
        return Moment("write", PATIENCE, chance.randrange(SKIPPED))
    return Moment("delay", chance.lognormvariate(math.log(MEDIAN), SPREAD))


@dataclass(frozen=True)
class Kill:
    """What a kill hit.

    Attributes:
        build: number of the build.
        kind: of the moment.
        seconds: that the run had lasted.
        jobs: stop and unit of the jobs that died.
        phase: "no job"; "starting", if no job had opened its log; "working"; "writing", if
            something half written was left.
        written: what was left half written, below the results folder.
        finished: jobs that the run had finished before.
        resumed: pretrainings that had gone on from a saved state in the run.
    """

    build: int
    kind: str
    seconds: float
    jobs: list[tuple[str, str]]
    phase: str
    written: list[str]
    finished: int
    resumed: int


@dataclass
class Outcome:
    """What the kills have shown; every one of the last three lists must be empty."""

    kills: list[Kill] = field(default_factory=list)
    builds: int = 0
    seconds: float = 0.0
    reference_seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not (self.differences or self.survivors or self.broken)

    def summary(self) -> dict[str, Any]:
        """Counts of what was hit."""
        stops = Counter(stop for kill in self.kills for stop in {stop for stop, _ in kill.jobs})
        idle = longest = 0
        for kill in self.kills:
            idle = 0 if kill.finished else idle + 1
            longest = max(longest, idle)
        return {
            "kills": len(self.kills),
            "builds": self.builds,
            "hit a job": sum(bool(kill.jobs) for kill in self.kills),
            "hit by stop": dict(stops.most_common()),
            "phase": dict(Counter(kill.phase for kill in self.kills).most_common()),
            "moment": dict(Counter(kill.kind for kill in self.kills).most_common()),
            "left half written": sum(len(kill.written) for kill in self.kills),
            "pretrainings resumed": sum(kill.resumed for kill in self.kills),
            "kills in a row without a finished job": longest,
            "seconds": round(self.seconds, 1),
            "of these, the undisturbed run": round(self.reference_seconds, 1),
            "differences": len(self.differences),
            "survivors": len(self.survivors),
            "broken invariants": len(self.broken),
        }

    def text(self) -> str:
        """The counts as a table, and what was found."""
        lines = []
        for name, value in self.summary().items():
            if isinstance(value, dict):
                lines += [name, *(f"  {part:36} {count:>7}" for part, count in value.items())]
            else:
                lines.append(f"{name:38} {value:>7}")
        for name in ("differences", "survivors", "broken"):
            lines += [f"{name}: {line}" for line in getattr(self, name)]
        return "\n".join(lines) + "\n"


def strike(run: Run, moment: Moment, results: Path, before: set[Path]) -> bool:
    """Wait for the moment and freeze the run; False if it has ended by itself."""
    if moment.kind == "early":
        run.sleep(moment.seconds)
        return run.freeze()
    while not run.jobs():
        if run.sleep(TICK):
            return False
    if moment.kind == "delay":
        run.sleep(moment.seconds)
        return run.freeze()
    end, seen = time.monotonic() + moment.seconds, set(before)
    while time.monotonic() < end:
        new = half_written(results, "phantom", "journal") - seen
        if new and len(seen - before) >= moment.skip:
            return run.freeze(writer(new.pop()))
        seen |= new
        if run.sleep(LOOK):
            return False
    return run.freeze()


def phase_of(jobs: Iterable[Job], written: Iterable[str], folder: Path) -> str:
    """How far the furthest of the jobs was."""
    phase = "no job"
    for job in jobs:
        log = folder / PATHS.log(job.stop, job.unit)
        # Seconds of a file and of a process are not of one clock: hence the slack.
        opened = log.is_file() and log.stat().st_mtime >= job.started - 0.1
        phase = "working" if opened or phase == "working" else "starting"
    return "writing" if any(written) else phase


class Campaign:
    """Kills over one build after the other.

    Args:
        folder: of the builds; a reference that lies there is brought up to date.
        kills: how many.
        seed: of the moments.
        edit: what the grid is beside the tiny one.
        say: told of each kill.
        moments: the next moment, of the source of chance.
    """

    def __init__(
        self,
        folder: Path,
        kills: int,
        seed: int,
        edit: Edit = often,
        say: Callable[[str], None] = lambda line: None,
        moments: Callable[[random.Random], Moment] = draw,
    ) -> None:
        self.folder, self.count, self.edit, self.say = folder, kills, edit, say
        self.moments = moments
        self.chance = random.Random(seed)
        self.out = Outcome()

    def run(self) -> Outcome:
        """Kill and compare; ends early where a run fails by itself."""
        begun = time.monotonic()
        reference = self._place("reference")
        going = self._finish(reference)
        self.out.reference_seconds = time.monotonic() - begun
        while going and len(self.out.kills) < self.count:
            going = self._build(reference)
        self.out.seconds = time.monotonic() - begun
        return self.out

    def _place(self, name: str) -> Place:
        return place(self.folder / name, self.edit)

    def _build(self, reference: Place) -> bool:
        """Kill one build until it is complete or the kills are used up; False if it failed."""
        self.out.builds += 1
        name = f"build-{self.out.builds}"
        shutil.rmtree(self.folder / name, ignore_errors=True)
        build = self._place(name)
        inspector = Inspector(build.folder)
        while len(self.out.kills) < self.count and self._attempt(build):
            self.out.broken += [f"{name}: {line}" for line in inspector.faults()]
            build.must("cxrmim", "recover")
        if not self._finish(build):
            return False
        left = half_written(results_of(build))
        self.out.broken += [f"{name}: {path} was left" for path in sorted(left)]
        check = build.call("cxrmim", "check")
        if check.returncode:
            self.out.broken.append(f"{name}: {check.stderr.strip()}")
        found = compare(reference, build, self.folder / "pages")
        self.out.differences += [f"{name}: {line}" for line in found]
        self.say(f"{name}: complete after {len(self.out.kills)} kills, {len(found)} differences")
        if self.out.good:
            shutil.rmtree(build.folder)
        return True

    def _finish(self, build: Place) -> bool:
        """Run undisturbed to the end; False if that fails."""
        with Run(command(), build.folder) as run:
            status = run.wait()
            if status:
                self.out.broken.append(f"{build.folder.name}: exit status {status}; {run.log}")
        return not status

    def _attempt(self, build: Place) -> bool:
        """Run and kill; False if the run has ended before."""
        before, began = half_written(results_of(build)), time.time()
        moment = self.moments(self.chance)
        with Run(command(), build.folder) as run:
            if not strike(run, moment, results_of(build), before):
                return False
            jobs = run.jobs()
            self.out.survivors += run.kill()
            finished = run.log.read_text(errors="replace").count("Finished jobid")
        left = half_written(results_of(build), "journal") - before
        written = sorted(path.relative_to(results_of(build)).as_posix() for path in left)
        kill = Kill(
            self.out.builds,
            moment.kind,
            round(time.time() - began, 1),
            sorted((job.stop, job.unit) for job in jobs),
            phase_of(jobs, written, build.folder),
            written,
            finished,
            self._resumed(build, began),
        )
        self.out.kills.append(kill)
        hit = ", ".join(" ".join(job) for job in kill.jobs) or "no job"
        self.say(f"kill {len(self.out.kills)} after {kill.seconds} s: {hit}; {kill.phase}")
        return True

    def _resumed(self, build: Place, began: float) -> int:
        logs = (build.folder / PATHS.log("pretrain", "x").parent).glob("*.log")
        fresh = [log for log in logs if log.stat().st_mtime >= began]
        return sum(RESUMED in log.read_text(errors="replace") for log in fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, kill, report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.workflow.killing", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="how many kills")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--folder", type=Path, required=True, help="for the builds, about 200 MB")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the result as JSON")
    args = parser.parse_args(argv)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    # As an interrupt does: nothing that was started is left.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    describe = runpy.run_path(str(REPO / "benchmarks/machine.py"))["describe"]
    machine = describe("snakemake", "torch", cores=2)
    out = Campaign(args.folder.resolve(), args.kills, args.seed, say=say).run()
    say(out.text())
    if args.report is not None:
        tree = {
            "what": f"SIGKILLs of a run's processes over the tiny grid, seed {args.seed}",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine,
            **out.summary(),
            "found": [*out.differences, *out.survivors, *out.broken],
            "each": [asdict(kill) for kill in out.kills],
        }
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    hits = [{stop for stop, _ in kill.jobs} for kill in out.kills]
    hit, trained = sum(bool(stops) for stops in hits), sum("pretrain" in stops for stops in hits)
    if args.kills >= ENOUGH and (hit < HIT * args.kills or trained < TRAINED * args.kills):
        sys.stderr.write(f"{hit} kills hit a job and {trained} a pretraining: too few to tell\n")
        return 1
    return 0 if out.good and len(out.kills) == args.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
