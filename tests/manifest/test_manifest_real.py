"""Real label tables, shipped with torchxrayvision, through our readers (counts of protocols §1)."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

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


def test_chexpert_counts_policy_and_subsets(setup, tmp_path):
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
    manifest = build("chexpert", setup("chexpert", limit=0.0))
    assert not manifest.metrics["faults"]
    train = manifest.table[manifest.table["split"] == "train"]
    assert len(train) == 191_027
    assert manifest.metrics["flow"]["rows"] == 223_414 + 2
    assert (train["in_1"].sum(), train["in_10"].sum()) == (1_910, 19_103)
    raw = pd.read_csv(path)
    raw = raw[raw["Frontal/Lateral"] == "Frontal"]
    assert train["patient"].nunique() == raw["Path"].str.split("/").str[2].nunique()
    for name, uncertain in (("Edema", True), ("Cardiomegaly", False)):
        expected = (raw[name] == 1).sum() + uncertain * (raw[name] == -1).sum()
        assert (train[f"label_{name}"] == 1).sum() == expected


def test_siim_counts_and_masks(setup, tmp_path):
    path = shipped("siim-pneumothorax-train-rle.csv.gz")
    folder = tmp_path / "raw/dicom-images-train"
    folder.mkdir(parents=True)
    (tmp_path / "raw/train-rle.csv.gz").symlink_to(path)
    for name in pd.read_csv(path)["ImageId"].unique():
        (folder / f"{name}.dcm").touch()
    manifest = build("siim", setup("siim", limit=0.0, balance=False))
    table = manifest.table
    assert manifest.metrics["flow"]["rows"] == 12_954
    assert len(table) == 12_047
    assert table["label_Pneumothorax"].sum() == 2_669
    assert table["rle"].map(len).max() == 10
    assert table["split"].value_counts().to_dict() == {"train": 8433, "valid": 1807, "test": 1807}
    masks = [decode_rle(codes, 1024, 1024) for codes in table["rle"] if len(codes)][:200]
    shares = [(mask > 0).mean() for mask in masks]
    assert min(shares) > 0
    assert max(shares) < 0.3
