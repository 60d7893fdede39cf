"""CheXpert: label policy, the four splits solved by hand, and each switch both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrmim.errors import DataError
from cxrmim.manifest import released
from cxrmim.manifest.build import build

ALL = [f"label_{n}" for n in released.COMPETITION]


def listed(row: list[str]) -> str:
    """A row as a line of the MRM lists: path and the five bits."""
    return " ".join([row[0], *(str(int(float(mark))) for mark in row[3:8])])


@pytest.fixture
def lists(chexpert, write_lists, tmp_path):
    """val names rows 2, 3 and 4 of train.csv, test three of the four rows of valid.csv."""
    train, valid = chexpert.train, chexpert.valid
    content = {
        "val_list": [listed(train[i]) for i in (2, 3, 4)],
        "test_list": [listed(valid[i]) for i in (0, 1, 2)],
        "train_1": [listed(train[5])],
        "train_10": [listed(train[i]) for i in (6, 7, 2)],  # the last one validates
    }
    return write_lists(tmp_path / "lists", "CheXpert", content)


def test_label_policy(made, chexpert):
    chexpert.train[0] = chexpert.row("train", 0, labels="-1.0,-1.0,-1.0,-1.0,-1.0")
    chexpert.train[1] = chexpert.row("train", 1, labels=",,,,")
    chexpert.train[2] = chexpert.row("train", 2, labels="1.0,0.0,1,0,-1")
    chexpert.train[3] = chexpert.row("train", 3, labels="nan,NaN,NA, -1,1 ")
    chexpert.write()
    table = made("chexpert").table
    assert list(table.columns[-5:]) == ALL
    marks = table[ALL].to_numpy()
    expected = [[1, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 1, 1]]
    assert marks[:4].tolist() == expected
    assert not np.isnan(marks).any()


def test_official500_and_valid_as_test(made, chexpert):
    chexpert.write()
    table = made("chexpert", split="official500").table
    assert table["split"].value_counts().to_dict() == {"train": 20, "valid": 4, "test": 3}
    test = table[table["split"] == "test"].iloc[0]
    assert test["path"] == "CheXpert/test/patient00200/study1/view1_frontal.jpg"
    assert test[ALL].tolist() == [0, 1, 0, 1, 0]
    manifest = made("chexpert", split="valid_as_test")
    table = manifest.table
    assert table["split"].value_counts().to_dict() == {"train": 18, "test": 4, "valid": 2}
    assert table[table["split"] == "test"]["path"].str.contains("/valid/").all()
    assert "groundtruth.csv" not in manifest.raw


def test_held_out_switch(made, chexpert):
    """At most a tenth of train.csv validates, however much is asked for."""
    chexpert.train = [chexpert.row("train", i) for i in range(40)]
    chexpert.write()
    for asked, got in ((1, 1), (3, 3), (4, 4), (5000, 4)):
        table = made("chexpert", split="valid_as_test", held_out=asked).table
        assert (table["split"] == "valid").sum() == got


def test_unit_switch(made, chexpert):
    """Two images a study, two studies a patient: what may be shared shrinks with the unit."""
    chexpert.train = []
    for patient in range(10):
        for study in (1, 2):
            for view in (1, 2):
                row = chexpert.row("train", patient)
                row[0] = row[0].replace("study1", f"study{study}").replace("view1", f"view{view}")
                chexpert.train.append(row)
    chexpert.write()
    found = {
        unit: made("chexpert", split="valid_as_test", unit=unit).metrics["audit"]
        for unit in ("patient", "study", "image")
    }
    shared = {
        unit: [audit[level]["train-valid"] > 0 for level in ("images", "studies", "patients")]
        for unit, audit in found.items()
    }
    assert shared == {
        "patient": [False, False, False],
        "study": [False, False, True],
        "image": [False, True, True],
    }


def test_views_switch(made, chexpert):
    chexpert.train[3] = chexpert.row("train", 3, "Lateral")
    chexpert.write()
    frontal = made("chexpert")
    assert frontal.metrics["flow"]["view is lateral"] == 1 + 3  # three in the test studies
    views = made("chexpert", views="all").table["view"]
    assert views.value_counts().to_dict() == {"AP": 23, "LATERAL": 4, "": 3}


def test_release_switch(made, setup, chexpert):
    root = chexpert.write()
    (root / "CheXpert-v1.0-small").rename(root / "CheXpert-v1.0")
    assert made("chexpert", release="full").table["path"].iloc[0].startswith("CheXpert-v1.0/train/")
    with pytest.raises(DataError, match=r"expected CheXpert-v1.0-small/train.csv"):
        build("chexpert", setup("chexpert", release="small"))


def test_the_root_may_be_the_folder_itself(made, chexpert):
    root = chexpert.write()
    for path in [*root.glob("CheXpert-v1.0-small/*")]:
        path.rename(root / path.name)
    (root / "CheXpert/test").rename(root / "test")
    table = made("chexpert").table
    assert table["path"].iloc[0].startswith("train/")
    assert table["path"].iloc[-1].startswith("test/")


def test_without_its_test_set_it_says_what_to_set(setup, chexpert):
    chexpert.test = []
    root = chexpert.write()
    with pytest.raises(DataError, match=r"no folder CheXpert/test .*valid_as_test"):
        build("chexpert", setup("chexpert"))
    (root / "groundtruth.csv").unlink()
    with pytest.raises(DataError, match=r"no groundtruth.csv .*split: valid_as_test"):
        build("chexpert", setup("chexpert"))


def without_images(chexpert, count):
    """Write the root; the first studies of the test set have empty folders. Returns these."""
    chexpert.write()
    folders = [chexpert.root / "CheXpert" / row[0].split("/", 1)[1] for row in chexpert.test]
    for folder in folders[:count]:
        for path in folder.iterdir():
            path.unlink()
    return folders[:count]


def test_one_test_study_may_lack_its_image_and_no_more(made, setup, chexpert):
    (empty,) = without_images(chexpert, 1)
    assert made("chexpert").metrics["faults"] == {"study has no image": 1}
    empty.rmdir()
    assert made("chexpert").metrics["faults"] == {"study has no image": 1}


def test_a_test_set_without_images_stops(setup, chexpert):
    without_images(chexpert, 2)
    message = "chexpert: 2 of 3 studies of the test set have no image below .*/CheXpert/test; .*"
    with pytest.raises(DataError, match=message + "split: valid_as_test") as caught:
        build("chexpert", setup("chexpert", limit=1.0))
    assert "patient" not in str(caught.value)


@pytest.mark.parametrize("method", ["is_dir", "iterdir"])
def test_a_study_folder_that_cannot_be_read_is_one_without_image(
    made, chexpert, monkeypatch, method
):
    chexpert.write()
    ours = getattr(Path, method)

    def locked(path, *args, **kwargs):
        if "patient00200" in path.parts:
            raise PermissionError(13, "locked", str(path))
        return ours(path, *args, **kwargs)

    monkeypatch.setattr(Path, method, locked)
    assert made("chexpert").metrics["faults"] == {"study has no image": 1}


@pytest.mark.parametrize("where", ["root", "release", "batch"])
def test_batches_of_the_download_are_to_be_merged(setup, chexpert, where):
    root = chexpert.write()
    old = root / "CheXpert-v1.0-small"
    batch = "CheXpert-v1.0 batch 1 (validate & csv)"
    if where == "batch":
        chexpert.root = root / batch
        old.rename(chexpert.root)
    else:
        parent = root if where == "root" else root / "CheXpert-v1.0"
        old.rename(root / "CheXpert-v1.0")
        (parent / batch).mkdir()
        (parent / "CheXpert-v1.0 batch 2 (train 1)" / "patient00000").mkdir(parents=True)
    params = setup("chexpert", release="full")
    if where == "batch":
        params.manifest.roots["chexpert"] = str(chexpert.root)
    with pytest.raises(DataError, match=r"merge the patient folders .* CheXpert-v1\.0/train,"):
        build("chexpert", params)
    if where != "batch":
        (root / "CheXpert-v1.0/train").mkdir()
        assert len(build("chexpert", params).table) == 27


# mgca


@pytest.fixture
def rule(monkeypatch):
    """The released rule as drawn by hand for 20 rows, and what it was given."""
    seen = []

    def draw(table):
        seen.append(table)
        # Rows 0 and 1 are set aside; 5 and 6 validate, and 6 and 7 stay in train all the same.
        return np.array([*range(2, 5), *range(6, 20)]), np.array([5, 6, 7])

    monkeypatch.setattr(released, "chexpert_mgca", draw)
    return seen


def test_mgca_leaves_images_on_both_sides(made, chexpert, rule):
    chexpert.train[7] = chexpert.row("train", 7, "Lateral")
    chexpert.train[8] = chexpert.row("train", 8, labels=",-1.0,1.0,0.0,")
    chexpert.write()
    manifest = made("chexpert", split="mgca", views="all")
    table = manifest.table
    sides = {row: sorted(group["split"]) for row, group in table.groupby("source_row", sort=True)}
    both, train = ["train", "valid"], ["train"]
    expected = {3: train, 4: train, 5: train, 6: ["valid"], 7: both, 8: both}
    expected |= dict.fromkeys(range(9, 21), train) | {row: ["test"] for row in range(21, 25)}
    assert sides == expected
    flow = manifest.metrics["flow"]
    assert flow["rows"] == 24
    assert flow["on neither side of the released rule"] == 2
    assert flow["in train and valid both, counted twice"] == -2
    assert flow["kept"] == 24
    assert manifest.metrics["audit"]["images"]["train-valid"] == 2  # counted, not refused
    assert manifest.details["unit"] is None


def test_mgca_draws_before_the_view_filter(made, chexpert, rule):
    chexpert.train[7] = chexpert.row("train", 7, "Lateral")
    chexpert.train[8] = chexpert.row("train", 8, labels=",-1.0,1.0,0.0,")
    chexpert.write()
    manifest = made("chexpert", split="mgca", views="frontal")
    (given,) = rule
    assert len(given) == 20
    assert given["Frontal/Lateral"].tolist() == ["Frontal"] * 7 + ["Lateral"] + ["Frontal"] * 12
    marks = given.loc[8, list(released.COMPETITION)].to_numpy(dtype=float)
    np.testing.assert_array_equal(marks, [np.nan, -1, 1, 0, np.nan])
    assert 8 not in set(manifest.table["source_row"])
    assert manifest.metrics["audit"]["images"]["train-valid"] == 1


def test_mgca_itself_on_a_small_table(made, chexpert):
    """The rule as it is, on 120 rows of which 2, 6, 10, 14 and 18 are drawn and set aside.

    The images at positions 10, 66 and 74 of the rest validate: rows 13, 71 and 79. Train loses the
    rows LABELLED 10, 66 and 74, so that all three stay in it.
    """
    chexpert.train = []
    for i in range(120):
        marks = ["1.0" if i // 4 == k else "0.0" for k in range(5)]
        chexpert.train.append(chexpert.row("train", i, labels=",".join(marks)))
    chexpert.write()
    manifest = made("chexpert", split="mgca")
    sides = {side: set(part["source_row"] - 1) for side, part in manifest.table.groupby("split")}
    assert sides["valid"] == {13, 71, 79}
    assert sides["train"] == set(range(120)) - {2, 6, 10, 14, 18, 66, 74}
    assert manifest.metrics["flow"]["on neither side of the released rule"] == 7
    assert manifest.metrics["audit"]["images"]["train-valid"] == 3


# mrm


def test_mrm_takes_the_lists(made, chexpert, lists):
    chexpert.write()
    manifest = made("chexpert", split="mrm", lists=lists)
    table = manifest.table.set_index("source_row")
    assert table.index[table["split"] == "valid"].tolist() == [3, 4, 5]
    assert table.index[table["split"] == "test"].tolist() == [21, 22, 23]
    assert (table["split"] == "train").sum() == 17
    assert table.index[table["in_1"]].tolist() == [6]
    assert table.index[table["in_10"]].tolist() == [7, 8]  # not nested, as the lists are not
    assert manifest.metrics["flow"]["in no list"] == 1
    assert manifest.metrics["notes"] == {
        "train_1.txt: not in train": 0,
        "train_10.txt: not in train": 1,
        "listed images that are not used": 0,
        "listed images whose labels differ": 0,
    }
    assert "lists/CheXpert/val_list.txt" in manifest.raw
    assert manifest.details["unit"] is None


def test_mrm_counts_what_the_lists_share_or_mislabel(made, chexpert, lists):
    chexpert.train[0][0] = chexpert.train[2][0].replace("study1", "study2")
    file = lists / "CheXpert/val_list.txt"
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:-1] + str(1 - int(lines[1][-1]))
    lines += ["CheXpert-v1.0-small/train/patient99999/study1/view1_frontal.jpg 0 0 0 0 0"]
    file.write_text("\n".join(lines))
    chexpert.write()
    manifest = made("chexpert", split="mrm", lists=lists)
    assert manifest.metrics["audit"]["patients"]["train-valid"] == 1
    assert manifest.metrics["notes"]["listed images that are not used"] == 1
    assert manifest.metrics["notes"]["listed images whose labels differ"] == 1


def test_mrm_without_lists_says_where_they_come_from(setup, chexpert):
    chexpert.write()
    with pytest.raises(DataError, match=r"manifest.lists is not set.*RL4M/MRM-pytorch"):
        build("chexpert", setup("chexpert", split="mrm"))


# Bad rows


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (0, "/etc/passwd", "path leaves the root"),
        (0, "CheXpert-v1.0-small/../../x.jpg", "path leaves the root"),
        (0, "CheXpert-v1.0-small/train/../../x.jpg", "path leaves the root"),
        (0, "C:\\CheXpert\\train\\x.jpg", "path leaves the root"),
        (0, "", "path leaves the root"),
        (0, "CheXpert-v1.0-small/train/odd.jpg", "path names no patient, study and view"),
        (1, "Oblique", "unknown value in column Frontal/Lateral"),
        (6, "2.0", "unknown value in column Edema"),
        (7, "maybe", "unknown value in column Pleural Effusion"),
    ],
)
def test_a_bad_row_is_dropped_and_named(made, setup, chexpert, column, value, reason):
    chexpert.train[9][column] = value
    chexpert.write()
    manifest = made("chexpert")
    assert manifest.metrics["faults"] == {reason: 1}
    assert 10 not in set(manifest.table["source_row"])
    with pytest.raises(DataError, match=f"chexpert: 1 of 30 rows .* source row 10: {reason}"):
        build("chexpert", setup("chexpert", limit=0.01))


@pytest.mark.parametrize(
    ("change", "reason", "rows"),
    [
        (lambda row: row, "image listed twice", [10]),
        (lambda row: [row[0], "Lateral", *row[2:]], "rows of this image contradict", [9, 10]),
        (lambda row: [*row[:3], *"10101"], "rows of this image contradict each other", [9, 10]),
        (lambda row: [row[0].replace("jpg", "jpeg"), *row[1:]], "two files claim this id", [9, 10]),
    ],
)
def test_one_id_twice(made, chexpert, change, reason, rows):
    chexpert.train[9] = change(list(chexpert.train[8]))
    chexpert.write()
    manifest = made("chexpert")
    assert [(k.startswith(reason), n) for k, n in manifest.metrics["faults"].items()] == [
        (True, len(rows))
    ]
    assert not set(rows) & set(manifest.table["source_row"])
    assert len(manifest.table) == 27 - len(rows)


def test_a_test_study_is_hostile_too(made, chexpert):
    chexpert.write()
    chexpert.test[0][0] = "CheXpert-v1.0/../../../etc"
    chexpert.test[1][0] = "CheXpert-v1.0/test/patient99999/study1"
    chexpert.test[2][0] = "CheXpert-v1.0/test/" + "x" * 300
    chexpert.write_test()
    faults = made("chexpert", limit=1.0).metrics["faults"]
    assert faults == {"path leaves the root": 2, "study has no image": 1}


def test_a_patient_in_two_splits_stops(setup, chexpert):
    chexpert.valid[0] = chexpert.row("valid", 3)
    chexpert.valid[0][0] = chexpert.valid[0][0].replace("study1", "study2")
    chexpert.write()
    with pytest.raises(DataError, match="chexpert: splits train-valid share 1 patients"):
        build("chexpert", setup("chexpert"))


def test_a_listed_image_that_is_not_there_stays_in_the_manifest(made, chexpert):
    """The files are opened by the shards stop, which counts those that are missing."""
    root = chexpert.write()
    assert not list(root.glob("CheXpert-v1.0-small/train/*"))
    assert (made("chexpert").table["split"] == "train").sum() == 20
