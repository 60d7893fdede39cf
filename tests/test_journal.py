"""What a job leaves in the journal, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cxrmim import job, journal, tally
from cxrmim.errors import CheckError, DataError
from cxrmim.paths import Paths
from tests.watched import GONE, REPO

PATHS = Paths("demo")
STOP, UNIT = "shards", "siim"
WAIT = 60.0  # seconds that something is waited for
SLEEPER = """
import sys, time
from cxrmim import job
parser = job.parser("shards", "unit", "sleeps")
job.run("shards", parser, lambda ctx: time.sleep(600), sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "params.yaml").symlink_to(REPO / "params.yaml")
    yield
    job.log.handlers[:] = []


def run(work, *arguments: str) -> int:
    parser = job.parser(STOP, "unit", "a test")
    return job.run(STOP, parser, work, ["--unit", UNIT, "--scale", "demo", *arguments])


def entries(demo) -> list[journal.Entry]:
    return journal.read(demo)


def test_a_running_job_is_in_the_journal_and_gone_when_it_ends_well(demo, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    seen: list[journal.Entry] = []
    began = time.time()
    assert run(lambda ctx: seen.extend(entries(demo))) == 0
    (entry,) = seen
    assert (entry.stop, entry.unit, entry.state) == (STOP, UNIT, "running")
    assert (entry.host, entry.pid) == (socket.gethostname(), os.getpid())
    assert entry.slurm == "4711" and entry.log == PATHS.log(STOP, UNIT).as_posix()
    assert began <= entry.started <= time.time()
    assert alive(entry) is True
    assert entries(demo) == []
    assert not PATHS.journal(STOP, UNIT).exists()


FAULTS = {
    "data": (DataError("siim: row 3 is bad"), 3, "siim: row 3 is bad"),
    "contradiction": (CheckError("a: b"), 4, "a: b"),
    "stopped": (job.StoppedError("stopped at step 3; saved"), 143, "stopped at step 3; saved"),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted"),
    "pipe": (BrokenPipeError(), 1, "its output was closed"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("debug", [False, True])
def test_a_failed_job_leaves_its_line_and_status(demo, capsys, fault, debug):
    error, status, line = FAULTS[fault]

    def work(ctx: job.Context) -> None:
        raise error

    if debug and isinstance(error, DataError | CheckError | job.StoppedError):
        with pytest.raises(type(error)):
            run(work, "--debug")
    else:
        assert run(work) == status
    (entry,) = entries(demo)
    assert (entry.state, entry.line, entry.status) == ("failed", line, status)
    assert entry.ended is not None and entry.ended >= entry.started
    assert alive(entry) is False


def test_somebody_elses_message_is_not_in_the_journal(demo, capsys):
    def work(ctx: job.Context) -> None:
        raise PermissionError("files/p10/p10000032/s50414267.txt")

    assert run(work) == 1
    assert "p10000032" not in PATHS.journal(STOP, UNIT).read_text()
    (entry,) = entries(demo)
    assert entry.line is not None and entry.line.startswith("unexpected PermissionError")
    assert entry.line in capsys.readouterr().err


def test_a_second_try_replaces_the_first_ones_failure(demo, capsys):
    def bad(ctx: job.Context) -> None:
        raise DataError("a")

    assert run(bad) == 3
    seen: list[journal.Entry] = []
    assert run(lambda ctx: seen.extend(entries(demo))) == 0
    assert seen[0].state == "running" and seen[0].line is None
    assert entries(demo) == []


def test_under_torchrun_the_first_process_alone_writes(demo, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")

    def work(ctx: job.Context) -> None:
        assert entries(demo) == []
        raise DataError("a")

    assert run(work) == 3
    assert entries(demo) == []


def test_a_journal_that_cannot_be_written_hides_nothing(demo, capsys):
    folder = PATHS.journal(STOP, UNIT).parents[1]
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way, as a full or read-only disk is")

    def work(ctx: job.Context) -> None:
        raise DataError("siim: row 3 is bad")

    assert run(work) == 3
    assert capsys.readouterr().err == "cxrmim shards: siim: row 3 is bad\n"
    assert run(lambda ctx: None) == 0
    assert entries(demo) == []


def test_a_killed_job_stays_running_and_is_not_alive(demo):
    command = [sys.executable, "-c", SLEEPER, "--unit", UNIT, "--scale", "demo"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPO / "src")})
    limit = time.monotonic() + WAIT
    while not entries(demo) and time.monotonic() < limit:
        time.sleep(0.05)
    (entry,) = entries(demo)
    assert alive(entry) is True and entry.pid == process.pid
    process.send_signal(signal.SIGKILL)
    # Not waited for, so a zombie at first.
    while alive(entry) and time.monotonic() < limit:
        time.sleep(0.05)
    assert alive(entry) is False
    process.wait()
    assert entries(demo) == [entry]
    assert alive(entry) is False


def example(**over) -> journal.Entry:
    host, began = socket.gethostname(), psutil.Process().create_time()
    made = journal.Entry(STOP, UNIT, "running", host, os.getpid(), began + 1, None, "a.log")
    return replace(made, **over)


def alive(entry: journal.Entry) -> bool | None:
    return journal.alive(entry, journal.queued([entry]))


def test_a_later_process_of_the_same_number_is_another():
    assert alive(example()) is True
    assert alive(example(started=example().started - 3600)) is False
    assert alive(example(pid=GONE)) is False


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A cluster's squeue that prints what a test wants."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "squeue"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")

    return install


def test_a_job_of_another_machine_is_asked_of_slurm(squeue):
    squeue('printf "7 RUNNING\\n8 PENDING\\n9 COMPLETING\\n"')
    far = example(host="node7", pid=1)
    assert alive(far) is None
    states = {slurm: alive(replace(far, slurm=slurm)) for slurm in ("7", "8", "9", "10")}
    assert states == {"7": True, "8": False, "9": True, "10": False}


def test_without_an_answer_of_the_cluster_nothing_is_claimed(squeue):
    squeue("exit 1")
    assert alive(example(host="node7", slurm="7")) is None
    assert alive(example(slurm="7")) is True  # of this machine


def test_the_cluster_is_asked_once_and_only_if_an_entry_needs_it(squeue, demo, tmp_path):
    """A squeue that waits for a controller in vain does so for seconds."""
    squeue(f"echo x >> {tmp_path}/asked; exit 1")
    far = example(host="node7", slurm="7")
    for unit in ("siim", "rsna"):
        path = PATHS.journal(STOP, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(replace(far, unit=unit, state="failed", ended=1.0))))
    tally.look(demo)
    assert not (tmp_path / "asked").exists()
    for entry in entries(demo):
        path = PATHS.journal(STOP, entry.unit)
        path.write_text(json.dumps(vars(replace(far, unit=entry.unit))))
    assert [found.alive for found in tally.look(demo) if found.entry] == [None, None]
    assert (tmp_path / "asked").read_text() == "x\n"


ODD = {"stop": ["shards"], "unit": "../../../a", "state": "odd", "host": 7, "pid": -1, "slurm": 7}
ODD |= {"started": 1e300, "log": None, "line": 5, "status": "3", "ended": "now"}


def test_torn_and_foreign_files_are_passed_over(demo):
    folder = PATHS.journal(STOP, UNIT).parent
    folder.mkdir(parents=True, exist_ok=True)
    for text in ("", "{", "[]", '{"stop": "shards"}', "[" * 99999):
        PATHS.journal(STOP, UNIT).write_text(text)
        assert entries(demo) == []
    for key, value in ODD.items():
        PATHS.journal(STOP, UNIT).write_text(json.dumps(vars(example()) | {key: value}))
        assert entries(demo) == [], key
    PATHS.journal(STOP, UNIT).write_text(json.dumps(vars(example()) | {"later": 1}))
    assert [entry.unit for entry in entries(demo)] == [UNIT]
    PATHS.journal(STOP, UNIT).rename(folder / f".1-ab.{UNIT}.json")  # as one that is being written
    assert entries(demo) == []


def test_a_stop_that_is_none_is_no_unit_of_the_scale(demo):
    path = PATHS.journal("stray", UNIT)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(vars(example(stop="stray"))))
    assert [entry.stop for entry in entries(demo)] == ["stray"]
    assert {found.state for found in tally.look(demo)} == {"pending"}


def test_an_orphan_leaves_its_replacements_entry_alone(demo):
    orphan = journal.Note(PATHS, STOP, UNIT)
    later = example(pid=os.getpid() + 1)
    PATHS.journal(STOP, UNIT).write_text(json.dumps(vars(later)))
    orphan.failed("too late", 1)
    orphan.done()
    assert entries(demo) == [later]


def test_git_ignores_the_journal(repo):
    path = Path(PATHS.journal(STOP, UNIT)).as_posix()
    out = subprocess.run(["git", "check-ignore", "-q", path], cwd=repo, check=False)
    assert out.returncode == 0
