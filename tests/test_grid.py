"""The grid lists everything of both papers, counted as protocols.md section 6 counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrmim import grid, params, plugins
from cxrmim.errors import ParamsError
from cxrmim.grid import Run
from cxrmim.plan import lay_out


def trained_runs(loaded, published, paper=None):
    return {
        run
        for name, block in loaded.grid.items()
        if paper in (None, block.paper)
        for run in grid.runs_of_block(loaded, name)
        if run.task in ("probe", "segment", "finetune")
        and grid.entry_of(run.checkpoint).entry in published
    }


def test_23_pretrainings_of_which_19_are_trained_and_4_are_aliases(paper, published):
    untrained = {"random", "imagenet"}
    entries = [e for e in grid.entries(paper) if e in published - untrained]
    aliases = [e for e in entries if grid.target(paper, e) != e]
    assert len(entries) == 23
    assert len(published & set(grid.trained(paper))) == 19
    assert {grid.target(paper, e) for e in aliases} == {"mae", "gloria", "mrm", "mgca"}
    assert len(aliases) == 4


def test_222_runs_of_medim_and_294_of_cmitm(paper, published):
    medim = trained_runs(paper, published, "medim")
    cmitm = trained_runs(paper, published, "cmitm")
    assert (len(medim), len(cmitm), len(medim | cmitm)) == (222, 294, 516)


@pytest.mark.parametrize(
    ("block", "count"),
    [
        ("medim_table1", 168),
        ("medim_table2", 2),
        ("medim_table3", 27),
        ("medim_figure2", 1),
        ("medim_figure3_left", 36),
        ("medim_figure3_right", 27),
        ("cmitm_table1", 252),
        ("cmitm_table2", 24),
        ("cmitm_figure2", 18),
        ("cmitm_figure3", 24),
    ],
)
def test_runs_of_a_table(paper, published, block, count):
    runs = grid.runs_of_block(paper, block)
    assert sum(grid.entry_of(r.checkpoint).entry in published for r in runs) == count


def test_eight_methods_six_datasets_four_tasks(paper, published):
    runs = grid.all_runs(paper)
    assert len(published & set(paper.pretrain.methods)) == 8
    assert {grid.reader(paper, r.dataset) for r in runs} == set(paper.manifest.datasets)
    assert len(paper.manifest.datasets) == 6
    assert {r.task for r in runs} >= {"probe", "finetune", "segment", "retrieve"}


def test_demo_and_paper_have_the_same_grid(demo, paper):
    assert grid.all_runs(demo) == grid.all_runs(paper)


def test_everything_has_code(demo, paper):
    for loaded in (demo, paper):
        assert not [run for run in grid.all_runs(loaded) if grid.pending(loaded, run)]


@pytest.mark.parametrize(
    ("kind", "name", "concerns"),
    [
        ("task", "finetune", lambda run, demo: run.task == "finetune"),
        ("dataset", "covidx", lambda run, demo: grid.reader(demo, run.dataset) == "covidx"),
        (
            "method",
            "medim",
            lambda run, demo: (
                run.baseline is None
                and demo.pretraining(grid.entry_of(run.checkpoint).entry)[0] == "medim"
            ),
        ),
    ],
)
def test_what_has_no_code_is_pending_with_a_reason(demo, monkeypatch, kind, name, concerns):
    found = plugins.source
    monkeypatch.setattr(
        plugins, "source", lambda k, n: None if (k, n) == (kind, name) else found(k, n)
    )
    waiting = {run: grid.pending(demo, run) for run in grid.all_runs(demo)}
    assert {run for run, reason in waiting.items() if reason} == {
        run for run in waiting if concerns(run, demo)
    }
    assert all(name in reason for reason in waiting.values() if reason)
    assert set(grid.runs(demo)) == {run for run, reason in waiting.items() if not reason}


CUTS = ["fraction", "dataset", "checkpoint", {"probe": "checkpoint", "segment": "dataset"}]


@pytest.mark.parametrize("cut", CUTS)
def test_jobs_hold_every_run_once_and_share_a_checkpoint(tree, write_params, cut):
    tree["scales"]["demo"]["downstream"]["cut"] = cut
    loaded = params.load(write_params(tree), "demo")
    jobs = grid.jobs(loaded)
    runs = [run for job in jobs for run in job.runs]
    assert sorted(runs) == sorted(grid.runs(loaded))
    assert all(len({run.checkpoint for run in job.runs}) == 1 for job in jobs)
    assert len({job.id for job in jobs}) == len(jobs)


def test_a_misspelt_task_of_the_cut_is_told(tree, write_params):
    tree["downstream"]["cut"] = {"prob": "dataset"}
    with pytest.raises(ParamsError, match=r"downstream\.cut: .*'prob'.*probe"):
        params.load(write_params(tree), "paper")


def test_a_run_is_read_back_from_its_id(paper):
    for run in grid.all_runs(paper):
        assert Run.parse(run.id) == run


def test_units_come_after_their_parents(demo):
    seen = set()
    for unit in grid.units(demo):
        assert set(grid.parents(demo, *unit)) <= seen, unit
        seen.add(unit)


def test_a_pretraining_that_starts_from_another_comes_after_it(paper):
    assert grid.parents(paper, "pretrain", "cmitm-s0")[1] == ("pretrain", "cmitm-s1-s0")


def test_a_new_method_gets_a_row_in_every_comparison(tree, write_params):
    tree["pretrain"]["methods"]["invented"] = {"batch": 8, "epochs": 1}
    loaded = params.load(write_params(tree), "paper")
    for name in ("medim_table1", "cmitm_table1"):
        assert grid.rows(loaded, loaded.grid[name])[-1] == "invented"


REPO = Path(__file__).parents[1] / "params.yaml"
CONTRASTIVE = ("gloria", "mgca", "medim", "cmitm")


def test_the_trend_compares_all_eight_and_shuffles_each_that_has_text():
    trend = params.load(REPO, "trend")
    assert grid.rows(trend, trend.grid["trend"]) == list(trend.pretrain.methods)
    assert len(trend.pretrain.methods) == 8
    controls = [f"{entry}-shuffled" for entry in CONTRASTIVE]
    assert grid.rows(trend, trend.grid["trend_retrieval"]) == [*CONTRASTIVE, *controls]
    for entry in grid.entries(trend):
        shuffled = entry.endswith("-shuffled")
        assert trend.pretraining(entry)[1].shuffle_pairs == shuffled


@pytest.mark.parametrize("entry", [*CONTRASTIVE, "cmitm-s1"])
def test_a_shuffled_control_differs_in_nothing_else(entry):
    trend = params.load(REPO, "trend")
    (name, plain), (other, control) = (trend.pretraining(e) for e in (entry, f"{entry}-shuffled"))
    changed = {"shuffle_pairs": True}
    if entry == "cmitm":
        changed["init"] = "cmitm-s1-shuffled"
    assert (other, control) == (name, plain.model_copy(update=changed))


def test_both_stages_of_the_shuffled_cmitm_are_shuffled():
    trend = params.load(REPO, "trend")
    parents = grid.parents(trend, "pretrain", "cmitm-shuffled-s2")
    assert ("pretrain", "cmitm-s1-shuffled-s2") in parents
    assert ("pretrain", "cmitm-s1-s2") not in parents


def test_the_cost_table_asks_for_no_run_of_its_own():
    trend = params.load(REPO, "trend")
    cost = set(grid.runs_of_block(trend, "trend_cost"))
    assert cost and cost <= set(grid.runs_of_block(trend, "trend"))
    assert grid.rows(trend, trend.grid["trend_cost"]) == grid.rows(trend, trend.grid["trend"])


def test_a_row_is_trained_although_its_tasks_are_pending(demo, monkeypatch):
    """Every row with code has its checkpoint, that which it starts from before it."""
    monkeypatch.setattr(plugins, "source", lambda kind, name: None if kind == "task" else name)
    assert grid.runs(demo) == []
    found = [item.checkpoint for item in grid.pretrainings(demo)]
    rows = {grid.target(demo, e) for b in demo.grid.values() for e in grid.rows(demo, b)}
    assert {f"{entry}-s0" for entry in rows} <= set(found)
    assert found.index("cmitm-s1-s0") < found.index("cmitm-s0")
    assert len(found) == len(set(found))


def test_a_row_without_code_is_not_trained(demo, monkeypatch):
    real = plugins.source
    monkeypatch.setattr(
        plugins, "source", lambda k, n: None if (k, n) == ("method", "mgca") else real(k, n)
    )
    assert "mgca-s0" not in [item.checkpoint for item in grid.pretrainings(demo)]


def test_what_does_not_learn_from_the_corpus_does_not_wait_for_it(demo, paper):
    corpus = ("shards", "mimic")
    for entry in ("random", "imagenet"):
        assert corpus not in grid.parents(demo, "pretrain", f"{entry}-s0")
        assert corpus not in grid.parents(paper, "pretrain", f"{entry}-s0")
    assert corpus in grid.parents(demo, "pretrain", "mae-s0")


def test_the_workflow_asks_for_every_checkpoint(repo, monkeypatch):
    monkeypatch.chdir(repo)
    plan = lay_out({"scale": "demo"})
    for checkpoint in plan.checkpoints:
        assert plan.paths.checkpoint(checkpoint) in plan.targets
        assert plan.paths.record("pretrain", checkpoint) in plan.targets


@pytest.mark.parametrize("scale", ["demo", "trend", "phantom", "paper"])
def test_a_baseline_that_reads_no_labels_has_one_run_a_dataset(scale):
    loaded = params.load(REPO, scale)
    found = [run for run in grid.all_runs(loaded) if run.baseline in grid.UNTAUGHT]
    assert found and all(run.percent == 100 for run in found)
    assert len({(run.baseline, run.dataset, run.task) for run in found}) == len(found)
    for name in ("prior", "pixels"):  # they read labels: a run for each share of them
        taught = {run.percent for run in grid.all_runs(loaded) if run.baseline == name}
        assert taught == {1, 10, 100}


@pytest.mark.parametrize("name", ["medim_table1", "medim_table2", "medim_table3", "cmitm_table1"])
def test_every_column_has_its_baselines(paper, name):
    """A cell of each column and trivial predictor is backed by one run of its own test set."""
    for cells in paper.grid[name].cells:
        assert paper.downstream.baselines[cells.task]
        for percent in cells.percents:
            for baseline in paper.downstream.baselines[cells.task]:
                entry = grid.BASELINE + baseline
                (run,) = grid.runs_of_cell(paper, entry, cells, percent)
                assert (run.dataset, run.task) == (cells.dataset, cells.task)
                assert run.percent == (100 if baseline in grid.UNTAUGHT else percent)
                assert run in grid.baseline_runs(paper, name)
