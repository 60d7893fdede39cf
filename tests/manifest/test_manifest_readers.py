"""Readers on hand-made roots: what is kept, what is dropped and why, and each switch both ways."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from cxrmim.errors import DataError, ParamsError
from cxrmim.manifest.build import build
from cxrmim.manifest.contract import COLUMNS, safe, to_arrow, write_table

PLACES = ("mimic", "chexpert", "siim")


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """A job that ran before in this process keeps its log from caplog."""
    monkeypatch.setattr(logging.getLogger("cxrmim"), "propagate", True)


def adds_up(manifest):
    flow = dict(manifest.metrics["flow"])
    assert flow.pop("rows") == sum(flow.values())
    assert flow["kept"] == len(manifest.table)
    assert list(manifest.metrics["flow"]) == manifest.details["flow"]
    return manifest


def made(setup, layout, dataset, **options):
    layout.write()
    return adds_up(build(dataset, setup(dataset, **options)))


@pytest.mark.parametrize("dataset", PLACES)
def test_a_manifest_keeps_the_contract(setup, request, dataset):
    layout = request.getfixturevalue(dataset)
    manifest = made(setup, layout, dataset)
    table = manifest.table
    labels = [f"label_{name}" for name in manifest.details["classes"]]
    assert list(table.columns) == [*COLUMNS, *labels]
    assert table["source_row"].is_monotonic_increasing
    schema = to_arrow(table).schema
    assert all(schema.field(name).type == kind for name, kind in COLUMNS.items())
    assert not manifest.metrics["faults"]
    for level in ("image", "study", "patient"):
        assert not any(manifest.metrics["audit"][level].values())


@pytest.mark.parametrize("dataset", PLACES)
def test_equal_input_gives_equal_bytes(setup, request, dataset, tmp_path):
    layout = request.getfixturevalue(dataset)
    layout.write()
    params = setup(dataset)
    for name in ("a", "b"):
        write_table(build(dataset, params).table, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = pd.read_parquet(tmp_path / "a")
    assert back["in_1"].dtype == bool
    assert back["source_row"].dtype == np.int64


@pytest.mark.parametrize("dataset", PLACES)
def test_a_wrong_root_is_named_with_the_expected_file(setup, dataset, tmp_path):
    expected = {
        "mimic": "mimic-cxr-2.0.0-metadata.csv",
        "chexpert": "train.csv",
        "siim": "train-rle.csv",
    }[dataset]
    params = setup(dataset)
    with pytest.raises(ParamsError, match=f"manifest.roots.{dataset} = .*no such folder"):
        build(dataset, params)
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=f"{dataset}: .*raw: empty, expected .*{expected}"):
        build(dataset, params)
    (tmp_path / "raw/other.txt").touch()
    with pytest.raises(
        DataError, match=f"not this dataset, expected .*{expected}.*roots.{dataset}"
    ):
        build(dataset, params)


def test_an_unknown_reader_is_named(setup):
    with pytest.raises(ParamsError, match="dataset reader 'chexprt'; did you mean chexpert"):
        build("chexprt", setup("chexpert"))


@pytest.mark.parametrize(
    ("dataset", "file", "column"),
    [
        ("mimic", "mimic-cxr-2.0.0-metadata.csv", "ViewPosition"),
        ("chexpert", "CheXpert-v1.0-small/train.csv", "Edema"),
        ("chexpert", "groundtruth.csv", "Study"),
        ("siim", "train-rle.csv", "EncodedPixels"),
    ],
)
def test_a_missing_column_is_named_with_file_and_found_columns(
    setup, request, dataset, file, column, tmp_path
):
    layout = request.getfixturevalue(dataset)
    layout.suffix = ".csv"
    path = layout.write() / file
    text = path.read_text()
    path.write_text(text.replace(column, "Foo", 1))
    with pytest.raises(
        DataError, match=f"{dataset}: .*{path.name}: no column '{column}'; found .*Foo"
    ):
        build(dataset, setup(dataset))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00broken", b"\xff\xfe\x00bad"])
def test_a_broken_table_is_named(setup, mimic, content):
    path = mimic.write() / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mimic: .*metadata.csv.gz: cannot be read as a table"):
        build("mimic", setup("mimic"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.jpg", True),
        ("/etc/passwd", False),
        ("a/../../b", False),
        ("..", False),
        ("", False),
        ("a\\..\\b", False),
        ("C:/x", False),
        ("a\0b", False),
    ],
)
def test_safe_paths(path, expected):
    assert safe(path) == expected


# MIMIC


@pytest.mark.parametrize("packed", [True, False])
def test_mimic_rows_paths_and_reports(setup, mimic, packed):
    mimic.suffix = ".csv.gz" if packed else ".csv"
    mimic.rows[1][3], mimic.rows[2][3], mimic.rows[3][3] = "AP", "LATERAL", ""
    manifest = made(setup, mimic, "mimic")
    row = manifest.table.iloc[0]
    assert row["path"] == "files/p10/p10000000/s50000000/d000.jpg"
    assert (row["patient"], row["study"], row["view"]) == ("10000000", "s50000000", "PA")
    assert (row["impression"], row["findings"]) == ("No acute process.", "Lungs are clear.")
    assert manifest.metrics["flow"]["view is neither PA nor AP"] == 2
    assert set(manifest.table["split"]) == {"train", "test"}
    assert manifest.details["reports"]["files"] == 18


def test_mimic_views_switch(setup, mimic):
    mimic.rows[2][3] = "LATERAL"
    assert len(made(setup, mimic, "mimic", views="all").table) == 20
    assert len(build("mimic", setup("mimic", views="frontal")).table) == 19


def test_mimic_split_switch(setup, mimic):
    for i in (0, 1):
        mimic.rows[i][4] = "validate"
    for i in (2, 3):
        mimic.rows[i][4] = "test"
    table = made(setup, mimic, "mimic", split="official").table
    assert table["split"].value_counts().to_dict() == {"train": 16, "valid": 2, "test": 2}
    table = build("mimic", setup("mimic", split="manual")).table
    assert table["split"].value_counts().to_dict() == {"train": 16, "test": 4}


def test_mimic_unit_switch(setup, mimic):
    """By patient nobody is on both sides; by image, patients with two images are."""
    by_patient = made(setup, mimic, "mimic", unit="patient")
    by_image = build("mimic", setup("mimic", unit="image"))
    assert by_patient.metrics["audit"]["patient"] == {"train-test": 0}
    assert by_image.metrics["audit"]["patient"]["train-test"] > 0


def test_mimic_fallback_switch(setup, mimic):
    mimic.reports["50000004"] = "\n INDICATION: cough\n \n Lungs are clear."
    table = made(setup, mimic, "mimic", fallback="last_paragraph").table
    assert table.loc[4, "findings"] == "Lungs are clear."
    manifest = adds_up(build("mimic", setup("mimic", fallback="none")))
    assert manifest.metrics["faults"] == {"report has neither impression nor findings": 1}


def test_mimic_a_report_without_sections_is_counted_but_stops_nothing(setup, mimic, caplog):
    mimic.reports |= {row[2]: "nothing here" for row in mimic.rows[:10]}
    with caplog.at_level("INFO", "cxrmim"):
        manifest = made(setup, mimic, "mimic", limit=0.0)
    assert len(manifest.table) == 10
    assert "mimic, source row 1: report has neither impression nor findings" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m: m.rows[4].__setitem__(1, "../../etc"), "an id is not of the released form"),
        (lambda m: m.rows[4].__setitem__(0, "/etc/passwd"), "an id is not of the released form"),
        (lambda m: m.rows[4].__setitem__(0, "d003"), "image listed twice"),
        (lambda m: m.reports.pop("50000004"), "report is missing"),
        (lambda m: m.reports.update({"50000004": " \n"}), "report is empty"),
        (lambda m: m.reports.update({"50000004": "x" * (1 << 21)}), "report cannot be read"),
    ],
)
def test_mimic_a_bad_row_is_dropped_and_named(setup, mimic, spoil, reason):
    spoil(mimic)
    manifest = made(setup, mimic, "mimic")
    assert manifest.metrics["faults"] == {reason: 1}
    assert 5 not in set(manifest.table["source_row"])
    with pytest.raises(DataError, match=f"mimic: 1 of 20 rows .* source row 5: {reason}.*= 0.01"):
        build("mimic", setup("mimic", limit=0.01))


def test_mimic_rows_without_an_official_split_are_counted(setup, mimic):
    mimic.rows[7][4] = ""
    assert made(setup, mimic, "mimic").metrics["flow"]["not in the split table"] == 1


def test_nothing_left_is_an_error(setup, mimic):
    mimic.reports = {row[2]: "nothing" for row in mimic.rows}
    mimic.write()
    with pytest.raises(DataError, match="no row is left of 20 rows, 20 report has neither"):
        build("mimic", setup("mimic"))


# CheXpert


def test_chexpert_label_policy(setup, chexpert):
    chexpert.train[0] = chexpert.row("train", 0, labels="-1.0,-1.0,-1.0,-1.0,-1.0")
    chexpert.train[1] = chexpert.row("train", 1, labels=",,,,")
    chexpert.train[2] = chexpert.row("train", 2, labels="1.0,0.0,1,0,-1")
    table = made(setup, chexpert, "chexpert").table
    marks = table.filter(like="label_").to_numpy()
    assert list(table.columns[-5:]) == [
        f"label_{n}"
        for n in ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    ]
    assert marks[:3].tolist() == [[1, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1]]
    assert not np.isnan(marks).any()


def test_chexpert_split_switch(setup, chexpert):
    table = made(setup, chexpert, "chexpert").table
    assert table["split"].value_counts().to_dict() == {"train": 20, "valid": 4, "test": 3}
    test = table[table["split"] == "test"].iloc[0]
    assert test["path"] == "CheXpert/test/patient00200/study1/view1_frontal.jpg"
    assert test[[c for c in table if c.startswith("label_")]].tolist() == [0, 1, 0, 1, 0]
    table = build("chexpert", setup("chexpert", split="valid_as_test")).table
    assert table["split"].value_counts().to_dict() == {"train": 18, "test": 4, "valid": 2}
    assert table[table["split"] == "test"]["path"].str.contains("/valid/").all()


def test_chexpert_views_switch(setup, chexpert):
    chexpert.train[3] = chexpert.row("train", 3, "Lateral")
    frontal = made(setup, chexpert, "chexpert")
    assert frontal.metrics["flow"]["view is lateral"] == 1 + 3  # three in the test studies
    views = adds_up(build("chexpert", setup("chexpert", views="all"))).table["view"]
    assert views.value_counts().to_dict() == {"AP": 23, "LATERAL": 4, "": 3}


def test_chexpert_release_switch(setup, chexpert):
    root = chexpert.write()
    (root / "CheXpert-v1.0-small").rename(root / "CheXpert-v1.0")
    table = build("chexpert", setup("chexpert", release="full")).table
    assert table["path"].iloc[0].startswith("CheXpert-v1.0/train/")
    with pytest.raises(DataError, match=r"expected CheXpert-v1.0-small/train.csv"):
        build("chexpert", setup("chexpert", release="small"))


def test_chexpert_root_may_be_the_folder_itself(setup, chexpert, tmp_path):
    root = chexpert.write()
    for path in [*root.glob("CheXpert-v1.0-small/*")]:
        path.rename(root / path.name)
    (root / "CheXpert/test").rename(root / "test")
    table = build("chexpert", setup("chexpert")).table
    assert table["path"].iloc[0].startswith("train/")
    assert table["path"].iloc[-1].startswith("test/")


def test_chexpert_without_its_test_set_says_what_to_set(setup, chexpert):
    chexpert.test = []
    root = chexpert.write()
    with pytest.raises(DataError, match=r"no folder CheXpert/test .*valid_as_test"):
        build("chexpert", setup("chexpert"))
    (root / "groundtruth.csv").unlink()
    with pytest.raises(DataError, match=r"no groundtruth.csv .*split: valid_as_test"):
        build("chexpert", setup("chexpert"))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (0, "/etc/passwd", "path leaves the root"),
        (0, "CheXpert-v1.0-small/../../x.jpg", "path leaves the root"),
        (0, "CheXpert-v1.0-small/train/odd.jpg", "path names no patient, study and view"),
        (0, None, "image listed twice"),
        (1, "Oblique", "unknown value in column Frontal/Lateral"),
        (6, "2.0", "unknown value in column Edema"),
        (7, "maybe", "unknown value in column Pleural Effusion"),
    ],
)
def test_chexpert_a_bad_row_is_dropped_and_named(setup, chexpert, column, value, reason):
    chexpert.train[9][column] = chexpert.train[8][0] if value is None else value
    manifest = made(setup, chexpert, "chexpert")
    assert manifest.metrics["faults"] == {reason: 1}
    assert 10 not in set(manifest.table["source_row"])
    with pytest.raises(DataError, match=f"chexpert: 1 of 30 rows .* source row 10: {reason}"):
        build("chexpert", setup("chexpert", limit=0.01))


def test_chexpert_a_test_study_is_hostile_too(setup, chexpert):
    chexpert.write()
    chexpert.test[0][0] = "CheXpert-v1.0/../../../etc"
    chexpert.test[1][0] = "CheXpert-v1.0/test/patient99999/study1"
    chexpert.write_test()
    manifest = adds_up(build("chexpert", setup("chexpert")))
    assert manifest.metrics["faults"] == {"path leaves the root": 1, "study has no image": 1}


def test_chexpert_a_patient_in_two_splits_stops(setup, chexpert):
    chexpert.valid[0] = chexpert.row("valid", 3)
    chexpert.valid[0][0] = chexpert.valid[0][0].replace("study1", "study2")
    chexpert.write()
    with pytest.raises(DataError, match="chexpert: splits train-valid share 1 patients"):
        build("chexpert", setup("chexpert"))


# SIIM


def test_siim_rows_of_an_image_are_kept_together(setup, siim):
    siim.rows.insert(1, ["1.2.0", "9 1"])
    siim.rows[2][1] = "-1"  # the re-issue's spelling, without the blank
    manifest = made(setup, siim, "siim", balance=False)
    table = manifest.table.set_index("image")
    assert table.loc["1.2.0", "rle"] == ["3 2 4 1", "9 1"]
    assert table.loc["1.2.1", "rle"] == []
    assert table.loc["1.2.0", "source_row"] == 1
    assert table["label_Pneumothorax"].sum() == 10
    assert manifest.metrics["flow"]["further row of an image"] == 1
    assert table.loc["1.2.0", "path"] == "dicom-images-train/s1.2.0/t1.2.0/1.2.0.dcm"
    assert table["split"].value_counts().to_dict() == {"train": 28, "valid": 6, "test": 6}


def test_siim_balance_switch(setup, siim):
    manifest = made(setup, siim, "siim", balance=True)
    train = manifest.table[manifest.table["split"] == "train"]
    positives = int(train["label_Pneumothorax"].sum())
    assert len(train) == 2 * positives
    free = build("siim", setup("siim", balance=False))
    assert len(free.table) == 40
    assert (free.table["label_Pneumothorax"] == 1).sum() == (
        manifest.table["label_Pneumothorax"] == 1
    ).sum()
    for split in ("valid", "test"):
        assert (free.table["split"] == split).sum() == (manifest.table["split"] == split).sum()


def test_siim_images_without_a_row_and_rows_without_an_image(setup, siim):
    siim.images += ["9.9.9"]
    siim.images.remove("1.2.4")
    manifest = made(setup, siim, "siim")
    assert manifest.metrics["notes"] == {"images without a row": 1}
    assert manifest.metrics["faults"] == {"image is missing": 1}
    with pytest.raises(DataError, match=r"siim: 1 of 40 rows .* source row 5: image is missing"):
        build("siim", setup("siim", limit=0.01))


def test_siim_an_image_with_a_blank_code_loses_all_its_rows(setup, siim):
    """Its other rows alone would be a truncated mask."""
    siim.rows.insert(1, ["1.2.0", ""])
    manifest = made(setup, siim, "siim", balance=False)
    assert manifest.metrics["faults"] == {"column EncodedPixels is blank": 2}
    assert "1.2.0" not in set(manifest.table["image"])


def test_siim_without_its_images(setup, siim):
    siim.images = []
    siim.write()
    with pytest.raises(DataError, match=r"siim: .*no folder dicom-images-train"):
        build("siim", setup("siim"))


@pytest.mark.parametrize("dataset", PLACES)
def test_a_table_without_rows_leaves_nothing(setup, request, dataset):
    layout = request.getfixturevalue(dataset)
    for rows in ("rows", "train", "valid"):
        if hasattr(layout, rows):
            setattr(layout, rows, [])
    if dataset == "chexpert":
        layout.test = [["CheXpert-v1.0/test/patient00200/study1", *"xxxxx"]]
    layout.write()
    with pytest.raises(DataError, match=f"{dataset}: .* no row is left of .*; check the files"):
        build(dataset, setup(dataset, limit=1.0))
