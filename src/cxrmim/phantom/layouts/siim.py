"""SIIM-ACR pneumothorax: DICOMs in `<study uid>/<series uid>/` folders and both releases' tables.

Each pair of the run-length code is (offset from the end of the run before, length), over pixels
counted down the columns; an image has a row for each of its regions, or one row with "-1". Stage 1
(`train-rle.csv`) covers `dicom-images-train` and has a blank before every value; the re-issue
(`stage_2_train.csv`) covers `dicom-images-test` too and has none. A few images have no row. MRM's
lists hold stage 1's images, the positive ones in more than one list.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrmim.phantom.acquisition import DIFFICULTIES, draw_acquisition
from cxrmim.phantom.dicom import UID_ROOT, make_dicom
from cxrmim.phantom.files import draw_subset, write_lines, write_mrm
from cxrmim.phantom.findings import draw_finding, draw_patient, draw_study
from cxrmim.phantom.painting import render
from cxrmim.phantom.streams import PhantomSpec, spread, stream

MONOCHROME1_SHARE = 0.08
UNLABELLED_SHARE = 37 / 10_675
BILATERAL = 0.06
"""Share of the pneumothoraces that have a second one on the other side."""

SPLIT_REGION = 0.28
"""Share of the regions that the annotators drew in two pieces."""

STAGE_1_SHARE = 10_675 / 12_047
"""Share of the re-issue's images that stage 1 had labelled."""

HEADER = "ImageId, EncodedPixels"
MRM_SHARES = (0.7, 0.15)
"""Train and validation among the negatives; the rest tests."""

MRM_LEAK = {
    ("train_list", "val_list"): 478 / 2379,
    ("train_list", "test_list"): 494 / 2379,
    ("val_list", "test_list"): 124 / 2379,
    ("val_list",): 0.03,
    ("test_list",): 54 / 2379,
}
"""Shares of the positives that stand in these of MRM's lists; the others only train."""


@dataclass(frozen=True)
class _Task:
    number: int
    clock: int
    folder: str


def encode(mask: NDArray[np.bool_]) -> str:
    """Run-length code of a mask (rows, cols): relative offsets, counted down the columns."""
    flat = np.concatenate(([False], mask.T.ravel(), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    gaps = np.diff(edges, prepend=0)
    return " ".join(str(gap) for gap in gaps)


def regions(mask: NDArray[np.bool_], cut: bool) -> list[NDArray[np.bool_]]:
    """The pieces that the annotation lists in rows of their own; their union is the mask.

    A mask on both sides of the image falls into two pieces, and `cut` parts each of these at half
    its height. Empty pieces are left out.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    if not columns.size:
        return []
    gaps = np.flatnonzero(np.diff(columns) > 1)
    bounds = [0, *(int(columns[gap]) + 1 for gap in gaps), mask.shape[1]]
    pieces = []
    for left, right in pairwise(bounds):
        piece = np.zeros_like(mask)
        piece[:, left:right] = mask[:, left:right]
        rows = np.flatnonzero(piece.any(axis=1))
        if cut and rows.size > 3:
            middle = int(rows[rows.size // 2])
            upper, lower = piece.copy(), piece.copy()
            upper[middle:], lower[:middle] = False, False
            pieces += [upper, lower]
        elif rows.size:
            pieces.append(piece)
    return pieces


def _write_image(
    task: _Task, root: Path, seed: int, raster: int, difficulty: str
) -> tuple[str, list[str]]:
    """Write one DICOM; return its image id and the codes of its regions ("-1" for none)."""
    level = DIFFICULTIES[difficulty]
    patient = draw_patient(stream(seed, "siim", task.number))
    rng = stream(seed, "siim", task.number, 0)
    view = "AP" if rng.random() < 0.4 else "PA"
    study = draw_study(rng, None, portable=view == "AP")
    found = study.find("Pneumothorax")
    rolls = rng.random(3)
    if found is not None and rolls[0] < BILATERAL:
        other = draw_finding("Pneumothorax", rng)
        other = replace(other, side="left" if found.side == "right" else "right")
        study = replace(study, findings=(*study.findings, other))
    shot = draw_acquisition("AP" if view == "AP" else "PA", level, rng, square=True)
    pixels_rng = stream(seed, "siim", task.number, 0, 0, "pixels")
    image = render(patient, study, shot, level, raster, pixels_rng)
    names = stream(seed, "siim", task.number, 0, purpose="names")
    tail = f"8323329.{1000 + task.number}.{task.clock}.{int(names.integers(100_000, 1_000_000))}"
    uids = [f"{UID_ROOT}.{kind}.{tail}" for kind in (2, 3, 4)]
    folder = root / task.folder / uids[0] / uids[1]
    folder.mkdir(parents=True)
    inverted = rolls[1] < MONOCHROME1_SHARE
    identity = "phantom-" + "-".join(uids[2].split(".")[-2:])
    data = make_dicom(image.pixels, patient, str(shot.view), uids, identity, bool(inverted))
    (folder / f"{uids[2]}.dcm").write_bytes(data)
    codes = [encode(piece) for piece in regions(image.mask, bool(rolls[2] < SPLIT_REGION))]
    return uids[2], codes or ["-1"]


def _mrm_lists(images: list[tuple[str, bool]], seed: int) -> dict[str, list[str]]:
    """MRM's lists of (image id, whether positive): an id a line, positives in more than one."""
    rng = stream(seed, "siim", 0, 0, 0, purpose="names")
    parts = list(MRM_LEAK)
    shares = [*MRM_LEAK.values(), 1 - sum(MRM_LEAK.values())]
    lists: dict[str, list[tuple[str, bool]]] = {"train_list": [], "val_list": [], "test_list": []}
    bounds = (MRM_SHARES[0], sum(MRM_SHARES))
    for i in rng.permutation(len(images)):
        name, positive = images[i]
        draw = rng.random()
        if positive:
            part = (*parts, ("train_list",))[int(rng.choice(len(shares), p=shares))]
        else:
            part = (tuple(lists)[int(draw >= bounds[0]) + int(draw >= bounds[1])],)
        for key in part:
            lists[key].append((name, positive))
    out = {key: [name for name, _ in found] for key, found in lists.items()}
    bits = [[int(positive)] for _, positive in lists["train_list"]]
    for key, share in (("train_10", 0.10), ("train_1", 0.01)):
        out[key] = draw_subset(out["train_list"], bits, share, rng)
    return out


def write(root: Path, params: PhantomSpec, workers: int) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where the image folders, both tables and the lists go.
        params: seed, raster, difficulty and `patients["siim"]`, the re-issue's labelled images.
        workers: processes; the bytes do not depend on them.

    Returns:
        Counts: the re-issue's images, positives and rows, stage 1's images and rows, and images
        without a row.
    """
    labelled = params.patients["siim"]
    first = max(1, round(STAGE_1_SHARE * labelled))
    extra = max(2, round(UNLABELLED_SHARE * labelled))
    start = 1_517_875_160 + int(stream(params.seed, "siim", 0, purpose="names").integers(0, 10_000))
    tasks = [
        _Task(
            number,
            start + number // 9,
            "dicom-images-test" if first <= number < labelled else "dicom-images-train",
        )
        for number in range(labelled + extra)
    ]
    work = partial(
        _write_image,
        root=root,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    images = list(spread(work, tasks, workers))[:labelled]
    old = [f"{name}, {code}" for name, codes in images[:first] for code in codes]
    new = [f"{name},{code}" for name, codes in images for code in codes]
    write_lines(root / "train-rle.csv", [HEADER, *old])
    write_lines(root / "stage_2_train.csv", [HEADER, *new])
    known = [(name, codes != ["-1"]) for name, codes in images[:first]]
    write_mrm(root, "siim", _mrm_lists(known, params.seed))
    return {
        "images": labelled,
        "positive": sum(codes != ["-1"] for _, codes in images),
        "rows": len(new),
        "stage_1_images": first,
        "stage_1_rows": len(old),
        "unlabelled": extra,
    }
