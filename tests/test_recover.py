"""`cxrmim recover` against a made-up cluster (small `squeue` and `scancel`) and real processes."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cxrmim import cli, journal, recover
from cxrmim.errors import CxrmimError
from cxrmim.paths import Paths

RUN = "95c0ac35-ae49-4ddd-986d-b2b6a55fe6e4"
OTHER = RUN.replace("9", "8")  # of a folder elsewhere
HEAD = """
SNAKEMAKE
=========
  Host: {host}
  Working directory: /somewhere

SLURM run ID: {run}
"""
HELD = "Using shell: /usr/bin/bash\n"
SQUEUE = """#!{python}
import pathlib, sys
here = pathlib.Path({here!r})
with (here / "asked").open("a") as log: log.write(" ".join(sys.argv[1:]) + "\\n")
if (here / "away").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
sys.stdout.write((here / "queue").read_text())
"""
SCANCEL = """#!{python}
import pathlib, sys
here = pathlib.Path({here!r})
with (here / "cancelled").open("a") as log: log.write(" ".join(sys.argv[1:]) + "\\n")
if (here / "stuck").exists():
    sys.exit("scancel: error: Kill job error on job id 11: Access denied")
lines = (here / "queue").read_text().splitlines(keepends=True)
(here / "queue").write_text("".join(x for x in lines if x.split("|")[0] not in sys.argv[1:]))
"""
JOB = """import pathlib, signal, sys, time
def save(number, frame):
    if "stubborn" not in sys.argv: pathlib.Path("saved").touch(); sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready-" + sys.argv[2]).touch()
time.sleep(600)
"""


class Cluster:
    """What squeue shows, and what scancel was told."""

    def __init__(self, here: Path, folder: Path) -> None:
        self.here, self.folder = here, folder
        for name, text in (("squeue", SQUEUE), ("scancel", SCANCEL)):
            (here / name).write_text(text.format(python=sys.executable, here=str(here)))
            (here / name).chmod(0o755)
        self.show()

    def show(self, *lines: str) -> None:
        (self.here / "queue").write_text("".join(f"{line}\n" for line in lines))

    def job(self, number: int, folder: str | None = None, run: str = RUN, unit: str = "") -> str:
        comment = unit or "rule_pretrain_wildcards_medim-s0"
        return f"{number}|RUNNING|{run}|{comment}|{folder or self.folder}"

    @property
    def cancelled(self) -> list[str]:
        path = self.here / "cancelled"
        return path.read_text().split() if path.is_file() else []


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder as a killed Snakemake leaves it, and a PATH without Slurm."""
    here = tmp_path / "a | odd\tname"
    (here / ".snakemake/locks").mkdir(parents=True)
    (here / ".snakemake/locks/0.input.lock").write_text("x\n")
    (here / ".snakemake/log").mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(recover, "POLL", 0.05)
    leave_log(here)
    return here


@pytest.fixture
def cluster(folder) -> Cluster:
    return Cluster(folder.parent / "bin", folder)


def leave_log(
    folder: Path, host: str = "", name: str = "1", held: str = HELD, run: str = RUN
) -> None:
    text = HEAD.format(host=host or socket.gethostname(), run=run) + held
    (folder / f".snakemake/log/{name}.snakemake.log").write_text(text)


@pytest.fixture
def start(folder) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes that are ended after the test."""
    package = folder.parent / "made-up/cxrmim"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "pretrain.py").write_text(JOB)
    begun: list[subprocess.Popen[bytes]] = []

    def process(*words: str, mark: int | None = None, cwd: Path = folder) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        environment.pop(recover.MARK, None)
        if mark is not None:
            environment[recover.MARK] = str(mark)
        begun.append(subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment))
        return begun[-1]

    yield process
    for one in begun:
        one.kill()
        one.wait()


def started(start, folder: Path, unit: str, *more: str, mark: int | None = None, cwd=None):
    """A job process that has set its handlers."""
    cwd = cwd or folder
    words = ("-m", "cxrmim.pretrain", "--checkpoint", unit, *more)
    process = start(*words, mark=mark, cwd=cwd)
    limit = time.monotonic() + 60
    while not (cwd / f"ready-{unit}").exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    return process


def snakemake(start, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Something that looks like a Snakemake of the folder."""
    program = folder.parent / "snakemake"
    program.write_text("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)")
    process = start(str(program), "--cores", "all", *words)
    while not (folder / "begun").exists():
        time.sleep(0.05)
    return process


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def call(params, *, dry_run: bool = False, gone: bool = False) -> str:
    lines: list[str] = []
    recover.command(params, argparse.Namespace(dry_run=dry_run, gone=gone), lines.append)
    return "\n".join(lines)


def locked(folder: Path) -> bool:
    return any((folder / ".snakemake").glob("locks/*.lock"))


def test_jobs_of_this_folder_are_cancelled_and_the_lock_goes(folder, cluster, demo):
    link = folder.parent / "link"
    link.symlink_to(folder)
    leave_log(folder, name="2", run=f"mine_{RUN}")
    cluster.show(
        cluster.job(11),
        cluster.job(12, str(link), unit="rule_downstream_medim_s0"),
        cluster.job(13, run=f"mine_{RUN}", unit="a|b"),
        cluster.job(14, str(folder.parent), run=OTHER),
        cluster.job(15, run="my own job"),
        cluster.job(16, run="wrap"),
        cluster.job(17, "/nosuch", run=OTHER),
        "18|PENDING|",
        "not a job at all",
    )
    said = call(demo)
    assert cluster.cancelled == ["11", "12", "13"]
    assert f"ending Slurm job 11, RUNNING: pretrain medim-s0 (run {RUN})" in said
    assert f"ending Slurm job 12, RUNNING: downstream_medim_s0 (run {RUN})" in said
    assert "3 Slurm jobs and 0 processes ended" in said
    assert "Snakemake's lock removed" in said
    assert not locked(folder)
    asked = (cluster.here / "asked").read_text()
    assert f"--user={os.getuid()}" in asked and "--states" not in asked


def test_a_dry_run_only_says(folder, cluster, demo):
    cluster.show(cluster.job(11))
    said = call(demo, dry_run=True)
    assert "would end Slurm job 11" in said
    assert "would be removed" in said
    assert cluster.cancelled == []
    assert locked(folder)


def test_nothing_is_unlocked_while_a_job_is_left(folder, cluster, demo, monkeypatch):
    monkeypatch.setattr(recover, "ENDING", 0.3)
    cluster.show(cluster.job(11), cluster.job(12))
    (cluster.here / "stuck").touch()
    with pytest.raises(CxrmimError, match=r"2 of 2 Slurm jobs are still there.*Access denied.*11"):
        call(demo)
    assert locked(folder)


def test_nothing_is_unlocked_when_the_cluster_does_not_answer(folder, cluster, demo):
    (cluster.here / "away").touch()
    with pytest.raises(CxrmimError, match="Unable to contact slurm controller") as error:
        call(demo)
    assert "\n" not in str(error.value)
    assert locked(folder)
    assert cluster.cancelled == []


def test_a_cluster_that_no_run_here_has_used_may_be_away(folder, cluster, demo):
    path = folder / ".snakemake/log/1.snakemake.log"
    path.write_text(path.read_text().replace("SLURM run ID", "x"))
    (cluster.here / "away").touch()
    assert "0 Slurm jobs" in call(demo)
    assert not locked(folder)


def test_without_slurm_the_local_part_is_done(folder, demo):
    assert "no squeue on PATH" in call(demo)
    assert not locked(folder)
    assert "no lock of Snakemake's was there" in call(demo)


def test_a_living_snakemake_is_left_alone(folder, cluster, demo, start):
    process = snakemake(start, folder)
    cluster.show(cluster.job(11))
    with pytest.raises(CxrmimError, match=f"process {process.pid} on {socket.gethostname()} since"):
        call(demo)
    assert locked(folder)
    assert cluster.cancelled == []
    process.kill()
    process.wait()
    assert "1 Slurm jobs" in call(demo)


def test_a_snakemake_that_only_does_a_job_does_not_count(folder, cluster, demo, start):
    """The one in a Slurm job's allocation: an orphan's, on a cluster of one machine."""
    snakemake(start, folder, "--mode", "remote")
    cluster.show(cluster.job(11))
    assert "1 Slurm jobs" in call(demo)


@pytest.mark.parametrize("options", [["-u"], ["-X", "utf8", "-W", "ignore"]])
def test_a_living_snakemake_is_known_by_whatever_python_it_was_called(folder, demo, start, options):
    package = folder.parent / "made-up/snakemake.py"
    package.write_text("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)")
    process = start(*options, "-m", "snakemake", "--cores", "all")
    while not (folder / "begun").exists():
        time.sleep(0.05)
    with pytest.raises(CxrmimError, match=f"process {process.pid} on"):
        call(demo)
    assert recover._lives(process.pid)


def test_a_run_of_another_user_is_not_judged(folder, demo, monkeypatch):
    """Nobody but root sees where another's processes run."""
    monkeypatch.setattr(recover.os, "getuid", lambda: 4711)
    with pytest.raises(CxrmimError, match=r"another user has locked.*--gone"):
        call(demo)
    assert locked(folder)
    call(demo, gone=True)
    assert not locked(folder)


def test_a_run_of_another_machine_is_not_judged_from_here(folder, cluster, demo):
    leave_log(folder, host="login2", name="2")
    leave_log(folder, name="3", held="Error: Directory cannot be locked.\n")
    cluster.show(cluster.job(11))
    with pytest.raises(CxrmimError, match=r"started on login2, and this is .*--gone"):
        call(demo)
    assert locked(folder)
    assert cluster.cancelled == []
    assert "1 Slurm jobs" in call(demo, gone=True)
    assert not locked(folder)


def test_a_run_that_was_called_from_elsewhere_is_known_by_its_log(folder, cluster, demo):
    """Slurm knows the folder of the call, which is not that of ``snakemake --directory``."""
    cluster.show(cluster.job(11, str(folder.parent)))
    assert [orphan.id for orphan in recover.orphans()] == ["11"]
    call(demo)
    assert cluster.cancelled == ["11"]


def test_a_run_of_another_folder_that_was_called_from_here_lives_on(folder, cluster, demo):
    link = folder.parent / "link"
    link.symlink_to(folder)
    cluster.show(cluster.job(11), cluster.job(12, str(link), run=OTHER))
    with pytest.raises(CxrmimError, match=r"Slurm job 12.*a machine that no log .*--gone"):
        call(demo)
    assert cluster.cancelled == []
    assert locked(folder)
    call(demo, gone=True)
    assert cluster.cancelled == ["11", "12"]


def test_a_run_of_another_machine_lives_on_after_a_later_one_here(folder, cluster, demo):
    """Of another scale: Snakemake's lock lets both in, and the first to end takes both locks."""
    leave_log(folder, host="login2", name="0", run=OTHER)
    (folder / ".snakemake/locks/0.input.lock").unlink()
    cluster.show(cluster.job(11, run=OTHER))
    with pytest.raises(CxrmimError, match=r"Slurm job 11.*started on login2, and this is"):
        call(demo)
    assert cluster.cancelled == []


def test_it_is_said_when_no_log_tells_where_the_run_was_started(folder, cluster, demo):
    (folder / ".snakemake/log/1.snakemake.log").unlink()
    assert "no log of Snakemake's tells" in call(demo)
    assert not locked(folder)


def test_processes_of_a_dead_snakemake_are_ended_and_may_save(folder, demo, start):
    orphan = started(start, folder, "medim-s0", mark=dead_pid())
    said = call(demo)
    assert orphan.wait(60) == 143
    assert (folder / "saved").exists()
    assert f"ending process {orphan.pid}, RUNNING: pretrain medim-s0" in said
    assert "0 Slurm jobs and 1 processes ended" in said


def test_a_process_that_does_not_heed_sigterm_is_killed(folder, demo, start, monkeypatch):
    monkeypatch.setattr(recover, "ENDING", 0.3)
    orphan = started(start, folder, "medim-s0", "stubborn", mark=dead_pid())
    call(demo)
    assert orphan.wait(60) == -signal.SIGKILL


def test_a_suspended_process_may_save_too(folder, demo, start, monkeypatch):
    monkeypatch.setattr(recover, "ENDING", 5.0)
    orphan = started(start, folder, "medim-s0", mark=dead_pid())
    orphan.send_signal(signal.SIGSTOP)
    call(demo)
    assert orphan.wait(60) == 143
    assert (folder / "saved").exists()


def test_processes_of_somebody_else_live_on(folder, demo, start):
    """By hand, of a Snakemake that lives, of another folder."""
    other = folder.parent / "other"
    other.mkdir()
    living = snakemake(start, folder, "--mode", "remote")
    left = [
        started(start, folder, "by-hand"),
        started(start, folder, "of-a-job", mark=living.pid),
        started(start, folder, "elsewhere", mark=dead_pid(), cwd=other),
    ]
    assert recover.orphans() == []
    assert "0 processes ended" in call(demo)
    assert all(psutil.pid_exists(p.pid) and p.poll() is None for p in left)


def test_a_run_is_not_begun_beside_an_earlier_ones_jobs(folder, cluster, start):
    recover.require_alone()
    cluster.show(*(cluster.job(n) for n in range(11, 18)))
    with pytest.raises(CxrmimError, match="7 jobs of another run of this folder") as error:
        recover.require_alone()
    text = str(error.value)
    assert "11 pretrain medim-s0" in text and "and 2 more" in text and "`cxrmim recover`" in text
    assert "on the cluster" in text and "\n" not in text
    cluster.show()
    recover.require_alone()
    started(start, folder, "medim-s0", mark=dead_pid())
    with pytest.raises(CxrmimError, match="still on this machine"):
        recover.require_alone()


def test_jobs_that_are_ending_are_waited_for(folder, cluster, monkeypatch):
    """Of a run that has ended well a moment ago, which needs no recovery."""
    ending = cluster.job(11).replace("RUNNING", "COMPLETING")
    cluster.show(ending)
    monkeypatch.setattr(recover.time, "sleep", lambda seconds: cluster.show())
    recover.require_alone()
    cluster.show(ending)
    monkeypatch.setattr(recover, "LINGERS", 0.0)
    with pytest.raises(CxrmimError, match="1 jobs of another"):
        recover.require_alone()


def test_notes_of_killed_jobs_go_and_those_of_failed_ones_stay(folder, demo):
    paths = Paths(demo.scale)
    for unit in ("killed", "failed"):
        note = journal.Note(paths, "pretrain", unit)
    note.failed("a line", 1)
    path = paths.journal("pretrain", "killed")
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {dead_pid()}'))
    call(demo)
    assert [entry.unit for entry in journal.read(demo)] == ["failed"]


def left(demo) -> Path:
    """Something half written."""
    paths = Paths(demo.scale)
    path = paths.results / "figures" / f".{dead_pid()}-0123abcd.roc.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    journal.Note(paths, "report", "tables").done()
    return path


def test_what_is_half_written_goes_before_the_lock(folder, demo, monkeypatch):
    """Else it might be of a run that has begun in between."""
    path, clear, seen = left(demo), Paths.sweep, []

    def sweep(paths: Paths) -> int:
        seen.append(locked(folder))
        return clear(paths)

    monkeypatch.setattr(Paths, "sweep", sweep)
    assert "1 half-written files and folders removed" in call(demo)
    assert seen == [True]
    assert not path.exists() and not locked(folder)


def test_every_scale_is_cleared(folder, demo):
    """A `make demo` that was killed is not of the scale that params.yaml names."""
    path = left(demo)
    said = call(demo.model_copy(update={"scale": "paper"}))
    assert f"scale {demo.scale}: 1 half-written files and folders removed" in said
    assert not path.exists()


def test_a_job_that_was_started_by_hand_keeps_what_it_writes(folder, demo):
    path = left(demo)
    note = journal.Note(Paths(demo.scale), "report", "figures")
    assert "half-written files are left, as these still work: report figures" in call(demo)
    assert path.exists() and not locked(folder)
    note.done()
    assert "1 half-written files" in call(demo)


def test_the_command_is_wired(folder, cluster, repo, capsys):
    cluster.show(cluster.job(11))
    arguments = ["recover", "--dry-run", "--params", str(repo / "params.yaml")]
    assert cli.main(arguments) == 0
    assert "would end Slurm job 11" in capsys.readouterr().out
    (cluster.here / "away").touch()
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err.startswith("cxrmim recover: squeue fails")
