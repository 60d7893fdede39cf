"""CheXpert v1.0, downscaled or full size, with the public 500-study test set (protocols §1.2).

Source rows run through train.csv, valid.csv and the test table in this order.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import released, splits
from cxrmim.manifest.about import About, Part
from cxrmim.manifest.contract import (
    CLASH,
    CONTRADICTION,
    LABEL,
    Flow,
    Raw,
    Reading,
    find,
    parse_labels,
    read_table,
    safe,
)
from cxrmim.manifest.lists import FILES, SUBSETS, locate, read_list
from cxrmim.manifest.lists import FOLDERS as LISTS
from cxrmim.plugins import Strict

DATASET = "chexpert"
LABELS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# What an uncertain label (-1) counts as; a blank counts as absent.
UNCERTAIN = {
    "Atelectasis": 1.0,
    "Cardiomegaly": 0.0,
    "Consolidation": 0.0,
    "Edema": 1.0,
    "Pleural Effusion": 1.0,
}
FOLDERS = {"small": "CheXpert-v1.0-small", "full": "CheXpert-v1.0"}
TEST_TABLE = "groundtruth.csv"
VIEW = released.VIEW
IMAGE = r"^(?:train|valid|test)/(patient\d+)/(study\d+)/[^/]+\.jpe?g$"
MISSING = "none"  # path of a test study without an image
HELD_OUT_SHARE = 0.1  # at most this share of the training images validates, for smaller copies
LEAK = "in train and valid both, counted twice"
PREFIXES = (*(f"{folder}/" for folder in FOLDERS.values()), "")
NAMED = ("images", "studies", "patients")
BATCH = r"CheXpert-v1\.0 batch \d.*"  # folders of the download of the full release
SHARE_WITHOUT = 0.01  # of the test studies may lack their images


def _tables(*folders: str) -> tuple[Part, ...]:
    """Both tables, below one of these folders or at the root."""
    return tuple(
        Part(what, (*(f"{folder}/{name}" for folder in folders), name), rows)
        for what, name, rows in (
            ("training table", "train.csv", 223_414),
            ("validation table", "valid.csv", 234),
        )
    )


ABOUT = About(
    title="CheXpert v1.0 or v1.0-small, and the 500-study test set",
    source="https://stanfordaimi.azurewebsites.net (registration); labels of the test set: "
    "https://github.com/rajpurkarlab/cheXpert-test-set-labels",
    parts=_tables(*FOLDERS.values()),
    suffixes=(".jpg", ".jpeg"),
    folders=(*FOLDERS.values(), "CheXpert", "train", "valid", "test"),
    images=223_648,
    used=191_700,
    format="jpeg",
)


class Options(Strict):
    """Switches of the ledger: release, split, views.

    `unit`, `held_out` (images) and `seed` are of split `valid_as_test`.
    """

    release: Literal["small", "full"]
    split: Literal["official500", "valid_as_test", "mgca", "mrm"]
    unit: Literal["patient", "study", "image"]
    held_out: Annotated[int, Field(ge=1)]
    views: Literal["frontal", "all"]
    seed: Annotated[int, Field(ge=0)]


def needs(options: Options) -> tuple[Part, ...]:
    """Tables of the release; labels and images of the test set for split ``official500``."""
    tables = _tables(FOLDERS[options.release])
    if options.split != "official500":
        return tables
    places = ("", "CheXpert/", *(f"{folder}/" for folder in FOLDERS.values()))
    labels = Part("labels of the test set", tuple(f"{p}{TEST_TABLE}" for p in places), 500)
    images = Part("images of the test set", tuple(f"{p}test" for p in places), folder=True)
    return (*tables, labels, images)


def read(raw: Raw, options: Options) -> Reading:
    """Read train, validation and test images, one row per image (and split, for ``mgca``).

    ``official500``: train.csv / valid.csv / the 500-study test set. The others test on valid.csv.
    ``valid_as_test``: about `held_out` images, whole units of train.csv, validate. ``mgca``: the
    released code's rule on all views of train.csv, images that it leaves in train while they
    validate included. ``mrm``: the MRM repository's list of validation images, the rest of
    train.csv trains.

    Raises:
        DataError: a table or one of its columns, the test set, or a list is missing.
    """
    folder = FOLDERS[options.release]
    _check_merged(raw.root, folder)
    table_file = find(raw.root, DATASET, [f"{folder}/train.csv", "train.csv"])
    base = table_file.parent
    files = [table_file, find(base, DATASET, ["valid.csv"])]
    others = released.OTHERS if options.split == "mgca" else ()
    train = read_table(files[0], DATASET, ["Path", VIEW, "AP/PA", *LABELS, *others])
    valid = read_table(files[1], DATASET, ["Path", VIEW, "AP/PA", *LABELS], len(train) + 1)
    if options.split == "mgca":
        _mark(train)
    where = base.relative_to(raw.root).as_posix()
    parts = [
        train.drop(columns=list(others)).assign(split="train", base=where),
        valid.assign(split="valid", base=where),
    ]
    if options.split == "official500":
        test_file = _test_table(raw.root, base)
        files.append(test_file)
        parts.append(_test_images(raw.root, base, test_file, len(train) + len(valid) + 1))

    flow = Flow(pd.concat(parts, ignore_index=True))
    _check(flow)
    if options.views == "frontal":
        flow.drop(flow.table[VIEW] == "Lateral", "view is lateral")
    parse_labels(flow, LABELS, {name: _values(name) for name in LABELS})

    table = flow.table
    table["path"] = (table["base"] + "/" + table["relative"]).str.removeprefix("./")
    table["study"] = table["patient"] + "/" + table["number"]
    table["view"] = table["AP/PA"].where(table[VIEW] == "Frontal", "LATERAL")
    unit: str | None = "patient"
    notes: dict[str, int] = {}
    if options.split == "valid_as_test":
        _hold_out(table, options)
        unit = options.unit
    elif options.split == "mgca":
        _as_released(flow)
        unit = None
    elif options.split == "mrm":
        files += _as_listed(flow, raw, notes)
        unit = None
    return Reading(flow.table, flow.counts, files, flow.faults, unit, notes)


def _check_merged(root: Path, release: str) -> None:
    """Assert that the root is not the download of the full release in its batches.

    Raises:
        DataError: it is.
    """
    places = [place for place in (root, root / release) if place.is_dir()]
    if any((place / "train").is_dir() for place in places):
        return
    names = [root.name, *(path.name for place in places for path in place.iterdir())]
    if any(re.fullmatch(BATCH, name) for name in names):
        raise DataError(
            f"{DATASET}: {root}: no folder of training images, but batches as they are downloaded; "
            f"merge the patient folders of the batches into CheXpert-v1.0/train, put train.csv, "
            f"valid.csv and the folder valid beside it, and set release: full"
        )


def _check(flow: Flow) -> None:
    """Faults of paths and views; adds image, patient, number (of the study) and relative."""
    flow.fault(~flow.table["Path"].map(safe), "path leaves the root")
    flow.fault(flow.table["Path"] == MISSING, "study has no image")
    relative = flow.table["Path"].str.split("/", n=1).str[-1]
    flow.table[["patient", "number"]] = relative.str.extract(IMAGE, flags=re.IGNORECASE).to_numpy()
    flow.table["relative"] = relative
    flow.table["image"] = relative.str.replace(r"\.[^.]*$", "", regex=True)
    flow.fault(flow.table["patient"].isna(), "path names no patient, study and view")
    flow.unique("image", {CLASH: ["relative"], CONTRADICTION: [VIEW, "AP/PA", *LABELS]})
    known = flow.table[VIEW].isin(["Frontal", "Lateral"])
    flow.fault(~known, f"unknown value in column {VIEW}")


def _mark(train: pd.DataFrame) -> None:
    """Add bool columns trains and validates: the released rule on all rows of train.csv."""
    marks = train[[VIEW]].copy()
    for name in released.SINGLE:
        marks[name] = pd.to_numeric(train[name], errors="coerce")
    for column, rows in zip(("trains", "validates"), released.chexpert_mgca(marks), strict=True):
        train[column] = np.isin(np.arange(len(train)), rows)


def _as_released(flow: Flow) -> None:
    """Name the splits of the released rule; an image that it leaves in train gets a second row."""
    table = flow.table
    tests = table["split"] == "valid"
    table[["trains", "validates"]] = table[["trains", "validates"]].eq(True)
    flow.drop(
        ~tests & ~table["trains"] & ~table["validates"], "on neither side of the released rule"
    )
    table = flow.table
    tests = table["split"] == "valid"
    table.loc[tests, "split"] = "test"
    table.loc[table["validates"] & ~table["trains"], "split"] = "valid"
    flow.copy(table["validates"] & table["trains"], {"split": "valid"}, LEAK)


def _as_listed(flow: Flow, raw: Raw, notes: dict[str, int]) -> list[Path]:
    """Name the splits of the MRM lists, add the subsets in_1 and in_10; returns the lists' files.

    The repository has no full list of training images: they are the rest of train.csv.
    """
    names = {split: FILES[split] for split in ("valid", "test")} | SUBSETS
    listed = {
        key: read_list(raw, DATASET, LISTS[DATASET], name).assign(
            relative=lambda part: part["name"].str.split("/", n=1).str[-1]
        )
        for key, name in names.items()
    }
    unknown = 0
    for part in listed.values():
        unknown += int((~part["relative"].isin(flow.table["relative"])).sum())
    official = flow.table["split"] == "valid"
    flow.drop(official & ~flow.table["relative"].isin(listed["test"]["relative"]), "in no list")
    table = flow.table
    official = table["split"] == "valid"
    table.loc[official, "split"] = "test"
    table.loc[~official & table["relative"].isin(listed["valid"]["relative"]), "split"] = "valid"
    trains = table["relative"][table["split"] == "train"]
    for column in SUBSETS:
        own = listed[column]["relative"]
        table[column] = (table["split"] == "train") & table["relative"].isin(own)
        notes[f"{SUBSETS[column]}: not in train"] = int((~own.isin(trains)).sum())
    notes["listed images that are not used"] = unknown
    notes["listed images whose labels differ"] = _differing(table, pd.concat(listed.values()))
    return [locate(raw, DATASET, LISTS[DATASET], name) for name in names.values()]


def _differing(table: pd.DataFrame, listed: pd.DataFrame) -> int:
    """Images whose bits in a list are not our labels."""
    ours = table[[LABEL + name for name in LABELS]].astype(int).astype(str).apply(tuple, axis=1)
    labels = dict(zip(table["relative"], ours, strict=True))
    bits = dict(zip(listed["relative"], listed["bits"], strict=True))
    return sum(labels[name] != found for name, found in bits.items() if name in labels)


def _values(name: str) -> dict[str, float]:
    """Label text -> value under the papers' policy for uncertain labels."""
    uncertain = UNCERTAIN[name]
    return {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": uncertain, "-1.0": uncertain}


def _hold_out(table: pd.DataFrame, options: Options) -> None:
    """Name the splits: valid.csv tests, units held out of train.csv validate."""
    train = table["split"] == "train"
    count = int(train.sum())
    held_out = min(options.held_out, HELD_OUT_SHARE * count)
    table.loc[~train, "split"] = "test"
    if count:
        units, weights = table.loc[train, options.unit], [count - held_out, held_out]
        names = splits.by_unit(units, weights, ["train", "valid"], options.seed)
        table.loc[train, "split"] = names


def _test_table(root: Path, base: Path) -> Path:
    """The labels of the test set.

    Raises:
        DataError: they are not there.
    """
    for folder in (root, base, root / "CheXpert", *(root / name for name in FOLDERS.values())):
        for file in (folder / TEST_TABLE, folder / f"{TEST_TABLE}.gz"):
            if file.is_file():
                return file
    raise DataError(
        f"{DATASET}: {root}: no {TEST_TABLE} of the 500-study test set; put it there with the "
        f"images in CheXpert/test, or set manifest.datasets.chexpert.split: valid_as_test"
    )


def _test_images(root: Path, base: Path, file: Path, first_row: int) -> pd.DataFrame:
    """Rows like those of train.csv, one per image of the test studies.

    Raises:
        DataError: there is no folder of them, or too many studies have no image in it.
    """
    studies = read_table(file, DATASET, ["Study", *LABELS], first_row)
    places = (root / "CheXpert", base, root, *(root / name for name in FOLDERS.values()))
    bases = [place for place in places if (place / "test").is_dir()]
    if not bases:
        raise DataError(
            f"{DATASET}: {root}: no folder CheXpert/test with the images of the test set; put them "
            f"there, or set manifest.datasets.chexpert.split: valid_as_test"
        )
    rows, without = [], 0
    for study in studies.to_dict("records"):
        named = str(study["Study"]).rstrip("/")
        paths = _images(bases[0], named) if safe(named) else [named]
        without += paths == [MISSING]
        for path in paths:
            lateral = path.lower().endswith(("_lateral.jpg", "_lateral.jpeg"))
            shown = "Lateral" if lateral else "Frontal"
            rows.append({**study, "Path": path, "Frontal/Lateral": shown})
    if without > max(1, SHARE_WITHOUT * len(studies)):
        raise DataError(
            f"{DATASET}: {without} of {len(studies)} studies of the test set have no image below "
            f"{bases[0] / 'test'}; put them there, or set manifest.datasets.chexpert.split: "
            f"valid_as_test"
        )
    out = pd.DataFrame(rows, columns=[*studies.columns, "Path", "Frontal/Lateral"])
    return out.assign(split="test", base=bases[0].relative_to(root).as_posix(), **{"AP/PA": ""})


def _images(base: Path, study: str) -> list[str]:
    """Images of a study as paths that begin with a top folder, as in train.csv.

    A folder that cannot be read is one without images: an error would name the patient.
    """
    try:
        folder = base / study.split("/", 1)[-1]
        found = list(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return [MISSING]
    names = sorted(path.name for path in found if path.suffix.lower() in (".jpg", ".jpeg"))
    return [f"{study}/{name}" for name in names] or [MISSING]
