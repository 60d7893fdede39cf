"""docs/switches.md, params.yaml and the tests name the same switches: the rows of the ledger.

The ledger is section 4 of protocols.md, completed by exactness.md; its values are typed here again
by hand, so that neither params.yaml nor the docs can drift from it. Downstream rows are in
test_switches_downstream.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any, get_args, get_origin

import pytest
import torch

from cxrmim import params as params_module
from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Stored
from cxrmim.pretrain.schedule import build_optimiser

TOP = set(Params.model_fields)  # first words of a switch's name

# Data rows of the ledger (protocols.md section 4): topic -> the switch that decides it.
LEDGER = {
    "MIMIC split": "manifest.datasets.mimic.split",
    "views": "manifest.datasets.mimic.views",
    "fallback section": "manifest.datasets.mimic.fallback",
    "override ids": "manifest.datasets.mimic.overrides",
    "resize": "shards.side",
    "CheXpert split": "manifest.datasets.chexpert.split",
    "CheXpert views": "manifest.datasets.chexpert.views",
    "CheXpert copy": "manifest.datasets.chexpert.release",
    "COVIDx split": "manifest.datasets.covidx.split",
    "COVIDx list": "manifest.datasets.covidx.list",
    "SIIM split": "manifest.datasets.siim.split",
    "SIIM split unit": "manifest.datasets.siim.unit",
    "SIIM release": "manifest.datasets.siim.release",
    "RSNA task": "manifest.datasets.rsna.negative",
    "RSNA split": "manifest.datasets.rsna.split",
    "NIH labels": "manifest.datasets.nih.labels",
    "NIH split": "manifest.datasets.nih.split",
    "MeSH preprocessing": "shards.text.mesh",
    "MRM text": "shards.text.raw",
}


M = "pretrain.methods."
E = "pretrain.entries."
MGCA, MEDIM, CMITM = (f"{M}{m}.options." for m in ("mgca", "medim", "cmitm"))
MRM, GLORIA, MAE = (f"{M}{m}.options." for m in ("mrm", "gloria", "mae"))

# Pretraining rows: topic -> (switch, the ledger's default, the official code's side).
PRETRAIN: dict[str, tuple[str, Any, Any]] = {
    "restore weight": (MEDIM + "alpha", 10.0, 5.0),
    "mask rule": (MEDIM + "mask_mode", "high", "diverse"),
    "no MeSH word": (MEDIM + "empty_mesh", "random", "released"),
    "[MASK]": (MEDIM + "mask_token", "zero", "zero"),
    "attention space": (MEDIM + "att_space", "projected", "projected"),
    "ratio symbol": (MEDIM + "ratio", 0.5, 0.5),
    "restoration pixels": (MEDIM + "tanh", True, True),
    "KWM": (MEDIM + "kwm", True, True),
    "SDM": (MEDIM + "sdm", True, True),
    "KWM only": (E + "medim-kwm.set.options.sdm", False, False),
    "no masking": (E + "medim-none.set.options.mask_mode", "none", "none"),
    "random masking": (E + "medim-random.set.options.mask_mode", "random", "random"),
    "low masking": (E + "medim-low.set.options.mask_mode", "low", "low"),
    "text depth": ("pretrain.text.layers", 6, 6),
    "encoder init": (M + "mgca.init", "deit", "deit"),
    "encoder init of MedIM": (M + "medim.init", "deit", "deit"),
    "loss weight of ITA": (MGCA + "weight_ita", 1.0, 1.0),
    "loss weight of local": (MGCA + "weight_local", 1.0, 1.0),
    "loss weight of prototypes": (MGCA + "weight_proto", 1.0, 1.0),
    "negatives": ("pretrain.negatives", "batch", "shard"),
    "Sinkhorn": (MGCA + "sinkhorn", "batch", "shard"),
    "Sinkhorn of MedIM": (MEDIM + "sinkhorn", "batch", "shard"),
    "padding": (MGCA + "padding", "none", "released"),
    "padding of MedIM": (MEDIM + "padding", "none", "released"),
    "momentum 0.9": (M + "medim.optim.betas", (0.9, 0.999), (0.9, 0.999)),
    "warm-up": (M + "medim.schedule.warmup", 0.4, 0.4),
    "augment": (M + "medim.augment.jitter_p", 0.8, 0.8),
    "resize of MedIM": (M + "medim.augment.resize", 240, 240),
    "resize of MGCA": (M + "mgca.augment.resize", 256, 256),
    "resize of CMITM": (M + "cmitm.augment.resize", 256, 256),
    "stop of MGCA": (M + "mgca.stop.patience", 0, 5),
    "stop of MedIM": (M + "medim.stop.patience", 0, 10),
    "stop of CMITM": (M + "cmitm.stop.patience", 0, 5),
    "stop of GLoRIA": (M + "gloria.stop.patience", 10, 10),
    "checkpoint of MGCA": (M + "mgca.stop.select", "last", "last"),
    "checkpoint of MedIM": (M + "medim.stop.select", "last", "last"),
    "checkpoint of CMITM": (M + "cmitm.stop.select", "last", "last"),
    "val drop_last": ("pretrain.loader.drop_val", False, True),
    "CMITM stage-2 text": (CMITM + "text_init", "fresh", "fresh"),
    "stage-1 text encoder": (CMITM + "s1_text", "mrm", "mrm"),
    "text mask unit of MRM": (MRM + "mask_unit", "word", "word"),
    "text mask unit of CMITM": (CMITM + "mask_unit", "word", "token"),
    "text positions": ("pretrain.text.positions", "normal", "zero"),
    "word attention": ("pretrain.text.attn_shift", "none", "released"),
    "text loss positions of MRM": (MRM + "mlm_scope", "all", "all"),
    "text loss positions of CMITM": (CMITM + "mlm_scope", "masked", "masked"),
    "stage 2 batch": (M + "cmitm.batch", 256, 144),
    "crop of stage 2": (M + "cmitm.augment.crop", "random", "random"),
    "crop of stage 1": (E + "cmitm-s1.set.augment.crop", "resized", "resized"),
    "pC Eq. 2": (CMITM + "norm_pix", True, True),
    "stage of cmitm": (CMITM + "stage", "second", "second"),
    "stage of cmitm-s1": (E + "cmitm-s1.set.options.stage", "first", "first"),
    "-cascaded": (E + "cmitm-joint.set.options.stage", "joint", "joint"),
    "-cascaded, budget": (E + "cmitm-joint.set.epochs", 200, 200),
    "-cascaded, init": (E + "cmitm-joint.set.init", "mae-imagenet", "mae-imagenet"),
    "MITM": (M + "cmitm.init", "cmitm-s1", "cmitm-s1"),
    "-MITM": (E + "cmitm-nomitm.set.init", "mae-imagenet", "mae-imagenet"),
    "representation decoder": (CMITM + "rep_decoder", True, True),
    "-representation decoder": (E + "cmitm-nodecoder.set.options.rep_decoder", False, False),
    "image masking of stage 2": (CMITM + "ratio", 0.75, 0.75),
    "no image masking": (E + "cmitm-nomask.set.options.ratio", 0.0, 0.0),
    "GLoRIA ViT init": (M + "gloria.init", "deit", "deit"),
    "MAE on MIMIC": (M + "mae.epochs", 200, 200),
    "GLoRIA on MIMIC": (M + "gloria.epochs", 50, 50),
    "baseline init of MAE": (M + "mae.init", "mae-imagenet", "mae-imagenet"),
    "baseline init of MRM": (M + "mrm.init", "mae-imagenet", "mae-imagenet"),
    "ImageNet weights": (M + "imagenet.init", "deit", "deit"),
    "MRM text": (MRM + "text", "raw", "raw"),
    "MRM positions": (MRM + "positions", "mae", "released"),
    "positions of CMITM": (CMITM + "positions", "mae", "released"),
    "MRM resolution": (MRM + "upscale", 2, 2),
    "MRM ratio": (MRM + "ratio", 0.75, 0.75),
    "MRM targets": (MRM + "norm_pix", True, True),
    "MAE ratio": (MAE + "ratio", 0.75, 0.75),
    "MAE targets": (MAE + "norm_pix", True, True),
    "GLoRIA text": (GLORIA + "full_report", False, False),
    "GLoRIA words": (GLORIA + "words", "real", "released"),
    "precision": ("pretrain.precision", "fp32", "fp32"),
}


def lines(repo) -> list[str]:
    text = (repo / "docs/switches.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| ")]


def value(params: Params, key: str) -> Any:
    """The value of a switch; a method's as it is resolved, what it is built on included."""
    tree: Any = params.model_dump()
    parts = key.split(".")
    if key.startswith(M):
        tree, parts = params.pretraining(parts[2])[1].model_dump(), parts[3:]
    for part in parts:
        assert isinstance(tree, dict) and part in tree, f"{key}: no {part}"
        tree = tree[part]
    return tree


@pytest.mark.parametrize("topic", PRETRAIN)
def test_the_default_is_the_ledgers(paper, topic):
    key, default, _ = PRETRAIN[topic]
    assert value(paper, key) == default


@pytest.mark.parametrize("topic", PRETRAIN)
def test_released_is_the_official_codes_side(released, topic):
    key, _, theirs = PRETRAIN[topic]
    assert value(released, key) == theirs


def leaves(tree: Any, key: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {key: tree}
    return {k: v for name, t in tree.items() for k, v in leaves(t, f"{key}.{name}").items()}


def test_released_changes_no_pretraining_beyond_the_ledger(paper, released):
    """All that differs, in methods as they are resolved, is a row above whose two sides differ."""
    found = {}
    for params in (paper, released):
        tree = params.pretrain.model_dump(exclude={"methods", "entries"})
        flat = leaves(tree, "pretrain")
        for method in params.pretrain.methods:
            flat |= leaves(params.pretraining(method)[1].model_dump(), M + method)
        found[params.protocol] = flat
    differ = {k for k in found["released"] if found["paper"].get(k) != found["released"][k]}
    assert differ == {key for key, default, theirs in PRETRAIN.values() if default != theirs}


def test_released_changes_no_entry_beyond_its_method(paper, released):
    """Variants take their method's switches; what no code was released for keeps its budget."""
    ours = {"cmitm-s1", "cmitm-joint"}
    options = {".options.positions", ".options.mask_unit"}
    for entry in paper.pretrain.entries:
        one, two = (leaves(p.pretraining(entry)[1].model_dump(), "") for p in (paper, released))
        differ = {k for k in two if one.get(k) != two[k]}
        method = paper.pretraining(entry)[0]
        named = {k.removeprefix(M + method) for k, a, b in PRETRAIN.values() if a != b}
        assert differ <= (options if entry in ours else named), entry


def documented(repo) -> set[str]:
    """Switches that the docs name; a short name has the prefix of the full one before it."""
    found = set()
    for line in lines(repo)[2:]:
        for cell in line.split("|")[2:]:
            prefix = ""
            for name in re.findall(r"`([a-z_]+(?:\.[a-z0-9_-]+)*)`", cell):
                if name.split(".")[0] in TOP and "." in name:
                    found.add(name)
                    prefix = name.rpartition(".")[0]
                elif prefix:
                    found.add(f"{prefix}.{name}")
    return found


BUILT_ON = {M + "medim.": M + "mgca.", CMITM: MRM}


@pytest.mark.parametrize("topic", PRETRAIN)
def test_every_pretraining_row_of_the_ledger_has_a_line(repo, topic):
    """By its name, that of its entry or block, or that of the method it is inherited from."""
    key, named = PRETRAIN[topic][0], documented(repo)
    wanted = [key]
    wanted += [key.replace(a, b) for a, b in BUILT_ON.items()]
    parts = key.split(".")
    wanted += [".".join(parts[:n]) for n in range(3, len(parts)) if key.startswith(E) or n > 3]
    assert named & set(wanted), key


@pytest.mark.parametrize("topic", LEDGER)
def test_every_data_row_of_the_ledger_has_a_switch_and_a_line(repo, paper, topic):
    value(paper, LEDGER[topic])
    assert any(f"`{LEDGER[topic]}" in line for line in lines(repo)), topic


def test_every_switch_named_in_the_docs_exists(repo, paper):
    found = 0
    for line in lines(repo)[2:]:
        for cell in line.split("|")[2:]:
            for name in re.findall(r"`([a-z_]+(?:\.[a-z0-9_-]+)+)`", cell):
                if name.split(".")[0] in TOP:
                    value(paper, name)
                    found += 1
    assert found > 90  # names in all


@pytest.mark.parametrize("dataset", plugins.names("dataset"))
def test_every_choice_of_a_reader_is_in_the_docs(repo, dataset):
    """Options that name alternatives, and every alternative by its name."""
    model = plugins.options("dataset", dataset)
    assert model is not None
    text = "\n".join(line for line in lines(repo) if f"datasets.{dataset}." in line)
    seen = 0
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) if get_origin(field.annotation) is not None else ()
        named = [kind for kind in kinds if isinstance(kind, str)]
        if len(named) < 2:
            continue
        assert f"`manifest.datasets.{dataset}.{name}`" in text, f"{dataset}.{name}"
        for kind in named:
            assert f"`{kind}`" in text or f"`{name}: {kind}`" in text, f"{dataset}.{name}: {kind}"
        seen += 1
    assert seen


# Where each switch is flipped: the test that shows what its other side does.
ALIGN, GUIDED = (
    ("pretrain_alignment", "test_every_switch_changes_what_it_should"),
    "pretrain_alignment",
)
TERM = ("pretrain_masked", "test_each_switch_changes_its_own_term")
SLOW = ("pretrain_masked", "test_terms_and_gradients_equal_the_slow_ones")
BLOCK = ("pretrain_released", "test_every_switch_of_the_block_acts")
GIVEN = ("pretrain_weights", "test_an_entry_gives_what_the_method_inherits_and_nothing_else")
LOOP = "pretrain_flips"
BEGINS = (LOOP, "test_init_gives_the_encoder_and_nothing_else")
SHOWN = (LOOP, "test_augmentation_is_that_of_params")
LEARNS = (LOOP, "test_warmup_and_betas_change_the_steps_that_are_taken")
FORMULAS = ("pretrain_gloria", "test_terms_and_gradients_equal_the_formulas")
SIZES = (LOOP, "test_batch_and_epochs_are_those_of_params")
PAIR, MASKED = "pretrain_distributed", "pretrain_masked"
FLIPS = {
    MEDIM + "alpha": (GUIDED, "test_weights_and_alpha_are_those_of_params"),
    MEDIM + "mask_mode": ALIGN,
    MEDIM + "empty_mesh": ALIGN,
    MEDIM + "mask_token": (GUIDED, "test_a_learned_mask_token_fills_masked_places"),
    MEDIM + "att_space": ALIGN,
    MEDIM + "ratio": ALIGN,
    MEDIM + "tanh": ALIGN,
    MEDIM + "kwm": (GUIDED, "test_kwm_and_sdm_work_alone"),
    MEDIM + "sdm": (GUIDED, "test_kwm_and_sdm_work_alone"),
    "pretrain.text.layers": (LOOP, "test_text_layers_are_those_of_all_methods_but_gloria"),
    M + "mgca.init": BEGINS,
    M + "medim.init": BEGINS,
    M + "gloria.init": BEGINS,
    M + "mae.init": BEGINS,
    M + "mrm.init": BEGINS,
    M + "imagenet.init": BEGINS,
    M + "cmitm.init": GIVEN,
    MGCA + "weight_ita": ("switches", "test_the_three_weights_of_mgca"),
    MGCA + "weight_local": ("switches", "test_the_three_weights_of_mgca"),
    MGCA + "weight_proto": ("switches", "test_the_three_weights_of_mgca"),
    "pretrain.negatives": (PAIR, "test_under_shard_each_process_contrasts_its_own_pairs"),
    MGCA + "sinkhorn": (PAIR, "test_sinkhorn_has_a_switch_of_its_own"),
    MGCA + "padding": BLOCK,
    M + "medim.optim.betas": LEARNS,
    M + "medim.schedule.warmup": LEARNS,
    M + "medim.augment.jitter_p": SHOWN,
    M + "medim.augment.resize": SHOWN,
    M + "cmitm.augment.crop": SHOWN,
    M + "mgca.stop.patience": (LOOP, "test_patience_ends_a_training"),
    M + "mgca.stop.select": (LOOP, "test_select_decides_which_weights_are_kept"),
    "pretrain.loader.drop_val": (LOOP, "test_drop_val_leaves_out_the_last_batch"),
    CMITM + "text_init": (MASKED, "test_stage_two_goes_on_from_stage_one"),
    CMITM + "s1_text": TERM,
    MRM + "mask_unit": TERM,
    CMITM + "mask_unit": TERM,
    MRM + "mlm_scope": TERM,
    CMITM + "mlm_scope": TERM,
    "pretrain.text.positions": ALIGN,
    "pretrain.text.attn_shift": ALIGN,
    M + "cmitm.batch": SIZES,
    M + "mae.epochs": SIZES,
    CMITM + "stage": (MASKED, "test_each_stage_has_the_parts_that_it_trains"),
    CMITM + "rep_decoder": SLOW,
    CMITM + "ratio": (MASKED, "test_a_ratio_of_zero_masks_nothing_and_keeps_the_decoder"),
    MRM + "text": TERM,
    MRM + "positions": TERM,
    MRM + "upscale": SLOW,
    MRM + "ratio": SLOW,
    MRM + "norm_pix": TERM,
    MAE + "ratio": (MASKED, "test_mae_keeps_int_of_the_share"),
    MAE + "norm_pix": (MASKED, "test_mae_restores_the_masked_patches_alone"),
    GLORIA + "full_report": FORMULAS,
    GLORIA + "words": FORMULAS,
    "pretrain.precision": (LOOP, "test_half_precision_changes_the_terms_and_keeps_them_finite"),
}


def flipped(params: Params, key: str) -> tuple[str, str]:
    """The entry of `FLIPS` for a switch: its own, its method's, or that of any with the setting."""
    if key.startswith(E):
        parts = key.split(".")
        key = ".".join([M + str(params.pretrain.entries[parts[2]].method), *parts[4:]])
    if key in FLIPS:
        return FLIPS[key]
    parts = key.split(".")
    base = params.pretrain.methods[parts[2]].get("base")
    inherited = ".".join([M + str(base), *parts[3:]])
    if inherited in FLIPS:
        return FLIPS[inherited]
    assert parts[3] != "options", f"{key}: no test flips it"
    same = [found for name, found in FLIPS.items() if name.split(".")[3:] == parts[3:]]
    assert same, f"{key}: no test flips it"
    return same[0]


def flips(repo, where: tuple[str, str], said: Iterable[str]) -> None:
    """A test of this (file, name) exists, and its file names one of the words."""
    file, name = where
    (path,) = (repo / "tests").rglob(f"test_{file}.py")
    text = path.read_text(encoding="utf-8")
    functions = {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    assert name.startswith("test_") and name in functions, f"{path}: no {name}"
    found = any(re.search(rf"(?<![a-z]){word}(?![a-z])", text) for word in said)
    assert found, f"{path} never names {said}"


@pytest.mark.parametrize("topic", PRETRAIN)
def test_a_test_flips_every_pretraining_switch(repo, paper, topic):
    key = PRETRAIN[topic][0]
    leaf = key.rpartition(".")[2]
    entries = paper.pretrain.entries.items()
    flips(repo, flipped(paper, key), [leaf, *(e for e, v in entries if leaf in str(v.set))])


def test_no_flip_is_of_a_switch_that_the_ledger_lacks():
    rows = {key for key, _, _ in PRETRAIN.values()}
    assert set(FLIPS) - rows == set()


def test_the_three_weights_of_mgca(tree, write_params):
    for name in ("weight_ita", "weight_local", "weight_proto"):
        options = tree["scales"]["demo"]["pretrain"]["methods"]["mgca"]["options"]
        options[name] = 0.25
        method = weights.build_method(
            params_module.load(write_params(tree), "demo"), "medim", Stored(vocab=40, length=24)
        )
        losses = dict.fromkeys(method.weights, torch.ones(()))
        losses[name.removeprefix("weight_")] = torch.full((), 5.0)
        assert float(method.total(losses)) == sum(method.weights.values()) + 4 * 0.25
        del options[name]


def test_betas_reach_the_optimiser(paper):
    optim = paper.pretraining("medim")[1].optim
    built = build_optimiser(torch.nn.Linear(2, 2), optim)
    assert {group["betas"] for group in built.param_groups} == {(0.9, 0.999)}
    built = build_optimiser(torch.nn.Linear(2, 2), optim.model_copy(update={"betas": (0.8, 0.9)}))
    assert {group["betas"] for group in built.param_groups} == {(0.8, 0.9)}
