"""SIIM-ACR: masks of several rows, releases, the three splits solved by hand, each switch."""

from __future__ import annotations

import numpy as np
import pytest

from cxrmim.errors import DataError
from cxrmim.manifest import released
from cxrmim.manifest.build import build
from cxrmim.manifest.datasets import siim as reader


@pytest.fixture
def lists(write_lists, tmp_path):
    """38 of the images: 30 / 6 / 4, of which one is in train and valid, one in train and test."""
    name = "1.2.{}".format
    content = {
        "train_list": [name(i) for i in range(30)],
        "val_list": [name(i) for i in (*range(30, 35), 4)],
        "test_list": [name(i) for i in (*range(35, 38), 8)],
        "train_1": [name(1)],
        "train_10": [name(i) for i in (2, 4, 8)],
    }
    return write_lists(tmp_path / "lists", "SIIM-ACR_Pneumothorax", content)


def test_rows_of_an_image_are_kept_together(made, siim):
    siim.rows.insert(1, ["1.2.0", "9 1"])
    siim.rows[2][1] = "-1"  # the re-issue's spelling, without the blank
    siim.write()
    manifest = made("siim", balance=False)
    table = manifest.table.set_index("image")
    assert table.loc["1.2.0", "rle"] == ["3 2 4 1", "9 1"]
    assert table.loc["1.2.1", "rle"] == []
    assert table.loc["1.2.0", "source_row"] == 1
    assert table["label_Pneumothorax"].sum() == 10
    assert manifest.metrics["flow"]["further row of an image"] == 1
    assert table.loc["1.2.0", "path"] == "dicom-images-train/s1.2.0/t1.2.0/1.2.0.dcm"
    assert table["split"].value_counts().to_dict() == {"train": 28, "valid": 6, "test": 6}


def test_fractions_switch(made, siim):
    siim.write()
    table = made("siim", balance=False, fractions=(3, 0, 1)).table
    assert table["split"].value_counts().to_dict() == {"train": 30, "test": 10}


def test_balance_switch(made, siim):
    siim.write()
    balanced = made("siim", balance=True)
    train = balanced.table[balanced.table["split"] == "train"]
    assert len(train) == 2 * int(train["label_Pneumothorax"].sum())
    free = made("siim", balance=False)
    assert len(free.table) == 40
    assert free.table["label_Pneumothorax"].sum() == balanced.table["label_Pneumothorax"].sum()
    for split in ("valid", "test"):
        assert (free.table["split"] == split).sum() == (balanced.table["split"] == split).sum()


# Releases


def test_release_switch(made, siim):
    """The re-issue's new images are those of the first release's test folder."""
    siim.later = ["1.2.0", "1.2.1", "1.2.2"]
    siim.write()
    assert len(made("siim", release="reissue", balance=False).table) == 40
    manifest = made("siim", release="stage1", balance=False)
    assert manifest.metrics["flow"]["image is not of this release"] == 3
    assert not manifest.table["path"].str.startswith("dicom-images-test").any()
    assert len(manifest.table) == 37


def test_stage1_is_the_union_of_the_lists_where_there_are_any(made, siim, lists):
    siim.write()
    manifest = made("siim", release="stage1", balance=False, lists=lists)
    assert manifest.metrics["flow"]["image is not of this release"] == 2
    assert set(manifest.table["image"]) == {f"1.2.{i}" for i in range(38)}


def test_each_release_has_its_table(made, siim):
    siim.write()
    siim.table, siim.images = "stage_2_train.csv", []
    siim.rows = siim.rows[:30]
    siim.write()
    assert len(made("siim", release="reissue", balance=False).table) == 30
    assert len(made("siim", release="stage1", balance=False).table) == 40


def test_a_table_of_the_other_release_is_named(setup, siim, monkeypatch):
    monkeypatch.setattr(reader, "STAGE1_ROWS", 40)
    siim.write()
    with pytest.raises(DataError, match=r"40 rows, as in the first release; set .*stage1"):
        build("siim", setup("siim", release="reissue"))
    monkeypatch.setattr(reader, "STAGE1_ROWS", 39)
    with pytest.raises(DataError, match=r"40 rows, the first release has 39; .*manifest.lists"):
        build("siim", setup("siim", release="stage1"))


# mgca


def test_mgca_cuts_masks_by_row(made, siim, monkeypatch):
    """Image 0 has rows in train and test: it stands in both, each time with a part of its mask."""
    siim.rows = [
        ["1.2.0", "1 1"],
        ["1.2.1", " -1"],
        ["1.2.0", "2 2"],
        ["1.2.0", "3 3"],
        ["1.2.2", "4 4"],
        ["1.2.3", "-1"],
    ]
    siim.images = [f"1.2.{i}" for i in range(4)]
    siim.write()
    names = ["train", "train", "test", "train", "valid", "test"]
    monkeypatch.setattr(released, "siim_mgca", lambda rows: np.array(names[:rows], dtype=object))
    manifest = made("siim", split="mgca", balance=False)
    found = [
        (row["image"], row["split"], row["source_row"], row["rle"])
        for row in manifest.table.to_dict("records")
    ]
    assert found == [
        ("1.2.0", "train", 1, ["1 1", "3 3"]),
        ("1.2.1", "train", 2, []),
        ("1.2.0", "test", 3, ["2 2"]),
        ("1.2.2", "valid", 5, ["4 4"]),
        ("1.2.3", "test", 6, []),
    ]
    assert manifest.metrics["flow"]["further row of an image"] == 1
    assert manifest.metrics["audit"]["images"] == {
        "train-valid": 0,
        "train-test": 1,
        "valid-test": 0,
    }
    assert manifest.details["unit"] is None


def test_mgca_draws_before_any_row_is_lost(made, siim, monkeypatch):
    """Positions are those of the file: a missing image shifts nobody."""
    siim.images.remove("1.2.1")
    siim.write()
    names = np.array(["train", "valid", "test", "train"] * 10, dtype=object)
    monkeypatch.setattr(released, "siim_mgca", lambda rows: names[:rows])
    table = made("siim", split="mgca", balance=False).table
    assert table["split"].tolist() == [*names[:1], *names[2:]]
    balanced = made("siim", split="mgca", balance=True).table
    train = balanced[balanced["split"] == "train"]
    assert len(train) == 2 * train["label_Pneumothorax"].sum()


# mrm


def test_mrm_takes_the_lists_leaks_and_all(made, siim, lists):
    siim.rows.insert(5, ["1.2.4", "9 1"])
    siim.write()
    manifest = made("siim", split="mrm", balance=True, lists=lists)
    table = manifest.table
    assert table["split"].value_counts().to_dict() == {"train": 30, "valid": 6, "test": 4}
    twice = table[table["image"] == "1.2.4"]
    assert sorted(twice["split"]) == ["train", "valid"]
    assert twice["rle"].tolist() == [["3 2 4 1", "9 1"]] * 2  # masks are whole
    assert set(table.loc[table["in_1"], "image"]) == {"1.2.1"}
    inside = table.loc[table["in_10"], ["image", "split"]].to_numpy().tolist()
    assert inside == [["1.2.2", "train"], ["1.2.4", "train"], ["1.2.8", "train"]]
    assert manifest.metrics["audit"]["images"] == {
        "train-valid": 1,
        "train-test": 1,
        "valid-test": 0,
    }
    flow = manifest.metrics["flow"]
    assert (flow["in no list"], flow["in two lists, counted twice"]) == (2, -2)
    assert manifest.details["unit"] is None


def test_mrm_counts_listed_images_that_are_not_there(made, siim, lists):
    siim.images.remove("1.2.7")
    siim.write()
    manifest = made("siim", split="mrm", lists=lists)
    assert manifest.metrics["notes"]["listed images that are not used"] == 1


def test_mrm_without_lists_says_where_they_come_from(setup, siim):
    siim.write()
    with pytest.raises(DataError, match=r"manifest.lists is not set.*RL4M/MRM-pytorch"):
        build("siim", setup("siim", split="mrm"))


# Bad rows


def test_images_without_a_row_and_rows_without_an_image(made, setup, siim):
    siim.images += ["9.9.9"]
    siim.images.remove("1.2.4")
    siim.write()
    manifest = made("siim")
    assert manifest.metrics["notes"] == {"images without a row": 1}
    assert manifest.metrics["faults"] == {"image is missing": 1}
    with pytest.raises(DataError, match=r"siim: 1 of 40 rows .* source row 5: image is missing"):
        build("siim", setup("siim", limit=0.01))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "column EncodedPixels is blank"),
        ("NaN", "column EncodedPixels is blank"),
        ("1 2 3", "mask is no pairs of numbers"),
        ("-1 2", "mask is no pairs of numbers"),
        ("1.0 2", "mask is no pairs of numbers"),
        ("1 2; 3 4", "mask is no pairs of numbers"),
        ("-1", "rows of this image contradict each other"),
        (" -1", "rows of this image contradict each other"),
    ],
)
def test_a_bad_code_takes_the_image_s_other_rows_along(made, siim, code, reason):
    """They alone would be a truncated mask."""
    siim.rows.insert(1, ["1.2.0", code])
    siim.write()
    manifest = made("siim", balance=False)
    assert manifest.metrics["faults"] == {reason: 2}
    assert "1.2.0" not in set(manifest.table["image"])
    assert len(manifest.table) == 39


@pytest.mark.parametrize("name", ["other/1.2.4.dcm", "1.2.4.DCM"])
def test_two_files_of_one_id_are_both_refused(made, siim, name):
    path = siim.write() / "dicom-images-test" / name
    path.parent.mkdir(parents=True)
    path.touch()
    manifest = made("siim", balance=False)
    assert manifest.metrics["faults"] == {"two files claim this id": 1}
    assert "1.2.4" not in set(manifest.table["image"])


def test_an_id_is_never_used_as_a_path(made, siim):
    siim.rows[5][0] = "../../../etc/passwd"
    siim.write()
    manifest = made("siim", balance=False)
    assert manifest.metrics["faults"] == {"image is missing": 1}


def test_without_its_images(setup, siim):
    siim.images = []
    siim.write()
    with pytest.raises(DataError, match=r"siim: .*no folder dicom-images-train"):
        build("siim", setup("siim"))
