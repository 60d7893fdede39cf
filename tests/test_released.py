"""Released entries stand on the official code's side of every switch, the others do not."""

import pytest

from cxrmim import grid, params
from cxrmim.errors import ParamsError
from cxrmim.report import cells


@pytest.fixture
def code(tree, write_params):
    """Everything on the official code's side: `protocol: released` at scale demo."""
    return params.load(write_params(tree | {"protocol": "released"}), "demo")


def flagged(loaded):
    return [name for name, entry in loaded.pretrain.entries.items() if entry.released]


def as_released(loaded, code, name):
    """How the official code reads a dataset, but for what its entry states itself."""
    entry = loaded.manifest.entries[name]
    reader, options = code.reading(entry.dataset)
    return reader, params.merge(options, entry.set)


def test_a_released_entry_is_trained_as_under_the_released_protocol(demo, code):
    assert flagged(demo)
    for entry in flagged(demo):
        method = demo.pretrain.entries[entry].method
        ours, theirs = demo.training(entry).pretrain, code.pretrain
        assert demo.pretraining(entry) == code.pretraining(method) != demo.pretraining(method)
        for key in ("negatives", "loader", "text"):
            assert getattr(ours, key) == getattr(theirs, key) != getattr(demo.pretrain, key)


def test_its_record_states_all_that_the_released_protocol_changes(demo, code):
    for entry in flagged(demo):
        method = demo.pretrain.entries[entry].method
        found = grid.config(demo, "pretrain", f"{entry}-s0")
        wanted = grid.config(code, "pretrain", f"{method}-s0")
        assert found | {"corpus": wanted["corpus"]} == wanted
        assert demo.reading(found["corpus"]) == as_released(demo, code, found["corpus"])


def test_other_entries_are_untouched(demo):
    for entry in set(grid.entries(demo)) - set(flagged(demo)):
        assert demo.training(entry) is demo


def test_a_variant_of_a_released_entry_is_released(tree, write_params):
    tree["pretrain"]["entries"]["again"] = {"method": "medim-released", "set": {"epochs": 3}}
    loaded = params.load(write_params(tree), "demo")
    assert loaded.pretraining("again")[1].epochs == 3
    assert loaded.training("again") == loaded.training("medim-released")
    assert grid.parents(loaded, "pretrain", "again-s0") == [("shards", "mimic-released")]


def test_a_released_dataset_is_read_and_tested_as_the_code_does(demo, code):
    entries = [n for n, e in demo.manifest.entries.items() if e.released]
    assert {demo.reading(n)[0] for n in entries} >= {"chexpert", "covidx", "siim"}
    for name in entries:
        reader = demo.reading(name)[0]
        assert demo.reading(name) == as_released(demo, code, name)
        assert demo.testing(name).downstream == code.downstream != demo.downstream
        assert demo.testing(reader) is demo


def test_its_runs_state_the_released_options(demo, code):
    for run in grid.runs_of_block(demo, "medim_protocols"):
        reader = grid.reader(demo, run.dataset)
        side = code if reader != run.dataset else demo
        same = grid.Run(run.checkpoint, reader, run.task, run.percent, run.seed)
        wanted = grid.config(side, "downstream", same.id)
        assert grid.config(demo, "downstream", run.id) == wanted | {"dataset": run.dataset}


def test_what_the_comparison_of_protocols_leaves_out_is_in_its_caption(demo, code, paper):
    caption = cells.layout_of("medim_protocols").caption
    assert demo.reading("chexpert-released") == demo.reading("chexpert")
    assert "CheXpert's split is the same" in caption
    assert demo.reading("covidx-released") != demo.reading("covidx")
    ours, theirs = demo.downstream.probe, code.downstream.probe
    assert all(ours[key] == theirs[key] for key in ("batch", "patience"))
    assert "Not from the released code: batch and patience of the probe" in caption
    for loaded in (demo, paper):  # a shard is the whole batch
        found = loaded.training("medim-released").pretrain
        assert (found.negatives, found.processes, found.accumulate) == ("shard", 1, 1)
    assert "which is the whole batch in one process" in caption


def test_a_job_has_one_view(demo, paper):
    for loaded in (demo, paper):
        for job in grid.jobs(loaded):
            views = [grid.view(loaded, run) for run in job.runs]
            assert all(view == views[0] for view in views), job.id


def test_a_view_describes_its_units_as_the_whole_does(demo):
    """What a job writes into a record is what `cxrmim check` expects there."""
    for run in grid.runs(demo):
        seen = grid.view(demo, run)
        assert grid.config(seen, "downstream", run.id) == grid.config(demo, "downstream", run.id)
        assert grid.parents(seen, "downstream", run.id) == grid.parents(demo, "downstream", run.id)
    for item in grid.pretrainings(demo):
        seen, unit = demo.training(item.entry), item.checkpoint
        assert grid.config(seen, "pretrain", unit) == grid.config(demo, "pretrain", unit)
        assert grid.parents(seen, "pretrain", unit) == grid.parents(demo, "pretrain", unit)
    for name in grid.datasets(demo):
        assert grid.config(demo.storing(name), "shards", name) == grid.config(demo, "shards", name)


def test_every_corpus_is_stored_with_its_reports(demo):
    assert demo.corpora == ["mimic", "mimic-released"]
    sides = {demo.side(name) for name in demo.corpora}
    assert len(sides) == 1
    for name in demo.corpora:
        assert "text" in grid.config(demo, "shards", name)
        assert demo.storing(name).pretrain.corpus == name
    assert "text" not in grid.config(demo, "shards", "chexpert")


def test_under_the_released_protocol_both_are_the_same(code):
    assert code.released is code
    assert code.pretraining("medim-released") == code.pretraining("medim")


@pytest.mark.parametrize("name", ["mimic-old", "mimic-mgca"])
def test_a_corpus_that_cannot_be_trained_on_is_refused(tree, write_params, name):
    tree["pretrain"]["entries"]["medim-released"]["corpus"] = name
    with pytest.raises(ParamsError, match=r"pretrain\.entries\.medim-released\.corpus"):
        params.load(write_params(tree), "demo")
