"""`snakemake --logger cxrmim`: real runs of a toy workflow, off and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from cxrmim import tally
from snakemake_logger_plugin_cxrmim import board as board_module
from snakemake_logger_plugin_cxrmim.board import Board, last_error, stop_of
from tests.toy import Toy
from tests.watched import REPO

CLEARED = "\x1b[2K"  # the line that is left by what was drawn before
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


def test_snakemake_finds_it_by_the_path_alone():
    code = (
        "import sys; from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry;"
        "print(LoggerPluginRegistry().get_plugin('cxrmim').name);"
        "print([m for m in ('rich', 'pandas', 'torch', 'cxrmim.params') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPO / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.splitlines() == ["cxrmim", "[]"]  # every inner Snakemake imports it


def test_the_package_is_installed_with_the_project(repo):
    """setuptools takes every package below src."""
    from setuptools import find_packages

    assert "snakemake_logger_plugin_cxrmim" in find_packages(str(repo / "src"))


def test_off_a_terminal_each_job_is_a_line(toy):
    toy.does("mgca-s0", "once")  # fails, is tried again, and ends well
    toy.does("page", "bad")
    (toy.folder / "does" / "mae-s0").write_text("silent")
    out = toy.snakemake("--cores", "1", "--keep-going", "--retries", "1", "--logger", "cxrmim")
    assert out.returncode == 1
    lines = [line for line in out.stderr.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    told = {}
    for line in lines:
        state, stop, unit = line.split()[1:4]
        told.setdefault(f"{stop} {unit}", []).append(state)
    assert told == {
        "phantom mimic": ["done"],
        "pretrain mae-s0": ["FAILED", "FAILED"],
        "pretrain mgca-s0": ["FAILED", "done"],
        "report page": ["FAILED", "FAILED"],
    }
    page = next(line for line in lines if " page " in line)
    assert "page: source row 12 is bad; mend it" in page
    assert "(log: results/demo/artifacts/logs/report/page.log)" in page
    assert any("of 4 jobs" in line for line in lines)
    for noise in ("rule pretrain", "RuleException", "Select jobs", "None", "Reason:"):
        assert noise not in out.stderr
    assert "cxrmim: scale demo: 2 jobs failed" in out.stderr
    assert "these alone again:" in out.stderr and "Complete log(s): " in out.stderr
    assert "\x1b" not in out.stderr
    (log,) = (toy.folder / ".snakemake/log").glob("*.log")
    assert "Error in rule" in log.read_text()  # Snakemake's own log is as ever


def on_a_terminal(toy: Toy, *arguments: str) -> tuple[int, str]:
    """Exit status and what a terminal was sent, one below the other, without its escapes."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(toy.folder)
        environment = toy.environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        os.execvpe("snakemake", ["snakemake", *arguments], environment)
    sent = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux ends a terminal so
            break
        if not part:
            break
        sent += part
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    text = ESCAPE.sub("", sent.decode().replace(CLEARED, "\n"))
    return status, "\n".join(line for line in text.splitlines() if line.strip())


def test_on_a_terminal_there_is_a_table(toy):
    toy.does("mae-s0", "bad")
    status, text = on_a_terminal(toy, "--cores", "2", "--keep-going", "--logger", "cxrmim")
    assert status == 1
    last = text[: text.index("cxrmim: scale demo: 1 job failed")].splitlines()[-5:]
    assert last[0].split() == ["done", "running", "failed", "pending"]
    assert [line.split() for line in last[1:4]] == [
        ["phantom", "1", ".", ".", "."],
        ["pretrain", "1", ".", "1", "."],
        ["report", "1", ".", ".", "."],
    ]
    assert last[4].startswith("3 of 4 jobs in ")
    assert re.search(r"^ +\d+ s  pretrain mgca-s0 *$", text, re.M)  # while it ran
    # What the job wrote to stderr stands above the table, on a line of its own.
    assert re.search(r"^cxrmim pretrain: mae-s0: source row 12 is bad; mend it$", text, re.M)
    assert re.search(r"^[0-9:]+ FAILED pretrain mae-s0 after \d+ s \(log: ", text, re.M)
    assert text.rstrip().endswith("At least one job did not complete successfully.")


def test_a_dry_run_looks_as_ever(toy):
    plain = toy.snakemake("--cores", "2", "-n")
    ours = toy.snakemake("--cores", "2", "-n", "--logger", "cxrmim")
    assert ours.returncode == 0
    for words in ("Job stats:", "pretrain: mae-s0", "Reason: Missing output", "This was a dry-run"):
        assert words in plain.stdout and words in ours.stdout


def test_with_nothing_to_do_it_says_so(toy):
    assert toy.snakemake("--cores", "2", "--logger", "cxrmim").returncode == 0
    out = toy.snakemake("--cores", "2", "--logger", "cxrmim")
    assert out.returncode == 0 and "Nothing to be done" in out.stderr


def begun(board: Board, number: int, rule: str, unit: str) -> None:
    log = f"logs/{stop_of(rule)}/{unit}.log"
    board.start({"jobid": number, "rule_name": rule, "log": [log], "wildcards": {}})


def test_rules_are_counted_by_stop():
    board = Board()
    board.plan(
        {"all": 1, "total": 7, "downstream_a": 1, "downstream_b": 1, "phantom": 2}
        | dict.fromkeys(("phantom_sheet", "tables", "page"), 1)
    )
    begun(board, 1, "downstream_a", "a.chexpert-probe-10")
    line = board.finish(1)
    assert line is not None and "done   downstream a.chexpert-probe-10 in " in line
    assert "; 1 of 7 jobs" in line
    assert board.finish(1) is None and board.fail(1) is None and board.fail(99) is None


def test_stops_stand_in_the_order_of_the_workflow():
    assert tuple(tally.WORDS) == board_module.STOPS
    board = Board()
    board.plan({"page": 1, "early": 1, "pretrain": 1, "phantom": 1})
    column = board.table().renderables[0].columns[0]
    assert list(column.cells) == ["phantom", "pretrain", "report", "early"]


def test_time_left_is_of_this_runs_jobs(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(board_module.time, "time", lambda: now[0])
    board = Board()
    board.plan({"pretrain": 4, "page": 1})
    begun(board, 1, "pretrain", "a")
    now[0] += 100
    line = board.finish(1)
    assert line is not None
    assert line.endswith("over 5.0 min left, 1 at a time (not yet known: report)")
    begun(board, 2, "pretrain", "b")
    begun(board, 3, "pretrain", "c")
    begun(board, 4, "page", "page")
    now[0] += 40
    line = board.finish(4)
    # Three left, of which two have run for 40 s of 100: 220 s of work, two at a time.
    assert line is not None and line.endswith("2 of 5 jobs, about 1.8 min left, 2 at a time")


def test_an_error_is_of_this_time(tmp_path):
    log = tmp_path / "a.log"
    assert last_error(log, 0) is None
    log.write_text("t INFO a\nt ERROR first\nt ERROR the last\nt INFO b\n")
    assert last_error(log, time.time()) == "the last"
    os.utime(log, (1, 1))
    assert last_error(log, time.time()) is None
