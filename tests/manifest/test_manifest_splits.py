"""Splits, label subsets and the leakage audit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.manifest import splits
from cxrmim.manifest.audit import UNITS, audit, check
from cxrmim.params import Subset


def subset(nested=True, seed=42, min_positives=1):
    return Subset(nested=nested, reseed=False, seed=seed, min_positives=min_positives)


def table(positives: np.ndarray, split="train") -> pd.DataFrame:
    out = pd.DataFrame({"split": [split] * len(positives)})
    for k in range(positives.shape[1]):
        out[f"label_{k}"] = positives[:, k].astype(np.float32)
    return out


def test_units_stay_together_and_shares_are_exact():
    units = pd.Series([f"p{i // 3}" for i in range(300)])
    split = splits.by_unit(units, [0.7, 0.15, 0.15], ["train", "valid", "test"], seed=0)
    sets = {name: set(units[split == name]) for name in ("train", "valid", "test")}
    assert [len(s) for s in sets.values()] == [70, 15, 15]
    assert not (sets["train"] & sets["test"]) | (sets["train"] & sets["valid"])


def test_a_split_depends_on_the_seed_but_not_on_the_order_of_rows():
    units = pd.Series([f"p{i}" for i in range(50)])
    order = np.random.default_rng(1).permutation(50)
    one = splits.by_unit(units, [0.8, 0.2], ["a", "b"], seed=3)
    two = splits.by_unit(units.iloc[order].reset_index(drop=True), [0.8, 0.2], ["a", "b"], seed=3)
    assert (one[order] == two).all()
    assert (one != splits.by_unit(units, [0.8, 0.2], ["a", "b"], seed=4)).any()


def test_shares_must_sum_to_one():
    with pytest.raises(DataError, match="do not sum to 1"):
        splits.by_unit(pd.Series(["a"]), [0.7, 0.2], ["a", "b"], seed=0)


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
@settings(max_examples=60, deadline=None)
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


def test_a_rare_class_is_swapped_in_and_the_size_stays():
    positives = np.zeros((1000, 2), dtype=bool)
    positives[[3, 500, 900], 0] = True
    positives[::2, 1] = True
    found = splits.subsets(table(positives), subset(min_positives=2))
    assert found["in_1"].sum() == 10
    assert positives[found["in_1"].to_numpy(), 0].sum() >= 2


def rows(*entries: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(entries, columns=["image", "study", "patient", "split"])


def test_the_audit_counts_what_two_splits_share():
    found = audit(
        rows(
            ("i1", "s1", "p1", "train"),
            ("i2", "s1", "p1", "valid"),
            ("i3", "s2", "p1", "test"),
            ("i4", "s3", "p2", "test"),
        )
    )
    assert found["image"] == {"train-valid": 0, "train-test": 0, "valid-test": 0}
    assert found["study"]["train-valid"] == 1
    assert found["patient"] == {"train-valid": 1, "train-test": 1, "valid-test": 1}


@pytest.mark.parametrize(
    ("level", "unit", "stops"),
    [
        ("image", "image", True),
        ("study", "image", False),
        ("study", "study", True),
        ("patient", "study", False),
        ("patient", "patient", True),
    ],
)
def test_a_shared_unit_stops_where_the_split_forbids_it(level, unit, stops):
    found = {name: {"train-test": int(name == level)} for name in ("image", "study", "patient")}
    if stops:
        with pytest.raises(DataError, match=f"mimic: splits train-test share 1 {UNITS[level]}"):
            check(found, unit, "mimic")
    else:
        check(found, unit, "mimic")
