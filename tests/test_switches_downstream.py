"""Downstream rows of the ledger: params.yaml, `released`, docs/switches.md and the flipping tests.

As test_switches does for the rows of data and pretraining; values are typed here again by hand.
"""

from __future__ import annotations

from typing import Any, get_args, get_origin

import pytest

from cxrmim import plugins
from tests.test_switches import documented, flips, leaves, lines, value

P, F, S, R = (f"downstream.{task}." for task in ("probe", "finetune", "segment", "retrieve"))
SUBSET = "manifest.subset."
ABLATION = [
    {"dataset": d, "task": t, "percents": [10], "seeded": True}
    for d, t in (("covidx", "probe"), ("chexpert", "probe"), ("siim", "segment"))
]
JITTERED = {
    **{"crop": "random", "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_p": 0.8, "grey_p": 0.2},
    **{"blur": [0.1, 2.0], "blur_p": 0.5},
}
RATES = [3.0e-2, 3.0e-3, 5.0e-4]  # those of the table of protocols.md, from which COVIDx chooses
NIH = {"1": [50, 3000, 3.0e-2], "10": [500, 30000, 3.0e-3], "100": [5000, 200000, 3.0e-3]}
CHEXPERT = {"1": [150, 2000, 3.0e-3], "10": [1500, 60000, 5.0e-4], "100": [15000, 200000, 5.0e-4]}
RSNA = {"1": [50, 2000, 3.0e-3], "10": [200, 10000, 5.0e-4], "100": [2000, 50000, 5.0e-4]}
COVIDX = {percent: [*steps[:2], RATES] for percent, steps in RSNA.items()}

# topic -> (switch, the ledger's default, the official code's side)
ROWS: dict[str, tuple[str, Any, Any]] = {
    "probe feature": (P + "pool", "cls", "cls"),
    "probe batch": (P + "batch", 48, 48),
    "probe patience": (P + "patience", 10, 10),
    "probe solver": (P + "solver", "adamw", "adamw"),
    "probe views": (P + "views", 1, "epoch"),
    "probe augmentation, CheXpert": (P + "augment.chexpert", JITTERED, JITTERED),
    "probe augmentation, COVIDx": (P + "augment.covidx", {"crop": "random"}, {"crop": "random"}),
    "FT feature": (F + "pool", "avg", "avg"),
    "CMITM FT code, NIH": (F + "schedule.nih", NIH, NIH),
    "CMITM FT code, CheXpert": (F + "schedule.chexpert", CHEXPERT, CHEXPERT),
    "CMITM FT code, RSNA": (F + "schedule.rsna", RSNA, RSNA),
    "COVIDx FT schedule": (F + "schedule.covidx", COVIDX, COVIDX),
    "FT optimiser": (F + "optimiser", "sgd", "sgd"),
    "FT layer-wise decay": (F + "layer_decay", 1.0, 1.0),
    "FT drop-path": (F + "drop_path", 0.1, 0.1),
    "FT crops": (F + "frame", "content", "content"),
    "FT precision": (F + "precision", "fp32", "fp32"),
    "FT validation": (F + "validate_every", "epoch", "epoch"),
    "FT stop": (F + "patience", 0, 0),
    "seg encoder": (S + "freeze", False, False),
    "seg frame": (S + "frame", "whole", "whole"),
    "seg decoder of baselines": (S + "decoder_init", "method", "method"),
    "Dice": (S + "empty", "one", "one"),
    "SIIM train": ("manifest.datasets.siim.balance", True, True),
    "retrieval set": (R + "pool", "heldout", "heldout"),
    "retrieval pool size": (R + "size", None, None),
    "retrieval duplicates": (R + "duplicates", "strict", "strict"),
    "seeds": ("seeds.downstream", [0, 1, 2], [0, 1, 2]),
    "one subset for all seeds": (SUBSET + "reseed", False, False),
    "nested subsets": (SUBSET + "nested", True, True),
    "T3 label share": ("grid.medim_table3.cells", ABLATION, ABLATION),
    "MRM in pM T1": ("grid.medim_table1.rows", "methods", "methods"),
    "pC MRM row": ("grid.cmitm_table1.rows", "methods", "methods"),
}

# switch -> (file, test) that shows what its other side does
RUNS, LINEAR, VIEWS, SEG, POOL, TUNE, FIT, NET = (
    f"downstream_{file}"
    for file in (
        *("runs", "linear", "features", "segment", "retrieval"),
        *("finetune", "finetuning", "finetuning_network"),
    )
)
RATE = (FIT, "test_the_rate_warms_up_and_falls_to_zero")
FLIPS: dict[str, tuple[str, str]] = {
    P + "pool": (RUNS, "test_pooling_takes_cls_or_the_patches"),
    P + "batch": (LINEAR, "test_it_is_torch_linear_trained_by_adamw_and_autograd"),
    P + "patience": (LINEAR, "test_early_stop_keeps_the_best_epoch"),
    P + "solver": (VIEWS, "test_lbfgs_scores_as_its_own_head"),
    P + "views": (VIEWS, "test_views_change_what_is_predicted"),
    P + "augment.chexpert": (VIEWS, "test_a_fresh_view_an_epoch_is_what_a_plain_loop_does"),
    P + "augment.covidx": (VIEWS, "test_a_fresh_view_an_epoch_is_what_a_plain_loop_does"),
    F + "pool": (TUNE, "test_each_option_acts"),
    F + "schedule.nih": RATE,
    F + "schedule.chexpert": RATE,
    F + "schedule.rsna": RATE,
    F + "schedule.covidx": (TUNE, "test_a_grid_of_rates_gives_what_its_best_rate_gives_alone"),
    F + "optimiser": (FIT, "test_each_switch_changes_training"),
    F + "layer_decay": (FIT, "test_layer_decay_slows_deeper_layers"),
    F + "drop_path": (NET, "test_stochastic_depth_grows_with_depth"),
    F + "frame": (NET, "test_the_padded_frame_shows_it"),
    F + "precision": (NET, "test_half_precision_is_a_gpus"),
    F + "validate_every": (FIT, "test_steps_are_counted_and_epochs_validated"),
    F + "patience": (FIT, "test_the_best_step_is_kept_and_patience_ends_it"),
    S + "freeze": (SEG, "test_freezing_changes_the_outcome"),
    S + "frame": (SEG, "test_whole_images_give_every_method_the_same_truth"),
    S + "decoder_init": (SEG, "test_the_decoder_comes_from_the_method_if_it_has_one"),
    S + "empty": ("downstream_metrics", "test_dice_by_hand"),
    "manifest.datasets.siim.balance": ("manifest_siim", "test_balance_switch"),
    R + "size": (POOL, "test_a_pool_of_a_size_is_drawn_by_the_dataset_alone"),
    R + "duplicates": (POOL, "test_blocks_change_nothing_and_duplicates_do"),
    "seeds.downstream": (TUNE, "test_seeds_percents_and_weights_change_predictions"),
    SUBSET + "reseed": ("manifest_splits", "test_the_reseed_switch_draws_for_each_seed"),
    SUBSET + "nested": ("manifest_splits", "test_the_nesting_switch"),
}
ONE_SIDED = {R + "pool"}  # one choice only
OF_THE_GRID = {key for key, _, _ in ROWS.values() if key.startswith("grid.")}


@pytest.mark.parametrize("topic", ROWS)
def test_the_default_is_the_ledgers(paper, topic):
    key, default, _ = ROWS[topic]
    assert value(paper, key) == default


@pytest.mark.parametrize("topic", ROWS)
def test_released_is_the_official_codes_side(released, topic):
    key, _, theirs = ROWS[topic]
    assert value(released, key) == theirs


def test_released_changes_nothing_downstream_beyond_the_ledger(paper, released):
    one, two = (leaves(p.downstream.model_dump(), "downstream") for p in (paper, released))
    differ = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
    named = {key for key, default, theirs in ROWS.values() if default != theirs}
    assert differ == {key for key in named if key.startswith("downstream.")}


@pytest.mark.parametrize("topic", ROWS)
def test_every_row_has_a_line(repo, topic):
    key = ROWS[topic][0]
    assert {key, key.rpartition(".")[0]} & documented(repo), key


@pytest.mark.parametrize("topic", ROWS)
def test_a_test_flips_every_switch(repo, topic):
    """But for those with one side, and for what the grid lists: each cell of it is a run."""
    key = ROWS[topic][0]
    if key in ONE_SIDED:
        _, task, option = key.split(".")
        assert len(get_args(fields(task)[option].annotation)) == 1
    elif key not in OF_THE_GRID:
        parts = key.split(".")  # downstream.TASK.OPTION, perhaps with a dataset
        flips(repo, FLIPS[key], [parts[2] if parts[0] == "downstream" else parts[-1]])


def test_no_flip_is_of_a_switch_that_the_ledger_lacks():
    assert set(FLIPS) <= {key for key, _, _ in ROWS.values()}


def fields(task: str) -> dict[str, Any]:
    model = plugins.options("task", task)
    assert model is not None
    return model.model_fields


def choices(kind: Any) -> list[str]:
    """Names that a field offers, of a `Literal` or of one among other kinds."""
    if get_origin(kind) is None:
        return ["true", "false"] if kind is bool else []
    inner = [choice for part in get_args(kind) for choice in choices(part)]
    return inner or [part for part in get_args(kind) if isinstance(part, str)]


@pytest.mark.parametrize("task", plugins.names("task"))
def test_every_choice_of_a_task_is_a_row_with_its_names(repo, task):
    """An option that offers names, or yes and no, is a switch."""
    rows = {key for key, _, _ in ROWS.values()}
    for name, field in fields(task).items():
        named = choices(field.annotation)
        if name == "schedule" or not named:  # its keys are percents
            continue
        key = f"downstream.{task}.{name}"
        assert key in rows
        text = "\n".join(line for line in lines(repo) if f"`{key}`" in line)
        for choice in named if named != ["true", "false"] else ():
            assert f"`{choice}`" in text, f"{key}: {choice}"


def test_what_the_papers_took_from_mrm_is_said(repo):
    """`mrm.source`: neither paper's MRM row is what this project runs."""
    (line,) = (each for each in lines(repo) if "`grid.medim_table1.rows`" in each)
    for part in ("88.50", "fine-tuning", "`grid.cmitm_table1.rows`", "copied", "re-run"):
        assert part in line
