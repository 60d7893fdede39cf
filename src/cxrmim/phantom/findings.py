"""What a study shows: findings with side, zone and severity, and how they last from study to study.

Nothing here knows of images or reports; `anatomy`, `painting` and `reports` read these dataclasses.
Sides are the patient's: on a frontal image the patient's right lies on the viewer's left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Side = Literal["right", "left", "both", ""]
Zone = Literal["upper", "middle", "lower", ""]

PREVALENCE = {
    "Cardiomegaly": 0.22,
    "Pleural Effusion": 0.23,
    "Pneumothorax": 0.21,
    "Consolidation": 0.21,
    "Atelectasis": 0.21,
    "Edema": 0.21,
}
"""Share of studies with each of the main findings, in every data set."""

MINOR_PREVALENCE = {
    "Enlarged Cardiomediastinum": 0.04,
    "Lung Lesion": 0.05,
    "Pleural Other": 0.03,
    "Fracture": 0.04,
}
"""Rare findings: distractors in the image, columns in the label tables."""

EXTRA_PREVALENCE = {
    "Infiltration": 0.14,
    "Mass": 0.06,
    "Emphysema": 0.06,
    "Fibrosis": 0.05,
    "Hernia": 0.04,
}
"""Further findings that only the NIH set names; no report speaks of them."""

PERSISTENCE = 0.65
"""Probability that a finding is still there in the patient's next study."""

PNEUMONIA_GIVEN_CONSOLIDATION = 0.35
SILENT = 0.05
"""Share of the positives that the report does not mention at all."""

HEDGED_POSITIVE = {
    "Cardiomegaly": 0.04,
    "Pleural Effusion": 0.08,
    "Pneumothorax": 0.03,
    "Consolidation": 0.05,
    "Atelectasis": 0.25,
    "Edema": 0.15,
}
HEDGED_NEGATIVE = {
    "Cardiomegaly": 0.04,
    "Pleural Effusion": 0.015,
    "Pneumothorax": 0.008,
    "Consolidation": 0.06,
    "Atelectasis": 0.02,
    "Edema": 0.015,
}
DENIED = {
    "Cardiomegaly": 0.35,
    "Pleural Effusion": 0.75,
    "Pneumothorax": 0.75,
    "Consolidation": 0.6,
    "Atelectasis": 0.1,
    "Edema": 0.35,
}
"""Probability that a report says of an absent finding that it is absent."""


@dataclass(frozen=True)
class Finding:
    """One finding; `severity` runs from 0 (just visible) to 1, `place` fixes its spot in a zone."""

    name: str
    side: Side
    zone: Zone
    severity: float
    place: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True)
class Build:
    """A patient's anatomy, in fractions of the frame (x from the midline, y from the top)."""

    width: float
    apex: float
    dome_right: float
    dome_left: float
    heart_ratio: float
    heart_tilt: float
    mediastinum: float
    aorta: float
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    clavicle: float
    shoulder: float
    breast: float
    fat: float
    depth: float
    vessel_seed: int


@dataclass(frozen=True)
class Patient:
    """Who is imaged; `age` in years."""

    sex: Literal["M", "F"]
    age: int
    build: Build


@dataclass(frozen=True)
class Study:
    """What is there (`findings`, `devices`) and how the radiologist speaks of it.

    `silent` are findings that are there and that the report leaves out, `hedged` are names that the
    report calls possible (there or not), `denied` are absent ones that it calls absent.
    """

    findings: tuple[Finding, ...]
    devices: tuple[str, ...]
    pneumonia: bool
    silent: frozenset[str]
    hedged: frozenset[str]
    denied: frozenset[str]

    def find(self, name: str) -> Finding | None:
        """The finding of that name, or None."""
        return next((item for item in self.findings if item.name == name), None)

    @property
    def names(self) -> frozenset[str]:
        """Names of the findings that are there."""
        return frozenset(item.name for item in self.findings)


def draw_patient(rng: np.random.Generator) -> Patient:
    """A patient with an anatomy; no finding depends on any of it."""

    def around(middle: float, spread: float) -> float:
        return float(middle + spread * np.clip(rng.standard_normal(), -2.2, 2.2))

    sex: Literal["M", "F"] = "M" if rng.random() < 0.55 else "F"
    build = Build(
        width=around(0.365, 0.016),
        apex=around(0.105, 0.012),
        dome_right=around(0.70, 0.022),
        dome_left=around(0.725, 0.022),
        heart_ratio=around(0.425, 0.022),
        heart_tilt=around(0.55, 0.08),
        mediastinum=around(0.062, 0.006),
        aorta=around(0.032, 0.008),
        rib_spacing=around(0.070, 0.003),
        rib_phase=float(rng.random()),
        rib_slope=around(1.0, 0.15),
        clavicle=around(0.155, 0.012),
        shoulder=around(0.075, 0.014),
        breast=float(rng.uniform(0.3, 1.0)) if sex == "F" else 0.0,
        fat=float(rng.random()),
        depth=around(0.34, 0.015),
        vessel_seed=int(rng.integers(2**31)),
    )
    age = int(np.clip(rng.normal(61, 17), 18, 91))
    return Patient(sex=sex, age=age, build=build)


def draw_finding(name: str, rng: np.random.Generator) -> Finding:
    """A fresh finding of that name with a side, a zone and a severity that suit it."""
    side: Side = "right" if rng.random() < 0.55 else "left"
    zone: Zone = ""
    roll = float(rng.random())
    if name in ("Consolidation", "Lung Lesion", "Infiltration", "Mass"):
        zone = "upper" if roll < 0.25 else "middle" if roll < 0.4 else "lower"
    elif name == "Atelectasis":
        zone = "lower" if roll < 0.85 else "middle"
    elif name == "Pneumothorax":
        zone = "upper"
    elif name == "Pleural Effusion":
        side = "both" if roll < 0.3 else side
    elif name in ("Cardiomegaly", "Enlarged Cardiomediastinum"):
        side = ""
    elif name in ("Edema", "COVID-19", "Emphysema", "Fibrosis"):
        side = "both"
    elif name == "Hernia":
        side = "left"
    place = (float(rng.random()), float(rng.random()))
    return Finding(name, side, zone, float(rng.random()), place)


def next_findings(
    before: tuple[Finding, ...] | None, shares: Mapping[str, float], rng: np.random.Generator
) -> tuple[Finding, ...]:
    """The next study's findings: a two-state chain whose stationary share is the prevalence.

    Args:
        before: findings of the patient's previous study, None for the first.
        shares: prevalence of each finding that can be drawn.
        rng: stream of the study.
    """
    kept = {item.name: item for item in before or ()}
    found = []
    for name, share in shares.items():
        fresh, roll = draw_finding(name, rng), float(rng.random())
        drift = float(rng.normal(0, 0.2))
        if before is None:
            chance = share
        elif name in kept:
            chance = PERSISTENCE
        else:
            chance = share * (1 - PERSISTENCE) / (1 - share)
        if roll >= chance:
            continue
        old = kept.get(name)
        if old is not None:
            fresh = replace(old, severity=float(np.clip(old.severity + drift, 0, 1)))
        found.append(fresh)
    return tuple(found)


def _draw_devices(portable: bool, rng: np.random.Generator) -> tuple[str, ...]:
    """Lines, tubes and leads; more of them on a portable film, whatever the findings."""
    chances = {"ecg leads": 0.30, "central line": 0.22, "endotracheal tube": 0.16}
    chances |= {"enteric tube": 0.16, "pacemaker": 0.07}
    scale = 1.0 if portable else 0.25
    return tuple(name for name, chance in chances.items() if rng.random() < chance * scale)


def draw_study(rng: np.random.Generator, before: Study | None, portable: bool) -> Study:
    """A study, given the patient's previous one (None: the first) and whether it is portable."""
    shares = PREVALENCE | MINOR_PREVALENCE
    findings = next_findings(before.findings if before else None, shares, rng)
    names = {item.name for item in findings}
    devices = _draw_devices(portable, rng)
    rolls = {name: rng.random(3) for name in PREVALENCE}
    hedged, silent, denied = set(), set(), set()
    for name, (first, second, third) in rolls.items():
        if name in names:
            if second < SILENT:
                silent.add(name)
            elif first < HEDGED_POSITIVE[name] / (1 - SILENT):
                hedged.add(name)
        elif first < HEDGED_NEGATIVE[name]:
            hedged.add(name)
        elif third < DENIED[name]:
            denied.add(name)
    return Study(
        findings=findings,
        devices=devices,
        pneumonia="Consolidation" in names and rng.random() < PNEUMONIA_GIVEN_CONSOLIDATION,
        silent=frozenset(silent),
        hedged=frozenset(hedged),
        denied=frozenset(denied),
    )
