"""Real label tables, shipped with torchxrayvision, through our readers (counts of protocols §1)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pandas as pd
import pytest

from cxrmim.errors import DataError
from cxrmim.manifest.build import build
from cxrmim.shards.masks import decode_rle


def shipped(name: str) -> Path:
    """A table inside the wheel; the package itself is not imported (it needs torch)."""
    from importlib import util

    spec = util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision is not installed (extra `test`)")
    path = Path(spec.origin).parent / "data" / name
    assert path.is_file(), f"the locked torchxrayvision ships no {name}"
    return path


@pytest.fixture
def chexpert_table(tmp_path):
    """The real train.csv beside one image each of valid.csv and of the test set."""
    path = shipped("chexpert_train.csv.gz")
    folder = tmp_path / "raw/CheXpert-v1.0-small"
    folder.mkdir(parents=True)
    (folder / "train.csv.gz").symlink_to(path)
    header, first = gzip.decompress(path.read_bytes()).decode().splitlines()[:2]
    valid = first.replace("/train/patient00001", "/valid/patient64541")
    (folder / "valid.csv").write_text(f"{header}\n{valid}\n")
    test = tmp_path / "raw/CheXpert/test/patient64741/study1"
    test.mkdir(parents=True)
    (test / "view1_frontal.jpg").touch()
    (tmp_path / "raw/groundtruth.csv").write_text(
        "Study,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion\n"
        "CheXpert-v1.0/test/patient64741/study1,0,0,0,0,1\n"
    )
    return path


@pytest.fixture
def siim_table(tmp_path):
    path = shipped("siim-pneumothorax-train-rle.csv.gz")
    folder = tmp_path / "raw/dicom-images-train"
    folder.mkdir(parents=True)
    (tmp_path / "raw/train-rle.csv.gz").symlink_to(path)
    for name in pd.read_csv(path)["ImageId"].unique():
        (folder / f"{name}.dcm").touch()
    return path


def mrm_lists(name: str) -> Path:
    """A user's copy of the MRM repository's lists, which no package ships."""
    folder = os.environ.get("CXRMIM_MRM_LISTS")
    if folder is None or not (Path(folder) / name).is_dir():
        pytest.skip(f"CXRMIM_MRM_LISTS names no folder DatasetsSplits with {name}")
    return Path(folder)


def images(table: pd.DataFrame, split: str) -> set[str]:
    return set(table.loc[table["split"] == split, "image"])


def test_chexpert_counts_policy_and_subsets(setup, chexpert_table):
    manifest = build("chexpert", setup("chexpert", limit=0.0))
    assert not manifest.metrics["faults"]
    train = manifest.table[manifest.table["split"] == "train"]
    assert len(train) == 191_027
    assert manifest.metrics["flow"]["rows"] == 223_414 + 2
    assert (train["in_1"].sum(), train["in_10"].sum()) == (1_910, 19_103)
    raw = pd.read_csv(chexpert_table)
    raw = raw[raw["Frontal/Lateral"] == "Frontal"]
    assert train["patient"].nunique() == raw["Path"].str.split("/").str[2].nunique()
    for name, uncertain in (("Edema", True), ("Cardiomegaly", False)):
        expected = (raw[name] == 1).sum() + uncertain * (raw[name] == -1).sum()
        assert (train[f"label_{name}"] == 1).sum() == expected


def test_chexpert_holds_out_about_5000_images_of_whole_patients(setup, chexpert_table):
    manifest = build("chexpert", setup("chexpert", split="valid_as_test", views="all"))
    valid = manifest.table[manifest.table["split"] == "valid"]
    assert abs(len(valid) - 5_000) <= 5
    assert len(images(manifest.table, "train")) == 223_414 - len(valid)
    assert manifest.table["patient"].nunique() == 64_540 + 1
    assert not any(manifest.metrics["audit"]["patients"].values())


def test_chexpert_as_released_leaves_validation_images_in_train(setup, chexpert_table):
    manifest = build("chexpert", setup("chexpert", split="mgca", views="all"))
    table = manifest.table
    train, valid = images(table, "train"), images(table, "valid")
    assert (len(train), len(valid), len(train & valid)) == (217_433, 5_000, 4_907)
    assert manifest.metrics["audit"]["images"]["train-valid"] == 4_907
    frontal = table[table["view"] != "LATERAL"]
    train, valid = images(frontal, "train"), images(frontal, "valid")
    assert (len(train), len(valid), len(train & valid)) == (185_771, 4_284, 4_203)


def test_chexpert_mrm_lists(setup, chexpert_table):
    lists = mrm_lists("CheXpert")
    manifest = build("chexpert", setup("chexpert", split="mrm", views="all", lists=lists))
    table = manifest.table
    assert (len(images(table, "train")), len(images(table, "valid"))) == (218_414, 5_000)
    assert (table["in_1"].sum(), table["in_10"].sum()) == (2_184, 21_841)
    assert manifest.metrics["notes"]["listed images whose labels differ"] == 0
    in_1 = set(table.loc[table["in_1"], "patient"])
    valid = set(table.loc[table["split"] == "valid", "patient"])
    assert (len(in_1), len(in_1 & valid)) == (2_106, 315)


def test_siim_counts_and_masks(setup, siim_table):
    manifest = build("siim", setup("siim", limit=0.0, balance=False))
    table = manifest.table
    assert manifest.metrics["flow"]["rows"] == 12_954
    assert not manifest.metrics["faults"]
    assert len(table) == 12_047
    assert table["label_Pneumothorax"].sum() == 2_669
    assert table["rle"].map(len).max() == 10
    assert table["split"].value_counts().to_dict() == {"train": 8433, "valid": 1807, "test": 1807}
    masks = [decode_rle(codes, 1024, 1024) for codes in table["rle"] if len(codes)][:200]
    shares = [(mask > 0).mean() for mask in masks]
    assert min(shares) > 0
    assert max(shares) < 0.3


def test_siim_as_released_shares_images_and_cuts_masks(setup, siim_table):
    manifest = build("siim", setup("siim", split="mgca", balance=False))
    table = manifest.table
    counts = table["split"].value_counts().to_dict()
    assert counts == {"train": 8_578, "valid": 1_910, "test": 1_903}
    shared = {"train-valid": 161, "train-test": 154, "valid-test": 62}
    assert manifest.metrics["audit"]["images"] == shared
    whole = build("siim", setup("siim", balance=False)).table.set_index("image")["rle"].map(len)
    positive = table[table["label_Pneumothorax"] == 1]
    cut = positive[positive["rle"].map(len) < positive["image"].map(whole)]
    for split, part, of in (("train", 282, 2_002), ("valid", 190, 535), ("test", 183, 476)):
        assert (positive["split"] == split).sum() == of
        assert (cut["split"] == split).sum() == part
    balanced = build("siim", setup("siim", split="mgca", balance=True)).table
    train = balanced[balanced["split"] == "train"]
    assert train["label_Pneumothorax"].value_counts().to_dict() == {0.0: 2_002, 1.0: 2_002}


def test_siim_stage1_and_mrm_lists(setup, siim_table):
    lists = mrm_lists("SIIM-ACR_Pneumothorax")
    first = build("siim", setup("siim", release="stage1", balance=False, lists=lists))
    flow = first.metrics["flow"]
    assert flow["rows"] - flow["image is not of this release"] == 11_582
    assert len(first.table) == 10_675
    assert first.table["label_Pneumothorax"].sum() == 2_379
    mrm = build("siim", setup("siim", split="mrm", lists=lists))
    counts = mrm.table["split"].value_counts().to_dict()
    assert counts == {"train": 7_969, "valid": 1_898, "test": 1_904}
    shared = {"train-valid": 478, "train-test": 494, "valid-test": 124}
    assert mrm.metrics["audit"]["images"] == shared


def test_siim_stage1_needs_to_know_its_images(setup, siim_table):
    """The re-issue's table alone does not say which images are new."""
    with pytest.raises(DataError, match=r"12,954 rows, the first release has 11,582"):
        build("siim", setup("siim", release="stage1"))
