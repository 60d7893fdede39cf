"""params.yaml: what it resolves to, and what a wrong key or value says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from cxrmim import params
from cxrmim.errors import ParamsError

SCALES = ("demo", "trend", "phantom", "paper")


def dig(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_every_scale_and_protocol_resolves(tree, write_params, scale, protocol):
    tree["protocol"] = protocol
    loaded = params.load(write_params(tree), scale)
    assert loaded.scale == scale
    for entry in [*loaded.pretrain.methods, *loaded.pretrain.entries]:
        loaded.pretraining(entry)


def test_both_yaml_dialects_read_the_same(repo):
    path = repo / "params.yaml"
    with path.open(encoding="utf-8") as handle:
        new = YAML(typ="safe", pure=True).load(handle)
    assert new == yaml.safe_load(path.read_text(encoding="utf-8"))


def strings(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        return [s for value in tree.values() for s in strings(value)]
    if isinstance(tree, list):
        return [s for value in tree for s in strings(value)]
    return [tree] if isinstance(tree, str) else []


def test_no_number_is_read_as_a_string(tree):
    for text in strings(tree):
        with pytest.raises(ValueError):
            float(text)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("phantom.sed", 1, ["phantom.sed", "unknown key", "'seed'"]),
        ("pretrain.methods.mae.epcohs", 3, ["pretrain.entries.mae.epcohs", "'epochs'"]),
        ("pretrain.methods.mgca.batch", 0, ["batch", "0", "greater than or equal to 1"]),
        ("pretrain.text.dropout", 1.5, ["pretrain.text.dropout", "1.5", "less than or equal to 1"]),
        ("protocol", "official", ["protocol", "'official'", "'paper' or 'released'"]),
        ("scale", "huge", ["scale", "'huge'", "demo, trend, phantom, paper"]),
        ("pretrain.entries.medim-kwm.method", "medmi", ["'medmi'", "did you mean medim"]),
        ("pretrain.entries.cmitm-mae.alias", "cmitm-mae", ["circle"]),
        ("grid.medim_table2.rows", ["mgca", "medin"], ["grid.medim_table2", "'medin'", "medim"]),
        ("shards.side", "big", ["shards.side", "'big'", "integer"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_it(tree, write_params, key, value, said):
    put(tree, key, value)
    tree["scale"] = tree["scale"] if key == "scale" else "paper"
    with pytest.raises(ParamsError) as caught:
        params.load(write_params(tree))
    line = str(caught.value)
    assert "\n" not in line
    for part in ["params.yaml", *said]:
        assert part in line


def test_the_place_named_is_the_one_that_decides(tree, write_params):
    tree["scales"]["demo"]["phantom"]["raster"] = 3
    with pytest.raises(ParamsError, match=r"set it at `scales\.demo\.phantom\.raster`"):
        params.load(write_params(tree), "demo")
    tree["scales"]["demo"]["phantom"]["raster"] = 128
    tree["phantom"]["seed"] = -1
    with pytest.raises(ParamsError, match=r"set it at `phantom\.seed`"):
        params.load(write_params(tree), "demo")


def test_the_stored_side_is_what_the_methods_ask_for(tree, write_params):
    paper = params.load(write_params(tree), "paper")
    assert paper.side("mimic") == 512, "MRM and CMITM stage 1 restore 448 px"
    assert paper.side("chexpert") == paper.side("chexpert-cmitm") == 256
    tree["grid"] = {"medim_table2": tree["grid"]["medim_table2"]}
    assert params.load(write_params(tree), "paper").side("mimic") == 256
    tree["shards"]["side"] = 600
    assert params.load(write_params(tree), "paper").side("mimic") == 600


def test_upsampling_is_refused(tree, write_params):
    tree["scales"]["demo"]["shards"]["side"] = 96
    with pytest.raises(ParamsError, match=r"larger than shards\.side"):
        params.load(write_params(tree), "demo")


def test_released_changes_what_it_lists_and_nothing_else(tree, write_params):
    mine = params.load(write_params(tree), "paper").model_dump(mode="json")
    tree["protocol"] = "released"
    theirs = params.load(write_params(tree), "paper").model_dump(mode="json")

    def leaves(node: Any, key: str = "") -> dict[str, Any]:
        if not isinstance(node, dict):
            return {key: node}
        return {k: v for n, t in node.items() for k, v in leaves(t, f"{key}.{n}").items()}

    changed = {k for k, v in leaves(theirs).items() if leaves(mine).get(k) != v}
    listed = set(leaves(tree["released"])) | {".protocol"}
    assert changed == listed


# Every resolved hyper-parameter of the paper scale against protocols.md sections 2 and 3.
PRETRAIN = {
    "mae": {
        "batch": 256,
        "epochs": 200,
        "optim.lr": 1.5e-4,
        "optim.betas": (0.9, 0.95),
        "optim.weight_decay": 0.05,
        "optim.decay_1d": False,
        "optim.clip": 0.0,
        "schedule.warmup": 40 / 200,
        "schedule.end": 0.0,
        "augment.crop": "resized",
        "augment.area": (0.2, 1.0),
        "augment.flip": 0.5,
        "options.ratio": 0.75,
        "options.norm_pix": True,
        "options.decoder_width": 512,
        "options.decoder_depth": 8,
        "options.decoder_heads": 16,
        "init": "mae-imagenet",
    },
    "gloria": {
        "batch": 48,
        "epochs": 50,
        "optim.name": "adam",
        "optim.lr": 5e-5,
        "optim.betas": (0.5, 0.999),
        "optim.weight_decay": 1e-6,
        "optim.clip": 0.25,
        "schedule.name": "plateau",
        "schedule.factor": 0.5,
        "schedule.patience": 5,
        "options.text_layers": 12,
        "options.text_length": 97,
        "options.t1": 4.0,
        "options.t2": 5.0,
        "options.t3": 10.0,
        "init": "deit",
    },
    "mrm": {
        "batch": 256,
        "epochs": 200,
        "optim.lr": 1.5e-4,
        "optim.betas": (0.9, 0.95),
        "optim.weight_decay": 0.05,
        "schedule.warmup": 0.2,
        "augment.area": (0.2, 1.0),
        "augment.flip": 0.5,
        "augment.mean": 0.4978,
        "augment.std": 0.2449,
        "options.ratio": 0.75,
        "augment.crop": "resized",
        "options.upscale": 448 / 224,
        "options.norm_pix": True,
        "options.text": "raw",
        "options.decoder_width": 768,
        "options.decoder_depth": 4,
        "options.decoder_heads": 6,
        "options.text_ratio": 0.5,
        "options.text_width": 384,
        "options.text_layers": 6,
        "options.text_heads": 6,
        "options.text_mlp": 1536,
        "options.mask_unit": "word",
        "options.mlm_scope": "all",
        "init": "mae-imagenet",
    },
    "mgca": {
        "batch": 144,
        "epochs": 50,
        "optim.lr": 2e-5,
        "optim.betas": (0.9, 0.999),
        "optim.weight_decay": 0.05,
        "optim.decay_1d": True,
        "schedule.warmup": 0.4,
        "schedule.start": 1e-8,
        "schedule.end": 1e-8,
        "augment.resize": 256,
        "augment.crop": "random",
        "augment.mean": 0.5,
        "augment.std": 0.5,
        "augment.flip": 0.0,
        "options.dim": 128,
        "options.hidden": 2048,
        "options.prototypes": 500,
        "options.tau_global": 0.07,
        "options.tau_local": 0.1,
        "options.tau_proto": 0.2,
        "options.sinkhorn_eps": 0.05,
        "options.sinkhorn_rounds": 3,
        "options.weight_ita": 1.0,
        "options.weight_local": 1.0,
        "options.weight_proto": 1.0,
        "options.freeze_prototypes": 1,
        "options.clip_weights": [0.1, 0.9],
        "init": "deit",
    },
    "medim": {
        "batch": 144,
        "epochs": 50,
        "optim.lr": 2e-5,
        "optim.weight_decay": 0.05,
        "augment.resize": 240,
        "augment.jitter": (0.4, 0.4, 0.4, 0.1),
        "augment.jitter_p": 0.8,
        "augment.grey_p": 0.2,
        "augment.blur": (0.1, 2.0),
        "augment.blur_p": 0.5,
        "augment.flip": 0.0,
        "options.alpha": 10.0,
        "options.ratio": 0.5,
        "options.mask_mode": "high",
        "options.empty_mesh": "random",
        "options.mask_token": "zero",
        "options.tanh": True,
        "options.decoder": [512, 256, 128, 64],
        "options.prototypes": 500,
        "init": "deit",
    },
    "cmitm": {
        "batch": 256,
        "epochs": 50,
        "optim.lr": 2e-5,
        "optim.betas": (0.9, 0.999),
        "optim.weight_decay": 0.05,
        "optim.decay_1d": False,
        "schedule.warmup": 0.4,
        "augment.resize": 256,
        "augment.mean": 0.5,
        "augment.std": 0.5,
        "options.ratio": 0.75,
        "options.tau": 0.07,
        "augment.crop": "random",
        "augment.flip": 0.0,
        "options.stage": "second",
        "options.dim": 128,
        "options.hidden": 2048,
        "options.rep_depth": 2,
        "options.rep_heads": 6,
        "init": "cmitm-s1",
    },
    "cmitm-s1": {
        "epochs": 200,
        "batch": 256,
        "optim.lr": 1.5e-4,
        "optim.weight_decay": 0.05,
        "optim.betas": (0.9, 0.95),
        "schedule.warmup": 0.2,
        "augment.crop": "resized",
        "augment.area": (0.2, 1.0),
        "options.stage": "first",
        "options.upscale": 448 / 224,
        "options.decoder_depth": 4,
        "options.text_ratio": 0.5,
        "options.mlm_scope": "masked",
    },
    "cmitm-joint": {
        "epochs": 200,
        "optim.lr": 1.5e-4,
        "init": "mae-imagenet",
        "options.stage": "joint",
    },
    "cmitm-nomask": {"options.ratio": 0.0, "init": "cmitm-s1"},
    "cmitm-nodecoder": {"options.rep_decoder": False},
    "cmitm-nomitm": {"init": "mae-imagenet", "options.stage": "second"},
    "cmitm-r25": {"options.ratio": 0.25},
    "cmitm-r50": {"options.ratio": 0.5},
    "medim-kwm": {"options.kwm": True, "options.sdm": False, "options.alpha": 10.0},
    "medim-r25": {"options.ratio": 0.25},
    "medim-r75": {"options.ratio": 0.75},
}
SHARED = {
    "pretrain.image": 224,
    "pretrain.vit": {
        "patch": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "mlp": 4.0,
        "init": "normal",
    },
    "pretrain.text.layers": 6,
    "pretrain.text.width": 768,
    "pretrain.text.positions": "normal",
    "pretrain.text.attn_shift": "none",
    "shards.text.length": 112,
    "shards.text.vocab": 28996,
    "seeds.pretrain": [0],
    "seeds.downstream": [0, 1, 2],
    # The data rows of the ledger (protocols.md section 4).
    "manifest.datasets.mimic.split": "fractions",
    "manifest.datasets.mimic.fractions": [0.8, 0.0, 0.2],
    "manifest.datasets.mimic.unit": "patient",
    "manifest.datasets.mimic.views": "frontal",
    "manifest.datasets.mimic.fallback": "none",
    "manifest.datasets.mimic.overrides": "keep",
    "manifest.datasets.chexpert.split": "official500",
    "manifest.datasets.chexpert.views": "frontal",
    "manifest.datasets.chexpert.release": "small",
    "manifest.datasets.chexpert.held_out": 5000,
    "manifest.entries.chexpert-cmitm.set.split": "valid_as_test",
    "manifest.entries.chexpert-cmitm.set.views": "all",
    "manifest.datasets.covidx.split": "pooled",
    "manifest.datasets.covidx.list": "CXR-3A",
    "manifest.datasets.covidx.unit": "patient",
    "manifest.datasets.covidx.fractions": [0.8, 0.1, 0.1],
    "manifest.entries.covidx-cmitm.set.split": "official",
    "manifest.datasets.siim.split": "fractions",
    "manifest.datasets.siim.fractions": [0.7, 0.15, 0.15],
    "manifest.datasets.siim.unit": "image",
    "manifest.datasets.siim.release": "reissue",
    "manifest.datasets.siim.balance": True,
    "manifest.datasets.nih.split": "mrm",
    "manifest.datasets.nih.labels": "list",
    "manifest.datasets.rsna.split": "mrm",
    "manifest.datasets.rsna.negative": "all",
    "manifest.subset.reseed": False,
    "manifest.subset.nested": True,
    "shards.text.mesh.source": "radiology",
    "shards.text.mesh.trees": ["A", "C", "E"],
    "shards.text.raw.length": 100,
    "shards.text.raw.vocab": 30000,
    "downstream.probe.lr": 5e-4,
    "downstream.probe.weight_decay": 1e-6,
    "downstream.probe.batch": 48,
    "downstream.probe.epochs": 50,
    "downstream.probe.patience": 10,
    "downstream.probe.pool": "cls",
    "downstream.segment.lr": 2e-5,
    "downstream.segment.weight_decay": 0.05,
    "downstream.segment.batch": 32,
    "downstream.segment.epochs": 50,
    "downstream.segment.patience": 10,
    "downstream.segment.focal_weight": 10.0,
    "downstream.segment.focal_gamma": 2.0,
    "downstream.segment.scale": 0.1,
    "downstream.segment.rotate": 10.0,
    "downstream.segment.threshold": 0.5,
    "downstream.segment.freeze": False,
    "downstream.finetune.batch": 96,
    "downstream.finetune.eval_batch": 512,
    "downstream.finetune.momentum": 0.9,
    "downstream.finetune.weight_decay": 0.0,
    "downstream.finetune.clip": 1.0,
    "downstream.finetune.drop_path": 0.1,
    "downstream.finetune.head_std": 2e-5,
    "downstream.finetune.schedule": {
        "nih": {"1": [50, 3000, 3e-2], "10": [500, 30000, 3e-3], "100": [5000, 200000, 3e-3]},
        "chexpert": {
            "1": [150, 2000, 3e-3],
            "10": [1500, 60000, 5e-4],
            "100": [15000, 200000, 5e-4],
        },
        "rsna": {"1": [50, 2000, 3e-3], "10": [200, 10000, 5e-4], "100": [2000, 50000, 5e-4]},
        # no schedule is known: steps as for RSNA, the rate chosen on the validation images
        "covidx": {
            "1": [50, 2000, [3e-2, 3e-3, 5e-4]],
            "10": [200, 10000, [3e-2, 3e-3, 5e-4]],
            "100": [2000, 50000, [3e-2, 3e-3, 5e-4]],
        },
    },
}


@pytest.mark.parametrize("entry", PRETRAIN)
def test_paper_scale_pretraining_is_the_papers(paper, entry):
    method, block = paper.pretraining(entry)
    tree = block.model_dump()
    assert {key: dig(tree, key) for key in PRETRAIN[entry]} == PRETRAIN[entry], method


@pytest.mark.parametrize("key", SHARED)
def test_paper_scale_shared_value_is_the_papers(paper, key):
    assert dig(paper.model_dump(), key) == SHARED[key]


def test_every_trained_method_of_the_papers_is_pinned(paper, published):
    methods = published & set(paper.pretrain.methods)
    trained = {m for m in methods if paper.pretraining(m)[1].trains}
    assert trained <= set(PRETRAIN)


@pytest.mark.parametrize("scale", ["demo", "trend"])
def test_small_scales_start_from_random_weights(tree, write_params, scale):
    loaded = params.load(write_params(tree), scale)
    entries = {*loaded.pretrain.methods, *loaded.pretrain.entries}
    for entry in entries:
        init = loaded.pretraining(entry)[1].init
        assert init == "none" or init in entries, (entry, init)


def test_the_middle_scale_is_a_small_vit_at_224(tree, write_params):
    loaded = params.load(write_params(tree), "phantom")
    vit = loaded.pretrain.vit
    assert (vit.width, vit.depth, vit.heads, loaded.pretrain.image) == (384, 12, 6, 224)
