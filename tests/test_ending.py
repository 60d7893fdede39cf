"""The summary at the end of a run, from real runs of a toy workflow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest

from cxrmim import ending
from tests.toy import Toy

WAIT = 120.0  # seconds that something is waited for


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


def summary(text: str) -> list[str]:
    """From the summary's first line to its last."""
    lines = text.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("cxrmim: scale"))
    end = next(n for n, line in enumerate(lines) if line.startswith("Complete log(s)"))
    return lines[begin:end]


def test_failures_are_listed_once_and_the_command_does_them_alone(toy):
    toy.does("mae-s0", "bad")
    toy.does("page", "silent")
    old = toy.folder / "results/demo/journal/report/page.json"
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps(OLD))
    out = toy.snakemake()
    assert out.returncode == 1
    lines = summary(out.stderr)
    assert lines[0].startswith("cxrmim: scale demo: 2 jobs failed, after ")
    assert lines[1].startswith("  pretrain mae-s0: on ") and "exit status 3" in lines[1]
    assert lines[2] == "    mae-s0: source row 12 is bad; mend it"
    assert lines[3] == "    log: results/demo/artifacts/logs/pretrain/mae-s0.log"
    assert lines[4] == "  report page: failed without an error of its own"
    assert lines[5].startswith("    log: .snakemake/log/")
    assert lines[6] == "these alone again:"
    command = lines[7:-1]
    assert len(command) == 3 and "--profile" not in command[0]

    toy.does("mae-s0", None)
    toy.does("page", None)
    (toy.folder / "results/demo/records/pretrain/mgca-s0.json").unlink()
    before = len(toy.began)
    again = toy.shell("\n".join(command).replace("results/demo/report/index.html", PAGE))
    assert again.returncode == 0, again.stderr
    assert sorted(toy.began[before:]) == ["mae-s0", "page"]  # mgca-s0 is left alone
    line, page = summary(again.stderr)
    assert line.startswith("cxrmim: scale demo: 2 jobs done (1 pretrain, 1 report) in ")
    assert page.startswith("cxrmim: the page: results/demo/report/index.html; PHANTOM DATA, ")


# Of a run some days ago.
OLD = {"stop": "report", "unit": "page", "state": "failed", "host": "a", "pid": 1, "started": 1.0}
OLD |= {"slurm": None, "log": "a.log", "line": "a fault of old", "status": 1, "ended": 2.0}
PAGE = "results/demo/records/report/page.json"  # what the toy's page is


def test_a_run_of_some_targets_does_not_speak_of_the_page(toy):
    out = toy.snakemake(
        "--config", "scale=demo", "--cores", "2", "results/demo/records/pretrain/mae-s0.json"
    )
    assert out.returncode == 0, out.stderr
    (line,) = summary(out.stderr)
    assert line.startswith("cxrmim: scale demo: 2 jobs done (1 phantom, 1 pretrain) in ")


def test_the_summary_is_in_snakemakes_log_too(toy):
    toy.does("mimic", "bad")
    out = toy.snakemake("--config", "scale=demo", "--cores", "2")
    assert out.returncode == 1
    (log,) = (toy.folder / ".snakemake/log").glob("*.log")
    lines = summary(out.stderr)
    assert all(line in log.read_text().splitlines() for line in lines)
    assert (
        "  snakemake --config scale=demo --cores all results/demo/records/phantom/mimic.json"
        in lines
    )


def test_a_job_that_was_done_at_the_second_try_has_not_failed(toy):
    toy.does("mae-s0", "once")
    out = toy.snakemake("--cores", "2", "--retries", "1")
    assert out.returncode == 0, out.stderr
    assert toy.began.count("mae-s0") == 2
    assert summary(out.stderr)[0].startswith("cxrmim: scale demo: 4 jobs done")
    assert not list(toy.folder.glob("results/demo/journal/*/*.json"))


@pytest.mark.parametrize("mode", ["remote", "subprocess"])
def test_inner_runs_say_nothing(toy, mode):
    """The handlers are called with hooks on: Snakemake's own inner runs have them off as well."""
    toy.does("mimic", "bad")
    target = "results/demo/records/phantom/mimic.json"
    out = toy.snakemake("--cores", "1", "--mode", mode, "--force", target)
    assert out.returncode == 1 and "source row 12" in out.stderr
    assert "cxrmim: scale" not in out.stderr
    toy.does("mimic", None)
    out = toy.snakemake("--cores", "1", "--mode", mode, "--force", target)
    assert out.returncode == 0, out.stderr
    assert "cxrmim: scale" not in out.stderr


def test_an_interrupted_run_names_what_ran_and_calls_nothing_failed(toy):
    toy.does("mae-s0", "sleep")
    process = subprocess.Popen(
        ["snakemake", "--cores", "2"],
        cwd=toy.folder,
        env=toy.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + WAIT
    while "mae-s0" not in toy.began and time.monotonic() < limit:
        time.sleep(0.1)
    while not (toy.folder / PAGE).exists() and time.monotonic() < limit:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to Snakemake and its jobs
    try:
        _, err = process.communicate(timeout=WAIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    lines = summary(err)
    assert "interrupted after" in lines[0] and "pretrain mae-s0" in lines[0]
    assert lines[-1] == "cxrmim: the same command goes on where this one was"
    assert not any("failed" in line for line in lines)
    entry = json.loads((toy.folder / "results/demo/journal/pretrain/mae-s0.json").read_text())
    assert entry["unit"] == "mae-s0"


@pytest.mark.parametrize(
    ("argv", "slurm"),
    [
        (["snakemake", "--cores", "all", "--profile", "slurm"], True),
        (["snakemake", "--profile=slurm"], True),
        (["snakemake", "--profile", "/home/a/slurm/", "-n"], True),
        (["snakemake", "--profile", "slurm-test"], False),
        (["snakemake", "--cores", "2", "slurm"], False),
    ],
)
def test_a_run_on_slurm_is_told_by_its_profile(monkeypatch, argv, slurm):
    monkeypatch.setattr("sys.argv", argv)
    assert ending._on_slurm() is slurm
