"""What of a scale is done, runs, has failed or is pending: from records, journal and logs.

Cheap, and true while Snakemake runs: nothing is locked or changed, and hashed only where a unit has
failed over a record that is there. "Done" means that the record is there; whether it is what
params.yaml asks for now is told by `cxrmim check`.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrmim import grid, journal, record
from cxrmim.journal import Entry
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import outputs

State = Literal["done", "running", "failed", "pending"]
STATES: tuple[State, ...] = ("done", "running", "failed", "pending")
WORDS = {  # what the units of a stop are called; a downstream job is counted by its runs
    "phantom": "datasets",
    "manifest": "datasets",
    "shards": "datasets",
    "pretrain": "checkpoints",
    "downstream": "runs",
    "report": "parts",
}
SHEET = "sheet"  # the phantom's contact sheet has a job and a log, and no record
FINISHED = re.compile(r": current, not done again$| = [0-9.]+, [0-9.]+ s$")


@dataclass(frozen=True)
class Unit:
    """What one job does.

    Attributes:
        stop: the stop's word.
        name: dataset, checkpoint, downstream job or part of the report.
        files: the unit is done when all of them are there, records for the most part; none if the
            grid does not know the unit.
        runs: of a downstream job, in the order of `files`.
    """

    stop: str
    name: str
    files: tuple[Path, ...]
    runs: tuple[grid.Run, ...] = ()

    @property
    def target(self) -> Path:
        """A file that Snakemake makes by doing the unit: one that is missing, if any is."""
        return next((path for path in self.files if not path.is_file()), self.files[0])


@dataclass(frozen=True)
class Found:
    """A unit as it stands.

    Attributes:
        unit: which.
        state: of the job.
        entry: what the journal says of it; None unless it runs or has failed.
        alive: of an entry: whether the process lives, None if that cannot be told from here.
        finished: of a downstream job: which of its runs are done.
    """

    unit: Unit
    state: State
    entry: Entry | None = None
    alive: bool | None = None
    finished: tuple[grid.Run, ...] = ()

    @property
    def killed(self) -> bool:
        """Whether the job ended without a word."""
        return self.state == "failed" and self.entry is not None and self.entry.line is None

    @property
    def unfinished(self) -> list[grid.Run]:
        """Runs of a downstream job that are not done."""
        return [run for run in self.unit.runs if run not in self.finished]

    @property
    def counts(self) -> dict[State, int]:
        """Units by state; runs of a downstream job, which does one at a time."""
        if not self.unit.runs:
            return {self.state: 1}
        left = len(self.unfinished)
        if self.state == "running":
            ahead: dict[State, int] = {"running": min(left, 1), "pending": max(left - 1, 0)}
        else:
            ahead = {"failed" if self.state == "failed" else "pending": left}
        return {"done": len(self.finished), **ahead}


def units(params: Params) -> Iterator[Unit]:
    """Everything that Snakemake has a job for, upstream first."""
    paths = Paths(params.scale)
    for stop, group in _groups(params).items():
        for name in group:
            yield Unit(stop, name, (paths.record(stop, name),))
    if params.manifest.source == "phantom":
        yield Unit("phantom", SHEET, (paths.figure("phantom_sheet", "png"),))
    for job in grid.jobs(params):
        records = tuple(paths.record("downstream", run.id) for run in job.runs)
        yield Unit("downstream", job.id, records, job.runs)
    for part, files in outputs.outputs(params).items():
        yield Unit("report", part, tuple(files))


def _groups(params: Params) -> dict[str, list[str]]:
    data = [*grid.datasets(params), *grid.audited(params)]
    return {
        "phantom": grid.roots(params) if params.manifest.source == "phantom" else [],
        "manifest": data,
        "shards": data,
        "pretrain": [item.checkpoint for item in grid.pretrainings(params)],
    }


def look(params: Params) -> list[Found]:
    """Every unit of the scale as it stands, and what runs beside them, upstream first."""
    entries = {(entry.stop, entry.unit): entry for entry in journal.read(params)}
    queue, found = journal.queued(entries.values()), []
    for unit in units(params):
        found.append(_found(params, unit, entries.pop((unit.stop, unit.name), None), queue))
    for entry in entries.values():  # begun by hand, or of a grid that has changed since
        if entry.stop in WORDS and entry.state == "running" and journal.alive(entry, queue):
            found.append(Found(Unit(entry.stop, entry.unit, ()), "running", entry, alive=True))
    return sorted(found, key=lambda item: list(WORDS).index(item.unit.stop))


def _found(params: Params, unit: Unit, entry: Entry | None, queue: dict[str, str] | None) -> Found:
    times = [_time(path) for path in unit.files]
    written = [time for time in times if time is not None]
    whole = len(written) == len(times)
    if entry is not None:
        alive = journal.alive(entry, queue)
        if entry.state == "running" and alive is not False:
            return Found(unit, "running", entry, alive, _since(unit, entry, times))
        if entry.state == "running" and queue and queue.get(entry.slurm or "") in journal.WAITING:
            return Found(unit, "pending", finished=_since(unit, entry, times))  # to begin again
        if not (whole and _current(params, unit)):  # a record may be one that Snakemake put back
            return Found(unit, "failed", entry, alive, _since(unit, entry, times))
    runs = tuple(run for run, time in zip(unit.runs, times, strict=False) if time is not None)
    return Found(unit, "done" if whole else "pending", finished=runs)


def _current(params: Params, unit: Unit) -> bool:
    """Whether a unit is done as params.yaml asks for: a redo that failed may be wanted no more."""
    kind = unit.stop
    known = set(grid.units(params))
    names = [(kind, run.id) for run in unit.runs] or [(kind, unit.name)]
    return all(name in known and record.current(params, *name) for name in names)


def _time(path: Path) -> float | None:
    """When a file was written, s since 1970; None if it is not there: a job may redo it now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _since(unit: Unit, entry: Entry, times: Sequence[float | None]) -> tuple[grid.Run, ...]:
    """Runs that a job has done or passed over since it began.

    A record that is there may be of an earlier time: its own time and the job's log tell.
    """
    try:
        lines = Path(entry.log).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if FINISHED.search(line)]
    return tuple(
        run
        for run, time in zip(unit.runs, times, strict=False)
        if time is not None and (time >= entry.started or any(f" {run.id}: " in t for t in told))
    )


def rerun(failed: Sequence[Found], scale: str | None, *, slurm: bool = False) -> list[str]:
    """The command, a target a line, that does these units again and nothing beyond them.

    Args:
        failed: the units.
        scale: what ``--config scale=`` has to say, None where params.yaml says it.
        slurm: whether the run was one on Slurm, even if no unit tells.
    """
    # --config takes all that follows up to the next option, so it comes before that.
    words = ["snakemake", *([f"--config scale={scale}"] if scale else []), "--cores all"]
    if slurm or any(found.entry is not None and found.entry.slurm for found in failed):
        words.append("--profile slurm")
    targets = [shlex.quote(found.unit.target.as_posix()) for found in failed]
    if len(targets) == 1:
        return [" ".join([*words, *targets])]
    lines = [" ".join(words), *(f"  {target}" for target in targets)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
