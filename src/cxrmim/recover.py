"""`cxrmim recover`: end what a killed Snakemake has left behind, and unlock.

A Snakemake that is killed outright (out of memory, a reboot of the head node) cancels nothing: its
jobs live on, here or on a cluster, and a second run would start the same units beside them.
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from cxrmim import journal
from cxrmim.errors import CxrmimError
from cxrmim.params import Params
from cxrmim.paths import Paths, everywhere

MARK = "CXRMIM_SNAKEMAKE"  # in a job's environment: process id of the Snakemake that started it
LOCKS, LOGS = Path(".snakemake/locks"), Path(".snakemake/log")
HEAD = 1 << 16  # bytes of a Snakemake log that tell where it ran and under which id
LOCKED = "Using shell: "  # a Snakemake that was refused the lock does not come as far as that
HOST = re.compile(r"^ +Host: (\S+)$", re.MULTILINE)
SUBMITS = re.compile(r"^SLURM run ID: (\S+)$", re.MULTILINE)
# The Slurm plugin names a run's jobs by a UUID, maybe with the user's prefix.
RUN = re.compile(r"(?:[\w-]{1,50}_)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
FORMAT = "%i|%T|%j|%k|%Z"  # id, state, run, comment, folder: the last two may hold anything
MODULE = re.compile(r"cxrmim\.([a-z]+)")
ENDS = "COMPLETING"  # as squeue calls a job whose processes are on their way out
PATIENCE = 60.0  # seconds that a Slurm command is given
ASKED: Any = {"capture_output": True, "text": True, "errors": "replace", "timeout": PATIENCE}
LINGERS = 60.0  # seconds that a job which ends anyway is given
ENDING = 300.0  # seconds that cancelled jobs are given: a training saves on SIGTERM
POLL = 1.0  # seconds
SHOWN = 5


@dataclass(frozen=True)
class Orphan:
    """A job of this folder whose Snakemake is dead.

    Attributes:
        id: Slurm's id of the job, or the process id.
        slurm: whether a cluster runs it; else it is a process of this machine.
        unit: what it works on.
        run: the id under which Snakemake submitted it, or the dead Snakemake's process id.
        state: as squeue calls it; RUNNING for a process.
        host: where that Snakemake was started, None if no log of this folder tells.
    """

    id: str
    slurm: bool
    unit: str
    run: str
    state: str
    host: str | None

    @property
    def text(self) -> str:
        """One line for people."""
        kind = "Slurm job" if self.slurm else "process"
        return f"{kind} {self.id}, {self.state}: {self.unit} (run {self.run})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be ended and unlocked"
    )
    parser.add_argument(
        "--gone",
        action="store_true",
        help="the run is another machine's or user's, and its Snakemake there is surely dead",
    )


def command(params: Params, args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """End the orphans of this folder, wait until they are gone, remove Snakemake's lock.

    Raises:
        CxrmimError: a Snakemake of this folder is alive or may be, Slurm does not answer, or a job
            does not end; nothing is unlocked then.
    """
    folder = Path.cwd().resolve()
    _require_dead(folder, gone=args.gone, say=say)
    found = orphans(folder)
    for orphan in found if not args.gone else []:
        _require_here(f"the run of {orphan.text}", orphan.host)
    if shutil.which("squeue") is None:
        say("no squeue on PATH: no cluster was looked at, only processes of this machine")
    locks = sorted(LOCKS.glob("*.lock"))
    for orphan in found:
        say(f"{'would end' if args.dry_run else 'ending'} {orphan.text}")
    if not args.dry_run:
        _end(found, folder)
    clusters = sum(orphan.slurm for orphan in found)
    ended = "to end" if args.dry_run else "ended"
    say(f"{clusters} Slurm jobs and {len(found) - clusters} processes {ended}")
    if not args.dry_run:
        for paths in everywhere():  # the lock is of all scales, and so was what held it
            if living := _clear(params.model_copy(update={"scale": paths.scale}), paths):
                said = f"half-written files are left, as these still work: {', '.join(living)}"
            else:
                said = f"{paths.sweep()} half-written files and folders removed"
            say(f"scale {paths.scale}: {said}")
        if LOCKS.is_dir():  # at the end: a run that begins now would write what is swept
            shutil.rmtree(LOCKS)  # what `snakemake --unlock` does
    held = "would be removed" if args.dry_run else "removed"
    say(f"Snakemake's lock {held}" if locks else "no lock of Snakemake's was there")
    if not args.dry_run:
        say("run the same `snakemake` command again: what is done is kept")


def orphans(folder: Path | None = None) -> list[Orphan]:
    """Jobs of this folder that run or wait although the Snakemake that started them is dead.

    To be asked where no Snakemake of the folder lives, or by one before its first job: every Slurm
    job that a run of this folder has submitted is an orphan then. A Snakemake of another machine is
    not seen from here: `Orphan.host` tells whose job it is.

    Args:
        folder: the working directory of the runs; the present one by default.

    Raises:
        CxrmimError: Slurm does not answer, and runs of this folder have used it.
    """
    folder = (folder or Path.cwd()).resolve()
    return [*_slurm_jobs(folder), *_processes(folder)]


def require_alone() -> None:
    """Assert, at the start of a run, that no job of another one is there.

    Raises:
        CxrmimError: there is one: it and its replacement would write the same files.
    """
    found, limit = orphans(), time.monotonic() + LINGERS
    while found and all(o.state == ENDS for o in found) and time.monotonic() < limit:
        time.sleep(POLL)  # of a run that has just ended, or was interrupted
        found = orphans()
    if not found:
        return
    where = "on the cluster" if any(orphan.slurm for orphan in found) else "on this machine"
    units = [f"{orphan.id} {orphan.unit}" for orphan in found[:SHOWN]]
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise CxrmimError(
        f"{len(found)} jobs of another run of this folder are still {where} ({', '.join(units)}"
        f"{more}); if that run lives, wait for it; if it was killed, run `cxrmim recover`, then "
        f"this command again"
    )


def _require_dead(folder: Path, *, gone: bool, say: Callable[[str], None]) -> None:
    for process in psutil.process_iter():
        if _runs_in(process, folder) and _is_snakemake(process) == "main":
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
            raise CxrmimError(
                f"a Snakemake of this folder is alive: process {process.pid} on "
                f"{socket.gethostname()} since {since}; wait for it, or end it with "
                f"`kill -INT {process.pid}`; nothing was changed"
            )
    started, locks = _started_on(), list(LOCKS.glob("*.lock"))
    if not locks:
        return
    if not gone and any(path.stat().st_uid != os.getuid() for path in locks):
        raise CxrmimError(
            "another user has locked this folder: only they see whether their Snakemake lives; let "
            "them run `cxrmim recover`, or, if it is surely dead, add --gone; nothing was changed"
        )
    if started is None:
        say("no log of Snakemake's tells where the locked run began; only this machine is seen")
    elif not gone:
        _require_here("the last run", started)


def _require_here(what: str, started: str | None) -> None:
    here = socket.gethostname()
    if started != here:
        where = started or "a machine that no log in .snakemake/log names"
        raise CxrmimError(
            f"{what} was started on {where}, and this is {here}, from where nobody can see whether "
            f"its Snakemake lives; run `cxrmim recover` there, or, if it is surely dead, "
            f"`cxrmim recover --gone` here; nothing was changed"
        )


def _is_snakemake(process: psutil.Process) -> str:
    """ "main" for a Snakemake, "job" for one that a Snakemake has started for a job, else ""."""
    words = _words(process)
    program = [Path(word).name for word in takewhile(lambda w: not w.startswith("--"), words)]
    if not program or not program[0].startswith("python") or "snakemake" not in program[1:]:
        return ""
    return "job" if "--mode" in words else "main"


def _words(process: psutil.Process) -> list[str]:
    """A process's command line; empty if it has gone or is not ours."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and _same(process.cwd(), folder)
    except (psutil.Error, OSError):
        return False


def _same(name: str, folder: Path) -> bool:
    """Whether a name means the folder, also through links and other mounts of it."""
    try:
        return Path(name).samefile(folder)
    except (OSError, ValueError):
        return False


def _heads() -> list[str]:
    """The beginnings of this folder's Snakemake logs, the oldest first."""
    heads = []
    for path in sorted(LOGS.glob("*.log")):
        with path.open("rb") as handle:
            heads.append(handle.read(HEAD).decode(errors="replace"))
    return heads


def _started_on() -> str | None:
    """Host of the newest run that has held the lock; None if no log tells."""
    held = [found[1] for head in _heads() if LOCKED in head and (found := HOST.search(head))]
    return held[-1] if held else None


def _submitters() -> dict[str, str]:
    """Hosts of this folder's Snakemakes that have used Slurm, by the id of their run."""
    found = ((SUBMITS.search(head), HOST.search(head)) for head in _heads())
    return {run[1]: host[1] for run, host in found if run and host}


def _slurm_jobs(folder: Path, *, used: bool = False) -> list[Orphan]:
    """Jobs of this folder that wait or run on the cluster.

    Args:
        folder: of the runs.
        used: whether it is known that Slurm is in use; else the logs are asked where squeue fails.

    Raises:
        CxrmimError: squeue fails.
    """
    command = ["squeue", "--noheader", f"--user={os.getuid()}", f"--format={FORMAT}"]
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(command, check=False, **ASKED)
    except subprocess.TimeoutExpired:
        told: str | None = f"no answer in {PATIENCE:.0f} s"
    else:
        told = None if done.returncode == 0 else (done.stderr.strip() or "no reason told")
    if told is not None:
        # A squeue without a cluster behind it is no obstacle to runs that never used one.
        if used or _submitters():
            raise CxrmimError(
                f"squeue fails ({told.splitlines()[-1]}), so that nobody can tell which jobs of "
                f"this folder still run; try again when the cluster answers"
            )
        return []
    hosts = _submitters()
    jobs = (_parsed(line, folder, hosts) for line in done.stdout.splitlines())
    return [orphan for orphan in jobs if orphan is not None]


def _parsed(line: str, folder: Path, hosts: Mapping[str, str]) -> Orphan | None:
    """A line of squeue; None for a job of something else.

    Slurm knows where Snakemake was called, which ``--directory`` makes another folder than that of
    the run: a run that has left its log in this one is of this one. Of a job that was only
    submitted from here nobody can tell.
    """
    number, state, run, rest = [*line.strip().split("|", 3), "", "", "", ""][:4]
    comment, _, place = rest.partition("|/")
    if run not in hosts and not (RUN.fullmatch(run) and _same(f"/{place}", folder)):
        return None
    unit = comment.removeprefix("rule_").replace("_wildcards_", " ")
    return Orphan(number, True, unit or "unknown", run, state, hosts.get(run))


def _processes(folder: Path) -> list[Orphan]:
    """Job processes of this machine whose Snakemake is dead.

    Those that somebody has started by hand bear no mark and are left alone, and so are those that
    a job of the cluster has started, whose Snakemake lives.
    """
    found = []
    for process in psutil.process_iter():
        words = _words(process)
        at = next((i for i, word in enumerate(words) if MODULE.fullmatch(word)), 0)
        if at == 0 or words[at - 1] != "-m" or not _runs_in(process, folder):
            continue
        try:
            mark = process.environ().get(MARK, "")
            parent = process.parent()
        except psutil.Error:
            continue
        if not mark.isdecimal() or _lives(int(mark)):
            continue
        if parent is not None and words[at] in _words(parent)[1:]:
            continue  # a worker of a job, or of torchrun: ended with it
        unit = " ".join([words[at].removeprefix("cxrmim."), *words[at + 2 : at + 3]])
        found.append(Orphan(str(process.pid), False, unit, mark, "RUNNING", socket.gethostname()))
    return found


def _lives(pid: int) -> bool:
    try:
        return bool(_is_snakemake(psutil.Process(pid)))
    except psutil.Error:
        return False


def _end(found: Sequence[Orphan], folder: Path) -> None:
    """Cancel orphans and wait until they are gone.

    Raises:
        CxrmimError: one of them is still there.
    """
    clusters = [orphan.id for orphan in found if orphan.slurm]
    refused = ""
    if clusters:
        try:
            done = subprocess.run(["scancel", *clusters], check=False, **ASKED)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CxrmimError(f"scancel fails ({type(error).__name__}); nothing unlocked") from None
        refused = done.stderr.strip()
    _end_processes([int(orphan.id) for orphan in found if not orphan.slurm])
    limit = time.monotonic() + ENDING
    while clusters and (left := _slurm_jobs(folder, used=True)):
        if time.monotonic() > limit:
            told = f" (scancel: {refused.splitlines()[-1]})" if refused else ""
            raise CxrmimError(
                f"{len(left)} of {len(clusters)} Slurm jobs are still there {ENDING:.0f} s after "
                f"scancel{told}: {', '.join(o.id for o in left)}; nothing was unlocked; run "
                f"`cxrmim recover` again later"
            )
        time.sleep(POLL)


def _end_processes(numbers: Sequence[int]) -> None:
    """SIGTERM, on which a training saves; after a while SIGKILL, to the children too."""
    left: list[psutil.Process] = []
    for number in numbers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(number)
            left += [process, *process.children(recursive=True)]
            process.terminate()
            process.resume()  # a suspended one would not hear of it
    for stop in (ENDING, PATIENCE):
        limit = time.monotonic() + stop
        while (left := [p for p in left if _runs(p)]) and time.monotonic() < limit:
            time.sleep(POLL)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    if left:
        raise CxrmimError(
            f"{len(left)} processes do not end ({', '.join(str(p.pid) for p in left)}): the disk "
            f"that they wait for may be away; nothing was unlocked; run `cxrmim recover` later"
        )


def _runs(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended and that nobody has asked for does not."""
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _clear(params: Params, paths: Paths) -> list[str]:
    """Remove the journal's notes of jobs that have been killed: they would still seem to run.

    Returns:
        The units whose jobs live, as those that were started by hand.
    """
    entries, living = journal.read(params), []
    queue = journal.queued(entries)
    for entry in entries:
        if entry.state == "running" and journal.alive(entry, queue):
            living.append(f"{entry.stop} {entry.unit}")
        elif entry.state == "running":
            paths.journal(entry.stop, entry.unit).unlink(missing_ok=True)
    return living
