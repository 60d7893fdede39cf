"""RSNA Pneumonia Detection (stage 2): DICOMs by patient id, boxes, detailed classes, MRM's lists.

A positive patient has a row a box in both tables. Kaggle's files do not label the test images;
MRM's test list does. The ids are not independent of the labels: patients with an opacity come
early in the alphabet, so that MRM's cut of the sorted ids gives its parts different rates.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cxrmim.phantom.acquisition import DIFFICULTIES, Acquisition
from cxrmim.phantom.canvas import locate
from cxrmim.phantom.cohorts import rsna_class, rsna_kind, rsna_patient
from cxrmim.phantom.dicom import UID_ROOT, make_dicom
from cxrmim.phantom.files import draw_subset, uuid, write_csv, write_mrm
from cxrmim.phantom.findings import Finding
from cxrmim.phantom.painting import consolidation_spot, render
from cxrmim.phantom.streams import PhantomSpec, spread, stream

TEST_SHARE, VALID_SHARE = 3000 / 26_684, 1500 / 26_684
LEAST_TEST, LEAST_VALID = 100, 60
"""Images of the test set, and of MRM's validation set (at most a fifth of the images)."""

DUPLICATES = 2
"""Test images that are the pixels of training images."""

REACH = 1.5
"""Half sides of a box in standard deviations of the opacity that it frames."""


@dataclass(frozen=True)
class _Task:
    """An image of "train" or "test" of the patient `number`; a copy shows a training patient."""

    number: int
    split: str
    copy: bool = False


@dataclass(frozen=True)
class _Image:
    """What was written: the patient's id, its split, its class and its boxes (x, y, w, h)."""

    name: str
    split: str
    kind: str
    boxes: list[tuple[float, float, float, float]]


def box_of(item: Finding, shot: Acquisition, raster: int) -> tuple[float, float, float, float]:
    """The box around a consolidation: left, top, width, height in whole pixels of the image."""
    across, y, spread_x = consolidation_spot(item)
    x = across * (-1 if item.side == "right" else 1)
    column, row, pixel = locate(shot, raster, x, y)
    half = REACH * spread_x / pixel, REACH * 1.15 * spread_x / pixel
    left, top = max(0, round(column - half[0])), max(0, round(row - half[1]))
    right = min(raster, round(column + half[0]))
    bottom = min(raster, round(row + half[1]))
    return float(left), float(top), float(right - left), float(bottom - top)


def _write_image(task: _Task, root: Path, seed: int, raster: int, difficulty: str) -> _Image:
    """Write one DICOM."""
    level = DIFFICULTIES[difficulty]
    split = "train" if task.copy else task.split
    patient, visits = rsna_patient(seed, task.number, level, rsna_kind(seed, task.number, split))
    study, shot = visits[0].study, visits[0].shots[0]
    kind = rsna_class(study)
    names = stream(seed, "rsna", task.number, int(task.copy), purpose="names")
    # Density over the alphabet: falls from 1.4 to 0.6 with an opacity, flat without.
    lead = float(names.random())
    if kind == "Lung Opacity":
        lead = (1.4 - math.sqrt(1.96 - 1.6 * lead)) / 0.8
    name = uuid(names, lead)
    pixels_rng = stream(seed, "rsna", task.number, 0, 0, "pixels")
    pixels = render(patient, study, shot, level, raster, pixels_rng).pixels
    tail = f"8323329.{1000 + task.number}.1517874{task.number % 1000:03d}"
    uids = [f"{UID_ROOT}.{kind_}.{tail}.{int(names.integers(10**5, 10**6))}" for kind_ in (2, 3, 4)]
    folder = root / f"stage_2_{task.split}_images"
    data = make_dicom(pixels, patient, str(shot.view), uids, name)
    (folder / f"{name}.dcm").write_bytes(data)
    opacities = [item for item in study.findings if item.name == "Consolidation"]
    return _Image(name, task.split, kind, [box_of(item, shot, raster) for item in opacities])


def _mrm_lists(images: list[_Image], seed: int) -> dict[str, list[str]]:
    """MRM's lists: the sorted ids cut in two, the test images in random order; blanks at the end.

    train_10 is the head of train_list, train_1 is drawn at random.
    """
    lines = {
        split: [
            f"stage_2_{split}_images/{image.name}.dcm {int(image.kind == 'Lung Opacity')} "
            for image in images
            if image.split == split
        ]
        for split in ("train", "test")
    }
    rng = stream(seed, "rsna", 0, 1, 0, purpose="names")
    count = len(lines["train"])
    valid = max(1, round(VALID_SHARE * count), min(LEAST_VALID, count // 5))
    train = sorted(lines["train"])[: count - valid]
    return {
        "train_list": train,
        "val_list": sorted(lines["train"])[count - valid :],
        "test_list": [lines["test"][i] for i in rng.permutation(len(lines["test"]))],
        "train_10": train[: max(1, len(train) // 10)],
        "train_1": draw_subset(train, [[int(line.split()[1])] for line in train], 0.01, rng),
    }


def write(root: Path, params: PhantomSpec, workers: int) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where the image folders, tables and lists go.
        params: seed, raster, difficulty and `patients["rsna"]`, the training images; the test
            images are 11 % of that, at least 100.
        workers: processes; the bytes do not depend on them.

    Returns:
        Counts: training and test images, training positives, boxes, test images that repeat a
        training image's pixels.
    """
    count = params.patients["rsna"]
    copies = min(DUPLICATES, count)
    tests = max(LEAST_TEST, round(TEST_SHARE * count)) - copies
    tasks = [_Task(number, "train") for number in range(count)]
    tasks += [_Task(count + number, "test") for number in range(tests)]
    tasks += [_Task(number, "test", copy=True) for number in range(copies)]
    for split in ("train", "test"):
        (root / f"stage_2_{split}_images").mkdir()
    work = partial(
        _write_image,
        root=root,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    images = sorted(spread(work, tasks, workers), key=lambda image: image.name)
    labels, classes = [], []
    for image in images:
        if image.split != "train":
            continue
        for box in image.boxes:
            labels.append([image.name, *map(str, box), "1"])
        if not image.boxes:
            labels.append([image.name, "", "", "", "", "0"])
        classes += [[image.name, image.kind]] * max(1, len(image.boxes))
    header = ["patientId", "x", "y", "width", "height", "Target"]
    write_csv(root / "stage_2_train_labels.csv", header, labels)
    write_csv(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    write_mrm(root, "rsna", _mrm_lists(images, params.seed))
    positive = [image for image in images if image.split == "train" and image.boxes]
    return {
        "images": count,
        "test_images": tests + copies,
        "positive": len(positive),
        "boxes": sum(len(image.boxes) for image in positive),
        "planted_duplicates": copies,
    }
