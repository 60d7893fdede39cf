import re

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxrmim.phantom.acquisition import DIFFICULTIES, draw_acquisition
from cxrmim.phantom.audit import audit, label_names, nuisances
from cxrmim.phantom.findings import PREVALENCE, draw_patient, draw_study
from cxrmim.phantom.labels import COLUMNS, labelled, truth
from cxrmim.phantom.painting import render
from cxrmim.phantom.population import draw_visits
from cxrmim.phantom.reports import write_report
from cxrmim.phantom.sheet import draw_sheet
from cxrmim.phantom.streams import stream

WORDS = {
    "Cardiomegaly": r"cardiomegaly|enlarge|silhouette|heart",
    "Pleural Effusion": r"effusion",
    "Pneumothorax": r"pneumothorax",
    "Consolidation": r"consolidation",
    "Atelectasis": r"atelectasis",
    "Edema": r"edema",
}
EASY = DIFFICULTIES["easy"]


def visits(dataset, count):
    for number in range(count):
        patient, found = draw_visits(0, dataset, number, EASY)
        for visit in found:
            yield number, patient, visit


@pytest.mark.parametrize("dataset", ["mimic", "chexpert"])
def test_prevalence(dataset):
    flags = [[n in v.study.names for n in PREVALENCE] for _, _, v in visits(dataset, 2000)]
    shares = np.mean(flags, axis=0)
    assert ((shares > 0.18) & (shares < 0.26)).all(), shares


def test_one_positive_in_twenty_goes_unmentioned():
    positive = silent = 0
    for number, patient, visit in visits("mimic", 1500):
        rng = stream(0, "mimic", number, visit.index, purpose="text")
        report = write_report(patient, visit.study, [s.view for s in visit.shots], rng)
        body = re.sub(r"\n [A-Z ]+:  ___ year old.*?\n \n", "\n \n", report.text, flags=re.DOTALL)
        body = " ".join(body.split()).lower()
        for name, words in WORDS.items():
            said = re.search(words, body) is not None
            if name in visit.study.names:
                positive += 1
                silent += name not in report.mentioned
                assert said == (name in report.mentioned), (name, report.text)
            elif said:
                assert name in visit.study.denied | visit.study.hedged, (name, report.text)
    assert 0.035 < silent / positive < 0.065


def test_sides_in_the_report_are_the_findings():
    for number, patient, visit in visits("mimic", 300):
        rng = stream(0, "mimic", number, visit.index, purpose="text")
        text = " ".join(write_report(patient, visit.study, ["PA"], rng).text.split()).lower()
        item = visit.study.find("Pneumothorax")
        if item and not (visit.study.silent | visit.study.hedged) & {"Pneumothorax"}:
            other = "left" if item.side == "right" else "right"
            assert re.search(rf"{item.side} (apical )?pneumothorax|{item.side} apex", text)
            assert not re.search(rf"{other} (apical )?pneumothorax|{other} apex", text)


def test_labels_follow_the_findings():
    rng = np.random.default_rng(0)
    for _, _, visit in visits("chexpert", 400):
        exact, table = truth(visit.study), labelled(visit.study, rng)
        assert set(exact) == set(table) == set(COLUMNS)
        for name in PREVALENCE:
            if table[name] == "1.0":
                assert exact[name] == 1
            if table[name] == "0.0":
                assert exact[name] == 0
        assert not (exact["No Finding"] and visit.study.names)


@pytest.mark.parametrize("dataset", ["mimic", "chexpert", "covidx", "nih", "rsna"])
def test_nuisances_say_nothing_about_the_labels(spec, dataset):
    variables, labels = nuisances(spec(), dataset, 2000)
    names = label_names(dataset)
    assert len(names) == {"covidx": 3, "nih": 14, "rsna": 3}.get(dataset, 6)
    assert labels.shape == (2000, len(names)) and labels.any(axis=0).all()
    verdicts = audit(variables, labels, names)
    assert all(verdict.clean for verdict in verdicts), verdicts


def test_the_audit_detects_a_leak(spec):
    variables, labels = nuisances(spec(), "mimic", 1000)
    variables[:, 7] += 0.03 * labels[:, 2]  # exposure that rises with pneumothorax
    verdicts = {(v.label, v.classifier): v for v in audit(variables, labels, tuple(PREVALENCE))}
    assert not verdicts["Pneumothorax", "linear"].clean
    assert not verdicts["Pneumothorax", "trees"].clean
    assert verdicts["Edema", "linear"].clean


def test_images_are_learnable_from_coarse_pixels():
    count, rows, flags = 1500, [], []
    for number in range(count):
        rng = stream(7, "audit", number)
        patient, study = draw_patient(rng), draw_study(rng, None, portable=number % 2 == 0)
        shot = draw_acquisition("AP" if number % 2 == 0 else "PA", EASY, rng, square=True)
        pixels = render(patient, study, shot, EASY, 64, rng).pixels
        rows.append(np.asarray(Image.fromarray(pixels).reduce(4)).ravel() / 255.0)
        flags.append([name in study.names for name in PREVALENCE])
    x, y, cut = np.array(rows), np.array(flags), 1000
    x = (x - x[:cut].mean(0)) / (x[:cut].std(0) + 1e-3)
    aucs = []
    for column in range(y.shape[1]):
        model = LogisticRegression(C=0.01, max_iter=300).fit(x[:cut], y[:cut, column])
        aucs.append(roc_auc_score(y[cut:, column], model.decision_function(x[cut:])))
    assert sum(auc > 0.65 for auc in aucs) >= 5, aucs
    assert np.mean(aucs) < 0.97, aucs  # and not trivial


@pytest.mark.parametrize("raster", [48, 128, 256])
@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL", "LL"])
def test_any_raster_and_level_renders(raster, difficulty, view):
    rng = stream(0, "audit", raster)
    patient, study = draw_patient(rng), draw_study(rng, None, portable=True)
    shot = draw_acquisition(view, DIFFICULTIES[difficulty], rng)
    image = render(patient, study, shot, DIFFICULTIES[difficulty], raster, rng)
    assert max(image.pixels.shape) == raster and image.pixels.shape == image.mask.shape
    assert image.pixels.std() > 25 and image.pixels.dtype == np.uint8


def test_sheet_has_a_row_a_finding(spec):
    picture = draw_sheet(spec(raster=48))
    assert picture.mode == "RGB"
    assert picture.height > (len(PREVALENCE) + 2) * 48
