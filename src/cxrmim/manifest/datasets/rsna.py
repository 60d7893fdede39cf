"""RSNA Pneumonia Detection Challenge, stage 2 (protocols §1.6).

An image is labelled by the largest Target of its rows. Source rows are those of the table, an
image's its first; or with ``split: mrm`` those of the three lists one after the other. Each patient
has one image.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import lists, released, splits
from cxrmim.manifest.about import About, Part
from cxrmim.manifest.contract import LABEL, Flow, Raw, Reading, find, read_table
from cxrmim.manifest.files import Files, scan
from cxrmim.plugins import Strict

DATASET = "rsna"
LABELS = ("Pneumonia",)
TABLE = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
TRAIN, TEST = "stage_2_train_images", "stage_2_test_images"
TARGETS = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
NORMAL, OPAQUE = "Normal", "Lung Opacity"
KNOWN = (NORMAL, "No Lung Opacity / Not Normal", OPAQUE)
LINE = rf"^({TRAIN}|{TEST})/([^/]+\.dcm)$"
COLUMN = LABEL + LABELS[0]
NAMED = ("images", "patients")
ABOUT = About(
    title="RSNA Pneumonia Detection Challenge, stage 2",
    source="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge (account)",
    parts=(
        Part("table of boxes", (TABLE,), 30_227),
        Part("training images", (TRAIN,), folder=True),
    ),
    suffixes=(".dcm",),
    folders=(TRAIN, TEST),
    images=29_684,
    used=29_684,
    format="dicom",
)


class Options(Strict):
    """Switches of the ledger; `fractions` are weights of train, valid and test.

    `fractions` and `seed` are of split `fractions`.
    """

    split: Literal["mrm", "fractions", "mgca"]
    negative: Literal["all", "normal"]
    unit: Literal["patient"]
    fractions: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ]
    seed: Annotated[int, Field(ge=0)]


def needs(options: Options) -> tuple[Part, ...]:
    """Table and training images; that of classes, and the test images, if they are asked for."""
    found = list(ABOUT.parts)
    if options.negative == "normal":
        found.append(Part("table of classes", (CLASSES,)))
    if options.split == "mrm":
        found.append(Part("test images", (TEST,), folder=True))
    return tuple(found)


def read(raw: Raw, options: Options) -> Reading:
    """Read images with their label.

    ``mrm``: the MRM repository's lists; they alone label Kaggle's test images, its test.
    ``fractions``: the labelled images, cut by patient. ``mgca``: the same by MGCA's rule.
    ``negative: normal`` drops negatives of another class than Normal.

    Raises:
        DataError: a table, one of its columns, a list or an image folder is missing, or nothing
            tells which test images are normal.
    """
    file = find(raw.root, DATASET, [TABLE])
    rows = read_table(file, DATASET, ["patientId", "Target"])
    tested = options.split == "mrm" or (raw.root / TEST).is_dir()
    files = scan(raw.root, DATASET, [TRAIN, TEST] if tested else [TRAIN], (".dcm",))
    used: list[Path] = [file]
    if options.split == "mrm":
        flow, read_files, notes = lists.read_splits(raw, DATASET)
        used = [*read_files, file]
        notes |= _lines(flow, files, rows)
    else:
        flow = Flow(rows)
        notes = _rows(flow, files)
    if options.negative == "normal":
        used.append(_normal(raw.root, flow))
    table = flow.table
    table["image"] = table["patient"]
    table["study"] = table["patient"]
    table["view"] = ""
    if options.split == "mgca":
        # The rule draws among all patients of the table, whatever became of their rows.
        patients = np.setdiff1d(rows["patientId"].to_numpy(dtype=str), [""])
        rule = dict(zip(patients, released.rsna_mgca(patients), strict=True))
        table["split"] = table["patient"].map(rule)
    elif options.split == "fractions":
        names = ["train", "valid", "test"]
        table["split"] = splits.by_unit(table["patient"], options.fractions, names, options.seed)
    return Reading(table, flow.counts, used, flow.faults, "patient", notes)


def _rows(flow: Flow, files: Files) -> dict[str, int]:
    """One row per image, from rows per box: path, patient and label; returns notes."""
    unknown = ~flow.table["Target"].isin(list(TARGETS))
    blamed = flow.table["patientId"][unknown]
    flow.fault(flow.table["patientId"].isin(blamed), "unknown value in column Target")
    flow.table["name"] = flow.table["patientId"] + ".dcm"
    notes = {"images without a row": files.unused(flow.table["name"])}
    files.attach(flow, "name")
    target = flow.table["Target"].map(TARGETS)
    flow.table[COLUMN] = target.groupby(flow.table["patientId"]).transform("max").astype(np.float32)
    flow.drop(flow.table["patientId"].duplicated(), "further row of an image")
    flow.table["patient"] = flow.table["patientId"]
    return notes


def _lines(flow: Flow, files: Files, rows: pd.DataFrame) -> dict[str, int]:
    """Path, patient and label of the lists' lines; returns notes."""
    lists.parse_bits(flow, LABELS)
    flow.table["line"] = flow.table["name"]
    flow.table[["folder", "name"]] = flow.table["line"].str.extract(LINE).to_numpy()
    flow.fault(flow.table["name"].isna(), "line names no image of the challenge")
    notes = {"images without a row": files.unused(flow.table["name"])}
    files.attach(flow, "name")
    flow.fault(flow.table["path"] != flow.table["line"], "image is in another folder")
    flow.table["patient"] = flow.table["name"].str.removesuffix(".dcm")
    target = rows["Target"].map(TARGETS).groupby(rows["patientId"]).max()
    stated = flow.table["patient"].map(target)
    unlike = stated.notna() & (stated != flow.table[COLUMN])
    return notes | {"labels unlike the table's": int(unlike.sum())}


def _normal(root: Path, flow: Flow) -> Path:
    """Drop negatives that are not normal by the table of classes, which is returned.

    Raises:
        DataError: that table is missing, or has none of the test images.
    """
    file = find(root, DATASET, [CLASSES])
    found = read_table(file, DATASET, ["patientId", "class"])[["patientId", "class"]]
    found = found.drop_duplicates()
    found = found[~found["patientId"].duplicated(keep=False) & found["class"].isin(KNOWN)]
    named = flow.table["patient"].map(found.set_index("patientId")["class"])
    tested = flow.table["path"].str.startswith(f"{TEST}/")
    if tested.any() and named[tested].isna().all():
        raise DataError(
            f"{DATASET}: {file}: has no class of any image of {TEST}, which split: mrm tests on, "
            f"so negative: normal cannot be told there; set negative: all, or another split"
        )
    flow.table["class"] = named
    flow.fault(named.isna(), "image has no class, or several")
    opaque = flow.table["class"] == OPAQUE
    flow.fault(opaque != (flow.table[COLUMN] == 1), "class and label contradict")
    normal = flow.table["class"].isin([NORMAL, OPAQUE])
    flow.drop(~normal, "negative is not normal")
    return file
