"""The patients of the sets without reports, and their labels as functions of what a study shows.

COVIDx and RSNA sort patients into classes, so a class is drawn first and the findings follow it;
NIH's 14 labels are 14 findings, all of which are painted.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from cxrmim.phantom.acquisition import Difficulty
from cxrmim.phantom.findings import (
    EXTRA_PREVALENCE,
    PREVALENCE,
    Finding,
    Patient,
    Study,
    draw_finding,
    draw_study,
    next_findings,
)
from cxrmim.phantom.population import Visit, draw_frontals, draw_visits
from cxrmim.phantom.streams import stream

COVIDX_CLASSES = ("normal", "pneumonia", "COVID-19")
COVIDX_BLOCK = ("normal",) * 3 + ("pneumonia",) * 2 + ("COVID-19",) * 6
"""Classes of 11 patients in a row, in random order: the shares of the 3-class list's images."""

COVIDX_COUNTS = (0.60, 0.22, 0.11, 0.07)
"""Shares of patients with 1 to 4 images; unlike the real set's, the same for each class."""

RSNA_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
RSNA_SHARES = {"train": (0.332, 0.443, 0.225), "test": (0.273, 0.362, 0.365)}
SECOND_OPACITY = 0.45
"""Share of the opaque lungs with an opacity on the other side too."""

NIH_LABELS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Infiltration": "Infiltration",
    "Mass": "Mass",
    "Nodule": "Lung Lesion",
    "Pneumonia": "",
    "Pneumothorax": "Pneumothorax",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": "Emphysema",
    "Fibrosis": "Fibrosis",
    "Pleural_Thickening": "Pleural Other",
    "Hernia": "Hernia",
}
"""NIH's labels in MRM's order and their findings; Pneumonia is a consolidation's cause."""

NIH_COUNTS = (0.50, 0.20, 0.10, 0.07, 0.05, 0.04, 0.02, 0.02)
BYSTANDERS = ("Cardiomegaly", "Pleural Effusion", "Atelectasis", "Lung Lesion", "Fracture")
"""Findings that a pneumonia or COVID-19 may come with."""


def _main_finding(name: str, before: Study | None, rng: np.random.Generator) -> Finding:
    """The finding of a class: where it was in the study before, its severity drifting."""
    fresh, drift = draw_finding(name, rng), float(rng.normal(0, 0.2))
    old = before.find(name) if before else None
    if old is None:
        return fresh
    return replace(old, severity=float(np.clip(old.severity + drift, 0, 1)))


def _covidx_study(
    kind: str, rng: np.random.Generator, before: Study | None, portable: bool
) -> Study:
    study = draw_study(rng, before, portable)
    names = {"pneumonia": "Consolidation", "COVID-19": "COVID-19", "other": "Edema"}
    if kind == "normal":
        return replace(study, findings=(), pneumonia=False)
    main = _main_finding(names[kind], before, rng)
    others = tuple(item for item in study.findings if item.name in BYSTANDERS)
    return replace(study, findings=(*others, main), pneumonia=kind == "pneumonia")


def covidx_kind(seed: int, number: int) -> str:
    """The class of a training patient, whatever the patient looks like."""
    block, place = divmod(number, len(COVIDX_BLOCK))
    rng = stream(seed, "covidx", block, 0, 0, purpose="names")
    return COVIDX_BLOCK[int(rng.permutation(len(COVIDX_BLOCK))[place])]


def covidx_patient(
    seed: int, number: int, level: Difficulty, kind: str, counts: Sequence[float] = COVIDX_COUNTS
) -> tuple[Patient, list[Visit]]:
    """A patient of COVIDx, an image a visit.

    Args:
        seed: the population's seed.
        number: the patient's number, from 0.
        level: strength of the nuisances.
        kind: one of `COVIDX_CLASSES`, or "other": a lung disease that only the binary list has.
        counts: shares of patients with 1, 2, ... images.
    """
    return draw_frontals(seed, "covidx", number, level, counts, partial(_covidx_study, kind))


def covidx_class(study: Study) -> str:
    """The class that a study shows: one of `COVIDX_CLASSES`, or "other"."""
    if "COVID-19" in study.names:
        return "COVID-19"
    if "Consolidation" in study.names:
        return "pneumonia"
    return "other" if study.names else "normal"


def _rsna_study(kind: str, rng: np.random.Generator, before: Study | None, portable: bool) -> Study:
    study = draw_study(rng, before, portable)
    others = tuple(item for item in study.findings if item.name != "Consolidation")
    first, second = draw_finding("Consolidation", rng), draw_finding("Consolidation", rng)
    rest = [name for name in PREVALENCE if name != "Consolidation"]
    spare = draw_finding(rest[int(rng.integers(len(rest)))], rng)
    twice = rng.random() < SECOND_OPACITY
    if kind == "Normal":
        others = ()
    elif kind == "Lung Opacity":
        second = replace(second, side="left" if first.side == "right" else "right")
        others += (first, second) if twice else (first,)
    elif not others:
        others = (spare,)
    return replace(study, findings=others, pneumonia=kind == "Lung Opacity")


def rsna_kind(seed: int, number: int, split: str = "train") -> str:
    """The class of a patient of "train" or "test", whatever the patient looks like."""
    rng = stream(seed, "rsna", number, purpose="names")
    return RSNA_CLASSES[int(rng.choice(3, p=RSNA_SHARES[split]))]


def rsna_patient(
    seed: int, number: int, level: Difficulty, kind: str
) -> tuple[Patient, list[Visit]]:
    """A patient of RSNA with one image; `kind` is one of `RSNA_CLASSES`."""
    return draw_frontals(seed, "rsna", number, level, (1.0,), partial(_rsna_study, kind), True)


def rsna_class(study: Study) -> str:
    """The class of `RSNA_CLASSES` that a study shows."""
    if "Consolidation" in study.names:
        return "Lung Opacity"
    return "No Lung Opacity / Not Normal" if study.names else "Normal"


def _nih_study(rng: np.random.Generator, before: Study | None, portable: bool) -> Study:
    study = draw_study(rng, before, portable)
    extra = next_findings(before.findings if before else None, EXTRA_PREVALENCE, rng)
    return replace(study, findings=study.findings + extra)


def nih_patient(seed: int, number: int, level: Difficulty) -> tuple[Patient, list[Visit]]:
    """A patient of NIH with one image or several."""
    return draw_frontals(seed, "nih", number, level, NIH_COUNTS, _nih_study, True)


def nih_labels(study: Study) -> tuple[int, ...]:
    """The 14 bits of a study in the order of `NIH_LABELS`."""
    names = study.names
    return tuple(
        int(study.pneumonia if label == "Pneumonia" else finding in names)
        for label, finding in NIH_LABELS.items()
    )


def sample(seed: int, dataset: str, number: int, level: Difficulty) -> tuple[Patient, list[Visit]]:
    """A patient of any data set but siim, as its layout draws its (training) patients."""
    if dataset == "covidx":
        return covidx_patient(seed, number, level, covidx_kind(seed, number))
    if dataset == "rsna":
        return rsna_patient(seed, number, level, rsna_kind(seed, number))
    if dataset == "nih":
        return nih_patient(seed, number, level)
    return draw_visits(seed, dataset, number, level)


def flags(dataset: str, study: Study) -> dict[str, bool]:
    """What a data set says of a study, label by label, for the shortcut audit."""
    if dataset == "covidx":
        return {name: covidx_class(study) == name for name in COVIDX_CLASSES}
    if dataset == "rsna":
        return {name: rsna_class(study) == name for name in RSNA_CLASSES}
    if dataset == "nih":
        return dict(zip(NIH_LABELS, map(bool, nih_labels(study)), strict=True))
    return {name: name in study.names for name in PREVALENCE}
