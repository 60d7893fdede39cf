"""The kill test itself: what it kills, what it sees, and a few kills of a very small grid."""

from __future__ import annotations

import json
import random
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmim import record
from cxrmim.paths import atomic, atomic_folder
from tests.workflow import killing
from tests.workflow.conftest import Place, copied
from tests.workflow.inspecting import (
    PATHS,
    Inspector,
    compare,
    contents,
    differences,
    half_written,
    results_of,
    writer,
)
from tests.workflow.killing import (
    PATIENCE,
    Campaign,
    Kill,
    Moment,
    Outcome,
    draw,
    often,
    phase_of,
)
from tests.workflow.processes import Job, Run, job_of

# A parent that dies at once, a child in a session of its own, whose own parent dies too.
DAEMON = """
import os, sys, time
if os.fork():
    while not os.path.exists("pid"): time.sleep(0.01)
    {first}
os.setsid()
if os.fork():
    os._exit(0)
with open("part", "w") as handle:
    handle.write(str(os.getpid()))
os.rename("part", "pid")
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("arguments", "job"),
    [
        ("python -m cxrmim.pretrain --checkpoint mae-s0 --threads 1", ("pretrain", "mae-s0")),
        ("python -m cxrmim.report --part page", ("report", "page")),
        ("python -m torch.distributed.run -m cxrmim.pretrain --checkpoint a", ("pretrain", "a")),
        ("python -m cxrmim", None),
        ("python snakemake --cores 2", None),
        ("", None),
    ],
)
def test_a_job_is_known_by_its_command_line(arguments, job):
    assert job_of(arguments.split()) == job


def test_the_shell_of_a_job_is_none():
    assert job_of(["bash", "-c", "$PYTHON -m cxrmim.pretrain --checkpoint mae-s0"]) is None


def test_moments_are_spread_and_some_are_long():
    chance = random.Random(0)
    moments = [draw(chance) for _ in range(5000)]
    kinds = Counter(moment.kind for moment in moments)
    assert 0.05 < kinds["early"] / len(moments) < 0.12
    assert 0.15 < kinds["write"] / len(moments) < 0.25
    delays = sorted(moment.seconds for moment in moments if moment.kind == "delay")
    assert 0 < delays[0] < 1
    assert 5 < delays[len(delays) // 2] < 7
    assert 0.02 < sum(d > 26 for d in delays) / len(delays) < 0.1
    assert delays[-1] > 60  # the longest job ends at last
    assert sum(delays) / len(delays) < 12  # and a hundred kills within the hour
    assert {m.skip for m in moments if m.kind == "write"} == set(range(killing.SKIPPED))
    assert moments == [draw(again) for again in [random.Random(0)] for _ in range(5000)]


@pytest.mark.parametrize("first", ["sys.exit(0)", "time.sleep(600)"])
def test_nothing_outlives_a_kill(tmp_path, first):
    folder = tmp_path / "work"
    folder.mkdir()
    with Run([sys.executable, "-c", DAEMON.format(first=first)], folder) as run:
        while not (folder / "pid").exists():
            assert not run.sleep(0.01) or "exit" in first, run.log.read_text()
        daemon = psutil.Process(int((folder / "pid").read_text()))
        assert daemon.ppid() != run.members()[0].pid or "exit" in first
        assert daemon.pid in {process.pid for process in run.members()}
        assert run.freeze() or "exit" in first
        assert run.kill() == []
    assert not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE


def test_a_frozen_run_stands_still(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    code = "import time\nwhile True: print(time.time(), flush=True)"
    with Run([sys.executable, "-c", code], folder) as run:
        while not run.log.stat().st_size:
            assert not run.sleep(0.01)
        assert run.freeze()
        assert {p.status() for p in run.members()} == {psutil.STATUS_STOPPED}
        size = run.log.stat().st_size
        time.sleep(0.2)
        assert run.log.stat().st_size == size
        assert run.kill() == []


def test_a_run_that_has_ended_is_not_hit(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    with Run([sys.executable, "-c", ""], folder) as run:
        assert run.wait() == 0
        assert not run.freeze()
        assert run.members() == []


def test_what_is_being_written_is_seen_and_what_is_whole_is_not(tmp_path):
    with atomic(tmp_path / "a/x.json") as one, atomic_folder(tmp_path / "b") as two:
        one.write_text("")
        (two / "inner").mkdir()
        (tmp_path / "a/.7.pt").write_text("")
        for name in (".gitignore", ".snakemake_timestamp", "0000000001-ab-cd.pt", "7-x.json"):
            (tmp_path / "a" / name).write_text("")
        assert half_written(tmp_path) == {one, two, tmp_path / "a/.7.pt"}
        assert half_written(tmp_path, "a") == {two}
        assert {writer(one), writer(two)} == {psutil.Process().pid}
        assert writer(tmp_path / ".7.pt") == 7


@given(
    st.dictionaries(st.text(max_size=3), st.binary(max_size=3), min_size=1), st.data(), st.binary()
)
def test_every_byte_counts(files, data, more):
    name = data.draw(st.sampled_from(sorted(files)))
    assert differences(files, dict(files)) == []
    assert len(differences(files, files | {name: files[name] + b"x"})) == 1
    assert len(differences(files, {k: v for k, v in files.items() if k != name})) == 1
    assert len(differences(files, files | {f"{name}new": more})) == (f"{name}new" not in files or 1)


def written(folder: Path, content: bytes = b"weights") -> tuple[Path, dict]:
    """A record of one file, as a job writes it."""
    here = Place(folder)
    output = PATHS.checkpoint("mae-s0")
    tree = {"schema": record.SCHEMA, "kind": "pretrain", "id": "mae-s0", "outputs": {}}
    path = folder / PATHS.record("pretrain", "mae-s0")
    for file in (folder / output, path):
        file.parent.mkdir(parents=True, exist_ok=True)
    (folder / output).write_bytes(content)
    tree["outputs"]["weights"] = {
        "path": output.as_posix(),
        **record.digest(results_of(here) / output.relative_to(PATHS.results)),
    }
    tree["digest"] = record.seal(tree)
    path.write_bytes(record.canonical(tree))
    return path, tree


def test_a_record_that_is_not_what_lies_there_is_found(tmp_path):
    path, tree = written(tmp_path)
    output = tmp_path / tree["outputs"]["weights"]["path"]
    inspector = Inspector(tmp_path)
    assert inspector.faults() == []
    output.write_bytes(b"Weights")
    assert "sha256" in inspector.faults()[0]
    marks = tmp_path / ".snakemake/incomplete"
    marks.mkdir(parents=True)
    mark = marks / urlsafe_b64encode(tree["outputs"]["weights"]["path"].encode()).decode()
    mark.write_text("")  # it will be made again
    assert inspector.faults() == []
    mark.unlink()
    output.unlink()
    assert inspector.faults() == []  # so will this
    written(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    assert "not valid JSON" in inspector.faults()[0]
    path.write_bytes(record.canonical(tree | {"id": "mae-s1"}))
    assert "not the bytes" in inspector.faults()[0]


def test_a_temporary_within_an_output_is_found(tmp_path):
    path, tree = written(tmp_path)
    folder = tmp_path / PATHS.shards("mimic")
    folder.mkdir(parents=True)
    (folder / "images.npy").write_bytes(b"1")
    entry = {"path": PATHS.shards("mimic").as_posix(), **record.digest(folder)}
    tree["outputs"]["folder"] = entry
    tree["digest"] = record.seal(tree)
    path.write_bytes(record.canonical(tree))
    assert Inspector(tmp_path).faults() == []
    (folder / ".7-0123abcd.images.npy").write_bytes(b"")
    assert any("temporary" in line for line in Inspector(tmp_path).faults())


def test_contents_leave_out_how_it_came_about_and_what_was_left(tmp_path):
    written(tmp_path)
    base = tmp_path / PATHS.record("pretrain", "x").parent
    for name in ("a.circumstances.json", ".7-0123abcd.mae-s0.json", record.TIMESTAMP):
        (base / name).write_text("x")
    names = contents(Place(tmp_path), "records")
    assert list(names) == ["results/demo/records/pretrain/mae-s0.json"]


def test_the_phase_is_that_of_the_furthest_job(tmp_path):
    log = tmp_path / PATHS.log("pretrain", "mae-s0")
    log.parent.mkdir(parents=True)
    job = Job("pretrain", "mae-s0", time.time())
    assert phase_of([], [], tmp_path) == "no job"
    assert phase_of([job], [], tmp_path) == "starting"
    log.write_text("")
    assert phase_of([job, Job("shards", "mimic", time.time())], [], tmp_path) == "working"
    assert phase_of([Job("pretrain", "mae-s0", time.time() + 60)], [], tmp_path) == "starting"
    assert phase_of([job], ["records/.7-0123abcd.x"], tmp_path) == "writing"


def test_an_outcome_counts_kills_by_stop_and_is_good_only_without_findings():
    jobs = [("pretrain", "mae-s0"), ("pretrain", "medim-s0"), ("shards", "mimic")]
    kills = [
        Kill(1, "delay", 1.0, jobs, "working", [], finished, 1) for finished in (0, 0, 3, 0)
    ] + [Kill(1, "early", 1.0, [], "no job", [], 0, 0)]
    out = Outcome(kills=kills)
    found = out.summary()
    assert found["hit by stop"] == {"pretrain": 4, "shards": 4}
    assert (found["kills"], found["hit a job"], found["pretrainings resumed"]) == (5, 4, 4)
    assert found["kills in a row without a finished job"] == 2
    assert out.good
    for name in ("differences", "survivors", "broken"):
        bad = Outcome(kills=kills, **{name: ["what it is"]})
        assert not bad.good
        assert f"{name}: what it is" in bad.text()


@pytest.mark.parametrize("found", [[], ["differences"], ["survivors"], ["broken"]])
def test_the_exit_status_tells_of_findings(tmp_path, monkeypatch, capsys, found):
    out = Outcome([Kill(1, "early", 1.0, [], "no job", [], 0, 0)], **{n: ["bad"] for n in found})
    monkeypatch.setattr(Campaign, "run", lambda self: out)
    report = tmp_path / "deep/report.json"
    arguments = ["--kills", "1", "--folder", str(tmp_path), "--report", str(report)]
    assert killing.main(arguments) == (1 if found else 0)
    assert killing.main(["--kills", "2", *arguments[2:]]) == 1  # a run has failed before
    told = json.loads(report.read_text())
    assert told["found"] == ["bad"] * len(found)
    assert told["date"]
    assert told["machine"]["cores"]
    assert "kills" in capsys.readouterr().out


def one_cell(tree: dict) -> None:
    """One method on one dataset."""
    often(tree)
    demo = tree["scales"]["demo"]
    demo["seeds"] = {"downstream": [0]}
    demo["phantom"]["patients"] |= {"mimic": 40, "covidx": 40}
    tree["downstream"]["baselines"] = {}
    cell = {"dataset": "covidx", "task": "probe", "percents": [100]}
    demo["grid"] = {"medim_table1": {"paper": "medim", "rows": ["mae"], "cells": [cell]}}


@pytest.mark.workflow
@pytest.mark.timeout(900)
def test_a_killed_build_gives_the_same_bytes(tmp_path):
    # Soon: on a fast machine the whole run ends within 10 s of its first job. A moment that comes
    # after the end of a run, or a write that was too short to hit, has its turn again.
    def moment(_: random.Random) -> Moment:
        if not campaign.out.kills:
            return Moment("delay", 2.0)
        hit = any(kill.written for kill in campaign.out.kills)
        return Moment("delay", 3.0) if hit else Moment("write", PATIENCE, skip=1)

    campaign = Campaign(tmp_path, kills=3, seed=0, edit=one_cell, moments=moment)
    out = campaign.run()
    assert out.good, out.text()
    assert len(out.kills) == 3
    assert any(kill.written for kill in out.kills)
    assert sum(bool(kill.jobs) for kill in out.kills) >= 2
    # What the verdict rests on: a changed byte of any kind of file is seen.
    reference = Place(tmp_path / "reference")
    build = copied(reference, tmp_path / "build")
    changed = [
        PATHS.record("downstream", "mae-s0/covidx-probe-100-s0"),
        PATHS.checkpoint("mae-s0"),
        PATHS.prediction("mae-s0/covidx-probe-100-s0"),
        PATHS.table("medim_table1", "csv"),
        PATHS.figure("training_curves", "svg"),
        PATHS.report / "index.html",
    ]
    for path in changed:
        content = bytearray((build.folder / path).read_bytes())
        content[len(content) // 2] ^= 1
        (build.folder / path).write_bytes(content)
    found = compare(reference, build, tmp_path / "pages")
    assert sorted(found) == sorted(f"{path.as_posix()}: other bytes" for path in changed)
