"""Jobs: how runs are cut into processes, and what is left when one of them dies."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.downstream.conftest import Workspace

from cxrmim import grid, plugins, record
from cxrmim.downstream import runs
from cxrmim.downstream.contract import Bench, Result
from cxrmim.errors import DataError
from cxrmim.schema import Block
from cxrmim.shards.store import Table

TUNED = {
    "rows": ["random"],
    "cells": [{"dataset": "chexpert", "task": "finetune", "percents": [10, 100]}],
}
TASKS = plugins.names("task")
FIRST, SECOND = "random-s0/chexpert-probe-10-s0", "random-s0/chexpert-probe-10-s1"


@pytest.fixture
def every(workspace: Workspace) -> Workspace:
    """The workspace with a grid that names all tasks."""
    blocks = workspace.params.grid | {"tuned": Block.model_validate(TUNED)}
    out = Workspace(workspace.params.model_copy(update={"grid": blocks}))
    assert {run.task for run in grid.runs(out.params)} == set(TASKS)
    return out


def cut(workspace: Workspace, how: str | dict[str, str]) -> Workspace:
    block = workspace.params.downstream.model_copy(update={"cut": how})
    return Workspace(workspace.params.model_copy(update={"downstream": block}))


def files(workspace: Workspace, name: str) -> tuple[bytes, bytes]:
    paths = workspace.paths
    return paths.prediction(name).read_bytes(), paths.record("downstream", name).read_bytes()


def all_files(workspace: Workspace) -> dict[str, tuple[bytes, bytes]]:
    return {run.id: files(workspace, run.id) for run in grid.runs(workspace.params)}


def test_the_cut_into_jobs_changes_no_byte(every: Workspace) -> None:
    """Neither does the order of jobs and of runs, nor what was drawn before."""
    found, sizes = [], []
    ways: list[str | dict[str, str]] = ["checkpoint", {"probe": "dataset"}, "fraction"]
    for how in ways:
        here = cut(every, how)
        every.wipe(*(run.id for run in grid.runs(every.params)))
        jobs = grid.jobs(here.params)
        sizes.append(len(jobs))
        for job in jobs if how == "checkpoint" else reversed(jobs):
            torch.manual_seed(len(sizes))
            np.random.seed(len(sizes))  # noqa: NPY002
            order = job.runs if how == "checkpoint" else tuple(reversed(job.runs))
            runs.do(grid.Job(job.id, order), here.params)
        found.append(all_files(here))
    assert sizes[0] < sizes[1] < sizes[2]
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        for name, both in found[0].items():
            assert both == other[name], name


def test_no_two_runs_predict_the_same(every: Workspace) -> None:
    """Baselines aside, which know nothing of a task, a seed or, some of them, of the labels."""
    for job in grid.jobs(every.params):
        runs.do(job, every.params)
    hashes = Counter(
        hashlib.sha256(prediction).hexdigest()
        for name, (prediction, _) in all_files(every).items()
        if grid.Run.parse(name).baseline is None
    )
    assert len(hashes) > 15
    assert set(hashes.values()) == {1}


@pytest.mark.parametrize("what", ["record", "predictions", "both"])
@pytest.mark.parametrize("task", TASKS)
def test_a_lost_result_is_done_again_alone(
    every: Workspace, monkeypatch: pytest.MonkeyPatch, task: str, what: str
) -> None:
    here = cut(every, "checkpoint")
    job = next(
        j
        for j in reversed(grid.jobs(here.params))
        if j.runs[-1].task == task
        or any(run.task == task for run in j.runs if run.baseline is None)
    )
    runs.do(job, here.params)
    lost = [run for run in job.runs if run.task == task][-1]
    before = {run.id: files(here, run.id) for run in job.runs}
    if what != "predictions":
        here.paths.record("downstream", lost.id).unlink()
    if what != "record":
        here.paths.prediction(lost.id).unlink()
    done, real = [], runs.predict
    monkeypatch.setattr(runs, "predict", lambda run, bench: done.append(run) or real(run, bench))
    runs.do(job, here.params)
    assert done == [lost]
    assert {run.id: files(here, run.id) for run in job.runs} == before


KILLS = {
    "before it predicts": "runs.predict",
    "while it writes predictions": "runs.pq.write_table",
    "before it writes the record": "runs.record.write",
}


@pytest.mark.parametrize("when", KILLS)
def test_a_killed_process_loses_the_run_it_was_at(workspace: Workspace, when: str) -> None:
    workspace.wipe(FIRST, SECOND)
    workspace.do(FIRST, SECOND)
    want = {name: files(workspace, name) for name in (FIRST, SECOND)}
    workspace.wipe(FIRST, SECOND)
    owner, _, name = KILLS[when].rpartition(".")
    script = f"""
import os, signal
from cxrmim import grid, params
from cxrmim.downstream import runs
real, calls = {owner}.{name}, []
def deadly(*args, **kwargs):
    calls.append(1)
    if len(calls) == 2:
        if {name!r} == "write_table":
            open(args[1], "wb").write(b"PAR1 and not the rest")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
{owner}.{name} = deadly
settings = params.load("params.yaml", "demo")
ids = {(FIRST, SECOND)!r}
runs.do(grid.Job("test", tuple(grid.Run.parse(i) for i in ids)), settings)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert found.returncode == -signal.SIGKILL
    params = workspace.params
    assert record.current(params, "downstream", workspace.run(FIRST).id)
    assert files(workspace, FIRST) == want[FIRST]
    assert not record.current(params, "downstream", workspace.run(SECOND).id)
    assert not workspace.paths.record("downstream", SECOND).exists()
    if "writes predictions" in when:
        assert not workspace.paths.prediction(SECOND).exists()
    stamp = workspace.paths.prediction(FIRST).stat().st_mtime_ns
    workspace.do(FIRST, SECOND)
    assert workspace.paths.prediction(FIRST).stat().st_mtime_ns == stamp
    assert files(workspace, SECOND) == want[SECOND]


def failing(name: str, error: Exception) -> object:
    real = runs.predict

    def predict(run: grid.Run, bench: Bench) -> Result:
        if run.id == name:
            raise error
        return real(run, bench)

    return predict


def test_finished_runs_survive_a_later_failure(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.wipe(FIRST, SECOND)
    monkeypatch.setattr(runs, "predict", failing(SECOND, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        workspace.do(FIRST, SECOND)
    assert record.current(workspace.params, "downstream", workspace.run(FIRST).id)
    assert not record.current(workspace.params, "downstream", workspace.run(SECOND).id)


def test_a_run_that_cannot_be_done_keeps_no_other_from_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.wipe(FIRST, SECOND)
    monkeypatch.setattr(runs, "predict", failing(FIRST, DataError(f"{FIRST}: broken")))
    with pytest.raises(DataError, match=rf"^{FIRST}: broken$"):
        workspace.do(FIRST, SECOND)
    assert not record.current(workspace.params, "downstream", workspace.run(FIRST).id)
    assert record.current(workspace.params, "downstream", workspace.run(SECOND).id)
    workspace.wipe(SECOND)
    monkeypatch.setattr(runs, "predict", failing(SECOND, DataError("other")))
    monkeypatch.setattr(runs, "predict", failing(FIRST, DataError(f"{FIRST}: broken")))
    with pytest.raises(DataError, match=rf"^{FIRST}: broken \(1 more runs of test: see its log\)$"):
        workspace.do(FIRST, SECOND)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_never_stored(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    workspace.wipe(FIRST)
    real = runs.predict

    def predict(run: grid.Run, bench: Bench) -> Result:
        result = real(run, bench)
        result.predictions.loc[3, "score_Edema"] = value
        return result

    monkeypatch.setattr(runs, "predict", predict)
    with pytest.raises(DataError, match=rf"^{FIRST}: test set's score_Edema: 1 of 40 are NaN or"):
        workspace.do(FIRST)
    assert not workspace.paths.prediction(FIRST).exists()
    assert not workspace.paths.record("downstream", FIRST).exists()


def test_stored_scores_that_are_no_numbers_are_not_measured(workspace: Workspace) -> None:
    workspace.do(FIRST)
    path = workspace.paths.prediction(FIRST)
    frame = pd.read_parquet(path)
    frame.loc[0, "score_Edema"] = np.nan
    frame.to_parquet(path)
    with pytest.raises(DataError, match=rf"^{FIRST}: test set's score_Edema: 1 of 40"):
        runs.recompute.metrics(workspace.params, workspace.run(FIRST))
    workspace.wipe(FIRST)


@pytest.mark.parametrize("task", ["probe", "segment", "finetune"])
@pytest.mark.parametrize(("percent", "seed"), [(10, 0), (10, 1), (100, 0)])
def test_a_run_trains_on_the_images_that_the_manifest_names(
    every: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    task: str,
    percent: int,
    seed: int,
) -> None:
    """One subset for all seeds, or where the manifest drew one for each seed, that one."""
    dataset = "siim" if task == "segment" else "chexpert"
    bench = Bench(every.params)
    table = bench.shards(dataset).table.read()
    train = table["split"] == "train"
    reseeded = np.random.default_rng(seed).permutation(train.to_numpy() & (table.index % 2 == 0))
    asked, real = [], Bench.rows

    def rows(self: Bench, name: str, split: str, *rest: object) -> np.ndarray:
        found = real(self, name, split, *rest)
        if split == "train":
            asked.append(found.tolist())
        return found

    monkeypatch.setattr(Bench, "rows", rows)
    for column in ("in_10", f"in_10_s{seed}"):
        if column != "in_10":
            table[column] = reseeded
            table.to_parquet(tmp_path / "table.parquet")
            drawn = Table(tmp_path / "table.parquet")
            bench._shards[dataset] = dataclasses.replace(bench.shards(dataset), table=drawn)
        wanted = np.flatnonzero(train & (table[column] if percent == 10 else True)).tolist()
        asked.clear()
        result = runs.predict(grid.Run("random-s0", dataset, task, percent, seed), bench)
        assert asked == [wanted]
        assert result.details["train_n"] == len(wanted)
    assert record.canonical(result.details)


def test_what_snakemake_puts_back_after_a_failure_costs_no_finished_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `update` outputs are as before a failed job: there, a redone run is an old one again."""
    workspace.wipe(FIRST, SECOND)
    workspace.do(FIRST, SECOND)
    old = {name: files(workspace, name) for name in (FIRST, SECOND)}
    probe = workspace.params.downstream.probe | {"lr": 0.02}
    block = workspace.params.downstream.model_copy(update={"probe": probe})
    changed = Workspace(workspace.params.model_copy(update={"downstream": block}))
    job = grid.Job("test", (workspace.run(FIRST), workspace.run(SECOND)))
    done, real = [], runs.predict

    def predict(run: grid.Run, bench: Bench) -> Result:
        done.append(run.id)
        if done == [FIRST, SECOND]:
            raise DataError("invented")
        return real(run, bench)

    monkeypatch.setattr(runs, "predict", predict)
    with pytest.raises(DataError, match="invented"):
        runs.do(job, changed.params)
    new = files(changed, FIRST)
    assert new != old[FIRST]
    for name, (prediction, text) in old.items():
        changed.paths.prediction(name).write_bytes(prediction)
        changed.paths.record("downstream", name).write_bytes(text)
    runs.do(job, changed.params)
    assert done == [FIRST, SECOND, SECOND]
    assert files(changed, FIRST) == new
    assert not any(changed.paths.spare(name).exists() for name in (FIRST, SECOND))
