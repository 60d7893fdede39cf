"""CheXpert-v1.0-small with its official validation set, and the test set published apart.

`CheXpert-v1.0-small/{train.csv,valid.csv,train/,valid/}`; the test images under `CheXpert/test/`
and their labels in `groundtruth.csv`, a row per study, as their publishers spell them. MRM's lists
part the images of train.csv, whatever the patient and the view; their uncertain labels are settled.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.files import draw_subset, write_csv, write_mrm
from cxrmim.phantom.labels import COLUMNS, labelled, truth
from cxrmim.phantom.painting import render
from cxrmim.phantom.population import draw_visits
from cxrmim.phantom.streams import PhantomSpec, spread, stream

RELEASES = {"small": "CheXpert-v1.0-small", "full": "CheXpert-v1.0"}
"""Folder of each release; MRM's lists name the small one's."""

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]
FIRST_VALID, FIRST_TEST = 64541, 64741
"""Numbers of the first validation and test patients, as published."""

LEAST_VALID, LEAST_TEST = 60, 100
"""Patients that the validation and test sets have at the least."""

MRM_VALID, LEAST_MRM_VALID = 5_000 / 223_414, 60
"""Images of train.csv that MRM validates on: a share, at least so many, at most a tenth."""

UNCERTAIN = {
    "Atelectasis": "1",
    "Cardiomegaly": "0",
    "Consolidation": "0",
    "Edema": "1",
    "Pleural Effusion": "1",
}
"""The labels of MRM's lists in their order, and what each makes of -1."""

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
    task: _Task, root: Path, release: str, seed: int, raster: int, difficulty: str
) -> list[list[str]]:
    """Write a patient's images; return the rows of its table, an image (test: a study) each."""
    level = DIFFICULTIES[difficulty]
    patient, visits = draw_visits(seed, "chexpert", task.number, level, task.split != "train")
    top = "CheXpert" if task.split == "test" else RELEASES[release]
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


def _mrm_lists(tables: dict[str, list[list[str]]], seed: int) -> dict[str, list[str]]:
    """MRM's lists: the images of train.csv in random order, cut in two; valid.csv as it is."""

    def line(row: list[str]) -> str:
        cells = dict(zip(HEADER, row, strict=True))
        path = "/".join((RELEASES["small"], *row[0].split("/")[1:]))
        values = {"1.0": "1", "0.0": "0", "": "0"}
        bits = [values.get(cells[name], unsure) for name, unsure in UNCERTAIN.items()]
        return " ".join((path, *bits))

    rng = stream(seed, "chexpert", 0, 0, 0, purpose="names")
    lines = [line(row) for row in tables["train"]]
    lines = [lines[i] for i in rng.permutation(len(lines))]
    share = round(MRM_VALID * len(lines))
    valid = max(share, min(LEAST_MRM_VALID, len(lines) // 10))
    train = lines[valid:]
    bits = [[int(bit) for bit in line.split()[1:]] for line in train]
    return {
        "train_list": train,
        "val_list": lines[:valid],
        "test_list": [line(row) for row in tables["valid"]],
        "train_10": draw_subset(train, bits, 0.10, rng),
        "train_1": draw_subset(train, bits, 0.01, rng),
    }


def write(root: Path, params: PhantomSpec, workers: int, release: str = "small") -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where `CheXpert-v1.0-small/`, `CheXpert/`, `groundtruth.csv` and the lists go.
        params: seed, raster, difficulty and `patients["chexpert"]`, the patients in train; valid
            adds 6 % of that (at least 60) and test 25 % (at least 100).
        workers: processes; the bytes do not depend on them.
        release: a key of `RELEASES`; the full one differs in its folder's name only.

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
        release=release,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    tables: dict[str, list[list[str]]] = {split: [] for split in sizes}
    for task, rows in zip(tasks, spread(work, tasks, workers), strict=True):
        tables[task.split] += rows
    write_csv(root / RELEASES[release] / "train.csv", HEADER, tables["train"])
    write_csv(root / RELEASES[release] / "valid.csv", HEADER, tables["valid"])
    write_csv(root / "groundtruth.csv", ["Study", *COLUMNS], tables["test"])
    write_mrm(root, "chexpert", _mrm_lists(tables, params.seed))
    return {
        "patients": train,
        "images": len(tables["train"]),
        "valid_images": len(tables["valid"]),
        "test_studies": len(tables["test"]),
    }
