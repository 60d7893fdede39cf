"""COVIDx as the phantom writes it: lists, folders, formats, classes, doubles."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxrmim.phantom import cohorts
from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.layouts import covidx
from cxrmim.phantom.painting import render
from cxrmim.phantom.streams import stream

EASY = DIFFICULTIES["easy"]
COLUMNS = ["patient", "file", "kind", "source"]
STEMS = ("COVIDx9A", "COVIDx_CXR-3A", "COVIDx_CXR-3B")


def read(path):
    lines = path.read_text().splitlines()
    assert all(len(line.split(" ")) == 4 for line in lines)
    return pd.DataFrame([line.split(" ") for line in lines], columns=COLUMNS)


@pytest.fixture(scope="module")
def root(written):
    return written("covidx")


@pytest.fixture(scope="module")
def listed(root):
    """Lists by (folder, stem)."""
    names = {(f, s): root / "labels" / f"{f}_{s}.txt" for f in ("train", "test") for s in STEMS}
    assert {path.name for path in names.values()} == {p.name for p in (root / "labels").iterdir()}
    return {key: read(path) for key, path in names.items()}


def decoded(path):
    """Greys of an image from 0 to 255."""
    with Image.open(path) as image:
        if image.mode == "I;16":
            return np.asarray(image).astype(float) / 257
        if image.mode == "P":
            return np.asarray(image.convert("RGB"))[:, :, 0].astype(float)
        return np.asarray(image.convert("L")).astype(float)


def test_lists_name_the_files_of_their_folder(root, listed):
    for folder in ("train", "test"):
        binary = read(root / f"{folder}.txt")
        assert set(binary.file) == {path.name for path in (root / folder).iterdir()}
        assert binary.file.is_unique and set(binary.kind) == {"negative", "positive"}
        for stem in STEMS:
            assert set(listed[folder, stem].file) <= set(binary.file)


def test_classes_and_sources(listed):
    for folder in ("train", "test"):
        for stem in STEMS[:2]:
            assert set(listed[folder, stem].kind) == {"normal", "pneumonia", "COVID-19"}
        assert set(listed[folder, STEMS[2]].kind) == {"negative", "positive"}
    counts = Counter(listed["test", "COVIDx9A"].kind)
    assert counts.total() == 100
    assert counts["COVID-19"] == pytest.approx(50, abs=1) and counts["normal"] == 25
    sources = set(listed["train", "COVIDx9A"].source)
    assert {"cohen", "sirm", "rsna", "rnsa", "bimcv", "ricord", "stonybrook"} <= sources
    assert "rnsa" not in set(listed["train", "COVIDx_CXR-3A"].source)


def test_lists_differ_as_the_real_ones_do(listed):
    whole, part = listed["train", "COVIDx9A"], listed["train", "COVIDx_CXR-3A"]
    kept = whole[whole.source != "stonybrook"]
    assert len(kept) < len(whole)
    assert part[["patient", "file", "kind"]].equals(kept[COLUMNS[:3]].reset_index(drop=True))
    binary = listed["train", "COVIDx_CXR-3B"].set_index("file")
    settled = part.kind.map({"normal": "negative", "pneumonia": "negative"}).fillna("positive")
    assert (binary.kind[part.file].to_numpy() == settled.to_numpy()).all()
    extra = binary.drop(part.file)
    assert len(extra) and set(extra.kind) == {"negative"} and not set(extra.index) & set(whole.file)
    assert listed["test", "COVIDx9A"].equals(listed["test", "COVIDx_CXR-3A"])


def test_no_patient_in_train_and_test_and_some_with_several_images(listed):
    train, test = listed["train", "COVIDx_CXR-3B"], listed["test", "COVIDx_CXR-3B"]
    assert not set(train.patient) & set(test.patient)
    assert train.groupby("patient").size().max() > 1
    assert listed["train", "COVIDx9A"].groupby("patient").kind.nunique().max() == 1


def test_file_types_and_modes_are_mixed_whatever_the_class(root, listed):
    types, modes, shapes = Counter(), Counter(), set()
    for path in (*(root / "train").iterdir(), *(root / "test").iterdir()):
        with Image.open(path) as image:
            assert image.format == ("PNG" if path.suffix.lower() == ".png" else "JPEG")
            types[path.suffix] += 1
            modes[image.mode] += 1
            shapes.add(image.size)
            assert max(image.size) == 64
    assert set(types) == {".png", ".jpg", ".jpeg", ".JPG", ".PNG"}
    assert set(modes) == {"L", "RGB", "RGBA", "P", "I;16"}
    assert len(shapes) > 1
    table = listed["train", "COVIDx9A"]
    share = table.file.str.lower().str.endswith("png").groupby(table.kind).mean()
    assert share.min() > 0.35 and share.max() < 0.9


@pytest.mark.parametrize("mode", covidx.MODES)
def test_every_mode_shows_the_same_picture(mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17), dtype=np.uint8)
    path = tmp_path / "image.png"
    covidx.encode(pixels, mode).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    far = np.abs(decoded(path) - pixels).max()
    assert far <= (9 if mode == "RGB" else 0)  # the colour images are tinted
    if mode == "P":
        with Image.open(path) as image:
            assert np.abs(np.asarray(image).astype(int) - pixels).max() > 200


def test_doubles_have_one_picture_and_two_patients(root, spec, tmp_path, listed):
    same = defaultdict(set)
    for folder in ("train", "test"):
        for row in listed[folder, "COVIDx9A"].itertuples():
            greys = decoded(root / folder / row.file)
            digest = hashlib.sha256(repr(greys.shape).encode() + greys.tobytes()).hexdigest()
            same[digest].add((folder, row.patient, row.kind))
    doubles = [found for found in same.values() if len(found) > 1]
    assert len(doubles) == 3 and all(len(found) == 2 for found in doubles)
    for found in doubles:
        assert len({patient for _, patient, _ in found}) == 2
        assert len({kind for _, _, kind in found}) == 1
    assert any({folder for folder, _, _ in found} == {"train", "test"} for found in doubles)
    counts = covidx.write(tmp_path, spec(raster=40, covidx=9), 1)
    assert counts["planted_duplicates"] == 3 and counts["test_images"] == 100


def test_the_class_is_what_the_study_shows():
    for number in range(200):
        for kind in (*cohorts.COVIDX_CLASSES, "other"):
            _, visits = cohorts.covidx_patient(0, number, EASY, kind)
            for visit in visits:
                assert cohorts.covidx_class(visit.study) == kind
                assert (not visit.study.names) == (kind == "normal")


def test_class_shares():
    kinds = [cohorts.covidx_kind(0, number) for number in range(3000)]
    shares = [kinds.count(name) / 3000 for name in cohorts.COVIDX_CLASSES]
    real = (8_085, 5_555, 15_994)  # CXR-3A's training list
    assert np.allclose(shares, np.array(real) / sum(real), atol=0.02)
    assert all(set(kinds[i : i + 21]) == set(cohorts.COVIDX_CLASSES) for i in range(2979))
    assert kinds[:11] != kinds[11:22]


def test_counts_of_the_record_are_those_of_the_lists(spec, tmp_path):
    counts = covidx.write(tmp_path, spec(raster=40, covidx=25), 1)
    table = read(tmp_path / "labels" / "train_COVIDx9A.txt")
    kinds = Counter(table.kind)
    assert counts["images"] == len(table)
    assert [counts[name] for name in ("normal", "pneumonia", "covid_19")] == [
        kinds[name] for name in cohorts.COVIDX_CLASSES
    ]
    assert counts["patients"] == 25
    assert table.patient.nunique() == 25 + counts["planted_duplicates"] - 1


def test_classes_are_learnable_from_coarse_pixels():
    rows, classes, cut = [], [], 400
    for number in range(600):
        kind = cohorts.covidx_kind(0, number)
        patient, visits = cohorts.covidx_patient(0, number, EASY, kind, (1.0,))
        rng = stream(0, "covidx", number, 0, 0, "pixels")
        shot = replace(visits[0].shots[0], aspect=1.0)
        pixels = render(patient, visits[0].study, shot, EASY, 64, rng).pixels
        rows.append(np.asarray(Image.fromarray(pixels).reduce(4)).ravel() / 255.0)
        classes.append(kind)
    x, y = np.array(rows), np.array(classes)
    x = (x - x[:cut].mean(0)) / (x[:cut].std(0) + 1e-3)
    for kind in cohorts.COVIDX_CLASSES:
        model = LogisticRegression(C=0.01, max_iter=300).fit(x[:cut], y[:cut] == kind)
        auc = roc_auc_score(y[cut:] == kind, model.decision_function(x[cut:]))
        assert auc > (0.75 if kind == "pneumonia" else 0.9), (kind, auc)
