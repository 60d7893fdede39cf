"""The training loop, its schedule, and weights on disk."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cxrmim import grid, record
from cxrmim.errors import CheckError, CxrmimError, DataError, ParamsError
from cxrmim.paths import Paths
from cxrmim.pretrain import __main__ as stop
from cxrmim.pretrain import data, devices, loop, schedule, watch, weights
from cxrmim.schema import Schedule
from cxrmim.shards.store import Table

MEDIM = grid.Pretraining("medim", 0)


def trained(params, shards, item=MEDIM):
    torch.manual_seed(item.seed)
    return loop.train(params, item, loop.prepare(params, item, shards), shards)


@pytest.mark.parametrize("entry", ["mae", "medim"])
def test_two_trainings_give_the_same_bytes(small, corpus, entry):
    params = small({"pretrain.text.dropout": 0.1, "pretrain.methods.mae.augment.flip": 0.5})
    corpus(params)
    paths, unit = Paths("demo"), f"{entry}-s0"
    seen = []
    for _ in range(2):
        loop.run(params, unit)
        seen.append(
            (paths.checkpoint(unit).read_bytes(), paths.record("pretrain", unit).read_bytes())
        )
    assert seen[0] == seen[1]
    loop.run(params, f"{entry}-s1")
    assert paths.checkpoint(f"{entry}-s1").read_bytes() != seen[0][0]


def test_record_and_checkpoint(small, corpus):
    params = small()
    corpus(params)
    loop.run(params, "medim-s0")
    tree = record.read(Paths("demo").record("pretrain", "medim-s0"))
    assert tree["metrics"]["steps"] == 8 and tree["metrics"]["images"] == 32
    losses = tree["metrics"]["losses"]
    assert set(losses) == {"ita", "local", "proto", "kwm", "sdm", "total"}
    assert losses["total"] == pytest.approx(
        losses["ita"] + losses["local"] + losses["proto"] + 10 * (losses["kwm"] + losses["sdm"]),
        rel=1e-4,
    )
    assert len(tree["metrics"]["curve"]) == 8
    assert list(tree["parents"]) == ["shards/mimic"]
    assert tree["seed"] == 0 and tree["inputs"] == {}
    with safe_open(Paths("demo").checkpoint("medim-s0"), framework="pt") as handle:
        metadata = json.loads(handle.metadata()["cxrmim"])
    assert metadata["method"] == "medim" and metadata["config_hash"] == tree["config_hash"]


def test_a_loaded_method_is_the_trained_one(small, corpus):
    params = small()
    shards = corpus(params)
    method = trained(params, shards).method
    loop.run(params, "medim-s0")
    loaded = weights.load_method(params, "medim-s0")
    assert not loaded.training
    image = loaded.eval_transform(torch.from_numpy(shards.images[:3].copy()))
    assert image.shape == (3, 3, 40, 40)
    assert torch.equal(loaded.embed_image(image), method.embed_image(image))
    assert loaded.decoder is not None and loaded.decoder.channels == (8, 6, 4)


def test_loading_checks_the_record_and_the_parameters(small, corpus):
    params = small()
    corpus(params)
    with pytest.raises(CheckError, match="no such record"):
        weights.load_method(params, "mae-s0")
    loop.run(params, "mae-s0")
    other = small({"pretrain.methods.mae.options.ratio": 0.3})
    with pytest.raises(CheckError, match="other parameters"):
        weights.load_method(other, "mae-s0")
    path = Paths("demo").checkpoint("mae-s0")
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(CheckError, match="sha256"):
        weights.load_method(params, "mae-s0")


def test_random_is_written_through_the_same_path(small, corpus):
    params = small()
    corpus(params)
    loop.run(params, "random-s3")
    tree = record.read(Paths("demo").record("pretrain", "random-s3"))
    assert tree["metrics"] == {"steps": 0, "images": 0}
    torch.manual_seed(3)
    fresh = weights.build_method(params, "random").state_dict()
    loaded = weights.load_method(params, "random-s3").state_dict()
    assert all(torch.equal(fresh[k], loaded[k]) for k in fresh)


def test_training_lowers_the_loss(small, corpus):
    params = small({"pretrain.methods.mgca.epochs": 25, "pretrain.methods.mae.epochs": 25})
    shards = corpus(params)
    for entry in ("mae", "mgca"):
        curve = trained(params, shards, grid.Pretraining(entry, 0)).metrics["curve"]
        first, last = np.mean(curve[:5]), np.mean(curve[-5:])  # single points are noisy
        assert last < 0.95 * first


def test_prototypes_stand_still_in_epoch_0(small, corpus):
    params = small({"pretrain.methods.mgca.epochs": 1})
    shards = corpus(params)
    item = grid.Pretraining("mgca", 0)
    torch.manual_seed(0)
    method = loop.prepare(params, item, shards)
    start = torch.nn.functional.normalize(method.prototypes.weight.detach().clone(), dim=1)
    loop.train(params, item, method, shards)
    torch.testing.assert_close(method.prototypes.weight.detach(), start)


def test_non_finite_loss_names_the_source_rows(small, corpus, monkeypatch):
    params = small({"pretrain.methods.mgca.epochs": 10})
    shards = corpus(params)
    item = grid.Pretraining("mgca", 0)
    method = loop.prepare(params, item, shards)
    plain, calls = method.losses, []

    def broken(batch):
        calls.append(1)
        terms = plain(batch)
        return terms | {"local": terms["local"] * (math.nan if len(calls) == 7 else 1.0)}

    monkeypatch.setattr(method, "losses", broken)
    with pytest.raises(watch.DivergedError, match=r"step 6: .*source rows \[10\d\d, ") as error:
        loop.train(params, item, method, shards)
    assert "\n" not in str(error.value)


def test_too_few_pairs_or_no_reports_stop(small, corpus):
    params = small({"pretrain.methods.mgca.batch": 64})
    shards = corpus(params)
    with pytest.raises(DataError, match="16 training pairs do not fill a batch of 64"):
        trained(params, shards, grid.Pretraining("mgca", 0))
    bare = dataclasses.replace(shards, reports=None, raw=None)
    for needs, words in (("text", "no reports"), ("sentence", "no reports"), ("raw", "text.raw")):
        with pytest.raises(DataError, match=words):
            data.of_shards(bare, "medim", frozenset({"image", needs}), 0)
    with pytest.raises(ParamsError, match="learns from classes"):
        data.of_shards(bare, "imagenet", frozenset({"image", "label"}), 0)
    assert data.of_shards(bare, "mae", frozenset({"image"}), 0).train.reports is None


def test_shuffled_pairs_exchange_every_report_for_another(small, corpus):
    shards = corpus(small())
    needs = frozenset({"image", "raw"})
    plain = data.of_shards(shards, "medim", needs, 0).train
    mixed = data.of_shards(shards, "medim", needs, 0, shuffle=True).train
    assert np.array_equal(plain.rows, mixed.rows)
    assert (plain.reports != mixed.reports).all()
    assert set(plain.reports) == set(mixed.reports)
    partner = dict(zip(plain.reports.tolist(), mixed.reports.tolist(), strict=True))
    assert [partner[r] for r in plain.reports.tolist()] == mixed.reports.tolist()
    again = data.of_shards(shards, "medim", needs, 0, shuffle=True).train
    assert np.array_equal(mixed.reports, again.reports)


def test_batches_are_full_disjoint_and_reshuffled():
    order = data.Order(11, 4, 3, 0)
    batches = [order[step] for step in range(order.steps)]
    assert [len(b) for b in batches] == [4] * 6
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first.tolist(), *second.tolist()}) == 8
    assert not np.array_equal(batches[0], batches[2])
    assert np.array_equal(order[1], batches[1])  # a position is enough, in any order
    assert [order.ends(step) for step in range(4)] == [False, True, False, True]


def test_held_out_pairs_share_no_patient_with_training(small, corpus, tmp_path):
    shards = corpus(small())

    def having(name, **columns):
        shards.table.read().assign(**columns).to_parquet(tmp_path / name)
        return dataclasses.replace(shards, table=Table(tmp_path / name))

    named = having("patients", patient=[f"p{i // 3}" for i in range(20)])
    for each, group in ((shards, shards.report), (named, np.arange(20) // 3)):
        found = data.of_shards(each, "mae", frozenset({"image"}), 0, validated=True, share=0.3)
        train, valid = group[found.train.rows], group[found.valid.rows]
        assert not set(train) & set(valid)
        assert sorted([*found.train.rows, *found.valid.rows]) == list(range(16))
        assert len(set(valid)) == round(0.3 * len(set(group[:16])))
    found = data.of_shards(
        having("split", split=["train"] * 12 + ["valid"] * 8),
        "mae",
        frozenset({"image"}),
        0,
        validated=True,
        share=0.3,
    )
    assert found.valid.rows.tolist() == list(range(12, 20))
    assert found.train.rows.tolist() == list(range(12))


def test_an_entry_as_init_gives_its_encoder(small, corpus, stored):
    params = small({"pretrain.methods.mgca.init": "mae"})
    corpus(params)
    loop.run(params, "mae-s0")
    parent = weights.load_method(params, "mae-s0").encoder.state_dict()
    method = weights.build_method(params, "mgca", stored)
    weights.initialise(method, params, grid.Pretraining("mgca", 0))
    child = method.encoder.state_dict()
    assert all(torch.equal(parent[k], child[k]) for k in parent)
    loop.run(params, "mgca-s0")
    tree = record.read(Paths("demo").record("pretrain", "mgca-s0"))
    assert list(tree["parents"]) == ["pretrain/mae-s0", "shards/mimic"]


def test_published_weights_are_asked_for_by_file_and_loaded(small, workplace, stored):
    params = small({"pretrain.methods.mgca.init": "deit"})
    item = grid.Pretraining("mgca", 0)
    method = weights.build_method(params, "mgca", stored)
    with pytest.raises(CxrmimError, match=r"weights/deit/model.safetensors: no such file; place"):
        weights.initialise(method, params, item)
    folder = workplace / "weights/deit"
    folder.mkdir(parents=True)
    state = {k: torch.randn_like(v) for k, v in method.encoder.state_dict().items()}
    save_file(state | {"head.weight": torch.zeros(3, 16)}, folder / "model.safetensors")
    used = weights.initialise(method, params, item)
    assert list(used) == ["deit"]
    assert all(torch.equal(state[k], v) for k, v in method.encoder.state_dict().items())
    save_file(state | {"cls_token": torch.zeros(1, 1, 8)}, folder / "model.safetensors")
    with pytest.raises(CxrmimError, match="cls_token has shape"):
        weights.initialise(method, params, item)


@pytest.mark.parametrize("positions", ["normal", "zero"])
def test_bioclinicalbert_is_cut_to_the_layers_of_params(small, workplace, positions, stored):
    params = small(
        {
            "pretrain.text.positions": positions,
            "shards.text.tokenizer": "bioclinicalbert",
        }
    )
    method = weights.build_method(params, "mgca", stored)
    torch.manual_seed(1)
    own = {k: torch.randn_like(v) for k, v in method.text_encoder.bert.state_dict().items()}
    old = {
        "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in own.items()
    } | {"bert.encoder.layer.2.output.dense.weight": torch.zeros(16, 32)}
    folder = workplace / "weights/bioclinicalbert"
    folder.mkdir(parents=True)
    save_file(old, folder / "model.safetensors")
    weights.initialise(method, params, grid.Pretraining("mgca", 0))
    loaded = method.text_encoder.bert.state_dict()
    types = "embeddings.token_type_embeddings.weight"
    assert all(torch.equal(own[k], v) for k, v in loaded.items() if k != types)
    assert bool(loaded[types].any()) is (positions == "normal")


def test_command_line(small, corpus, capsys):
    corpus(small())
    assert stop.main(["--checkpoint", "mae-s0"]) == 0
    state = load_file(Paths("demo").checkpoint("mae-s0"))
    assert all(v.dtype in (torch.float32, torch.int64) for v in state.values())
    for unit, words in (
        ("mgcaa-s0", "did you mean"),
        ("mgca", "must be <entry>-s<seed>"),
        ("cmitm-mae-s0", "another name of mae"),
    ):
        assert stop.main(["--checkpoint", unit]) == ParamsError.exit_code
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1


def test_a_current_checkpoint_is_not_trained_again(small, corpus):
    corpus(small())
    assert stop.main(["--checkpoint", "mae-s0"]) == 0
    weights = Paths("demo").checkpoint("mae-s0")
    how = Paths("demo").circumstances("pretrain", "mae-s0")
    want = weights.read_bytes()
    how.unlink()
    assert stop.main(["--checkpoint", "mae-s0"]) == 0
    assert not how.exists()
    weights.write_bytes(want[:-1] + bytes([want[-1] ^ 1]))
    assert stop.main(["--checkpoint", "mae-s0"]) == 0
    assert weights.read_bytes() == want
    assert how.exists()


def test_a_device_that_is_not_there_and_an_impossible_schedule_stop():
    if not torch.cuda.is_available():
        with pytest.raises(ParamsError, match="no GPU"):
            devices.pick_device("cuda")
        assert devices.pick_device("auto").type == "cpu"
    with pytest.raises(ParamsError, match="no warm-up"):
        schedule.check(Schedule(name="plateau", warmup=0.1, start=0, end=0), "gloria")
