"""COVIDx (COVID-Net) by its lists V9A and CXR-3A of three classes, or the binary CXR-3B
(protocols §1.3).

A line names patient, file, class and source. Source rows run through the list of training, then
that of the test. Patients that two sources name alike count as one: no split can part them.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import lists, released, splits
from cxrmim.manifest.about import About, Part
from cxrmim.manifest.contract import CONTRADICTION, LABEL, Flow, Raw, Reading, find
from cxrmim.manifest.files import scan
from cxrmim.plugins import Strict

DATASET = "covidx"
LABELS = ("normal", "pneumonia", "COVID-19")
BINARY = ("negative", "positive")
MULTICLASS = True
TABLES = {
    "CXR-3A": ("train_COVIDx_CXR-3A.txt", "test_COVIDx_CXR-3A.txt"),
    "V9A": ("train_COVIDx9A.txt", "test_COVIDx9A.txt"),
    "CXR-3B": ("train_COVIDx_CXR-3B.txt", "test_COVIDx_CXR-3B.txt"),
}
# As Kaggle packs them (val/ from version 9 on), as the COVID-Net scripts make them, all in one.
PLACES = (("train", "test", "val"), ("data/train", "data/test", "data/val"), ("data",))
SUFFIXES = (".png", ".jpg", ".jpeg")
NAMED = ("images", "patients")


def _lists(*chosen: str) -> tuple[Part, ...]:
    """The training and the test list of one of these names."""
    return tuple(
        Part(what, tuple(f"{p}{TABLES[name][i]}" for name in chosen for p in ("", "labels/")))
        for i, what in enumerate(("training list", "test list"))
    )


ABOUT = About(
    title="COVIDx CXR-3 (or V9)",
    source="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2 (account); lists: "
    "https://github.com/lindawangg/COVID-Net, labels/ (CXR-3A and CXR-3B: branch cxr3)",
    parts=_lists(*TABLES),
    suffixes=SUFFIXES,
    folders=("train", "test", "val", "data"),
    images=30_034,
    used=30_034,
    format="png",
)
# File names may hold blanks, so the class and the source are counted from the end.
LINE = r"^(?P<patient>\S+)\s+(?P<name>\S.*?)\s+(?P<class>\S+)\s+(?P<source>\S+)$"


class Options(Strict):
    """Switches of the ledger; `fractions` are weights of train, valid and test.

    `unit`, `fractions` and `seed` are of splits `pooled` and `official`; the latter uses the first
    two of `fractions`.
    """

    list: Literal["CXR-3A", "V9A", "CXR-3B"]
    split: Literal["pooled", "official", "mgca"]
    unit: Literal["patient", "image"]
    fractions: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ]
    seed: Annotated[int, Field(ge=0)]


def needs(options: Options) -> tuple[Part, ...]:
    """The two lists that are chosen."""
    return _lists(options.list)


def labels(options: Options) -> tuple[str, ...]:
    """Classes of the chosen list: `LABELS`, or negative and positive for COVID-19."""
    return BINARY if options.list == "CXR-3B" else LABELS


def read(raw: Raw, options: Options) -> Reading:
    """Read images with their class, one-hot.

    ``pooled``: both lists together, cut by `unit` at `fractions`. ``official``: the official test;
    the training list, less what shares a `unit` with the test, is cut by `unit` at the first two of
    `fractions`. ``mgca``: the rule of the released code, by image, with its leak.

    Raises:
        DataError: a list or the image folder is missing.
    """
    files = [_find(raw.root, name) for name in TABLES[options.list]]
    places = [[p for p in place if (raw.root / p).is_dir()] for place in PLACES]
    folders = next((place for place in places if place), None)
    if folders is None:
        raise DataError(
            f"{DATASET}: {raw.root}: no folder train, test or data with images; unpack the images "
            f"there, or set manifest.roots.covidx to the folder that holds them"
        )
    images = scan(raw.root, DATASET, folders, SUFFIXES)
    train, test = (lists.read_lines(file, DATASET) for file in files)
    table = pd.Series([*train, *test], dtype=object).str.extract(LINE)
    table["source_row"] = np.arange(1, len(table) + 1, dtype=np.int64)
    # The rule counts all lines of the list, whatever becomes of them.
    rule = released.covidx_mgca(len(train)) if options.split == "mgca" else ["train"] * len(train)
    table["split"] = np.array([*rule, *["test"] * len(test)], dtype=object)

    flow = Flow(table)
    flow.fault(flow.table["name"].isna(), "line has no patient, file name, class and source")
    odd = ~flow.table["patient"].map(str.isprintable).astype(bool)
    flow.fault(odd, "row holds characters that are no text")
    flow.fault(~flow.table["class"].isin(labels(options)), "unknown class")
    notes = {"images without a row": images.unused(flow.table["name"])}
    if options.split == "official":
        testing = flow.table["split"] == "test"
        for key in ("name", "patient") if options.unit == "patient" else ("name",):
            shared = ~testing & flow.table[key].isin(flow.table.loc[testing, key])
            flow.drop(shared, f"{'image' if key == 'name' else key} is in the official test list")
            testing = flow.table["split"] == "test"
    # The released rule may have an image in two splits; any other, once.
    name = flow.table["name"]
    flow.table["key"] = flow.table["split"] + "/" + name if options.split == "mgca" else name
    flow.unique("key", {CONTRADICTION: ["patient", "class"]})
    images.attach(flow, "name")

    table = flow.table
    table["image"] = table["name"]  # with its suffix: 000001.jpg and 000001.png are two images
    table["study"] = table["name"]  # the lists name no studies
    table["view"] = ""
    for label in labels(options):
        table[LABEL + label] = (table["class"] == label).astype(np.float32)
    unit: str | None = options.unit
    if options.split == "pooled":
        names = ["train", "valid", "test"]
        table["split"] = splits.by_unit(table[options.unit], options.fractions, names, options.seed)
    elif options.split == "official":
        rows = table["split"] == "train"
        table.loc[rows, "split"] = splits.by_unit(
            table.loc[rows, options.unit], options.fractions[:2], ["train", "valid"], options.seed
        )
    else:
        unit = None
    return Reading(table, flow.counts, files, flow.faults, unit, notes)


def _find(root: Path, name: str) -> Path:
    """One of the lists, beside the images or in a folder ``labels``.

    Raises:
        DataError: it is in neither.
    """
    try:
        return find(root, DATASET, [name, f"labels/{name}"])
    except DataError as error:
        raise DataError(
            f"{error}; Kaggle does not ship this list, take it from labels/ of "
            f"https://github.com/lindawangg/COVID-Net (CXR-3A and CXR-3B: branch cxr3)"
        ) from None
