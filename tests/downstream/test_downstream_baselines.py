"""Trivial predictors of every task that params.yaml gives them to."""

import pytest
from pandas.testing import assert_frame_equal
from tests.downstream.conftest import Workspace

from cxrmim import grid, plugins
from cxrmim.downstream import baselines, runs
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import Bench
from cxrmim.params import Params

DRAWS = Draws("a/b", 20)
PLACES = {"probe": "chexpert", "finetune": "chexpert", "segment": "siim", "retrieve": "mimic"}
GIVEN = [
    ("probe", "prior"),
    ("probe", "pixels"),
    ("finetune", "prior"),
    ("finetune", "pixels"),
    ("segment", "empty"),
    ("retrieve", "chance"),
]


def test_every_baseline_of_params_is_tested_here(paper: Params, demo: Params) -> None:
    for params in (paper, demo):
        told = params.downstream.baselines
        assert [(task, name) for task in told for name in told[task]] == GIVEN
    assert {name for _, name in GIVEN} == set(baselines.PREDICTORS)


@pytest.mark.parametrize(("task", "name"), GIVEN)
def test_its_task_measures_it(bench: Bench, task: str, name: str) -> None:
    run = grid.Run(f"baseline-{name}", PLACES[task], task, 100, 0)
    found = plugins.load("task", task).measure(
        runs.predict(run, bench).predictions, getattr(bench.params.downstream, task), DRAWS
    )
    assert 0 <= found["value"] <= 1
    assert len(found["replicates"]) == 20
    assert found["n"] == len(bench.rows(PLACES[task], "test"))


@pytest.mark.parametrize("name", ["prior", "pixels"])
def test_fine_tuning_and_probing_have_the_same_baselines(bench: Bench, name: str) -> None:
    probe, tuned = (
        runs.predict(grid.Run(f"baseline-{name}", "chexpert", task, 10, 0), bench).predictions
        for task in ("probe", "finetune")
    )
    assert_frame_equal(probe, tuned)


@pytest.mark.parametrize(("task", "name"), GIVEN)
def test_only_what_reads_no_labels_predicts_the_same_at_every_share(
    bench: Bench, task: str, name: str
) -> None:
    few, all_ = (
        runs.predict(grid.Run(f"baseline-{name}", PLACES[task], task, p, 0), bench).predictions
        for p in (10, 100)
    )
    assert few.equals(all_) == (name in grid.UNTAUGHT)


def test_one_run_backs_the_cells_of_all_percents(workspace: Workspace) -> None:
    tree = workspace.params.model_dump()
    tree["grid"]["masks"]["cells"][0]["percents"] = [10, 100]
    params = type(workspace.params).model_validate(tree)
    found = [r.id for r in grid.baseline_runs(params, "masks")]
    assert found == ["baseline-empty/siim-segment-100-s0"]
