"""NIH ChestX-ray14: `images_001..012/images/*.png`, both label tables, both pairs of lists.

The header of `Data_Entry_2017.csv` and `_v2020.csv` holds two names with an unquoted comma, which
therefore name two columns each; the older table also ends every line with a comma. All 14 labels
are painted findings (Infiltration, Emphysema, Fibrosis and Hernia by `phantom.patterns`). A few
PNGs are RGBA. The newer table differs from the truth in a few labels, as the real one's does from
the older; MRM's lists follow the older.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.cohorts import NIH_LABELS, nih_labels, nih_patient
from cxrmim.phantom.files import draw_subset, write_lines, write_mrm
from cxrmim.phantom.painting import render
from cxrmim.phantom.population import spread_over
from cxrmim.phantom.streams import PhantomSpec, spread, stream

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FOLDERS = 12
DUPLICATES = 2
"""Patients whose one image has the pixels of another patient's; MRM's lists part the two."""

RGBA_SHARE = 0.005
SPACINGS = ("0.139", "0.143", "0.14300000000000002", "0.168", "0.171", "0.19431099999999998")
SIZES = ((2682, 2749), (2500, 2048), (2048, 2500), (3056, 2544), (2992, 2991))
REVISED_SHARE = 181 / 112_120
LEAST_REVISED = 4
MRM_SHARES = (0.7, 0.1)
"""Train and validation, by patient; the rest tests."""

OFFICIAL_TEST = 0.228


@dataclass(frozen=True)
class _Task:
    """Patient `name` (from 1) shows the patient `number`; a copy has the first image only."""

    number: int
    name: int
    copy: bool


@dataclass(frozen=True)
class _Row:
    """An image's row: the file's name, its 14 bits and the cells after Finding Labels."""

    patient: int
    file: str
    bits: tuple[int, ...]
    cells: tuple[str, ...]


def _write_patient(
    task: _Task, folders: list[int], root: Path, seed: int, raster: int, difficulty: str
) -> list[_Row]:
    """Write a patient's images; return a row an image.

    `folders` are the first patients of the image folders.
    """
    level = DIFFICULTIES[difficulty]
    patient, visits = nih_patient(seed, task.number, level)
    place = sum(task.name >= first for first in folders)
    folder = root / f"images_{place:03d}" / "images"
    names = stream(seed, "nih", task.number, purpose="names")
    rows = []
    for visit in visits[: 1 if task.copy else None]:
        shot = visit.shots[0]
        pixels_rng = stream(seed, "nih", task.number, visit.index, 0, "pixels")
        pixels = render(patient, visit.study, shot, level, raster, pixels_rng).pixels
        file = f"{task.name:08d}_{visit.index:03d}.png"
        image = Image.fromarray(pixels)
        rolls = names.random(2)
        if rolls[0] < RGBA_SHARE or (task.number in (0, 1) and visit.index == 0):
            image = image.convert("RGBA")
        image.save(folder / file, compress_level=1)
        width, height = SIZES[int(rolls[1] * len(SIZES))]
        spacing = SPACINGS[int(names.integers(len(SPACINGS)))]
        age = min(patient.age + visit.index // 2, 95)
        who = (str(visit.index), str(task.name), str(age), patient.sex, str(shot.view))
        cells = (*who, str(width), str(height), spacing, spacing)
        rows.append(_Row(task.name, file, nih_labels(visit.study), cells))
    return rows


def _findings(bits: tuple[int, ...]) -> str:
    """The cell Finding Labels: names joined by bars in alphabetical order, or No Finding."""
    found = [name for name, bit in zip(NIH_LABELS, bits, strict=True) if bit]
    return "|".join(sorted(found)) or "No Finding"


def _revised(rows: list[_Row], seed: int) -> list[tuple[int, ...]]:
    """The bits of the newer table: some images gain or lose a label, mostly Pneumonia."""
    rng = stream(seed, "nih", len(rows), purpose="names")
    names = list(NIH_LABELS)
    bits = [list(row.bits) for row in rows]
    count = min(len(rows), max(LEAST_REVISED, round(REVISED_SHARE * len(rows))))
    for image in rng.permutation(len(rows))[:count]:
        name = "Pneumonia" if rng.random() < 0.43 else names[int(rng.integers(len(names)))]
        bits[image][names.index(name)] ^= 1
    return [tuple(values) for values in bits]


def _mrm_lists(rows: list[_Row], tasks: list[_Task], seed: int) -> dict[str, list[str]]:
    """MRM's lists: patients in random order, an image a line with its bits; subsets not nested.

    Copies test and what they copy trains.
    """
    originals = [task for task in tasks if not task.copy]
    copied = {task.number for task in tasks if task.copy}
    order = [originals[i] for i in spread_over(len(originals), seed, "nih")]
    order.sort(key=lambda task: task.number not in copied)
    train, valid = (round(share * len(order)) for share in MRM_SHARES)
    parts = {
        "train_list": order[:train],
        "val_list": order[train : train + valid],
        "test_list": [*order[train + valid :], *(task for task in tasks if task.copy)],
    }
    lines: dict[int, list[str]] = {}
    for row in rows:
        lines.setdefault(row.patient, []).append(f"{row.file} {' '.join(map(str, row.bits))}")
    rng = stream(seed, "nih", 0, 0, purpose="names")
    lists = {
        name: [line for i in rng.permutation(len(part)) for line in lines[part[i].name]]
        for name, part in parts.items()
    }
    bits = [[int(bit) for bit in line.split()[1:]] for line in lists["train_list"]]
    for name, share in (("train_10", 0.10), ("train_1", 0.01)):
        lists[name] = draw_subset(lists["train_list"], bits, share, rng)
    return lists


def _folder_starts(count: int) -> list[int]:
    """First patient of each image folder; the first folder holds half as many as the others."""
    cuts = np.linspace(0.5, FOLDERS, FOLDERS)[:-1] / FOLDERS
    return [1, *(1 + max(1, round(cut * count)) for cut in cuts)]


def write(root: Path, params: PhantomSpec, workers: int) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where the image folders, tables and lists go.
        params: seed, raster, difficulty and `patients["nih"]`; the copies are further patients.
        workers: processes; the bytes do not depend on them.

    Returns:
        Counts: patients (with the copies), images, images with another label in the newer table,
        images with another patient's pixels.
    """
    count, seed = params.patients["nih"], params.seed
    copies = min(DUPLICATES, count // 3)
    # The first patients have RGBA images; those that are copied come after them.
    tasks = [_Task(number, number + 1, False) for number in range(count)]
    tasks += [_Task(2 + copy, count + copy + 1, True) for copy in range(copies)]
    for place in range(1, FOLDERS + 1):
        (root / f"images_{place:03d}" / "images").mkdir(parents=True)
    work = partial(
        _write_patient,
        folders=_folder_starts(len(tasks)),
        root=root,
        seed=seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    rows = [row for patient in spread(work, tasks, workers) for row in patient]
    revised = _revised(rows, seed)
    _write_table(root / "Data_Entry_2017.csv", rows, [row.bits for row in rows], ",")
    _write_table(root / "Data_Entry_2017_v2020.csv", rows, revised, "")
    official = {
        tasks[i].name
        for i in stream(seed, "nih", 1, 0, purpose="names").permutation(len(tasks))[
            : max(1, round(OFFICIAL_TEST * len(tasks)))
        ]
    }
    tests = [row.file for row in rows if row.patient in official]
    write_lines(root / "test_list.txt", tests, final=False)
    rest = [row.file for row in rows if row.patient not in official]
    write_lines(root / "train_val_list.txt", rest, final=False)
    write_mrm(root, "nih", _mrm_lists(rows, tasks, seed), unended=("val_list",))
    return {
        "patients": len(tasks),
        "images": len(rows),
        "revised_labels": sum(row.bits != bits for row, bits in zip(rows, revised, strict=True)),
        "planted_duplicates": copies,
    }


def _write_table(path: Path, rows: list[_Row], bits: list[tuple[int, ...]], end: str) -> None:
    """A label table whose lines end with `end`; nothing in it is quoted."""
    lines = [HEADER + end]
    for row, values in zip(rows, bits, strict=True):
        lines.append(",".join((row.file, _findings(values), *row.cells)) + end)
    write_lines(path, lines)
