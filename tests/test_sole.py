"""The lock of a unit of work, between real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from cxrmim import sole
from cxrmim.paths import Paths

HOLD = """
import os, sys, time
from cxrmim import sole
from cxrmim.paths import Paths
with sole.alone(Paths("demo"), "pretrain", "medim-s0"):
    child = os.fork() if "fork" in sys.argv else None
    if child != 0:
        print(child or "held", flush=True)
    sys.stdin.read()
"""
WHAT = (Paths("demo"), "pretrain", "medim-s0")


@pytest.fixture
def hold(tmp_path, monkeypatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that hold the unit until their input ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sole, "PATIENCE", 0.3)
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        begun.append(subprocess.Popen([sys.executable, "-c", HOLD, *words], text=True, **pipes))
        begun[-1].word = begun[-1].stdout.readline().strip()
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_the_second_is_told_who_the_first_is(hold):
    first = hold()
    with pytest.raises(sole.HeldError) as error, sole.alone(*WHAT):
        pass
    text = str(error.value)
    assert text.startswith("pretrain medim-s0: another process works on it")
    assert f"process {first.pid} on {socket.gethostname()}, 2" in text
    assert "results/demo/journal/pretrain/medim-s0.lock" in text and "\n" not in text
    with sole.alone(WHAT[0], WHAT[1], "medim-s1"):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_goes_with_its_process_however_it_ends(hold, how):
    first = hold()
    first.send_signal(how)
    with sole.alone(*WHAT):
        pass
    assert not list(Paths("demo").journal("pretrain", "x").parent.iterdir())


def test_a_process_that_is_about_to_go_is_waited_for(hold, monkeypatch):
    monkeypatch.setattr(sole, "PATIENCE", 60.0)
    first = hold()
    monkeypatch.setattr(sole.time, "sleep", lambda seconds: first.kill())
    with sole.alone(*WHAT):
        assert first.wait() == -signal.SIGKILL


def test_a_child_does_not_keep_the_lock_of_a_killed_parent(hold):
    """As the workers of a decoding pool, which outlive it for a moment."""
    first = hold("fork")
    first.kill()
    first.wait()
    try:
        with sole.alone(*WHAT):
            os.kill(int(first.word), 0)  # it lives
    finally:
        os.kill(int(first.word), signal.SIGKILL)


def test_a_lock_that_is_deleted_by_hand_frees_the_unit(hold):
    """Of a node that has died while its server still holds the lock."""
    first = hold()
    path = WHAT[0].journal("pretrain", "medim-s0").with_name("medim-s0.lock")
    path.unlink()
    with sole.alone(*WHAT):
        first.communicate("")  # which ends: it must not take away a lock that is another's
        assert path.exists()
    assert not path.exists()


def test_without_a_lock_the_job_goes_on(hold, monkeypatch):
    """A server that keeps none, a disk that cannot be written."""

    def refuse(*words: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    hold()
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with sole.alone(*WHAT):
        pass
    monkeypatch.setattr(os, "open", refuse)
    with sole.alone(*WHAT):
        pass


def test_a_lock_removed_between_opening_and_locking_is_taken_anew(hold, monkeypatch):
    path = WHAT[0].journal("pretrain", "medim-s0").with_name("medim-s0.lock")
    lockf, seen = fcntl.lockf, []

    def late(handle: int, how: int) -> None:
        lockf(handle, how)
        if not seen:
            path.unlink()
        seen.append(handle)

    monkeypatch.setattr(fcntl, "lockf", late)
    with sole.alone(*WHAT):
        assert len(seen) == 2
        assert path.read_text().startswith(f"process {os.getpid()} on")


@pytest.mark.timeout(60)
def test_where_no_file_is_the_same_twice_the_job_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sole, "PATIENCE", 0.1)
    monkeypatch.setattr(os.path, "samestat", lambda *stats: False)
    with sole.alone(*WHAT):
        pass


def test_who_may_write_the_results_may_lock(tmp_path, monkeypatch):
    """Two people of a group in one folder: its umask decides, as for all other files."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o002)
    try:
        with sole.alone(*WHAT):
            path = WHAT[0].journal("pretrain", "medim-s0").with_name("medim-s0.lock")
            assert path.stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)
