"""SIIM-ACR pneumothorax, the first release or the 12,954-row re-issue (protocols §1.4).

Source rows are those of the run-length table; an image's is its first.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import released, splits
from cxrmim.manifest.about import About, Part
from cxrmim.manifest.contract import (
    BLANKS,
    CLASH,
    CONTRADICTION,
    LABEL,
    Flow,
    Raw,
    Reading,
    find,
    read_table,
)
from cxrmim.manifest.lists import FILES, FOLDERS, SUBSETS, locate, read_list
from cxrmim.plugins import Strict

DATASET = "siim"
LABELS = ("Pneumothorax",)
# A folder may hold both tables; the first named is the release's own.
TABLES = {
    "reissue": ("stage_2_train.csv", "train-rle.csv"),
    "stage1": ("train-rle.csv", "stage_2_train.csv"),
}
STAGE1_ROWS = 11_582
ROWS = {"reissue": 12_954, "stage1": STAGE1_ROWS}
PLACES = ("dicom-images-train", "dicom-images-test")
NO_MASK = "-1"
CODE = r"\d+ +\d+(?: +\d+ +\d+)*"
LEAK = "in two lists, counted twice"
NAMED = ("images",)
ABOUT = About(
    title="SIIM-ACR Pneumothorax Segmentation",
    source="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation (account; DICOM files and "
    "both tables of masks)",
    parts=(Part("training images", PLACES[:1], folder=True),),
    suffixes=(".dcm",),
    folders=PLACES,
    images=12_047,
    used=7_350,
    format="dicom",
    labelled=12_047,
)


class Options(Strict):
    """Switches of the ledger; `fractions` are weights of train, valid and test.

    `balance` leaves as many training negatives as positives, except in the MRM lists, which are
    imported as they are. `unit` and `fractions` are of split `fractions`.
    """

    release: Literal["reissue", "stage1"]
    split: Literal["fractions", "mgca", "mrm"]
    unit: Literal["image"]
    fractions: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ]
    balance: bool
    seed: Annotated[int, Field(ge=0)]


def needs(options: Options) -> tuple[Part, ...]:
    """The table of the release, and the images."""
    release = options.release
    return (Part("table of masks", TABLES[release], ROWS[release]), *ABOUT.parts)


def read(raw: Raw, options: Options) -> Reading:
    """Read images with their run-length masks, one row per image (and split, if a rule leaks).

    ``rle`` lists an image's runs of (offset from the end of the last run, length), to be OR-ed;
    it is empty where there is no pneumothorax. ``mgca`` cuts by row of the table: an image whose
    rows fall into several splits stands in each, with the runs of that split's rows only. ``mrm``
    takes the MRM repository's lists, which name some images twice; masks are whole.

    Raises:
        DataError: the table, one of its columns, the image folder or a list is missing, or the
            table is of another release.
    """
    file = find(raw.root, DATASET, TABLES[options.release])
    rows = read_table(file, DATASET, ["ImageId", "EncodedPixels"])
    paths = _images(raw.root)
    released_then = _of_release(rows, file, raw, paths, options.release)
    key = ["ImageId"]
    if options.split == "mgca":
        rows["split"] = ""
        rows.loc[released_then, "split"] = released.siim_mgca(int(released_then.sum()))
        key = ["ImageId", "split"]
    rows["early"] = released_then

    flow = Flow(rows)
    flow.drop(~flow.table["early"], "image is not of this release")
    _check(flow, paths)
    masked = flow.table[flow.table["EncodedPixels"] != NO_MASK]
    runs = masked.groupby(key, sort=False)["EncodedPixels"].agg(list).to_dict()
    labelled = set(flow.table["ImageId"])
    flow.drop(flow.table.duplicated(key), "further row of an image")

    table = flow.table
    table["image"] = table["ImageId"]
    table["path"] = table["ImageId"].map(lambda image: paths[image][0])
    table["patient"] = table["ImageId"]  # the challenge names no patients
    table["study"] = [_study(path) for path in table["path"]]
    table["view"] = ""
    keys = table[key[0]] if len(key) == 1 else table[key].apply(tuple, axis=1)
    table["rle"] = pd.Series([runs.get(k, []) for k in keys], dtype=object)
    table[LABEL + LABELS[0]] = table["rle"].map(bool).astype(np.float32)
    files, notes = [file], {"images without a row": len(set(paths) - labelled)}
    if options.split == "fractions":
        names = list(FILES)
        table["split"] = splits.by_unit(table["image"], options.fractions, names, options.seed)
    elif options.split == "mrm":
        files += _as_listed(flow, raw, notes)
    if options.balance and options.split != "mrm":
        _balance(flow, options.seed)
    unit = "image" if options.split == "fractions" else None
    return Reading(flow.table, flow.counts, files, flow.faults, unit, notes)


def _of_release(
    rows: pd.DataFrame, file: Path, raw: Raw, paths: dict[str, list[str]], release: str
) -> npt.NDArray[np.bool_]:
    """Rows whose images are of the release: the re-issue added the first stage's test images.

    Those of the first stage are in the union of the MRM lists, or, where the user has none, in the
    folder of training images.

    Raises:
        DataError: the table is of the other release, and nothing tells which images are new.
    """
    if release == "reissue":
        if len(rows) == STAGE1_ROWS:
            raise DataError(
                f"{DATASET}: {file}: {STAGE1_ROWS:,} rows, as in the first release; set "
                f"manifest.datasets.siim.release: stage1, or add {TABLES[release][0]}"
            )
        return np.ones(len(rows), dtype=bool)
    if raw.lists is not None:
        union = {name for file_ in FILES.values() for name in _names(raw, file_)}
        return rows["ImageId"].isin(list(union)).to_numpy(dtype=bool)
    later = {image for image, found in paths.items() if all(p.startswith(PLACES[1]) for p in found)}
    early = ~rows["ImageId"].isin(list(later)).to_numpy(dtype=bool)
    if early.sum() > STAGE1_ROWS:
        raise DataError(
            f"{DATASET}: {file}: {early.sum():,} rows, the first release has {STAGE1_ROWS:,}; put "
            f"its train-rle.csv there, or set manifest.lists to the MRM repository's DatasetsSplits"
        )
    return early


def _check(flow: Flow, paths: dict[str, list[str]]) -> None:
    """Faults of codes and files; one bad row takes its image's others along.

    The others alone would be a truncated mask.
    """
    codes = flow.table["EncodedPixels"]
    flow.fault(_spoilt(flow, codes.isin(BLANKS)), "column EncodedPixels is blank")
    pairs = flow.table["EncodedPixels"].str.fullmatch(f"{NO_MASK}|{CODE}")
    flow.fault(_spoilt(flow, ~pairs), "mask is no pairs of numbers")
    empty = flow.table["EncodedPixels"] == NO_MASK
    both = set(flow.table["ImageId"][empty]) & set(flow.table["ImageId"][~empty])
    flow.fault(flow.table["ImageId"].isin(list(both)), CONTRADICTION)
    flow.fault(~flow.table["ImageId"].isin(list(paths)), "image is missing")
    twice = [image for image, found in paths.items() if len(found) > 1]
    flow.fault(flow.table["ImageId"].isin(twice), CLASH)


def _spoilt(flow: Flow, bad: pd.Series) -> pd.Series:
    """All rows of the images that have a bad one."""
    return flow.table["ImageId"].isin(list(flow.table["ImageId"][bad]))


def _names(raw: Raw, name: str) -> set[str]:
    return set(read_list(raw, DATASET, FOLDERS[DATASET], name)["name"])


def _as_listed(flow: Flow, raw: Raw, notes: dict[str, int]) -> list[Path]:
    """Name the splits of the MRM lists, add the subsets in_1 and in_10; returns the lists' files.

    An image that stands in several lists gets a row of each.
    """
    listed = {split: _names(raw, name) for split, name in FILES.items()}
    union = set().union(*listed.values())
    notes["listed images that are not used"] = len(union - set(flow.table["image"]))
    flow.drop(~flow.table["image"].isin(list(union)), "in no list")
    first = pd.Series("", index=flow.table.index, dtype=object)
    for split in reversed(FILES):
        first[flow.table["image"].isin(list(listed[split]))] = split
    flow.table["split"] = flow.table["first"] = first
    for split in FILES:
        own = (flow.table["split"] == flow.table["first"]) & (flow.table["first"] != split)
        flow.copy(own & flow.table["image"].isin(list(listed[split])), {"split": split}, LEAK)
    for column, name in SUBSETS.items():
        named = flow.table["image"].isin(list(_names(raw, name)))
        flow.table[column] = named & (flow.table["split"] == "train")
    files = (*FILES.values(), *SUBSETS.values())
    return [locate(raw, DATASET, FOLDERS[DATASET], name) for name in files]


def _balance(flow: Flow, seed: int) -> None:
    """Drop training negatives beyond the number of positives."""
    table = flow.table
    train = table[table["split"] == "train"].sort_values("image")
    positive = train[LABEL + LABELS[0]].to_numpy() == 1
    surplus = train.index[~splits.balanced(positive, seed)]
    flow.drop(table.index.isin(surplus), "training negative beyond the number of positives")


def _study(path: str) -> str:
    """Folder two above the file, which the challenge names by study; the file's own if flat."""
    parts = PurePosixPath(path).parts
    return parts[-3] if len(parts) > 3 else PurePosixPath(path).stem


def _images(root: Path) -> dict[str, list[str]]:
    """Paths relative to the root of the DICOM files of each id, the file's name.

    Raises:
        DataError: there is no image folder.
    """
    found: dict[str, list[str]] = {}
    folders = [root / name for name in PLACES if (root / name).is_dir()]
    if not folders:
        raise DataError(
            f"{DATASET}: {root}: no folder {PLACES[0]}; set manifest.roots.siim to the folder "
            f"that holds it"
        )
    for folder in folders:
        for here, below, files in os.walk(folder):
            below.sort()
            for name in sorted(files):
                if name.lower().endswith(".dcm"):
                    path = Path(here, name).relative_to(root).as_posix()
                    found.setdefault(name[: -len(".dcm")], []).append(path)
    return found
