"""Splits by unit and label subsets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.manifest import splits
from cxrmim.schema import Subset

NAMES = ["train", "valid", "test"]


def subset(nested=True, seed=42, min_positives=1, lists=True, reseed=False):
    return Subset(lists=lists, nested=nested, reseed=reseed, seed=seed, min_positives=min_positives)


def table(positives: np.ndarray, split="train") -> pd.DataFrame:
    rows = len(positives)
    out = pd.DataFrame({"image": [f"i{k:05d}" for k in range(rows)], "split": [split] * rows})
    for k in range(positives.shape[1]):
        out[f"label_{k}"] = positives[:, k].astype(np.float32)
    return out


def sizes(split: np.ndarray, names=NAMES) -> list[int]:
    return [int((split == name).sum()) for name in names]


def test_units_stay_together_and_equal_ones_are_cut_at_the_shares():
    units = pd.Series([f"p{i // 3}" for i in range(300)])
    split = splits.by_unit(units, [0.7, 0.15, 0.15], NAMES, seed=0)
    sets = {name: set(units[split == name]) for name in NAMES}
    assert [len(s) for s in sets.values()] == [70, 15, 15]
    assert not (sets["train"] & sets["test"]) | (sets["train"] & sets["valid"])


def test_images_count_not_units():
    # 10 patients of 1 image and 10 of 9: half of the 100 images, whoever is drawn first.
    units = pd.Series([f"a{i}" for i in range(10)] + [f"b{i % 10}" for i in range(90)])
    for seed in range(10):
        split = splits.by_unit(units, [0.5, 0.5], ["train", "test"], seed)
        assert sizes(split, ["train", "test"]) == [50, 50]


def test_a_unit_too_large_for_its_split_goes_where_it_misses_least():
    units = pd.Series(list("aaaaaaaa" + "bc"))  # 8, 1, 1 images for 8/1/1 wanted
    split = splits.by_unit(units, [0.8, 0.1, 0.1], NAMES, seed=0)
    assert sizes(split) == [8, 1, 1]


def test_weights_are_in_any_scale_and_zero_is_an_empty_split():
    units = pd.Series([f"p{i}" for i in range(100)])
    shares = splits.by_unit(units, [0.8, 0.0, 0.2], NAMES, seed=1)
    assert sizes(shares) == [80, 0, 20]
    assert (splits.by_unit(units, [400, 0, 100], NAMES, seed=1) == shares).all()


def test_no_split_with_a_weight_is_empty_while_there_are_units():
    for seed in range(20):
        split = splits.by_unit(pd.Series(list("abcd")), [0.98, 0.01, 0.01], NAMES, seed)
        assert sizes(split) == [2, 1, 1]
    assert sizes(splits.by_unit(pd.Series(["a"] * 5), [0.8, 0.1, 0.1], NAMES, 0)) == [5, 0, 0]
    assert len(splits.by_unit(pd.Series([], dtype=object), [0.5, 0.5, 0], NAMES, 0)) == 0


@pytest.mark.parametrize("weights", [[0, 0], [-0.1, 1.1], [float("nan"), 1]])
def test_weights_that_are_none(weights):
    with pytest.raises(DataError, match="must be 0 or more and not all 0"):
        splits.by_unit(pd.Series(["a"]), weights, ["a", "b"], seed=0)


@given(
    counts=st.lists(st.integers(1, 6), min_size=12, max_size=120),
    weights=st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100)
def test_any_units_are_disjoint_and_near_the_wanted_shares(counts, weights, seed):
    units = pd.Series(np.repeat([f"p{i}" for i in range(len(counts))], counts))
    order = np.random.default_rng(seed).permutation(len(units))
    split = splits.by_unit(units, weights, NAMES, seed)
    again = splits.by_unit(units.iloc[order].reset_index(drop=True), weights, NAMES, seed)
    assert (split[order] == again).all()
    assert pd.DataFrame({"unit": units, "split": split}).groupby("unit").split.nunique().max() == 1
    wanted = np.array(weights) / sum(weights) * len(units)
    found = np.array(sizes(split))
    assert found.sum() == len(units)
    assert ((found == 0) == (np.array(weights) == 0)).all()
    # A split that is owed less than its one unit takes what the others are then short of.
    assert np.abs(found - wanted).max() <= 2 * max(counts)


@given(
    number=st.integers(3, 150),
    each=st.integers(1, 5),
    weights=st.lists(st.floats(0.2, 1), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100)
def test_units_of_equal_size_miss_the_share_by_less_than_one_and_a_half(
    number, each, weights, seed
):
    units = pd.Series(np.repeat([f"p{i}" for i in range(number)], each))
    found = np.array(sizes(splits.by_unit(units, weights, NAMES, seed))) / each
    wanted = np.array(weights) / sum(weights) * number
    assert (found == found.round()).all()
    assert np.abs(found - wanted).max() < 1.5
    if each == 1:
        assert np.abs(found - wanted).max() <= 1


def test_a_split_depends_on_the_seed():
    units = pd.Series([f"p{i}" for i in range(50)])
    one = splits.by_unit(units, [0.8, 0.2], ["a", "b"], seed=3)
    assert (one != splits.by_unit(units, [0.8, 0.2], ["a", "b"], seed=4)).any()


def test_balancing_keeps_all_positives_and_as_many_negatives():
    positive = np.array([True] * 5 + [False] * 20)
    keep = splits.balanced(positive, seed=0)
    assert keep[:5].all()
    assert keep.sum() == 10
    assert (keep != splits.balanced(positive, seed=1)).any()
    assert splits.balanced(~positive, seed=0).all()  # fewer negatives than positives: all stay


@given(
    n=st.integers(40, 400),
    classes=st.integers(0, 6),
    share=st.floats(0.02, 0.9),
    least=st.integers(0, 3),
    nested=st.booleans(),
    seed=st.integers(0, 50),
)
@settings(max_examples=60)
def test_subsets_hold_positives_and_negatives_of_every_class(
    n, classes, share, least, nested, seed
):
    positives = np.random.default_rng(seed).random((n, classes)) < share
    frame = table(positives)
    found = splits.subsets(frame, subset(nested, seed, least))
    for percent in (1, 10):
        chosen = found[f"in_{percent}"].to_numpy()
        size = max(1, round(n * percent / 100))
        assert chosen.sum() >= size
        if size >= classes * (least + 1):  # large enough for any pattern of labels
            assert chosen.sum() == max(size, found["in_1"].sum() if nested else 0)
        for k in range(classes):
            assert positives[chosen, k].sum() >= min(least, positives[:, k].sum())
            assert (~positives[chosen, k]).sum() >= min(1, (~positives[:, k]).sum())
    if nested:
        assert (found["in_10"] | ~found["in_1"]).all()


@given(classes=st.integers(2, 6), n=st.integers(30, 300), seed=st.integers(0, 50))
@settings(max_examples=40)
def test_a_subset_of_a_multiclass_set_holds_every_class(classes, n, seed):
    rng = np.random.default_rng(seed)
    # The last classes are rare: one image each.
    which = np.concatenate([np.arange(classes), np.zeros(n - classes, dtype=int)])
    labels = np.eye(classes, dtype=bool)[rng.permutation(which)]
    found = splits.subsets(table(labels), subset(seed=seed))
    for percent in (1, 10):
        assert labels[found[f"in_{percent}"].to_numpy()].any(0).all()
        size = max(1, round(n * percent / 100))
        assert found[f"in_{percent}"].sum() == max(
            size, classes, found["in_1"].sum() * (percent > 1)
        )


@given(seed=st.integers(0, 100), nested=st.booleans())
@settings(max_examples=20)
def test_the_order_of_rows_does_not_decide_a_subset(seed, nested):
    frame = table(np.random.default_rng(0).random((200, 2)) < 0.2)
    order = np.random.default_rng(seed).permutation(len(frame))
    one = splits.subsets(frame, subset(nested, seed))
    two = splits.subsets(frame.iloc[order].reset_index(drop=True), subset(nested, seed))
    assert (one.to_numpy()[order] == two.to_numpy()).all()
    other = splits.subsets(frame, subset(nested, seed + 1))
    assert (one["in_10"] != other["in_10"]).any()


def test_subsets_are_drawn_from_the_training_rows_only():
    frame = table(np.ones((100, 1), dtype=bool))
    frame.loc[50:, "split"] = "test"
    found = splits.subsets(frame, subset())
    assert not found.loc[50:].to_numpy().any()
    assert found["in_10"].sum() == 5


def test_the_nesting_switch():
    frame = table(np.random.default_rng(0).random((2000, 1)) < 0.3)
    for nested in (True, False):
        found = splits.subsets(frame, subset(nested))
        assert (found["in_10"] | ~found["in_1"]).all() == nested
        assert found.sum().to_dict() == {"in_1": 20, "in_10": 200}


def test_the_lists_switch_keeps_imported_subsets_or_draws():
    frame = table(np.random.default_rng(0).random((300, 1)) < 0.5)
    frame["in_1"], frame["in_10"] = frame.index < 3, frame.index >= 250
    kept = splits.subsets(frame, subset())
    assert kept["in_1"].tolist() == frame["in_1"].tolist()
    assert kept["in_10"].tolist() == frame["in_10"].tolist()  # as they are: these are not nested
    drawn = splits.subsets(frame, subset(lists=False))
    assert drawn.equals(splits.subsets(frame.drop(columns=["in_1", "in_10"]), subset()))
    assert (drawn["in_10"] != frame["in_10"]).any()


@pytest.mark.parametrize("lists", [True, False])
def test_the_reseed_switch_draws_for_each_seed(lists):
    frame = table(np.random.default_rng(0).random((1000, 2)) < 0.3)
    frame["in_1"], frame["in_10"] = frame.index < 10, frame.index < 100
    assert list(splits.subsets(frame, subset(), [0, 1, 2])) == ["in_1", "in_10"]
    found = splits.subsets(frame, subset(reseed=True, lists=lists), [0, 1, 2])
    assert set(found) == {"in_1", "in_10"} | {f"in_{p}_s{s}" for p in (1, 10) for s in range(3)}
    draws = [tuple(np.flatnonzero(found[c])) for c in found if c.startswith("in_10")]
    assert len(set(draws)) == 4
    for seed in range(3):
        assert found[f"in_1_s{seed}"].sum() == 10
        assert (found[f"in_10_s{seed}"] | ~found[f"in_1_s{seed}"]).all()  # nested, like the rest
    again = splits.subsets(frame, subset(reseed=True, lists=lists), [2])
    assert again["in_10_s2"].equals(found["in_10_s2"])  # whatever other seeds there are


def test_a_rare_class_is_swapped_in_and_the_size_stays():
    positives = np.zeros((1000, 2), dtype=bool)
    positives[[3, 500, 900], 0] = True
    positives[::2, 1] = True
    found = splits.subsets(table(positives), subset(min_positives=2))
    assert found["in_1"].sum() == 10
    assert positives[found["in_1"].to_numpy(), 0].sum() >= 2
