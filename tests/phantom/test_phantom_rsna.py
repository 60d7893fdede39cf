"""RSNA Pneumonia as the phantom writes it: DICOMs, tables, boxes, classes, rates, copies."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest

from cxrmim.phantom import cohorts
from cxrmim.phantom.acquisition import DIFFICULTIES, draw_acquisition
from cxrmim.phantom.findings import draw_finding, draw_patient
from cxrmim.phantom.layouts import rsna
from cxrmim.phantom.painting import render
from cxrmim.phantom.sheet import NORMAL

EASY = DIFFICULTIES["easy"]
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def root(written):
    return written("rsna")


@pytest.fixture(scope="module")
def tables(root):
    names = ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv")
    return [pd.read_csv(root / name) for name in names]


def test_tables_have_a_row_a_box(root, tables, sizes):
    labels, classes = tables
    assert list(labels.columns) == ["patientId", "x", "y", "width", "height", "Target"]
    assert list(classes.columns) == ["patientId", "class"]
    assert labels.patientId.equals(classes.patientId)
    assert labels.patientId.nunique() == sizes["rsna"]
    assert labels.patientId.str.fullmatch(UUID).all()
    positive = labels[labels.Target == 1]
    assert positive.groupby("patientId").size().max() == 2
    assert not labels[labels.Target == 0].patientId.duplicated().any()
    boxes = positive[["x", "y", "width", "height"]]
    assert boxes.notna().all().all() and labels[labels.Target == 0].x.isna().all()
    assert (boxes == boxes.round()).all().all() and (boxes >= 0).all().all()
    assert (boxes.x + boxes.width <= 64).all() and (boxes.y + boxes.height <= 64).all()
    first = (root / "stage_2_train_labels.csv").read_text().splitlines()
    assert any(line.endswith(",,,,,0") for line in first)
    assert any(line.count(".0,") == 4 and line.endswith(",1") for line in first)


def test_classes_agree_with_the_targets(tables):
    labels, classes = tables
    assert set(classes["class"]) == {"Normal", "No Lung Opacity / Not Normal", "Lung Opacity"}
    assert ((classes["class"] == "Lung Opacity") == (labels.Target == 1)).all()


def test_files_are_named_by_patient_and_unlabelled_in_the_test_set(root, tables):
    train = {path.stem for path in (root / "stage_2_train_images").iterdir()}
    test = {path.stem for path in (root / "stage_2_test_images").iterdir()}
    assert train == set(tables[0].patientId) and not train & test and len(test) == 100
    for path in sorted((root / "stage_2_train_images").iterdir())[:12]:
        data = pydicom.dcmread(path)
        assert data.PatientID == path.stem and data.PhotometricInterpretation == "MONOCHROME2"
        assert data.Modality == "CR" and data.ViewPosition in ("PA", "AP")
        assert data.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
        assert data.pixel_array.shape == (64, 64) and data.pixel_array.dtype == np.uint8


def test_opacities_come_early_in_the_alphabet(tmp_path, spec, monkeypatch):
    images = []
    monkeypatch.setattr(rsna, "make_dicom", lambda *_: b"")
    blank = render(*_healthy(), EASY, 40, np.random.default_rng(0))
    monkeypatch.setattr(rsna, "render", lambda *_: blank)
    rsna.write(tmp_path, spec(raster=40, rsna=3000), 1)
    table = pd.read_csv(tmp_path / "stage_2_train_labels.csv").groupby("patientId").Target.max()
    rates = [part.mean() for part in np.array_split(table.to_numpy(), 10)]
    assert abs(table.mean() - 0.225) < 0.03
    assert rates[0] > 0.26 and rates[-1] < 0.19
    lists = tmp_path / "DatasetsSplits" / "RSNA_Pneumonia" / "test_list.txt"
    images = [int(line.split()[1]) for line in lists.read_text().splitlines()]
    assert abs(np.mean(images) - 0.365) < 0.08 and len(images) == 337


def _healthy(rotation: float = 0.0):
    rng = np.random.default_rng(1)
    shot = draw_acquisition("PA", EASY, rng, square=True)
    return draw_patient(rng), NORMAL, replace(shot, rotation=rotation, collimation=0.0)


@pytest.mark.parametrize("rotation", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("zone", ["upper", "lower"])
def test_boxes_frame_the_opacity(side, zone, rotation):
    patient, study, shot = _healthy(rotation)
    shot = replace(shot, shift_x=0.05, shift_y=-0.04, scale=1.08)
    item = draw_finding("Consolidation", np.random.default_rng(2))
    item = replace(item, side=side, zone=zone, severity=0.6)
    before, after = (
        render(patient, replace(study, findings=found), shot, EASY, 128, np.random.default_rng(3))
        for found in ((), (item,))
    )
    # Noise differs, for the opacity's texture is drawn first: look at what is far off.
    change = after.pixels.astype(int) - before.pixels
    change = np.where(change > 25, change, 0)
    left, top, width, height = map(int, rsna.box_of(item, shot, 128))
    inside = change[top : top + height, left : left + width].sum()
    assert change.sum() > 0 and inside / change.sum() > 0.75
    assert (left + width / 2 > 64) == (side == "left")  # the patient's left is the viewer's right
    assert width * height < 0.2 * 128 * 128


def test_the_class_is_what_the_study_shows():
    for number in range(200):
        for kind in cohorts.RSNA_CLASSES:
            study = cohorts.rsna_patient(0, number, EASY, kind)[1][0].study
            assert cohorts.rsna_class(study) == kind
            assert ("Consolidation" in study.names) == (kind == "Lung Opacity")
            assert (not study.names) == (kind == "Normal")


def test_test_images_repeat_two_training_images(root, spec, tmp_path):
    pixels = {
        folder: {
            path.stem: pydicom.dcmread(path).pixel_array.tobytes()
            for path in (root / folder).iterdir()
        }
        for folder in ("stage_2_train_images", "stage_2_test_images")
    }
    train, test = (list(found.values()) for found in pixels.values())
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    assert len(set(train) & set(test)) == 2
    labels = pd.read_csv(root / "stage_2_train_labels.csv").groupby("patientId").Target.max()
    lines = (root / "DatasetsSplits/RSNA_Pneumonia/test_list.txt").read_text().splitlines()
    listed = {line.split("/")[1].split(".")[0]: int(line.split()[1]) for line in lines}
    for name, raw in pixels["stage_2_test_images"].items():
        for other, original in pixels["stage_2_train_images"].items():
            assert raw != original or listed[name] == labels[other]
    counts = rsna.write(tmp_path, spec(raster=40, rsna=12), 1)
    assert counts["planted_duplicates"] == 2 and counts["test_images"] == 100
    table = pd.read_csv(tmp_path / "stage_2_train_labels.csv")
    assert counts["boxes"] == (table.Target == 1).sum()
    assert counts["positive"] == table.groupby("patientId").Target.max().sum()
