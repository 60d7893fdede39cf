"""NIH ChestX-ray14 (protocols §1.5).

Source rows are those of the table, or with ``split: mrm`` those of the three lists one after the
other. The table's header has unquoted commas, so its last two names make four columns.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError, ParamsError
from cxrmim.manifest import lists, splits
from cxrmim.manifest.about import About, Part
from cxrmim.manifest.contract import (
    CONTRADICTION,
    LABEL,
    Flow,
    Raw,
    Reading,
    find,
    read_table,
)
from cxrmim.manifest.files import Files, scan
from cxrmim.plugins import Strict

DATASET = "nih"
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
OLDER, NEWER = "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"
TABLES = {
    "csv2017": (OLDER,),
    "v2020": (NEWER,),
    "table": (OLDER, NEWER),
    "list": (OLDER, NEWER),
}
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position")
OFFICIAL = ("train_val_list.txt", "test_list.txt")
NAME = r"^([0-9]{8})_[0-9]{3}\.png$"  # the patient's number, then the image's
NAMED = ("images", "studies", "patients")
ABOUT = About(
    title="NIH ChestX-ray14",
    source="https://nihcc.app.box.com/v/ChestXray-NIHCC (open)",
    parts=(Part("table of labels", (OLDER, NEWER), 112_120),),
    suffixes=(".png",),
    folders=(*(f"images_{k:03d}" for k in range(1, 13)), "images"),
    images=112_120,
    used=112_120,
    format="png",
)


class Options(Strict):
    """Switches of the ledger; `fractions` are weights of train, valid and test.

    `labels` are the bits of the MRM lists, or those of a table: the one named, or whichever is
    there, the older first. `fractions` and `seed` are of splits `fractions` and `official`; the
    latter uses the first two of `fractions`. `unit` is also what no two lists of split `mrm` may
    share.
    """

    split: Literal["mrm", "official", "fractions"]
    labels: Literal["list", "csv2017", "v2020", "table"]
    unit: Literal["patient", "image"]
    fractions: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ]
    seed: Annotated[int, Field(ge=0)]


def needs(options: Options) -> tuple[Part, ...]:
    """The table that is chosen, and NIH's own lists for split ``official``."""
    table = Part("table of labels", TABLES[options.labels], 112_120)
    names = OFFICIAL if options.split == "official" else ()
    return (table, *(Part("official list", (name,)) for name in names))


def read(raw: Raw, options: Options) -> Reading:
    """Read images with their 14 labels.

    ``mrm``: the MRM repository's lists, whose bits are the labels if ``labels: list``.
    ``official``: NIH's own test list; its train-and-validation list is cut by `unit` at the first
    two of `fractions`. ``fractions``: all images, cut by `unit`.

    Raises:
        ParamsError: ``labels: list`` without ``split: mrm``.
        DataError: a table, one of its columns, a list or the image folders are missing.
    """
    if options.labels == "list" and options.split != "mrm":
        raise ParamsError(
            f"manifest.datasets.nih: labels: list are the bits of the MRM lists, but split is "
            f"{options.split}; set labels: table, csv2017 or v2020, or split: mrm"
        )
    file = find(raw.root, DATASET, TABLES[options.labels])
    files = scan(raw.root, DATASET, _folders(raw.root), (".png",))
    rows = Flow(read_table(file, DATASET, COLUMNS))
    rows.unique("Image Index", {CONTRADICTION: COLUMNS})
    used: list[Path] = [file]
    notes: dict[str, int] = {}
    if options.split == "mrm":
        flow, read_files, notes = lists.read_splits(raw, DATASET)
        used = [*read_files, file]
    else:
        flow = rows
        flow.table["name"] = flow.table["Image Index"]
    notes["images without a row"] = files.unused(flow.table["name"])
    if options.split == "mrm":
        unlisted = ~rows.table["Image Index"].isin(flow.table["name"])
        notes["rows of the table in no list"] = int(unlisted.sum())
        _join(flow, rows.table)
    _check(flow, files)
    if options.labels == "list":
        lists.parse_bits(flow, LABELS)
    else:
        _findings(flow)
    if options.split == "official":
        used += _official(raw.root, flow, options, notes)
    elif options.split == "fractions":
        names = ["train", "valid", "test"]
        units = flow.table[options.unit]
        flow.table["split"] = splits.by_unit(units, options.fractions, names, options.seed)
    return Reading(flow.table, flow.counts, used, flow.faults, options.unit, notes)


def _join(flow: Flow, rows: pd.DataFrame) -> None:
    """Give lines of the lists what the table knows of their images."""
    flow.fault(~flow.table["name"].isin(rows["Image Index"]), "image has no row in the table")
    known = rows.set_index("Image Index").drop(columns="source_row")
    flow.table = flow.table.join(known, on="name")


def _check(flow: Flow, files: Files) -> None:
    """Columns image, path, patient, study and view; whatever contradicts itself is a fault."""
    stated = flow.table["name"].str.extract(NAME, expand=False)
    flow.table["stated"] = stated
    flow.fault(stated.isna(), "image name does not state patient and number")
    padded = flow.table["Patient ID"].str.zfill(8)
    flow.fault(padded != flow.table["stated"], "patient is not the one of the image name")
    followed = flow.table["Follow-up #"].str.fullmatch("[0-9]+")
    flow.fault(~followed, "unknown value in column Follow-up #")
    files.attach(flow, "name")
    table = flow.table
    table["image"] = table["name"].str.removesuffix(".png")
    table["patient"] = table["stated"]
    table["study"] = table["patient"] + "_" + table["Follow-up #"]
    table["view"] = table["View Position"]


def _findings(flow: Flow) -> None:
    """Columns ``label_<Name>`` from texts like ``Edema|Mass`` or ``No Finding``."""
    known = {*LABELS, NO_FINDING}
    texts = {text: text.split("|") for text in flow.table["Finding Labels"].unique()}
    good = {
        text
        for text, found in texts.items()
        if known.issuperset(found) and (NO_FINDING not in found or len(found) == 1)
    }
    column = "Finding Labels"
    flow.fault(~flow.table[column].isin(good), f"unknown value in column {column}")
    for name in LABELS:
        having = [text for text in good if name in texts[text]]
        flow.table[LABEL + name] = flow.table[column].isin(having).astype(np.float32)


def _official(root: Path, flow: Flow, options: Options, notes: dict[str, int]) -> list[Path]:
    """Splits by NIH's own lists, which are returned; training is cut into train and valid.

    Raises:
        DataError: a list is missing, or is MRM's.
    """
    files, named = [], []
    for name in OFFICIAL:
        file = find(root, DATASET, [name])
        found = lists.read_names(file, DATASET)
        if found["bits"].map(len).any():
            raise DataError(
                f"{DATASET}: {file}: has labels after the names, so it is MRM's list, not NIH's "
                f"of the same name; put NIH's there"
            )
        files.append(file)
        named.append(found["name"])
        notes[f"{name}: image has no row"] = int((~found["name"].isin(flow.table["name"])).sum())
    both = set(named[0]) & set(named[1])
    flow.fault(flow.table["name"].isin(both), "image is in both official lists")
    listed = flow.table["name"].isin([*named[0], *named[1]])
    flow.drop(~listed, "image is in no official list")
    test = flow.table["name"].isin(named[1])
    flow.table["split"] = "test"
    flow.table.loc[~test, "split"] = splits.by_unit(
        flow.table.loc[~test, options.unit], options.fractions[:2], ["train", "valid"], options.seed
    )
    return files


def _folders(root: Path) -> list[str]:
    """Folders of images: ``images_001/images`` and so on, or one ``images``.

    Raises:
        DataError: there is none.
    """
    numbered = sorted(p.name for p in root.glob("images_*") if p.is_dir())
    found = [f"{name}/images" if (root / name / "images").is_dir() else name for name in numbered]
    if (root / "images").is_dir():
        found.append("images")
    if not found:
        raise DataError(
            f"{DATASET}: {root}: no folder images_001/images or images; unpack the images there, "
            f"or set manifest.roots.nih to the folder that holds them"
        )
    return found
