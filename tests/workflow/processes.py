"""A run of the workflow as a tree of processes that can be frozen and killed as one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import psutil  # type: ignore[import-untyped]

from tests.workflow.conftest import BIN, REPO

MARK = "CXRMIM_KILL_TEST"  # an environment variable, which every process of a run inherits
PACKAGE = "cxrmim."
GONE = 20.0  # seconds in which killed processes must be gone


@dataclass(frozen=True)
class Job:
    """A job of the workflow: its stop and unit of work, and when its process began (s)."""

    stop: str
    unit: str
    started: float


def command() -> list[str]:
    """The workflow's run, for a working directory with its own params.yaml."""
    call = [str(BIN / "snakemake"), "--snakefile", str(REPO / "Snakefile")]
    return [*call, "--cores", "2"]


def job_of(arguments: Sequence[str]) -> tuple[str, str] | None:
    """Stop and unit of a process's command line, None for one that is no job.

    The shell that starts a job has its command in one argument.
    """
    for number, (option, module) in enumerate(pairwise(arguments)):
        if option == "-m" and module.startswith(PACKAGE):
            rest = arguments[number + 2 :]
            return module.removeprefix(PACKAGE), rest[1] if len(rest) > 1 else ""
    return None


class Run:
    """A process and its descendants, in a session of their own, their output in a file.

    Nothing of it outlives the context.

    Args:
        arguments: command line.
        folder: working directory; the output goes to a file beside it.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.log = folder.with_suffix(".log")
        self._mark = uuid4().hex
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO / "src"),
            MARK: self._mark,
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def ended(self) -> bool:
        """Whether the first process has ended."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Exit status at the end."""
        return self._process.wait()

    def sleep(self, seconds: float) -> bool:
        """Wait, but not longer than the run lasts; whether it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.ended

    def members(self) -> list[psutil.Process]:
        """The run's processes that live.

        A descendant whose parent has died is nobody's child any more: it still has the session, or
        if it has made one of its own, the environment.
        """
        found = {process.pid: process for process in self._tree()}
        for process in psutil.process_iter():
            if process.pid not in found and self._is_mine(process):
                found[process.pid] = process
        return [process for process in found.values() if _lives(process)]

    def _tree(self) -> list[psutil.Process]:
        if self.ended:  # its number may be another's by now
            return []
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            mine = os.getsid(process.pid) == self._process.pid
            return mine or process.environ().get(MARK) == self._mark
        except (psutil.Error, OSError):
            return False

    def jobs(self) -> list[Job]:
        """Jobs that run now; a job's worker processes count with it."""
        found: dict[tuple[str, str], Job] = {}
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                named = job_of(process.cmdline())
                if named is not None and named not in found:
                    found[named] = Job(*named, process.create_time())
        return list(found.values())

    def freeze(self, first: int | None = None) -> bool:
        """Stop all processes where they are; False if the run had ended by itself.

        Without it Snakemake would see its jobs die one after the other, and act on it.

        Args:
            first: process that is stopped before the others.
        """
        if first is not None:
            _signal(first, signal.SIGSTOP)
        if self.ended:
            return False
        _signal(self._process.pid, signal.SIGSTOP)
        stopped: set[int] = set()
        while new := [p.pid for p in self.members() if p.pid not in stopped]:
            for pid in new:
                _signal(pid, signal.SIGSTOP)
            stopped |= set(new)
        return True

    def kill(self) -> list[str]:
        """SIGKILL all processes; those that are left after a while, in words."""
        if not self.ended:
            _signal(self._process.pid, signal.SIGKILL)
        end = time.monotonic() + GONE
        while (left := self.members()) and time.monotonic() < end:
            for process in left:
                _signal(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        if not left:
            self._process.wait()
        return [f"process {process.pid} lives" for process in left]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
