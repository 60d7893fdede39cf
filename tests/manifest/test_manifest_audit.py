"""The leakage audit and the manifest's contract, on rows solved by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxrmim.errors import DataError
from cxrmim.manifest import build
from cxrmim.manifest.audit import UNITS, audit, check
from cxrmim.manifest.contract import Raw, Reading


def rows(*entries: tuple[str, str, str, str]) -> pd.DataFrame:
    out = pd.DataFrame(entries, columns=["image", "study", "patient", "split"])
    return out.assign(path=out["image"] + ".png")


def test_the_audit_counts_what_two_splits_share():
    found = audit(
        rows(
            ("i1", "s1", "p1", "train"),
            ("i2", "s1", "p1", "valid"),
            ("i3", "s2", "p1", "test"),
            ("i4", "s3", "p2", "test"),
        )
    )
    assert found["images"] == {"train-valid": 0, "train-test": 0, "valid-test": 0}
    assert found["studies"] == {"train-valid": 1, "train-test": 0, "valid-test": 0}
    assert found["patients"] == {"train-valid": 1, "train-test": 1, "valid-test": 1}
    assert "reports" not in found


def test_a_pair_without_rows_is_not_there_and_an_image_counts_once():
    found = audit(
        rows(
            ("i1", "s1", "p1", "train"),
            ("i1", "s1", "p1", "test"),
            ("i2", "s2", "p2", "train"),
            ("i2", "s2", "p2", "test"),
            ("i3", "s2", "p2", "test"),
        )
    )
    assert [found[name] for name in UNITS.values()] == [{"train-test": 2}] * 3


def test_one_file_under_two_ids_is_a_shared_image():
    table = rows(("i1", "s1", "p1", "train"), ("i2", "s2", "p2", "test"))
    assert audit(table)["images"] == {"train-test": 0}
    assert audit(table.assign(path="same.png"))["images"] == {"train-test": 1}


def test_equal_reports_across_splits_and_in_the_pool():
    table = rows(
        ("i1", "s1", "p1", "train"),
        ("i2", "s2", "p2", "train"),
        ("i3", "s3", "p3", "valid"),
        ("i4", "s4", "p4", "test"),
        ("i5", "s4", "p4", "test"),  # a second image of the study: no twin, a sibling
        ("i6", "s5", "p5", "test"),
        ("i7", "s6", "p6", "test"),
        ("i8", "s7", "p7", "test"),  # without text
    )
    table["impression"] = [
        "Clear.",
        "Clear.",
        "Edema.",
        "clear.",
        "clear.",
        "CLEAR.\n",
        "Mass.",
        None,
    ]
    table["findings"] = [None, "Heart normal.", None, None, None, None, None, None]
    assert audit(table)["reports"] == {
        "train-valid": 0,
        "train-test": 1,  # one text, however many rows have it
        "valid-test": 0,
        "pool": 3,
        "siblings": 2,
        "rows": 4,
    }


def test_the_subsets_are_counted():
    table = rows(*((f"i{k}", f"s{k}", f"p{k}", "train" if k < 4 else "test") for k in range(6)))
    table["label_a"] = np.array([1, 0, 0, 0, 1, 1], dtype=np.float32)
    table["label_b"] = np.array([0, 1, 0, 0, 1, 1], dtype=np.float32)
    table["label_c"] = np.array([0, 0, np.nan, 0, 1, 1], dtype=np.float32)  # none in train
    table["in_1"] = [True, False, False, False, False, False]
    table["in_10"] = [True, True, False, False, False, True]
    assert audit(table)["subsets"] == {
        "in_1": {"rows": 1, "outside": 0, "without": 1},
        "in_10": {"rows": 3, "outside": 1, "without": 0},
    }


@pytest.mark.parametrize(
    ("level", "unit", "stops"),
    [
        ("image", "image", True),
        ("study", "image", False),
        ("study", "study", True),
        ("patient", "study", False),
        ("image", "patient", True),
        ("patient", "patient", True),
        ("image", None, False),
        ("patient", None, False),
    ],
)
def test_a_shared_unit_stops_where_the_split_forbids_it(level, unit, stops):
    found = {name: {"train-test": int(name == UNITS[level])} for name in UNITS.values()}
    if stops:
        with pytest.raises(DataError, match=f"mimic: splits train-test share 1 {UNITS[level]}"):
            check(found, unit, "mimic")
    else:
        check(found, unit, "mimic")


@pytest.fixture
def table() -> pd.DataFrame:
    """A manifest of four images in two classes."""
    return pd.DataFrame(
        {
            "image": ["a", "b", "c", "d"],
            "path": ["a.png", "b.png", "c.png", "d.png"],
            "patient": ["p1", "p1", "p2", "p3"],
            "study": ["s1", "s1", "s2", "s3"],
            "view": "PA",
            "split": ["train", "train", "valid", "test"],
            "in_1": [True, False, False, False],
            "in_10": [True, True, False, False],
            "source_row": [3, 5, 7, 9],
            "rle": None,
            "impression": None,
            "findings": None,
            "report": None,
            "label_x": np.array([1, 0, 0, 1], dtype=np.float32),
            "label_y": np.array([0, 1, 1, 0], dtype=np.float32),
        }
    )


def verdict(table: pd.DataFrame, unit="patient", multiclass=True, flow=None) -> None:
    flow = flow or {"rows": 6, "view is lateral": 2, "kept": 4}
    build.check_contract("xray", Reading(table, flow, [], [], unit), table, ("x", "y"), multiclass)


def test_a_sound_manifest_passes(table):
    verdict(table)
    verdict(table.assign(in_1_s0=table["in_1"], in_10_s0=table["in_10"]))


BREAKS = {
    "label": (lambda t: t.assign(label_x=np.float32(2)), "column label_x: isin.*source row 3"),
    "two classes": (lambda t: t.assign(label_y=np.float32(1)), "exactly one class.*source row 3"),
    "no class": (
        lambda t: t.assign(label_x=t["label_x"].where(t.index < 3, np.nan)),
        "exactly one class.*source row 9",
    ),
    "image twice": (lambda t: t.assign(image=["a", "a", "c", "d"]), "image once in a split"),
    "path twice": (
        lambda t: t.assign(path=["a.png", "a.png", "c.png", "d.png"]),
        "path once in a split",
    ),
    "a path with two ids": (
        lambda t: t.assign(path=["a.png", "b.png", "c.png", "a.png"]),
        "one image, one path.*source row 3",
    ),
    "path": (
        lambda t: t.assign(path=["a.png", "../b", "c.png", "d.png"]),
        "column path: safe path.*row 5",
    ),
    "split": (lambda t: t.assign(split="dev"), "column split: isin.*row 3"),
    "no patient": (
        lambda t: t.assign(patient=["p1", "", "p2", "p3"]),
        "column patient: str_length.*row 5",
    ),
    "subset": (lambda t: t.assign(in_10=True), "label subsets within train.*source row 7"),
    "missing column": (lambda t: t.drop(columns="label_y"), "label_y is missing"),
    "column too many": (lambda t: t.assign(name="x"), "column name is not of the contract"),
    "source row": (
        lambda t: t.assign(source_row=[0, 5, 7, 9]),
        "column source_row: greater_than.*row 0",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_row_that_breaks_the_contract(table, name):
    change, message = BREAKS[name]
    with pytest.raises(DataError, match=message) as caught:
        verdict(change(table))
    text = str(caught.value)
    assert text.startswith("xray: ")
    assert "\n" not in text
    for value in ("a.png", "../b", "p1", "s1"):  # no value of a row
        assert value not in text


def test_what_only_some_manifests_may_do(table):
    leaky = pd.concat([table, table[:1].assign(split="test", in_1=False, in_10=False)])
    leaky = leaky.reset_index(drop=True)
    verdict(leaky, unit=None)
    verdict(table.assign(in_10=True), unit=None)  # an imported list, as it is
    verdict(table.assign(label_y=np.float32(1)), multiclass=False)


def test_a_flow_that_loses_rows(table):
    with pytest.raises(DataError, match="6 rows read, but the steps of the flow add up to 5"):
        verdict(table, flow={"rows": 6, "view is lateral": 1, "kept": 4})


def test_counts_and_rates(table):
    table["label_y"] = np.array([np.nan, 1, np.nan, 0], dtype=np.float32)
    found = build.count(table, ("x", "y"))
    assert found["train"] == {
        "images": 2,
        "studies": 1,
        "patients": 1,
        "positives": {"x": 1, "y": 1},
        "rates": {"x": 0.5, "y": 1.0},
    }
    assert found["valid"]["rates"] == {"x": 0.0, "y": None}
    assert found["in_1"]["images"] == 1


def test_two_raw_files_of_one_name_are_both_named(tmp_path):
    root, lists = tmp_path / "raw", tmp_path / "lists"
    files = [
        root / "labels.csv",
        root / "more/labels.csv",
        lists / "nih/train.txt",
        root / "train.txt",
    ]
    named = build.name_inputs(Raw(root, lists), files)
    assert list(named) == ["labels.csv", "more/labels.csv", "lists/nih/train.txt", "train.txt"]
    assert list(named.values()) == files
