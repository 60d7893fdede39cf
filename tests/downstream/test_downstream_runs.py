"""Runs end to end on invented shards and untrained checkpoints."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.downstream.conftest import SECRET, Workspace

from cxrmim import check, grid, record
from cxrmim.downstream import __main__ as command
from cxrmim.downstream import features, recompute, runs
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.tasks import probe
from cxrmim.errors import CheckError

PROBE = "random-s0/chexpert-probe-100-s0"
KINDS = [
    PROBE,
    "medim-s0/siim-segment-100-s0",
    "medim-s0/mimic-retrieve-100-s0",
    "medim-s0/mimic-attend-100-s0",
    "baseline-prior/chexpert-probe-10-s0",
    "baseline-pixels/chexpert-probe-100-s0",
    "baseline-empty/siim-segment-100-s0",
    "baseline-chance/mimic-retrieve-100-s0",
]


def bytes_of(workspace: Workspace, name: str) -> tuple[bytes, bytes]:
    paths = workspace.paths
    return paths.prediction(name).read_bytes(), paths.record("downstream", name).read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_a_run_again_gives_the_same_bytes(workspace: Workspace, name: str) -> None:
    workspace.do(name)
    first = bytes_of(workspace, name)
    workspace.wipe(name)
    workspace.do(name)
    assert bytes_of(workspace, name) == first


@pytest.mark.parametrize("name", KINDS)
def test_the_record_holds_what_the_report_needs(workspace: Workspace, name: str) -> None:
    (tree,) = workspace.do(name)
    found, run = tree["metrics"], workspace.run(name)
    assert 0 <= found["value"] <= 1
    assert found["metric"] in ("mAUC", "dice", "i2t_r10", "masked_attention")
    assert found["n"] == len(pd.read_parquet(workspace.paths.prediction(name)))
    assert set(tree["parents"]) == {
        f"{k}/{u}" for k, u in grid.parents(workspace.params, "downstream", name)
    }
    assert tree["seed"] == run.seed
    if run.task != "attend":
        assert len(found["replicates"]) == 50
        assert np.mean(found["replicates"]) == pytest.approx(found["value"], abs=0.1)
    if run.baseline is None and run.task in ("probe", "segment"):
        assert tree["details"].keys() >= {"best_epoch", "stopped", "train_n", "valid_n"}


@pytest.mark.parametrize("name", KINDS)
def test_records_name_no_patient_and_no_image(workspace: Workspace, name: str) -> None:
    workspace.do(name)
    found = bytes_of(workspace, name)[1]
    assert SECRET.encode() not in found
    assert SECRET in str(pd.read_parquet(workspace.paths.prediction(name)).to_dict())
    circumstances = workspace.paths.circumstances("downstream", name).read_bytes()
    assert SECRET.encode() not in circumstances


@pytest.mark.parametrize("name", KINDS)
def test_metrics_follow_from_the_stored_predictions(workspace: Workspace, name: str) -> None:
    (tree,) = workspace.do(name)
    found = recompute.metrics(workspace.params, workspace.run(name))
    assert json.loads(record.canonical(found)) == tree["metrics"]


def test_recomputing_needs_the_predictions(workspace: Workspace) -> None:
    workspace.wipe(PROBE)
    with pytest.raises(CheckError, match="dvc pull"):
        recompute.metrics(workspace.params, workspace.run(PROBE))


def test_a_current_run_is_passed_over(
    workspace: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.do(PROBE)
    monkeypatch.setattr(logging.getLogger("cxrmim"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="cxrmim"):
        workspace.do(PROBE)
    assert f"{PROBE}: current, not done again" in caplog.text


@pytest.mark.parametrize("what", ["predictions", "record", "parent", "options", "code"])
def test_a_stale_run_is_done_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    workspace.do(PROBE)
    run, paths = workspace.run(PROBE), workspace.paths
    assert record.current(workspace.params, "downstream", run.id)
    target = workspace
    if what == "predictions":
        paths.prediction(PROBE).write_bytes(b"other")
    elif what == "record":
        path = paths.record("downstream", PROBE)
        path.write_text(path.read_text().replace('"metric": "mAUC"', '"metric": "mAUX"'))
    elif what == "parent":
        path = paths.record("pretrain", "random-s0")
        old = path.read_bytes()
        path.write_bytes(old.replace(b'"metrics": {}', b'"metrics": {"a": 1}'))
        assert path.read_bytes() != old
    elif what == "options":
        target = workspace.changed(probe={"lr": 0.1})
    else:
        monkeypatch.setattr(record, "code_hash", lambda *_: "other")
    assert not record.current(target.params, "downstream", run.id)
    if what == "parent":
        path.write_bytes(old)
    workspace.wipe(PROBE)


def test_shards_that_are_not_those_of_the_record_are_refused(workspace: Workspace) -> None:
    path = workspace.paths.shards("chexpert") / "images.npy"
    old = path.read_bytes()
    path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    try:
        with pytest.raises(CheckError, match="images"):
            Bench(workspace.params).shards("chexpert")
    finally:
        path.write_bytes(old)


def test_the_encoder_is_frozen_and_in_eval_mode(bench: Bench) -> None:
    method = bench.method("mae-s0")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    wanted = bench.features("mae-s0", "chexpert", "cls").clone()
    method.train()
    for module in method.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    method.encoder.pos_drop = torch.nn.Dropout(0.5)
    again = features.extract(
        method.encoder,
        bench.shards("chexpert").images,
        bench.view("mae-s0"),
        torch.device("cpu"),
    )
    assert torch.equal(again["cls"], wanted)
    runs.predict(grid.Run("mae-s0", "chexpert", "probe", 100, 0), bench)
    after = bench.method("mae-s0").state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not bench.method("mae-s0").training


def test_tuning_a_segmenter_leaves_the_shared_method_alone(bench: Bench) -> None:
    before = {k: v.clone() for k, v in bench.method("medim-s0").state_dict().items()}
    runs.predict(grid.Run("medim-s0", "siim", "segment", 100, 0), bench)
    after = bench.method("medim-s0").state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_probe_tells_how_well_it_fits_and_how_its_features_spread(workspace: Workspace) -> None:
    names = ["random-s0/chexpert-probe-10-s0", PROBE]
    workspace.wipe(*names)
    few, many = (tree["details"] for tree in workspace.do(*names))
    assert few["rank"] == many["rank"]  # of the same test images
    assert 1 <= many["rank"] <= workspace.params.pretrain.vit.width
    for details in (few, many):
        assert 0.5 < details["train_value"] <= 1
        assert "other_value" not in details  # the other pooling is tried where labels are scarce


def test_scarce_labels_are_tried_on_the_other_pooling_too(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it tells is what a run with that pooling scores."""
    monkeypatch.setattr(probe, "SCARCE", 10)
    run = grid.Run.parse("random-s0/chexpert-probe-10-s0")
    found = {}
    for pool in ("cls", "avg"):
        bench = Bench(workspace.changed(probe={"pool": pool}).params)
        result = runs.predict(run, bench)
        value = runs.keep(bench.params, run, result)["value"]
        found[pool] = value, result.details["other_value"]
    assert found["cls"] == pytest.approx(found["avg"][::-1], abs=1e-6)
    assert found["cls"][0] != found["cls"][1]


def test_features_are_extracted_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = features.extract
    monkeypatch.setattr(features, "extract", lambda *a: calls.append(1) or real(*a))
    for percent, seed in [(10, 0), (100, 0), (100, 1)]:
        runs.predict(grid.Run("random-s0", "chexpert", "probe", percent, seed), bench)
    assert len(calls) == 1


def test_pooling_takes_cls_or_the_patches(bench: Bench) -> None:
    images = bench.shards("chexpert").images
    with torch.no_grad():
        stored = torch.from_numpy(np.array(images[:3]))
        tokens = bench.method("mae-s0").encoder.forward_features(bench.view("mae-s0")(stored))
    for pool, want in (("cls", tokens[:, 0]), ("avg", tokens[:, 1:].mean(1))):
        found = bench.features("mae-s0", "chexpert", pool)[:3]
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_the_command_does_a_job_and_names_an_unknown_one(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "baseline-prior/chexpert-probe-10-s0"
    workspace.wipe(name)
    common = ["--params", "params.yaml", "--threads", "1"]
    assert command.main(["--job", "baseline-prior", *common]) == 0
    assert record.current(workspace.params, "downstream", workspace.run(name).id)
    assert command.main(["--job", "baseline-priör", *common]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_tables_are_the_same_under_either_string_type(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": ["a", "b"], "x": [1.0, 2.0]})
    plain = runs.table(frame.astype({"image": object}))
    assert plain.schema == runs.table(frame).schema
    assert plain.schema.metadata is None


def test_predictions_copied_from_another_checkpoint_are_caught(workspace: Workspace) -> None:
    """The copy's record is sealed and names the very bytes that are there."""
    names = ["random-s0/chexpert-probe-10-s0", "mae-s0/chexpert-probe-10-s0"]
    trees, paths = workspace.do(*names), workspace.paths
    assert not [line for line in check.faults(workspace.params, ("downstream",)) if "those" in line]
    paths.prediction(names[1]).write_bytes(paths.prediction(names[0]).read_bytes())
    forged = trees[1] | {"metrics": trees[0]["metrics"]}
    place = forged["outputs"]["predictions"]["path"]
    forged["outputs"] = {"predictions": trees[0]["outputs"]["predictions"] | {"path": place}}
    forged["digest"] = record.seal(forged)
    paths.record("downstream", names[1]).write_bytes(record.canonical(forged))
    found = [line for line in check.faults(workspace.params, ("downstream",)) if "those" in line]
    assert len(found) == 1
    assert all(name in found[0] for name in names)
    workspace.wipe(*names)
