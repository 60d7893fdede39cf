"""NIH ChestX-ray14 as the phantom writes it: folders, both tables, official lists, labels."""

import hashlib
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmim.phantom import cohorts
from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.findings import EXTRA_PREVALENCE, PREVALENCE
from cxrmim.phantom.layouts import nih

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
TABLES = {"Data_Entry_2017.csv": ",", "Data_Entry_2017_v2020.csv": ""}


@pytest.fixture(scope="module")
def root(written):
    return written("nih")


@pytest.fixture(scope="module")
def lines(root):
    """Data lines of both tables, cut at the commas."""
    out = {}
    for name, end in TABLES.items():
        text = (root / name).read_text()
        head, *body = text.removesuffix("\n").split("\n")
        assert head == HEADER + end and '"' not in text and "\r" not in text
        assert all(line.endswith(end) for line in body)
        out[name] = [line.split(",") for line in body]
    return out


def test_tables_have_two_columns_for_each_name_with_a_comma(lines, root):
    for name, extra in (("Data_Entry_2017.csv", 1), ("Data_Entry_2017_v2020.csv", 0)):
        assert {len(cells) for cells in lines[name]} == {11 + extra}
        table = pd.read_csv(root / name)
        assert list(table.columns[7:11]) == [
            "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
        ]  # fmt: skip
        for number, cells in enumerate(lines[name]):
            image, _, follow, patient, age, sex, view, width, height, across, down = cells[:11]
            assert image == f"{int(patient):08d}_{int(follow):03d}.png"
            assert 18 <= int(age) <= 95 and sex in "MF" and view in ("PA", "AP"), number
            assert int(width) > 2000 and int(height) > 2000 and across == down and float(down) < 0.2


def test_images_lie_in_twelve_folders_in_order(root, lines):
    folders = sorted(path.name for path in root.glob("images_*"))
    assert folders == [f"images_{number:03d}" for number in range(1, 13)]
    files = [sorted(p.name for p in (root / name / "images").iterdir()) for name in folders]
    assert all(files)
    assert [name for folder in files for name in folder] == [
        cells[0] for cells in lines["Data_Entry_2017.csv"]
    ]


def test_pngs_are_square_and_a_few_have_colour_and_alpha(root):
    modes = defaultdict(int)
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            modes[image.mode] += 1
            assert image.size == (64, 64) and image.format == "PNG"
    assert set(modes) == {"L", "RGBA"} and 2 <= modes["RGBA"] < 0.05 * modes["L"]


def test_labels_are_findings_in_alphabetical_order(lines):
    seen = defaultdict(int)
    for cells in lines["Data_Entry_2017.csv"]:
        found = cells[1].split("|")
        assert found == sorted(found)
        assert found == ["No Finding"] or set(found) <= set(cohorts.NIH_LABELS)
        for name in found:
            seen[name] += 1
    assert set(seen) == {*cohorts.NIH_LABELS, "No Finding"} and min(seen.values()) >= 2


def test_the_newer_table_differs_in_a_few_labels_only(lines):
    older, newer = (lines[name] for name in TABLES)
    differ = [a[1] != b[1] for a, b in zip(older, newer, strict=True)]
    assert sum(differ) == 4
    assert [a[:1] + a[2:11] for a in older] == [b[:1] + b[2:11] for b in newer]


def test_official_lists_part_the_patients(root, lines):
    names = ("train_val_list.txt", "test_list.txt")
    texts = [(root / name).read_text() for name in names]
    assert not any(text.endswith("\n") for text in texts)
    train, test = (text.split("\n") for text in texts)
    assert sorted(train + test) == sorted(cells[0] for cells in lines["Data_Entry_2017.csv"])
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    assert 0.1 < len(test) / len(train + test) < 0.35
    # MRM's test list has the same name and other images.
    mrm = (root / "DatasetsSplits/NIH_ChestX-ray/test_list.txt").read_text().splitlines()
    assert {line.split(" ")[0] for line in mrm} != set(test)


def test_some_patients_have_several_images(lines, sizes):
    counts = pd.Series([int(cells[3]) for cells in lines["Data_Entry_2017.csv"]]).value_counts()
    assert len(counts) == sizes["nih"] + 2 and counts.max() > 3 and counts.median() <= 2


def test_labels_are_those_of_the_latent_findings():
    rng = DIFFICULTIES["easy"]
    for number in range(150):
        _, visits = cohorts.nih_patient(3, number, rng)
        for visit in visits:
            bits = dict(zip(cohorts.NIH_LABELS, cohorts.nih_labels(visit.study), strict=True))
            assert bits["Effusion"] == ("Pleural Effusion" in visit.study.names)
            assert bits["Nodule"] == ("Lung Lesion" in visit.study.names)
            assert bits["Pleural_Thickening"] == ("Pleural Other" in visit.study.names)
            assert bits["Pneumonia"] == visit.study.pneumonia <= bits["Consolidation"]
            for name in ("Hernia", "Mass", "Edema", "Fibrosis"):
                assert bits[name] == (name in visit.study.names)


def test_prevalence_of_the_further_findings():
    studies = [
        visit.study
        for number in range(2000)
        for visit in cohorts.nih_patient(0, number, DIFFICULTIES["easy"])[1]
    ]
    for name, share in (PREVALENCE | EXTRA_PREVALENCE).items():
        found = np.mean([name in study.names for study in studies])
        assert abs(found - share) < 0.25 * share, name


def test_at_least_two_positives_of_each_label_in_train_at_500_patients():
    bits = np.zeros(14, dtype=int)
    for number in range(300):  # fewer than MRM's 70 % of 500
        for visit in cohorts.nih_patient(2023, number, DIFFICULTIES["easy"])[1]:
            bits += cohorts.nih_labels(visit.study)
    assert bits.min() >= 2


def test_copies_test_what_their_originals_train(root, spec, tmp_path):
    same = defaultdict(set)
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            same[hashlib.sha256(np.asarray(image).tobytes()).hexdigest()].add(path.name)
    doubles = [found for found in same.values() if len(found) > 1]
    assert len(doubles) == 2
    folder = root / "DatasetsSplits" / "NIH_ChestX-ray"
    lists = {name: (folder / f"{name}_list.txt").read_text() for name in ("train", "test")}
    for found in doubles:
        assert len(found) == 2 and len({name[:8] for name in found}) == 2
        sides = {side for name in found for side, text in lists.items() if name in text}
        assert sides == {"train", "test"}
    counts = nih.write(tmp_path, spec(raster=40, nih=9), 1)
    assert counts["planted_duplicates"] == 2 and counts["patients"] == 11
    assert counts["images"] == len(list(tmp_path.rglob("*.png")))
