"""How far running jobs are, and how long the rest takes at the rates measured in this scale.

Rates are wall seconds from the circumstances of units that are done. Nothing is guessed: what no
unit has been measured of is counted as unmeasured.
"""

import contextlib
import json
import os
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrmim import grid
from cxrmim.journal import Entry
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.tally import SHEET, Found

RESUMED = re.compile(r"going on from the state of step (\d+)$")
TAIL = 1 << 18  # bytes of a growing file that are looked at
Key = tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far a running job is.

    Attributes:
        done: what is done of it.
        total: all of it, None where that is not known.
        what: what is counted.
        about: whether `total` leaves out what is held out or cannot be read.
        left: seconds to its end at its own rate, None where that is not known.
    """

    done: int
    total: int | None
    what: str
    about: bool = False
    left: float | None = None

    @property
    def text(self) -> str:
        """In words."""
        if self.total is None:
            return f"{self.what} {self.done:,}"
        return f"{self.what} {self.done:,} of {'about ' * self.about}{self.total:,}"


def progress(params: Params, found: Found) -> Progress | None:
    """How far a running job is; None where its stop leaves no trace of it before the end."""
    entry, unit = found.entry, found.unit
    if entry is None:
        return None
    if unit.runs:
        return Progress(len(found.finished), len(unit.runs), "runs")
    if unit.stop == "pretrain":
        return _steps(params, entry)
    if unit.stop == "shards":
        return _images(params, entry)
    return None


def _steps(params: Params, entry: Entry) -> Progress | None:
    """Steps of a training at the last look at its losses, from what DVCLive wrote."""
    path = Paths(params.scale).curves(entry.unit) / "metrics.json"
    try:
        step, seen = int(json.loads(path.read_text("utf-8"))["step"]), path.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if seen < entry.started:  # of an earlier training
        return None
    total = _all_steps(params, entry.unit)
    left = None
    first = _resumed(Path(entry.log))
    if total is not None and step > first:
        left = max(total - step, 0) * (seen - entry.started) / (step - first)
    return Progress(step, total, "step", about=True, left=left)


def _all_steps(params: Params, checkpoint: str) -> int | None:
    """About the steps of a training: pairs that are held out for validation are not taken off."""
    try:
        entry = grid.entry_of(checkpoint).entry
        block = params.pretraining(entry)[1]
        corpus = params.training(entry).pretrain.corpus
    except (KeyError, ValueError):
        return None
    tree = _tree(Paths(params.scale).record("manifest", corpus))
    images = tree.get("metrics", {}).get("splits", {}).get("train", {}).get("images")
    if not grid.reads_corpus(block) or not isinstance(images, int):
        return None
    return images // block.batch * block.epochs or None


def _resumed(log: Path) -> int:
    """The step that a training has gone on from."""
    with contextlib.suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if told := RESUMED.search(line):
                return int(told[1])
    return 0


def _images(params: Params, entry: Entry) -> Progress | None:
    """Images of a dataset that are decoded, from the journal of its arrays."""
    from cxrmim.shards.journal import JOURNAL

    paths = Paths(params.scale)
    done = _decoded(paths.building(entry.unit) / JOURNAL)
    if done is None:
        return None
    tree = _tree(paths.record("manifest", entry.unit))
    kept = tree.get("metrics", {}).get("flow", {}).get("kept")
    return Progress(done, kept if isinstance(kept, int) else None, "images", about=True)


def _decoded(path: Path) -> int | None:
    """Rows named by the journal's last whole line."""
    try:
        with path.open("rb") as handle:
            handle.seek(-min(TAIL, path.stat().st_size), os.SEEK_END)
            lines = handle.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            tree = json.loads(line)
            return int(tree["first"]) + len(tree["outcomes"])
    return None


def _tree(path: Path) -> Any:
    """A JSON file's tree, an empty one if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        tree = json.loads(path.read_text(encoding="utf-8"))
        return tree if isinstance(tree, dict) else {}
    return {}


@dataclass(frozen=True)
class Left:
    """The time that a scale still takes.

    Attributes:
        seconds: of all units that are not done, one after the other.
        jobs: that run now, at least one.
        measured: units that the rates were measured on.
        unmeasured: by stop, units that are not done and that nothing is known of.
    """

    seconds: float
    jobs: int
    measured: int
    unmeasured: dict[str, int]

    @property
    def wall(self) -> float:
        """Seconds to the end if as many jobs go on running."""
        return self.seconds / self.jobs


class Rates:
    """Mean wall seconds of a unit in this scale, by what is alike.

    A downstream run is held to runs of its task, dataset and percent, else to those of its task and
    dataset, else of its task; a pretraining to those of its method, else to all.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._paths = Paths(params.scale)
        self._found: dict[Key, list[float]] = {}
        self.measured = 0
        for kind, unit in grid.units(params):
            tree = _tree(self._paths.circumstances(kind, unit))
            seconds = tree.get("cost", {}).get("seconds")
            if isinstance(seconds, int | float) and seconds > 0:
                self.measured += 1
                for key in self._keys(kind, unit):
                    self._found.setdefault(key, []).append(float(seconds))

    def seconds(self, kind: str, unit: str) -> float | None:
        """Expected wall seconds of a unit, None if nothing like it was measured."""
        for key in self._keys(kind, unit):
            if key in self._found:
                return statistics.fmean(self._found[key])
        return None

    def _keys(self, kind: str, unit: str) -> Sequence[Key]:
        """What a unit is like, the closest first."""
        if kind == "downstream":
            run = grid.Run.parse(unit)
            source = "baseline" if run.baseline is not None else "weights"
            task = (kind, source, run.task)
            return (*task, run.dataset, str(run.percent)), (*task, run.dataset), task
        if kind == "pretrain":
            method = self._params.pretraining(grid.entry_of(unit).entry)[0]
            return (kind, method), (kind,)
        return ((kind,),)


def left(params: Params, looked: Sequence[Found]) -> Left | None:
    """The time that is left; None if all is done."""
    if all(found.state == "done" for found in looked):
        return None
    rates, now = Rates(params), time.time()
    total, unmeasured = 0.0, dict[str, int]()
    for found in looked:
        unit = found.unit
        if found.state == "done" or not unit.files:
            continue
        stop, own = unit.stop, progress(params, found) if found.state == "running" else None
        if own is not None and own.left is not None:
            total += own.left
            continue
        names = [run.id for run in found.unfinished] if unit.runs else [unit.name]
        known = [None if unit.name == SHEET else rates.seconds(stop, name) for name in names]
        spent = 0.0
        if found.state == "running" and found.entry is not None and not unit.runs:
            spent = now - found.entry.started
        total += max(sum(s for s in known if s is not None) - spent, 0.0)
        if None in known:
            unmeasured[stop] = unmeasured.get(stop, 0) + known.count(None)
    running = sum(found.state == "running" for found in looked)
    return Left(total, max(running, 1), rates.measured, unmeasured)
