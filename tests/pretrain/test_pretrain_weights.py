"""What a method starts from, and checkpoints that name their record."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

from cxrmim import check, grid, record
from cxrmim.errors import CheckError, CxrmimError
from cxrmim.paths import Paths
from cxrmim.pretrain import loop, places, weights

MGCA = grid.Pretraining("mgca", 0)


def train(params, stored, checkpoint, shift=0.0, **recorded):
    """Write a checkpoint and its record as the loop does; returns the method."""
    item = grid.entry_of(checkpoint)
    torch.manual_seed(item.seed + len(item.entry))
    method = weights.build_method(params, item.entry, stored)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += shift
    path = weights.save_method(params, checkpoint, method)
    told = {
        "parents": grid.parents(params, "pretrain", checkpoint),
        "seed": item.seed,
        "outputs": {"weights": path},
    }
    record.write(params, "pretrain", checkpoint, **(told | recorded))
    return method


def publish(method, name="deit", **changed):
    """Write a published file that fits a method's encoder; returns its tensors."""
    own = method.encoder.state_dict()
    state = {k: torch.randn_like(v) for k, v in own.items()} | changed
    place = places.place(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, place)
    return state


def test_a_checkpoint_and_its_record_name_each_other(small, corpus, stored):
    params = small()
    corpus(params)
    train(params, stored, "mae-s0")
    path = Paths("demo").checkpoint("mae-s0")
    tree = record.read(Paths("demo").record("pretrain", "mae-s0"))
    with safe_open(path, framework="pt") as handle:
        header = json.loads(handle.metadata()["cxrmim"])
    assert header["record_identity"] == record.identity(tree)
    assert header["config_hash"] == tree["config_hash"]
    assert tree["outputs"]["weights"]["sha256"] == record.digest(path)["sha256"]
    before = path.read_bytes()
    train(params, stored, "mae-s0")
    assert path.read_bytes() == before
    assert not [x for x in check.faults(params, ("pretrain",)) if "/mae-s0.json" in x]


@pytest.mark.parametrize("other", [{"seed": 7}, {"parents": []}, {"inputs": {"x": "params.yaml"}}])
def test_weights_of_another_record_are_refused(small, corpus, stored, other):
    params = small()
    corpus(params)
    inputs = {name: params_file() for name in other.get("inputs", {})}
    train(params, stored, "mae-s0", **(other | ({"inputs": inputs} if inputs else {})))
    with pytest.raises(CheckError, match="names another record") as error:
        weights.load_method(params, "mae-s0")
    assert "\n" not in str(error.value)


def params_file():
    path = Paths("demo").results / "x.txt"
    path.write_text("another input")
    return path


def test_an_edited_record_is_refused(small, corpus, stored):
    params = small()
    corpus(params)
    train(params, stored, "mae-s0")
    weights.load_method(params, "mae-s0")
    path = Paths("demo").record("pretrain", "mae-s0")
    tree = json.loads(path.read_bytes())
    tree["metrics"] = {"steps": 3}
    path.write_bytes(record.canonical(tree))
    with pytest.raises(CheckError, match="edited by hand"):
        weights.load_method(params, "mae-s0")


def test_identity_follows_every_fact_that_is_known_before(small, corpus):
    params = small()
    corpus(params)
    begun = record.begin(params, "pretrain", "mae-s0", seed=0)
    tree = begun | {"inputs": {"a": {"path": "here", "sha256": "1"}}}
    identity = record.identity(tree)
    assert identity == record.identity(
        tree | {"metrics": {"x": 1}, "outputs": {}, "inputs": {"a": {"path": "b", "sha256": "1"}}}
    )
    for key, value in (
        ("seed", 1),
        ("code", "x"),
        ("config_hash", "x"),
        ("scale", "paper"),
        ("parents", {"shards/mimic": "x"}),
        ("inputs", {"a": {"path": "here", "sha256": "2"}}),
    ):
        assert record.identity(tree | {key: value}) != identity, key


def test_an_entry_gives_what_the_method_inherits_and_nothing_else(
    small, corpus, stored, monkeypatch
):
    params = small({"pretrain.methods.medim.init": "mgca"})
    corpus(params)
    parent = train(params, stored, "mgca-s0", shift=0.5).state_dict()
    torch.manual_seed(9)
    child = weights.build_method(params, "medim", stored)
    monkeypatch.setattr(type(child), "inherits", ("encoder.", "word_head.", "nobody_has_this."))
    before = {k: v.clone() for k, v in child.state_dict().items()}
    assert weights.initialise(child, params, grid.Pretraining("medim", 0)) == {}
    taken = ("encoder.", "word_head.")
    after = child.state_dict()
    assert any(k.startswith("word_head.") for k in after)
    for key, value in after.items():
        source = parent if key.startswith(taken) else before
        assert torch.equal(value, source[key]), key
    assert not torch.equal(after["encoder.cls_token"], before["encoder.cls_token"])


def test_a_parent_that_lacks_a_module_is_refused(small, corpus, stored, monkeypatch):
    params = small({"pretrain.methods.mgca.init": "mae"})
    corpus(params)
    train(params, stored, "mae-s0")
    child = weights.build_method(params, "mgca", stored)
    monkeypatch.setattr(type(child), "inherits", ("encoder.", "text_encoder."))
    with pytest.raises(CxrmimError, match=r"mae-s0.safetensors: lacks the tensor 'text_encoder"):
        weights.initialise(child, params, MGCA)


def test_a_parent_of_other_shapes_is_refused(small, corpus, stored, monkeypatch):
    params = small(
        {"pretrain.methods.medim.init": "mgca", "pretrain.methods.medim.options.prototypes": 9}
    )
    corpus(params)
    train(params, stored, "mgca-s0")
    child = weights.build_method(params, "medim", stored)
    monkeypatch.setattr(type(child), "inherits", ("encoder.", "prototypes."))
    with pytest.raises(CxrmimError, match=r"prototypes.weight has shape \(6, 8\).*\(9, 8\)"):
        weights.initialise(child, params, grid.Pretraining("medim", 0))


def test_an_inherited_text_encoder_is_not_overwritten(small, corpus, stored, monkeypatch):
    params = small(
        {"pretrain.methods.medim.init": "mgca", "shards.text.tokenizer": "bioclinicalbert"}
    )
    corpus(params)
    parent = train(params, stored, "mgca-s0", shift=0.5)
    child = weights.build_method(params, "medim", stored)
    item = grid.Pretraining("medim", 0)
    with pytest.raises(CxrmimError, match=r"weights/bioclinicalbert/model.safetensors: no such"):
        weights.initialise(child, params, item)
    monkeypatch.setattr(type(child), "inherits", ("encoder.", "text_encoder."))
    assert weights.initialise(child, params, item) == {}
    own, theirs = child.text_encoder.state_dict(), parent.text_encoder.state_dict()
    assert all(torch.equal(own[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize("entry", ["mgca", "gloria"])
def test_bioclinicalbert_gives_the_layers_that_a_method_has(small, workplace, stored, entry):
    params = small(
        {f"pretrain.methods.{entry}.init": "deit", "shards.text.tokenizer": "bioclinicalbert"}
    )
    method = weights.build_method(params, entry, stored)
    publish(method)
    bert = method.text_encoder.bert.state_dict()
    own = {k: torch.randn_like(v) for k, v in bert.items()}
    old = {"bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in own.items()}
    more = {
        "bert.encoder.layer.2.output.dense.weight": torch.zeros(16, 32),
        "cls.bias": own["embeddings.LayerNorm.bias"].clone(),
    }
    places.place("bioclinicalbert").parent.mkdir()
    save_file(old | more, places.place("bioclinicalbert"))
    used = weights.initialise(method, params, grid.Pretraining(entry, 0))
    assert set(used) == {"deit", "bioclinicalbert"}
    loaded = method.text_encoder.bert.state_dict()
    assert all(torch.equal(own[k], v) for k, v in loaded.items())


def test_positions_of_another_image_size_are_resampled_as_timm_does(
    small, workplace, stored, caplog
):
    params = small({"pretrain.methods.mgca.init": "deit"})
    method = weights.build_method(params, "mgca", stored)
    table = torch.randn(1, 1 + 7 * 7, 16)
    state = publish(method, pos_embed=table)
    with caplog.at_level(logging.INFO, "cxrmim"):
        weights.initialise(method, params, MGCA)
    loaded = method.encoder.state_dict()
    assert torch.equal(loaded["pos_embed"], resample_abs_pos_embed(table, [5, 5]))
    assert torch.equal(loaded["pos_embed"][:, 0], table[:, 0])
    assert torch.equal(loaded["cls_token"], state["cls_token"])
    assert "resampled from 7x7 to 5x5" in caplog.text


def test_a_table_that_fits_is_taken_as_it_is(small, workplace, stored, caplog):
    params = small({"pretrain.methods.mae.init": "mae-imagenet"})
    method = weights.build_method(params, "mae", stored)
    state = publish(method, "mae-imagenet")
    with caplog.at_level(logging.INFO, "cxrmim"):
        weights.initialise(method, params, grid.Pretraining("mae", 0))
    assert torch.equal(method.encoder.pos_embed, state["pos_embed"])
    assert not method.encoder.pos_embed.requires_grad
    assert "resampled" not in caplog.text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pos_embed": torch.zeros(1, 1 + 6, 16)}, "pos_embed has shape"),
        ({"pos_embed": torch.zeros(1, 1 + 49, 8)}, "pos_embed has shape"),
        ({"cls_token": torch.full((1, 1, 16), float("nan"))}, "cls_token has numbers"),
    ],
)
def test_files_that_do_not_fit_are_refused(small, workplace, stored, changed, words):
    params = small({"pretrain.methods.mgca.init": "deit"})
    method = weights.build_method(params, "mgca", stored)
    publish(method, **changed)
    with pytest.raises(CxrmimError, match=words) as error:
        weights.initialise(method, params, MGCA)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_the_fetched_one_is_refused(small, workplace, stored):
    params = small({"pretrain.methods.mgca.init": "deit"})
    method = weights.build_method(params, "mgca", stored)
    publish(method)
    weights.initialise(method, params, MGCA)
    places.write_lock(places.place("deit"), {"kind": "hub"})
    weights.initialise(method, params, MGCA)
    publish(method)
    with pytest.raises(CheckError, match=r"not the one in weights/weights\.lock\.json"):
        weights.initialise(method, params, MGCA)
    places.LOCK.write_text("{")
    with pytest.raises(CxrmimError, match="not valid JSON"):
        weights.initialise(method, params, MGCA)
    places.LOCK.unlink()
    places.place("deit").write_bytes(b"no tensors at all")
    with pytest.raises(CxrmimError, match="no safetensors file"):
        weights.initialise(method, params, MGCA)


def test_a_run_from_published_weights_names_them_in_its_record(small, corpus, stored):
    params = small({"pretrain.methods.random.init": "deit"})
    corpus(params)
    state = publish(weights.build_method(params, "random", stored))
    loop.run(params, "random-s0")
    tree = record.read(Paths("demo").record("pretrain", "random-s0"))
    assert tree["inputs"]["deit"]["sha256"] == record.digest(places.place("deit"))["sha256"]
    loaded = weights.load_method(params, "random-s0").encoder.state_dict()
    assert all(torch.equal(loaded[k], state[k]) for k in loaded)
    assert not [x for x in check.faults(params, ("pretrain",)) if "/random-s0.json" in x]


def test_a_published_decoder_goes_to_a_method_that_has_one(small, workplace, stored):
    params = small(
        {"pretrain.methods.medim.init": "medim-official", "pretrain.methods.mgca.init": "x"}
    )
    method = weights.build_method(params, "medim", stored)
    own = method.decoder.state_dict()
    given = {
        f"decoder.{k}": torch.randn_like(v) if v.is_floating_point() else v + 3
        for k, v in own.items()
    }
    publish(method, "medim-official", **given)
    weights.initialise(method, params, grid.Pretraining("medim", 0))
    for key, value in method.decoder.state_dict().items():
        assert torch.equal(value, given[f"decoder.{key}"]), key
    places.place("x").parent.mkdir()
    save_file(load_file(places.place("medim-official")), places.place("x"))
    plain = weights.build_method(params, "mgca", stored)
    assert set(weights.initialise(plain, params, MGCA)) == {"x"}
    del given["decoder.convs.0.bias"]
    publish(method, "medim-official", **given)
    with pytest.raises(CxrmimError, match=r"lacks the tensor 'convs.0.bias'"):
        weights.initialise(method, params, grid.Pretraining("medim", 0))
