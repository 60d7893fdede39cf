"""CheXpert-v1.0-small with its official validation set, and the test set published apart.

`CheXpert-v1.0-small/{train.csv,valid.csv,train/,valid/}`; the test images under `CheXpert/test/`
and their labels in `groundtruth.csv`, a row per study, as their publishers spell them.
"""

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.labels import COLUMNS, labelled, truth
from cxrmim.phantom.painting import render
from cxrmim.phantom.population import draw_visits
from cxrmim.phantom.streams import PhantomSpec, spread, stream

SMALL = "CheXpert-v1.0-small"
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]
FIRST_VALID, FIRST_TEST = 64541, 64741
"""Numbers of the first validation and test patients, as published."""

LEAST_VALID, LEAST_TEST = 60, 100
"""Patients that the validation and test sets have at the least."""

JPEG_QUALITY = 90
UNKNOWN_SEX = 7
"""The one patient whose Sex says Unknown."""

ODD_VIEW = 0.004
"""Share of frontal images whose AP/PA says LL or RL."""


@dataclass(frozen=True)
class _Task:
    number: int
    name: int
    split: str


def _write_patient(
    task: _Task, root: Path, seed: int, raster: int, difficulty: str
) -> list[list[str]]:
    """Write a patient's images; return the rows of its table, an image (test: a study) each."""
    level = DIFFICULTIES[difficulty]
    patient, visits = draw_visits(seed, "chexpert", task.number, level, task.split != "train")
    top = "CheXpert" if task.split == "test" else SMALL
    rows = []
    for visit in visits:
        rng = stream(seed, "chexpert", task.number, visit.index, purpose="names")
        place = f"{task.split}/patient{task.name:05d}/study{visit.index + 1}"
        (root / top / place).mkdir(parents=True)
        exact = {name: f"{value}.0" for name, value in truth(visit.study).items()}
        marks = labelled(visit.study, rng) if task.split == "train" else exact
        for image, shot in enumerate(visit.shots):
            frontal = shot.view in ("PA", "AP")
            kind = "Frontal" if frontal else "Lateral"
            path = f"{top}/{place}/view{image + 1}_{kind.lower()}.jpg"
            pixels_rng = stream(seed, "chexpert", task.number, visit.index, image, "pixels")
            pixels = render(patient, visit.study, shot, level, raster, pixels_rng).pixels
            Image.fromarray(pixels).save(root / path, quality=JPEG_QUALITY)
            view = "" if not frontal else str(shot.view)
            if frontal and rng.random() < ODD_VIEW:
                view = "LL" if rng.random() < 0.7 else "RL"
            sex = "Male" if patient.sex == "M" else "Female"
            sex = "Unknown" if task.number == UNKNOWN_SEX else sex
            row = [path, sex, str(patient.age), kind, view]
            rows.append(row + [marks[name] for name in COLUMNS])
        if task.split == "test":
            values = truth(visit.study)
            study = f"CheXpert-v1.0/{place}"
            rows = [[study, *(str(values[name]) for name in COLUMNS)]]
    return rows


def _write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write(root: Path, params: PhantomSpec, workers: int) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where `CheXpert-v1.0-small/`, `CheXpert/` and `groundtruth.csv` go.
        params: seed, raster, difficulty and `patients["chexpert"]`, the patients in train; valid
            adds 6 % of that (at least 60) and test 25 % (at least 100).
        workers: processes; the bytes do not depend on them.

    Returns:
        Counts: patients and train images, validation images, test studies.
    """
    train = params.patients["chexpert"]
    valid, test = max(LEAST_VALID, round(0.06 * train)), max(LEAST_TEST, round(0.25 * train))
    sizes = {"train": train, "valid": valid, "test": test}
    firsts = {"train": 1, "valid": FIRST_VALID, "test": FIRST_TEST}
    # The test set's patients keep their numbers clear of a validation set larger than the real one.
    firsts["test"] = max(FIRST_TEST, FIRST_VALID + sizes["valid"])
    tasks: list[_Task] = []
    for split, size in sizes.items():
        tasks += [_Task(len(tasks) + i, firsts[split] + i, split) for i in range(size)]
    work = partial(
        _write_patient,
        root=root,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    tables: dict[str, list[list[str]]] = {split: [] for split in sizes}
    for task, rows in zip(tasks, spread(work, tasks, workers), strict=True):
        tables[task.split] += rows
    _write_table(root / SMALL / "train.csv", HEADER, tables["train"])
    _write_table(root / SMALL / "valid.csv", HEADER, tables["valid"])
    _write_table(root / "groundtruth.csv", ["Study", *COLUMNS], tables["test"])
    return {
        "patients": train,
        "images": len(tables["train"]),
        "valid_images": len(tables["valid"]),
        "test_studies": len(tables["test"]),
    }
