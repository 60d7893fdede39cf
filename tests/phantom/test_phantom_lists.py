"""The MRM repository's lists, as each layout writes those of its dataset."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrmim.phantom.files import draw_subset

FOLDERS = {
    "nih": "NIH_ChestX-ray",
    "rsna": "RSNA_Pneumonia",
    "chexpert": "CheXpert",
    "siim": "SIIM-ACR_Pneumothorax",
}
NAMES = ("train_list", "val_list", "test_list", "train_10", "train_1")
POLICY = {
    "Atelectasis": 1,
    "Cardiomegaly": 0,
    "Consolidation": 0,
    "Edema": 1,
    "Pleural Effusion": 1,
}


@pytest.fixture(scope="module")
def lists(written):
    """A function: dataset -> its lists as lines."""

    def get(dataset: str) -> dict[str, list[str]]:
        folder = written(dataset) / "DatasetsSplits" / FOLDERS[dataset]
        assert {path.name for path in folder.iterdir()} == {f"{name}.txt" for name in NAMES}
        return {name: (folder / f"{name}.txt").read_text().splitlines() for name in NAMES}

    return get


@pytest.mark.parametrize("dataset", FOLDERS)
def test_subsets_are_parts_of_train_and_not_nested(lists, dataset):
    found = lists(dataset)
    train = set(found["train_list"])
    assert len(train) == len(found["train_list"])
    for name, share in (("train_10", 0.1), ("train_1", 0.01)):
        assert set(found[name]) <= train and len(set(found[name])) == len(found[name])
        assert len(found[name]) >= max(1, round(share * len(train)) - 1)
    assert not set(found["train_1"]) <= set(found["train_10"])


@pytest.mark.parametrize(("dataset", "width"), [("nih", 14), ("rsna", 1), ("chexpert", 5)])
def test_each_label_is_in_each_subset(lists, dataset, width):
    found = lists(dataset)
    for name in ("train_10", "train_1"):
        bits = np.array([[int(bit) for bit in line.split()[1:]] for line in found[name]])
        everything = [[int(bit) for bit in line.split()[1:]] for line in found["train_list"]]
        assert bits.shape[1] == width and set(np.unique(bits)) == {0, 1}
        least = np.minimum(2, np.sum(everything, axis=0))
        assert (bits.sum(axis=0) >= least).all() and (least > 0).all()


def test_a_subset_that_shows_every_label_is_a_plain_draw():
    lines = [str(number) for number in range(200)]
    plain = [lines[i] for i in np.random.default_rng(5).permutation(200)[:20]]
    common = [[1] for _ in lines]
    assert draw_subset(lines, common, 0.1, np.random.default_rng(5)) == plain
    rare = [[int(number in (3, 70, 150))] for number in range(200)]
    longer = draw_subset(lines, rare, 0.1, np.random.default_rng(5))
    assert longer[:20] == plain and sum(rare[int(name)][0] for name in longer) == 2


def test_nih_lists_are_disjoint_by_patient_and_hold_the_older_table(lists, written):
    root, found = written("nih"), lists("nih")
    parts = [{line[:8] for line in found[name]} for name in NAMES[:3]]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    lines = [line for name in NAMES[:3] for line in found[name]]
    order = "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax"
    order += " Consolidation Edema Emphysema Fibrosis Pleural_Thickening Hernia"
    rows = (root / "Data_Entry_2017.csv").read_text().splitlines()[1:]
    table = {row.split(",")[0]: row.split(",")[1].split("|") for row in rows}
    assert len(lines) == len(table)
    for line in lines:
        file, *bits = line.split(" ")
        named = [name for name, bit in zip(order.split(), bits, strict=True) if bit == "1"]
        assert sorted(named) == (sorted(table[file]) if table[file] != ["No Finding"] else [])
    folder = root / "DatasetsSplits" / FOLDERS["nih"]
    ends = {name: (folder / f"{name}.txt").read_bytes()[-1:] == b"\n" for name in NAMES}
    assert ends == dict.fromkeys(NAMES, True) | {"val_list": False}
    # A patient's images stand together, the patients in random order.
    patients = [line[:8] for line in found["train_list"]]
    runs = sum(a != b for a, b in zip(patients, [None, *patients], strict=False))
    assert runs == len(parts[0]) and patients != sorted(patients)


def test_rsna_lists_cut_the_alphabet(lists, written):
    root, found = written("rsna"), lists("rsna")
    for name in NAMES:
        folder = "test" if name == "test_list" else "train"
        assert all(line.startswith(f"stage_2_{folder}_images/") for line in found[name])
        assert all(line.endswith((".dcm 0 ", ".dcm 1 ")) for line in found[name])
        assert all((root / line.split()[0]).is_file() for line in found[name])
    labelled = pd.read_csv(root / "stage_2_train_labels.csv").groupby("patientId").Target.max()
    ids = [f"stage_2_train_images/{name}.dcm {target} " for name, target in labelled.items()]
    assert found["train_list"] + found["val_list"] == sorted(ids)
    assert found["train_10"] == found["train_list"][: len(found["train_list"]) // 10]
    assert found["train_1"] != found["train_list"][: len(found["train_1"])]
    images = {path.name for path in (root / "stage_2_test_images").iterdir()}
    assert {line.split()[0].split("/")[1] for line in found["test_list"]} == images
    assert found["test_list"] != sorted(found["test_list"])


def test_chexpert_lists_part_images_and_settle_what_is_uncertain(lists, written):
    root, found = written("chexpert"), lists("chexpert")
    folder = root / "CheXpert-v1.0-small"
    for tables, names in (("train", ("train_list", "val_list")), ("valid", ("test_list",))):
        table = pd.read_csv(folder / f"{tables}.csv")
        bits = {
            row["Path"]: [
                POLICY[name] if row[name] == -1 else int(row[name] == 1) for name in POLICY
            ]
            for _, row in table.iterrows()
        }
        lines = [line.split(" ") for name in names for line in found[name]]
        assert len(lines) == len(bits)
        assert {path: [int(value) for value in values] for path, *values in lines} == bits
        assert tables != "train" or (table[list(POLICY)] == -1).any().all()
    patients = [{line.split("/")[2] for line in found[name]} for name in NAMES[:2]]
    assert patients[0] & patients[1]  # parted by image, whatever the patient
    assert any("lateral" in line for line in found["val_list"])
    assert [line.split(" ")[0] for line in found["test_list"]] == list(table.Path)


def test_siim_lists_leak_positives_only(spec, tmp_path):
    from cxrmim.phantom.layouts import siim

    images = [(f"id{number}", number % 4 == 0) for number in range(4000)]
    found = siim._mrm_lists(images, 0)
    positive = {name for name, flag in images if flag}
    train, valid, test = (set(found[name]) for name in NAMES[:3])
    assert train | valid | test == {name for name, _ in images}
    for first, second, share in ((train, valid, 478), (train, test, 494), (valid, test, 124)):
        assert first & second <= positive
        assert abs(len(first & second) / len(positive) - share / 2379) < 0.03
    negatives = [len(part - positive) / 3000 for part in (train, valid, test)]
    assert np.allclose(negatives, (0.7, 0.15, 0.15), atol=0.02)


def test_siim_lists_hold_the_ids_of_stage_1(lists, written):
    found = lists("siim")
    ids = set(pd.read_csv(written("siim") / "train-rle.csv").ImageId)
    assert {line for name in NAMES[:3] for line in found[name]} == ids
    everything = [line for name in NAMES[:3] for line in found[name]]
    assert len(everything) > len(set(everything))


def test_no_lists_where_mrm_has_none(written):
    for dataset in ("mimic", "covidx"):
        assert not Path(written(dataset), "DatasetsSplits").exists()
