"""A patient's studies and images, before any pixel: the part that every layout shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cxrmim.phantom.acquisition import Acquisition, Difficulty, View, draw_acquisition
from cxrmim.phantom.findings import Patient, Study, draw_patient, draw_study
from cxrmim.phantom.streams import stream

STUDY_COUNTS = (0.60, 0.25, 0.10, 0.05)
"""Shares of patients with 1, 2, 3 and 4 studies."""

VIEW_SETS: tuple[tuple[tuple[View, ...], float], ...] = (
    (("AP",), 0.36),
    (("PA", "LATERAL"), 0.26),
    (("PA",), 0.12),
    (("AP", "AP"), 0.09),
    (("PA", "LL"), 0.07),
    (("PA", "PA", "LATERAL"), 0.06),
    (("AP", "LATERAL"), 0.04),
)
"""What a study consists of; drawn without looking at the findings."""

PORTABLE = 0.4
"""Share of AP images in the sets of frontal images; whatever the findings."""


@dataclass(frozen=True)
class Visit:
    """One study of a patient with the images that were taken."""

    index: int
    study: Study
    shots: tuple[Acquisition, ...]


def draw_visits(
    seed: int, dataset: str, patient: int, level: Difficulty, single: bool = False
) -> tuple[Patient, list[Visit]]:
    """A patient and the studies in order, each depending on the one before.

    Args:
        seed: the population's seed.
        dataset: a name of `streams.DATASET_IDS`.
        patient: the patient's number, from 0.
        level: strength of the nuisances.
        single: one study only (CheXpert's validation and test sets).
    """
    person_rng = stream(seed, dataset, patient)
    person = draw_patient(person_rng)
    count = 1 if single else 1 + int(person_rng.choice(4, p=STUDY_COUNTS))
    visits: list[Visit] = []
    before: Study | None = None
    for index in range(count):
        rng = stream(seed, dataset, patient, index)
        views = VIEW_SETS[int(rng.choice(len(VIEW_SETS), p=[share for _, share in VIEW_SETS]))][0]
        before = draw_study(rng, before, portable=views[0] == "AP")
        shots = tuple(
            draw_acquisition(view, level, stream(seed, dataset, patient, index, image))
            for image, view in enumerate(views)
        )
        visits.append(Visit(index, before, shots))
    return person, visits


def draw_frontals(
    seed: int,
    dataset: str,
    patient: int,
    level: Difficulty,
    counts: Sequence[float],
    draw: Callable[[np.random.Generator, Study | None, bool], Study],
    square: bool = False,
) -> tuple[Patient, list[Visit]]:
    """A patient whose studies are one frontal image each.

    Args:
        seed: the population's seed.
        dataset: a name of `streams.DATASET_IDS`.
        patient: the patient's number, from 0.
        level: strength of the nuisances.
        counts: shares of patients with 1, 2, ... images.
        draw: a study from its stream, the one before (None: the first) and whether it is portable.
        square: whether every image is as wide as it is high.
    """
    person_rng = stream(seed, dataset, patient)
    person = draw_patient(person_rng)
    visits: list[Visit] = []
    before: Study | None = None
    for index in range(1 + int(person_rng.choice(len(counts), p=counts))):
        rng = stream(seed, dataset, patient, index)
        portable = bool(rng.random() < PORTABLE)
        before = draw(rng, before, portable)
        shot_rng = stream(seed, dataset, patient, index, 0)
        shot = draw_acquisition("AP" if portable else "PA", level, shot_rng, square)
        visits.append(Visit(index, before, (shot,)))
    return person, visits


def spread_over(count: int, seed: int, dataset: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A seeded permutation of `range(count)`: who goes to which split."""
    return stream(seed, dataset, count, purpose="names").permutation(count)
