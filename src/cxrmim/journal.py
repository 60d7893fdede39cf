"""What runs and what has failed: one small file a unit of work, in a folder that git ignores.

A job writes its entry when it starts, changes it when it fails and removes it when it ends well; a
killed one leaves it as it was, and whoever reads it asks whether the process lives. All of it is
best effort: a journal that cannot be written never hides the job's own error.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import Field, TypeAdapter

from cxrmim.params import Params
from cxrmim.paths import Paths, atomic

SLACK = 5.0  # seconds that a clock may have been set by since a process began
PATIENCE = 5.0  # seconds that squeue is given
Seconds = Annotated[float, Field(ge=0, lt=1e11)]  # since 1970; later ones no clock can show
WAITING = ("PENDING", "REQUEUED")  # in the queue, and without a process


@dataclass(frozen=True)
class Entry:
    """A unit of work that runs, has failed, or was killed as it ran.

    Attributes:
        stop: the stop's word.
        unit: dataset, checkpoint, downstream job or part of the report.
        state: "running" also of a killed job; see `alive`.
        host: where the process runs.
        pid: of the process there.
        started: seconds since 1970.
        slurm: id of the Slurm job, None outside one.
        log: the job's log file, relative to the checkout.
        line: of a failed job: its error in one line, as it printed it.
        status: of a failed job: its exit status.
        ended: of a failed job: seconds since 1970.
    """

    stop: str
    unit: str
    state: Literal["running", "failed"]
    host: str
    pid: Annotated[int, Field(gt=0)]
    started: Seconds
    slurm: str | None
    log: str
    line: str | None = None
    status: int | None = None
    ended: Seconds | None = None


READER = TypeAdapter(Entry)


class Note:
    """This process's entry in the journal; written on creation.

    Args:
        paths: of the scale.
        stop: the stop's word.
        unit: the unit of work.
    """

    def __init__(self, paths: Paths, stop: str, unit: str) -> None:
        self._path = paths.journal(stop, unit)
        self._entry = Entry(
            stop,
            unit,
            "running",
            socket.gethostname(),
            os.getpid(),
            time.time(),
            os.environ.get("SLURM_JOB_ID"),
            paths.log(stop, unit).as_posix(),
        )
        self._write(self._entry)

    def failed(self, line: str, status: int) -> None:
        """The job ends in an error.

        Args:
            line: the error in one line, nothing of a patient in it.
            status: the process's exit status.
        """
        if self._mine():
            ended = time.time()
            self._write(replace(self._entry, state="failed", line=line, status=status, ended=ended))

    def done(self) -> None:
        """The job ends well."""
        if self._mine():
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _mine(self) -> bool:
        """Whether no later process has begun the same unit, as after an orphan's replacement."""
        found = _parse(self._path)
        return found is None or (found.host, found.pid) == (self._entry.host, self._entry.pid)

    def _write(self, entry: Entry) -> None:
        with contextlib.suppress(OSError), atomic(self._path) as temporary:
            temporary.write_text(json.dumps(asdict(entry), indent=1) + "\n", encoding="utf-8")


def read(params: Params) -> list[Entry]:
    """The scale's entries, by stop and unit; files that are no entries are passed over."""
    paths = Paths(params.scale)
    files = sorted(Path().glob(paths.journal("*", "*").as_posix()))
    # One that lies elsewhere than where it belongs may be half written, or of any origin.
    found = ((_parse(path), path) for path in files)
    return [e for e, path in found if e is not None and paths.journal(e.stop, e.unit) == path]


def _parse(path: Path) -> Entry | None:
    try:
        return READER.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def alive(entry: Entry, queue: Mapping[str, str] | None) -> bool | None:
    """Whether an entry's process lives; None where that cannot be told from here.

    Args:
        entry: what the journal says.
        queue: what `queued` has found for this entry and others.
    """
    if entry.state == "failed":
        return False
    if entry.host == socket.gethostname():
        return _lives(entry.pid, entry.started)
    if entry.slurm is None or queue is None:
        return None
    return queue.get(entry.slurm, WAITING[0]) not in WAITING


def _lives(pid: int, started: float) -> bool:
    """Whether a process of this machine lives and is not a later one that was given its number."""
    try:
        process = psutil.Process(pid)
        gone = process.status() == psutil.STATUS_ZOMBIE
        return not gone and bool(process.create_time() <= started + SLACK)
    except psutil.Error:
        return False


def queued(entries: Iterable[Entry]) -> dict[str, str] | None:
    """States of this user's jobs on the cluster by id; None where no cluster answers.

    Args:
        entries: what is going to be judged; the cluster is asked only if one needs it.
    """
    here, squeue = socket.gethostname(), shutil.which("squeue")
    away = any(e.slurm and e.host != here and e.state == "running" for e in entries)
    if squeue is None or not away:
        return None
    command = [squeue, "--noheader", "--format=%A %T", f"--user={os.getuid()}"]
    try:
        out = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) == 2)
