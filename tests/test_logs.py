"""`cxrmim logs`: a log is found by whatever its unit is called."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from cxrmim import cli, logs, tally
from tests.watched import Watched

Ask = Callable[..., list[str]]


@pytest.fixture
def watched(tmp_path, monkeypatch) -> Watched:
    monkeypatch.chdir(tmp_path)
    return Watched()


@pytest.fixture
def ask(watched, capsys) -> Ask:
    def call(*arguments: str, status: int = 0) -> list[str]:
        assert cli.main(["logs", *arguments]) == status
        out, err = capsys.readouterr()
        assert not (err and out)
        return (out or err).splitlines()

    return call


def test_every_name_of_the_grid_leads_to_its_unit(watched):
    """Each unit by its name and by stop/unit, a job by the ids of its first and last run."""
    for unit in tally.units(watched.params):
        runs = {run.id for run in (*unit.runs[:1], *unit.runs[-1:])}
        for name in [unit.name, f"{unit.stop}/{unit.name}", *runs]:
            assert unit in logs.find(watched.params, name)


def test_the_log_is_printed(watched, ask):
    run = watched.job.runs[1].id
    path = watched.log("downstream", watched.job.id, "one", "two", "three").as_posix()
    assert ask(run) == [f"== {path}", "one", "two", "three"]
    assert ask(run, "--tail", "2") == [f"== {path}", "two", "three"]
    assert ask(run, "--tail", "9")[1:] == ["one", "two", "three"]
    assert ask(run, "--tail", "0") == [f"== {path}"]


def test_a_dataset_has_one_in_several_stops(watched, ask):
    paths = [watched.log(stop, "siim", stop).as_posix() for stop in ("manifest", "shards")]
    assert ask("siim", "--path") == paths
    assert ask("shards/siim", "--path") == paths[1:]


def test_the_other_processes_of_a_pretraining_are_shown(watched, ask):
    first = watched.log("pretrain", "mae-s0", "rank 0")
    second = watched.write(first.with_suffix(".1.log"), "rank 1\n")
    assert ask("mae-s0", "--path") == [first.as_posix(), second.as_posix()]


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("mea-s0", "mae-s0"),
        ("shards/sim", "shards/siim"),
        ("mae-s0/chexpert-probe-10-s9", "mae-s0/"),
    ],
)
def test_a_near_miss_is_named(watched, ask, asked, near):
    (line,) = ask(asked, status=2)
    assert repr(asked) in line and "did you mean" in line and near in line


def test_a_name_like_nothing_gets_a_short_answer(watched, ask):
    (line,) = ask("1%$", status=2)
    assert "there are for instance" in line and len(line) < 300


def test_a_unit_that_has_not_run_here(watched, ask):
    (line,) = ask("mae-s0", status=1)
    assert "pretrain/mae-s0" in line and "has not run in this folder" in line


SNAKEMAKE = """host: a
[Sun Nov 22 13:05:33 2026]
Job 1: {message}
Reason: Missing output files: a
"""


@pytest.mark.parametrize(
    ("stop", "unit", "message"),
    [
        ("pretrain", "mae-s0", "pretrain: mae-s0"),
        ("shards", "siim-mgca", "shards: audit of siim-mgca"),
        ("phantom", "mimic", "phantom: generate mimic"),
        ("phantom", "sheet", "phantom: contact sheet"),
        ("report", "tables", "report: tables"),
    ],
)
def test_snakemakes_log_of_the_run_is_named(watched, ask, repo, stop, unit, message):
    for name, text in {
        "2026-01-01T1": message,
        "2026-01-02T1": message,
        "2026-01-03T1": f"{stop}: {unit}x",
        "2026-01-04T1": f"{stop}: x-{unit}",
    }.items():
        path = logs.LOGS / f"{name}.snakemake.log"
        watched.write(path, SNAKEMAKE.format(message=text))
    watched.log(stop, unit, "x")
    newest = (logs.LOGS / "2026-01-02T1.snakemake.log").as_posix()
    assert ask(f"{stop}/{unit}")[-1] == f"-- Snakemake's own log of that run: {newest}"
    # The message is one that a rule has.
    rules = (repo / f"workflow/rules/{stop}.smk").read_text(encoding="utf-8")
    known = [
        re.sub(r"\\{.*?\\}", ".+", re.escape(m))
        for m in re.findall(r'^ +"(\w+: .*)"$', rules, re.M)
    ]
    assert any(re.fullmatch(pattern, message) for pattern in known)


def test_slurms_log_is_named_for_a_job_that_failed_and_one_that_ended(watched, ask):
    for slurm in ("7", "8", "9"):
        watched.write(logs.SLURM / "rule_pretrain" / "x" / f"{slurm}.log", "")
    watched.failed("pretrain", "mae-s0", slurm="7")
    watched.log("pretrain", "mae-s0", "x")
    place = (logs.SLURM / "rule_pretrain" / "x").as_posix()
    assert ask("mae-s0")[-1] == f"-- Slurm's log of job 7: {place}/7.log"
    run = watched.job.runs[1].id
    watched.done("downstream", run, slurm="9")
    watched.log("downstream", watched.job.id, "x")
    assert ask(run)[-1] == f"-- Slurm's log of job 9: {place}/9.log"
