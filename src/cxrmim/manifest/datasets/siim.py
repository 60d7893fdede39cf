"""SIIM-ACR pneumothorax, the 12,954-row re-issue of its training set (protocols §1.4).

Source rows are those of the run-length table; an image's is its first.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import splits
from cxrmim.manifest.contract import LABEL, Flow, Reading, find, read_table
from cxrmim.plugins import Strict

DATASET = "siim"
LABELS = ("Pneumothorax",)
TABLES = ("train-rle.csv", "stage_2_train.csv")
FOLDERS = ("dicom-images-train", "dicom-images-test")
NO_MASK = "-1"


class Options(Strict):
    """Switches of the ledger; `fractions` are train, valid and test."""

    release: Literal["reissue"]
    split: Literal["fractions"]
    unit: Literal["image"]
    fractions: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ]
    balance: bool
    seed: Annotated[int, Field(ge=0)]


def read(root: Path, options: Options) -> Reading:
    """Read images with their run-length masks, one row per image.

    ``rle`` lists an image's runs of (offset from the end of the last run, length), to be OR-ed;
    it is empty where there is no pneumothorax.

    Raises:
        DataError: the table, one of its columns or the image folder is missing.
    """
    file = find(root, DATASET, TABLES)
    rows = read_table(file, DATASET, ["ImageId", "EncodedPixels"])
    paths = _images(root)

    flow = Flow(rows)
    blank = flow.table["ImageId"][flow.table["EncodedPixels"] == ""]
    flow.fault(flow.table["ImageId"].isin(list(blank)), "column EncodedPixels is blank")
    flow.fault(~flow.table["ImageId"].isin(list(paths)), "image is missing")
    masked = flow.table[flow.table["EncodedPixels"] != NO_MASK]
    runs = masked.groupby("ImageId", sort=False)["EncodedPixels"].agg(list).to_dict()
    labelled = set(flow.table["ImageId"])
    flow.drop(flow.table["ImageId"].duplicated(), "further row of an image")

    table = flow.table
    table["image"] = table["ImageId"]
    table["path"] = table["ImageId"].map(paths)
    table["patient"] = table["ImageId"]  # the challenge names no patients
    table["study"] = [_study(path) for path in table["path"]]
    table["view"] = ""
    table["rle"] = pd.Series([runs.get(i, []) for i in table["ImageId"]], dtype=object)
    table[LABEL + LABELS[0]] = table["rle"].map(bool).astype(np.float32)
    names = ["train", "valid", "test"]
    table["split"] = splits.by_unit(table["image"], options.fractions, names, options.seed)
    if options.balance:
        train = table[table["split"] == "train"].sort_values("image")
        positive = train[LABEL + LABELS[0]].to_numpy() == 1
        surplus = train.index[~splits.balanced(positive, options.seed)]
        flow.drop(table.index.isin(surplus), "training negative beyond the number of positives")
    notes = {"images without a row": len(set(paths) - labelled)}
    return Reading(flow.table, flow.counts, [file], flow.faults, "image", notes)


def _study(path: str) -> str:
    """Folder two above the file, which the challenge names by study; the file's own if flat."""
    parts = PurePosixPath(path).parts
    return parts[-3] if len(parts) > 3 else PurePosixPath(path).stem


def _images(root: Path) -> dict[str, str]:
    """Path relative to the root of each DICOM by its id, the file's name.

    Raises:
        DataError: there is no image folder.
    """
    found: dict[str, str] = {}
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    if not folders:
        raise DataError(
            f"{DATASET}: {root}: no folder {FOLDERS[0]}; set manifest.roots.siim to the folder "
            f"that holds it"
        )
    for folder in folders:
        for here, below, files in os.walk(folder):
            below.sort()
            for name in sorted(files):
                if name.lower().endswith(".dcm"):
                    path = Path(here, name).relative_to(root).as_posix()
                    found.setdefault(name[: -len(".dcm")], path)
    return found
