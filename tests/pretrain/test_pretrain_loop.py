"""The training loop, its schedule, and weights on disk."""

from __future__ import annotations

import copy
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
from cxrmim.pretrain import loop, schedule, weights
from cxrmim.schema import Optim, Schedule

MEDIM = grid.Pretraining("medim", 0)


def trained(params, shards, item=MEDIM):
    torch.manual_seed(item.seed)
    return loop.train(params, item, loop.prepare(params, item, shards), shards)


def test_schedule_equals_a_list_computed_by_hand():
    """10 steps, 40 % warm-up from 0.1 to 1, cosine to 0.2."""
    rule = Schedule(warmup=0.4, start=0.1, end=0.2)
    got = [schedule.learning_rate(t, 10, 1.0, rule) for t in range(10)]
    warm = [0.1, 0.325, 0.55, 0.775]
    cosine = [1.0, 0.9464101615, 0.8, 0.6, 0.4, 0.2535898385]
    assert got == pytest.approx(warm + cosine, rel=1e-9)


def test_first_step_of_mgca_has_rate_1e_8_and_the_peak_comes_at_40_percent(paper):
    block = paper.pretraining("mgca")[1]
    rates = [schedule.learning_rate(t, 1000, block.optim.lr, block.schedule) for t in range(1000)]
    assert rates[0] == 1e-8
    assert max(rates) == rates[400] == 2e-5
    assert 1e-8 < rates[-1] < 2e-10 + 1e-8 + 2e-5 * (math.pi / 600) ** 2


def test_no_warmup_starts_at_the_peak():
    assert schedule.learning_rate(0, 5, 0.3, Schedule(warmup=0.0, start=0.0, end=0.0)) == 0.3


@pytest.mark.parametrize("decay_1d", [True, False])
def test_one_dimensional_weights_are_decayed_only_if_asked(decay_1d):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    layer[1].bias.requires_grad_(False)
    rule = Optim(
        name="adam", lr=0.1, betas=(0.9, 0.99), weight_decay=0.5, decay_1d=decay_1d, clip=0.0
    )
    groups = schedule.build_optimiser(layer, rule).param_groups
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert len(decays) == 3
    assert decays[id(layer[0].weight)] == 0.5
    assert decays[id(layer[0].bias)] == (0.5 if decay_1d else 0.0)


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
    fresh = weights.build_method(params, "random", 0, 0).state_dict()
    loaded = weights.load_method(params, "random-s3").state_dict()
    assert all(torch.equal(fresh[k], loaded[k]) for k in fresh)


def test_training_lowers_the_loss(small, corpus):
    params = small({"pretrain.methods.mgca.epochs": 25, "pretrain.methods.mae.epochs": 25})
    shards = corpus(params)
    for entry in ("mae", "mgca"):
        curve = trained(params, shards, grid.Pretraining(entry, 0)).metrics["curve"]
        assert curve[-1] < 0.9 * curve[0]


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
    with pytest.raises(loop.DivergedError, match=r"step 6: .*source rows \[10\d\d, ") as error:
        loop.train(params, item, method, shards)
    assert "\n" not in str(error.value)


def test_too_few_pairs_or_no_reports_stop(small, corpus):
    params = small({"pretrain.methods.mgca.batch": 64})
    shards = corpus(params)
    with pytest.raises(DataError, match="16 training pairs do not fill a batch of 64"):
        trained(params, shards, grid.Pretraining("mgca", 0))
    bare = copy.copy(shards)
    object.__setattr__(bare, "reports", None)
    with pytest.raises(DataError, match="holds no reports"):
        loop.find_pairs(bare, MEDIM, needs_text=True, shuffle=False)
    assert loop.find_pairs(bare, MEDIM, needs_text=False, shuffle=False).reports is None


def test_shuffled_pairs_exchange_every_report_for_another(small, corpus):
    shards = corpus(small())
    plain = loop.find_pairs(shards, MEDIM, needs_text=True, shuffle=False)
    mixed = loop.find_pairs(shards, MEDIM, needs_text=True, shuffle=True)
    assert np.array_equal(plain.rows, mixed.rows)
    assert (plain.reports != mixed.reports).all()
    assert set(plain.reports) == set(mixed.reports)
    partner = dict(zip(plain.reports.tolist(), mixed.reports.tolist(), strict=True))
    assert [partner[r] for r in plain.reports.tolist()] == mixed.reports.tolist()
    again = loop.find_pairs(shards, MEDIM, needs_text=True, shuffle=True)
    assert np.array_equal(mixed.reports, again.reports)


def test_batches_are_full_disjoint_and_reshuffled(small, corpus):
    pairs = loop.Pairs(np.arange(11), None)
    batches = list(loop.shuffled(pairs, 4, 3, 0))
    assert [len(b) for b in batches] == [4] * 6
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first.tolist(), *second.tolist()}) == 8
    assert not np.array_equal(batches[0], batches[2])


def test_an_entry_as_init_gives_its_encoder(small, corpus):
    params = small({"pretrain.methods.mgca.init": "mae"})
    corpus(params)
    loop.run(params, "mae-s0")
    parent = weights.load_method(params, "mae-s0").encoder.state_dict()
    method = weights.build_method(params, "mgca", 60, 24)
    weights.initialise(method, params, grid.Pretraining("mgca", 0))
    child = method.encoder.state_dict()
    assert all(torch.equal(parent[k], child[k]) for k in parent)
    loop.run(params, "mgca-s0")
    tree = record.read(Paths("demo").record("pretrain", "mgca-s0"))
    assert list(tree["parents"]) == ["pretrain/mae-s0", "shards/mimic"]


def test_published_weights_are_asked_for_by_file_and_loaded(small, workplace):
    params = small({"pretrain.methods.mgca.init": "deit"})
    item = grid.Pretraining("mgca", 0)
    method = weights.build_method(params, "mgca", 60, 24)
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
def test_bioclinicalbert_is_cut_to_the_layers_of_params(small, workplace, positions):
    params = small(
        {
            "pretrain.text.positions": positions,
            "shards.text.tokenizer": "bioclinicalbert",
        }
    )
    method = weights.build_method(params, "mgca", 60, 24)
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
        ("cmitm-s0", "no code yet"),
    ):
        assert stop.main(["--checkpoint", unit]) == ParamsError.exit_code
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1


def test_a_device_that_is_not_there_and_an_unknown_schedule_stop():
    if not torch.cuda.is_available():
        with pytest.raises(ParamsError, match="no GPU"):
            loop.pick_device("cuda")
        assert loop.pick_device("auto").type == "cpu"
    with pytest.raises(ParamsError, match="only 'cosine'"):
        schedule.check(Schedule(name="plateau", warmup=0, start=0, end=0), "gloria")
