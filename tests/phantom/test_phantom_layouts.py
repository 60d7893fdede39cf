import gzip
import io
import re
import zipfile
from collections import Counter

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from cxrmim import plugins
from cxrmim.phantom.findings import draw_patient, draw_study
from cxrmim.phantom.labels import COLUMNS
from cxrmim.phantom.layouts import siim
from cxrmim.phantom.phrases import FINDINGS_NAMES
from cxrmim.phantom.reports import FORMS, write_report

HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s", re.DOTALL)
"""What the public sectioning code takes for a section header."""


def values_of(table):
    cells = table[list(COLUMNS)].to_numpy(dtype=float)
    return set(cells[~np.isnan(cells)])


def mimic_tables(root):
    names = ("metadata", "split", "chexpert")
    return [pd.read_csv(root / f"mimic-cxr-2.0.0-{name}.csv.gz") for name in names]


def test_mimic_tables_and_files_agree(written, sizes):
    root = written("mimic")
    metadata, split, labels = mimic_tables(root)
    assert list(metadata.columns)[:7] == [
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription",
        "ViewPosition", "Rows", "Columns",
    ]  # fmt: skip
    assert metadata.shape[1] == 12
    assert list(split.columns) == ["dicom_id", "study_id", "subject_id", "split"]
    assert list(labels.columns) == ["subject_id", "study_id", *sorted(COLUMNS)]
    assert metadata.dicom_id.is_unique and labels.study_id.is_unique
    assert metadata.dicom_id.str.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}").all()
    assert labels.subject_id.nunique() == sizes["mimic"]
    assert set(labels.study_id) == set(metadata.study_id) == set(split.study_id)
    for row in metadata.itertuples():
        folder = root / "files" / f"p{str(row.subject_id)[:2]}" / f"p{row.subject_id}"
        assert (folder / f"s{row.study_id}.txt").is_file()
        with Image.open(folder / f"s{row.study_id}" / f"{row.dicom_id}.jpg") as image:
            assert image.mode == "L" and image.size == (row.Columns, row.Rows)
            assert max(image.size) == 64
    assert len(list(root.rglob("*.jpg"))) == len(metadata)
    assert (metadata.Rows != metadata.Columns).any()


def test_mimic_quirks(written):
    metadata, split, labels = mimic_tables(written("mimic"))
    assert metadata.ViewPosition.isna().any()
    assert {"PA", "AP", "LATERAL", "LL"} <= set(metadata.ViewPosition.dropna())
    sizes = metadata.groupby("study_id").size()
    assert sizes.min() == 1 and sizes.max() == 3
    frontal = metadata[metadata.ViewPosition.isin(["PA", "AP"])]
    assert (frontal.groupby("study_id").size() > 1).any()
    assert (labels.groupby("subject_id").size() > 1).any()
    assert split.groupby("subject_id").split.nunique().max() == 1
    assert set(split.split) == {"train", "validate", "test"}
    assert (split.split == "train").mean() > 0.9
    assert values_of(labels) == {1.0, 0.0, -1.0}
    assert labels.Edema.isna().any()


def test_mimic_gzip_holds_no_clock(written):
    for path in written("mimic").glob("*.csv.gz"):
        head = path.read_bytes()[:10]
        assert head[4:8] == b"\0\0\0\0" and head[3] == 0
        assert gzip.decompress(path.read_bytes()).count(b"\r") == 0


def test_mimic_reports_have_the_sections_and_oddities_of_the_real_ones(written):
    headers, texts = [], []
    for path in sorted(written("mimic").rglob("s*.txt")):
        texts.append(path.read_text(encoding="ascii"))
        headers.append(list(HEADER.findall(texts[-1])))
    usual = [("FINDINGS" in names, "IMPRESSION" in names) for names in headers]
    assert {(True, True), (True, False), (False, True), (False, False)} <= set(usual)
    assert any("___" in text for text in texts) and any("1. " in text for text in texts)
    odd = {name for names in headers for name in names}
    assert odd & {
        "CONCLUSION",
        "FINDINGS AND IMPRESSION",
        "IMPRESSON",
        "CHEST, TWO VIEWS",
        "FINDING",
    }
    assert all(len(line) <= 80 for text in texts for line in text.splitlines())
    words = set(re.findall(r"\w+", " ".join(texts).lower()))
    assert {
        "heart",
        "lung",
        "pleural",
        "effusion",
        "pneumothorax",
        "edema",
        "left",
        "right",
    } <= words


def test_chexpert_tables_and_files_agree(written):
    root = written("chexpert")
    for name, values in (("train", {1.0, 0.0, -1.0}), ("valid", {1.0, 0.0})):
        table = pd.read_csv(root / "CheXpert-v1.0-small" / f"{name}.csv")
        assert list(table.columns) == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]
        assert table.Path.str.startswith(f"CheXpert-v1.0-small/{name}/patient").all()
        assert all((root / path).is_file() for path in table.Path)
        lateral = table["Frontal/Lateral"] == "Lateral"
        assert lateral.any() and (table["AP/PA"].isna() == lateral).all()
        assert table.Path.str.endswith("_lateral.jpg").equals(lateral)
        assert values_of(table) == values
        assert table[list(COLUMNS)].isna().any().any() == (name == "train")
    assert table.Path.str.extract(r"patient(\d+)")[0].nunique() == 60
    truth = pd.read_csv(root / "groundtruth.csv")
    assert list(truth.columns) == ["Study", *COLUMNS] and len(truth) == 100
    assert truth.Study[0] == "CheXpert-v1.0/test/patient64741/study1"
    for study in truth.Study:
        folder = root / "CheXpert" / study.removeprefix("CheXpert-v1.0/")
        assert (folder / "view1_frontal.jpg").is_file()
    assert (truth["Enlarged Cardiomediastinum"] >= truth.Cardiomegaly).all()
    assert (truth["Lung Opacity"] >= truth.Edema).all()


def decode(codes, rows, cols):
    """The challenge's own decoding: relative offsets into the transposed image."""
    mask = np.zeros(rows * cols, dtype=bool)
    for code in codes:
        numbers = [int(word) for word in code.split()]
        position = 0
        for gap, run in zip(numbers[0::2], numbers[1::2], strict=True):
            position += gap
            mask[position : position + run] = True
            position += run
    return mask.reshape(cols, rows).T


@pytest.mark.parametrize("cut", [False, True])
def test_run_length_code_is_the_mask(cut):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((37, 41), dtype=bool)
        for _ in range(int(rng.integers(1, 4))):
            top, left = rng.integers(0, 33, 2)
            mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 12)] = True
        pieces = siim.regions(mask, cut)
        assert np.array_equal(decode([siim.encode(p) for p in pieces], 37, 41), mask)
    full = np.ones((5, 7), dtype=bool)
    assert siim.encode(full) == "0 35"


def test_siim_codes_are_the_masks_that_were_rendered(spec, tmp_path, monkeypatch):
    masks = {}
    drawn = siim.render

    def keep(patient, study, *rest):
        image = drawn(patient, study, *rest)
        masks[len(masks)] = (image.mask, study.find("Pneumothorax"))
        return image

    monkeypatch.setattr(siim, "render", keep)
    siim.write(tmp_path, spec(siim=40), 1)
    table = pd.read_csv(tmp_path / "stage_2_train.csv")
    assert table.ImageId.nunique() == 40
    for number, (_, rows) in enumerate(table.groupby("ImageId", sort=False)):
        codes = [code for code in rows[" EncodedPixels"] if code.strip() != "-1"]
        mask, finding = masks[number]
        assert np.array_equal(decode(codes, 64, 64), mask)
        assert mask.any() == (finding is not None)
        if finding is not None and finding.side == "left":
            assert len(codes) > 1 or np.flatnonzero(mask.any(0)).min() > 28


def test_siim_releases_spell_their_tables_apart(written, sizes):
    root = written("siim")
    old, new = ((root / name).read_text() for name in ("train-rle.csv", "stage_2_train.csv"))
    assert old.startswith("ImageId, EncodedPixels\n") and new.startswith("ImageId, EncodedPixels\n")
    first, second = (pd.read_csv(root / name) for name in ("train-rle.csv", "stage_2_train.csv"))
    column = " EncodedPixels"
    assert first[column].str.startswith(" ").all() and (first[column] == " -1").any()
    assert not second[column].str.startswith(" ").any() and (second[column] == "-1").any()
    # The re-issue is stage 1 and what lies in the folder of the test images.
    assert second.head(len(first)).ImageId.equals(first.ImageId)
    assert second.head(len(first))[column].equals(first[column].str.strip())
    folders = {path.stem: path.relative_to(root).parts[0] for path in root.rglob("*.dcm")}
    train = {name for name, folder in folders.items() if folder == "dicom-images-train"}
    test = {name for name, folder in folders.items() if folder == "dicom-images-test"}
    stage_1, reissue = set(first.ImageId), set(second.ImageId)
    assert stage_1 < train and reissue - stage_1 == test and test
    assert len(train - reissue) == 2 and len(reissue) == sizes["siim"]
    assert len(stage_1) == round(sizes["siim"] * 10_675 / 12_047)


def test_siim_quirks(written, sizes):
    root = written("siim")
    table = pd.read_csv(root / "stage_2_train.csv")
    per_image = table.groupby("ImageId").size()
    assert per_image.max() > 1 and len(per_image) == sizes["siim"]
    files = {path.stem: path for path in root.rglob("*.dcm")}
    assert set(per_image.index) < set(files)
    contrasts = {"MONOCHROME1": [], "MONOCHROME2": []}
    for name, path in files.items():
        data = pydicom.dcmread(path)
        assert data.SOPInstanceUID == name and path.parent.name == data.SeriesInstanceUID
        assert path.parent.parent.name == data.StudyInstanceUID
        assert data.PatientID and data.BitsStored == 8
        pixels = data.pixel_array
        assert pixels.shape == (64, 64) and pixels.dtype == np.uint8
        shown = 255 - pixels if data.PhotometricInterpretation == "MONOCHROME1" else pixels
        contrasts[data.PhotometricInterpretation].append(
            float(shown[50:56, 24:40].mean()) - float(shown[20:26, 16:22].mean())
        )
    for values in contrasts.values():
        assert np.mean(values) > 40  # the abdomen is brighter than the lung


def test_mimic_lists_two_of_its_studies_as_overrides(written):
    root = written("mimic")
    listed = (root / "section_overrides.txt").read_text().splitlines()
    studies = {path.stem for path in root.rglob("s*.txt")}
    assert len(set(listed)) == 2 and set(listed) < studies


def test_mimic_reports_zipped_are_those_of_the_tree(spec, tmp_path):
    layout = plugins.load("layout", "mimic")
    for name, packed in (("tree", False), ("zip", True)):
        (tmp_path / name).mkdir()
        layout.write(tmp_path / name, spec(raster=40, mimic=8), 1, packed=packed)
    tree = {
        path.relative_to(tmp_path / "tree").as_posix(): path.read_bytes()
        for path in (tmp_path / "tree" / "files").rglob("s*.txt")
    }
    with zipfile.ZipFile(tmp_path / "zip" / "mimic-cxr-reports.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert members == tree and len(tree) >= 8
    assert not list((tmp_path / "zip" / "files").rglob("*.txt"))
    assert len(list((tmp_path / "zip").rglob("*.jpg"))) == len(list(tmp_path.rglob("*.jpg"))) / 2


def test_mimic_reports_come_in_every_form():
    patient, forms, odd = draw_patient(np.random.default_rng(0)), Counter(), 0
    for number in range(1500):
        rng = np.random.default_rng(number)
        report = write_report(patient, draw_study(rng, None, True), ["AP"], rng)
        forms[report.form] += 1
        headers = HEADER.findall(report.text)
        if report.form == "odd findings":
            odd += 1
            assert not {"FINDINGS", "IMPRESSION"} & set(headers)
            assert headers[-1] in FINDINGS_NAMES
        if report.form == "empty impression":
            assert report.text.endswith("\n IMPRESSION: \n")
    assert odd
    for form, share in FORMS.items():
        assert abs(forms[form] / 1500 - share) < 0.04 and forms[form], form


def test_chexpert_full_release_differs_in_its_folder(spec, tmp_path, monkeypatch):
    layout = plugins.load("layout", "chexpert")
    monkeypatch.setattr(layout, "LEAST_VALID", 2)
    monkeypatch.setattr(layout, "LEAST_TEST", 2)
    for release in ("small", "full"):
        (tmp_path / release).mkdir()
        layout.write(tmp_path / release, spec(raster=40, chexpert=12), 1, release=release)
    small = (tmp_path / "small" / "CheXpert-v1.0-small" / "train.csv").read_text()
    full = (tmp_path / "full" / "CheXpert-v1.0" / "train.csv").read_text()
    assert full == small.replace("CheXpert-v1.0-small", "CheXpert-v1.0") != small
    lists = [tmp_path / name / "DatasetsSplits/CheXpert/val_list.txt" for name in ("small", "full")]
    assert lists[0].read_text() == lists[1].read_text()
    for path in pd.read_csv(io.StringIO(full)).Path:
        assert (tmp_path / "full" / path).is_file()


@pytest.mark.parametrize("name", ["chexpert", "mimic"])
def test_long_side_is_the_raster(written, name):
    sides = set()
    for path in list(written(name).rglob("*.jpg"))[:200]:
        with Image.open(path) as image:
            sides.add(image.size)
    assert {max(size) for size in sides} == {64}
    assert len(sides) > 2
