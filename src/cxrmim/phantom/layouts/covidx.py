"""COVIDx: images in `train/` and `test/` as on Kaggle, COVID-Net's label lists in `labels/`.

A line of a list is patient id, file name, class and source, blank-separated, without a header. V9A
and CXR-3A have three classes, the second leaving out the images of one source; CXR-3B is binary
and has a few images more. Kaggle's own `train.txt` and `test.txt` are binary too. Part of V9A's
training rows spell their source `rnsa`, as the real list does.

The real list's sources and file types tell the class: here the type, the colour mode and the shape
of an image are drawn without looking at it. Some patients stand in the lists twice under different
ids, as the overlapping sources of the real list have it.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.cohorts import (
    COVIDX_CLASSES,
    COVIDX_COUNTS,
    covidx_class,
    covidx_kind,
    covidx_patient,
)
from cxrmim.phantom.files import uuid, write_lines
from cxrmim.phantom.painting import render
from cxrmim.phantom.streams import PhantomSpec, spread, stream

TEST_SHARE = 400 / 16_424
LEAST_TEST = 100
"""Images of the test set, a patient each; the real one has 400."""

TEST_KINDS = ("normal", "pneumonia", "COVID-19", "COVID-19")
OTHER_SHARE, LEAST_OTHER = 0.012, 2
"""Patients of the binary list who have another lung disease."""

DUPLICATE_SHARE, LEAST_DUPLICATES = 0.01, 3
"""Patients who are listed twice; the first of the doubles is a test image."""

DROPPED = "stonybrook"
"""The source that CXR-3A leaves out."""

SOURCES = {
    "normal": {"rsna": 1.0},
    "pneumonia": {"rsna": 0.9, "cohen": 0.1},
    "COVID-19": {
        "bimcv": 0.38,
        "ricord": 0.20,
        "cohen": 0.16,
        "sirm": 0.14,
        DROPPED: 0.06,
        "fig1": 0.06,
    },
    "other": {"actmed": 0.5, "cohen": 0.5},
}
ORDER = ("cohen", "fig1", "actmed", "sirm", DROPPED, "ricord", "rsna", "bimcv", "rnsa")
MISSPELT = 0.15
"""Share of RSNA's training images whose source V9A spells rnsa."""

TYPES = {"png": 0.58, "jpg": 0.18, "jpeg": 0.14, "JPG": 0.06, "PNG": 0.04}
MODES = {"L": 0.84, "RGB": 0.05, "RGBA": 0.04, "P": 0.03, "I;16": 0.04}
"""Shares of file types, and of the modes of a PNG; of the JPEGs, those of RGB are in colour."""

JPEG_QUALITY = 95
TINT = np.array([255, 247, 232]) / 255
"""Colour of the film in the colour images."""


@dataclass(frozen=True)
class _Task:
    """A patient; `copy` is the same patient under another id, `plain` has one plain PNG first."""

    number: int
    folder: str
    kind: str
    copy: bool = False
    plain: bool = False


@dataclass(frozen=True)
class _Row:
    """A line of the lists and where it belongs."""

    patient: str
    file: str
    kind: str
    source: str
    misspelt: bool
    folder: str


def _pick(shares: dict[str, float], rng: np.random.Generator) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _names(task: _Task, source: str, rng: np.random.Generator) -> tuple[str, str]:
    """A patient's id and the start of the names of its files, in the manner of its source.

    The number keeps both unique.
    """
    number = 2 * task.number + task.copy
    long = f"{int(rng.integers(2**60)):015x}"
    if source == "rsna":
        # The patient's number, spread over the alphabet, stands where a random word would.
        name = f"{number * 2_654_435_761 % 2**32:08x}{uuid(rng)[8:]}"
        return name, name
    if source == "sirm":
        return f"COVID_{number}", f"COVID({number})"
    if source == "ricord":
        patient = f"419639-{number:06d}"
        return patient, f"MIDRC-RICORD-1C-{patient}-{int(rng.integers(10**5)):05d}"
    if source == "bimcv":
        run = f"ses-E{int(rng.integers(10**5)):05d}_run-1_bp-chest_vp-ap_cr"
        return f"S{number:05d}", f"sub-S{number:05d}_{run}"
    if source == DROPPED:
        return f"A{number:06d}", f"A{number:06d}_{long[:8]}"
    if source == "fig1":
        return f"COVID-{number:05d}", f"COVID-{number:05d}"
    if source == "actmed":
        return f"ANON{number}", f"CR.1.2.840.113564.1722810170.2020{long[:9]}.{number}"
    letter = "ab"[int(rng.integers(2))] if rng.random() < 0.2 else ""
    stem = (f"{long}{number:05x}_jumbo", f"covid-19-pneumonia-{number}", f"{number:06d}-{long[:2]}")
    if task.kind != "COVID-19":
        stem = (stem[0], f"right-upper-lobe-pneumonia-{number}", stem[2])
    return f"{number}{letter}", stem[int(rng.integers(3))]


def encode(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    """The image in a mode of `MODES`; all but the tinted RGB show the same greys."""
    grey = Image.fromarray(pixels)
    if mode == "L":
        return grey
    if mode == "RGB":
        return Image.fromarray((pixels[:, :, None] * TINT + 0.5).astype(np.uint8))
    if mode == "RGBA":
        return grey.convert("RGBA")
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    # The palette runs backwards: who takes the indices for greys sees a negative.
    indexed = Image.fromarray(255 - pixels)
    indexed.putpalette([value for step in range(255, -1, -1) for value in (step, step, step)])
    return indexed


def _write_patient(task: _Task, root: Path, seed: int, raster: int, difficulty: str) -> list[_Row]:
    """Write a patient's images; return a row an image."""
    level = DIFFICULTIES[difficulty]
    counts = COVIDX_COUNTS if task.folder == "train" and not task.copy else (1.0,)
    patient, visits = covidx_patient(seed, task.number, level, task.kind, counts)
    rng = stream(seed, "covidx", task.number, int(task.copy), purpose="names")
    shown = covidx_class(visits[0].study)
    source = "cohen" if task.copy else _pick(SOURCES[shown], rng)
    if task.folder == "test":
        source = "ricord" if shown == "COVID-19" else "rsna"
    identity, stem = _names(task, source, rng)
    rows = []
    for visit in visits:
        pixels_rng = stream(seed, "covidx", task.number, visit.index, 0, "pixels")
        pixels = render(patient, visit.study, visit.shots[0], level, raster, pixels_rng).pixels
        kind, mode = _pick(TYPES, rng), _pick(MODES, rng)
        if task.number < len(MODES) and visit.index == 0 and not task.plain:
            kind, mode = "png", list(MODES)[task.number]
        if task.plain and visit.index == 0:
            kind, mode = "png", "L"
        file = f"{stem}-{visit.index}.{kind}" if len(visits) > 1 else f"{stem}.{kind}"
        path = root / task.folder / file
        if kind.lower() == "png":
            encode(pixels, mode).save(path, "PNG", compress_level=1)
        else:
            colour = mode if mode == "RGB" else "L"
            encode(pixels, colour).save(path, "JPEG", quality=JPEG_QUALITY)
        misspelt = source == "rsna" and task.folder == "train" and bool(rng.random() < MISSPELT)
        rows.append(_Row(identity, file, covidx_class(visit.study), source, misspelt, task.folder))
    return rows


def _tasks(count: int, seed: int) -> list[_Task]:
    """Training patients, those of the binary list alone, test patients, and the doubles."""
    kinds = [covidx_kind(seed, number) for number in range(count)]
    copies = min(count // 3, max(LEAST_DUPLICATES, round(DUPLICATE_SHARE * count)))
    # The doubles come from the patients after those with an odd mode each.
    ill = [n for n in range(min(len(MODES), count // 2), count) if kinds[n] != "normal"][:copies]
    tasks = [_Task(n, "train", kind, plain=n in ill) for n, kind in enumerate(kinds)]
    others = max(LEAST_OTHER, round(OTHER_SHARE * count))
    tasks += [_Task(count + n, "train", "other") for n in range(others)]
    tests = max(LEAST_TEST, round(TEST_SHARE * count))
    doubles = [
        _Task(n, "train" if place else "test", kinds[n], copy=True, plain=True)
        for place, n in enumerate(ill)
    ]
    for n in range(tests - bool(doubles)):
        tasks.append(_Task(count + others + n, "test", TEST_KINDS[n % len(TEST_KINDS)]))
    return tasks + doubles


def _lines(rows: list[_Row], folder: str, style: str) -> list[str]:
    """A list: `style` is V9A, CXR-3A or CXR-3B, or kaggle for the binary list of all images."""
    out = []
    for row in rows:
        binary = style in ("CXR-3B", "kaggle")
        left_out = style.startswith("CXR") and row.source == DROPPED
        if row.folder != folder or left_out or (row.kind == "other" and not binary):
            continue
        kind = ("positive" if row.kind == "COVID-19" else "negative") if binary else row.kind
        source = "rnsa" if row.misspelt and style == "V9A" else row.source
        out.append(f"{row.patient} {row.file} {kind} {source}")
    return out


def write(root: Path, params: PhantomSpec, workers: int) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where the image folders and the lists go.
        params: seed, raster, difficulty and `patients["covidx"]`, the patients of V9A's training
            list without the doubles; 100 test images or 2.4 % of that come on top.
        workers: processes; the bytes do not depend on them.

    Returns:
        Counts: patients, images of V9A's training list and its classes, test images, images that
        repeat another patient's pixels.
    """
    tasks = _tasks(params.patients["covidx"], params.seed)
    for folder in ("train", "test"):
        (root / folder).mkdir()
    work = partial(
        _write_patient,
        root=root,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    rows = [row for patient in spread(work, tasks, workers) for row in patient]

    # By source; within it pneumonia before COVID-19, as the real lists begin.
    kinds_first = ("other", "normal", "pneumonia", "COVID-19")

    def place(row: _Row) -> tuple[int, int]:
        source = "rnsa" if row.misspelt else row.source
        return ORDER.index(source), kinds_first.index(row.kind)

    rows.sort(key=place)
    stems = {"V9A": "COVIDx9A", "CXR-3A": "COVIDx_CXR-3A", "CXR-3B": "COVIDx_CXR-3B"}
    for folder in ("train", "test"):
        for style, stem in stems.items():
            write_lines(root / "labels" / f"{folder}_{stem}.txt", _lines(rows, folder, style))
        write_lines(root / f"{folder}.txt", _lines(rows, folder, "kaggle"))
    kinds = Counter(row.kind for row in rows if row.folder == "train")
    return {
        "patients": params.patients["covidx"],
        "images": sum(kinds[name] for name in COVIDX_CLASSES),
        **{name.lower().replace("-", "_"): kinds[name] for name in COVIDX_CLASSES},
        "test_images": sum(row.folder == "test" for row in rows),
        "planted_duplicates": sum(task.copy for task in tasks),
    }
