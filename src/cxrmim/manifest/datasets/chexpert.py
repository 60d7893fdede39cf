"""CheXpert v1.0, downscaled or full size, with the public 500-study test set (protocols §1.2).

Source rows run through train.csv, valid.csv and the test table in this order.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import splits
from cxrmim.manifest.contract import Flow, Reading, find, parse_labels, read_table, safe
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
IMAGE = r"^(?:train|valid|test)/(patient\d+)/(study\d+)/[^/]+\.jpe?g$"
MISSING = "none"  # path of a test study without an image
HELD_OUT = 5000  # images that CMITM sets aside for validation
HELD_OUT_SHARE = 0.1  # at most this share of the training images, for smaller copies


class Options(Strict):
    """Switches of the ledger: which release, split, views; `seed` draws the held-out patients."""

    release: Literal["small", "full"]
    split: Literal["official500", "valid_as_test"]
    views: Literal["frontal", "all"]
    seed: Annotated[int, Field(ge=0)]


def read(root: Path, options: Options) -> Reading:
    """Read train, validation and test images, one row per image.

    ``official500``: train.csv / valid.csv / the 500-study test set. ``valid_as_test``: valid.csv is
    the test; about 5000 images of patients held out of train.csv validate.

    Raises:
        DataError: a table or one of its columns, or the test set, is missing.
    """
    folder = FOLDERS[options.release]
    table_file = find(root, DATASET, [f"{folder}/train.csv", "train.csv"])
    base = table_file.parent
    raw = [table_file, find(base, DATASET, ["valid.csv"])]
    columns = ["Path", "Frontal/Lateral", "AP/PA", *LABELS]
    first, parts = 1, []
    for file, split in zip(raw, ("train", "valid"), strict=True):
        part = read_table(file, DATASET, columns, first)
        first += len(part)
        parts.append(part.assign(split=split, base=base.relative_to(root).as_posix()))
    if options.split == "official500":
        test_file = _test_table(root, base)
        raw.append(test_file)
        parts.append(_test_images(root, base, test_file, first))

    flow = Flow(pd.concat(parts, ignore_index=True))
    flow.fault(~flow.table["Path"].map(safe), "path leaves the root")
    flow.fault(flow.table["Path"] == MISSING, "study has no image")
    relative = flow.table["Path"].str.split("/", n=1).str[-1]
    flow.table[["patient", "number"]] = relative.str.extract(IMAGE, flags=re.IGNORECASE).to_numpy()
    flow.table["relative"] = relative
    flow.fault(flow.table["patient"].isna(), "path names no patient, study and view")
    flow.fault(flow.table["relative"].duplicated(), "image listed twice")
    known = flow.table["Frontal/Lateral"].isin(["Frontal", "Lateral"])
    flow.fault(~known, "unknown value in column Frontal/Lateral")
    if options.views == "frontal":
        flow.drop(flow.table["Frontal/Lateral"] == "Lateral", "view is lateral")
    parse_labels(flow, LABELS, {name: _values(name) for name in LABELS})

    table = flow.table
    table["path"] = (table["base"] + "/" + table["relative"]).str.removeprefix("./")
    table["image"] = table["relative"].str.replace(r"\.[^.]*$", "", regex=True)
    table["study"] = table["patient"] + "/" + table["number"]
    table["view"] = table["AP/PA"].where(table["Frontal/Lateral"] == "Frontal", "LATERAL")
    if options.split == "valid_as_test":
        _hold_out(table, options.seed)
    return Reading(table, flow.counts, raw, flow.faults, "patient")


def _values(name: str) -> dict[str, float]:
    """Label text -> value under the papers' policy for uncertain labels."""
    uncertain = UNCERTAIN[name]
    return {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": uncertain, "-1.0": uncertain}


def _hold_out(table: pd.DataFrame, seed: int) -> None:
    """Name the splits: valid.csv tests, patients held out of train.csv validate."""
    train = table["split"] == "train"
    share = min(HELD_OUT / max(1, int(train.sum())), HELD_OUT_SHARE)
    table.loc[~train, "split"] = "test"
    table.loc[train, "split"] = splits.by_unit(
        table.loc[train, "patient"], [1 - share, share], ["train", "valid"], seed
    )


def _test_table(root: Path, base: Path) -> Path:
    """The labels of the test set.

    Raises:
        DataError: they are not there.
    """
    for folder in (root, base, root / "CheXpert", *(root / name for name in FOLDERS.values())):
        if (folder / TEST_TABLE).is_file():
            return folder / TEST_TABLE
    raise DataError(
        f"{DATASET}: {root}: no {TEST_TABLE} of the 500-study test set; put it there with the "
        f"images in CheXpert/test, or set manifest.datasets.chexpert.split: valid_as_test"
    )


def _test_images(root: Path, base: Path, file: Path, first_row: int) -> pd.DataFrame:
    """Rows like those of train.csv, one per image of the test studies."""
    studies = read_table(file, DATASET, ["Study", *LABELS], first_row)
    places = (root / "CheXpert", base, root, *(root / name for name in FOLDERS.values()))
    bases = [place for place in places if (place / "test").is_dir()]
    if not bases:
        raise DataError(
            f"{DATASET}: {root}: no folder CheXpert/test with the images of the test set; put them "
            f"there, or set manifest.datasets.chexpert.split: valid_as_test"
        )
    rows = []
    for study in studies.to_dict("records"):
        named = str(study["Study"]).rstrip("/")
        for path in _images(bases[0], named) if safe(named) else [named]:
            lateral = path.lower().endswith(("_lateral.jpg", "_lateral.jpeg"))
            shown = "Lateral" if lateral else "Frontal"
            rows.append({**study, "Path": path, "Frontal/Lateral": shown})
    out = pd.DataFrame(rows, columns=[*studies.columns, "Path", "Frontal/Lateral"])
    return out.assign(split="test", base=bases[0].relative_to(root).as_posix(), **{"AP/PA": ""})


def _images(base: Path, study: str) -> list[str]:
    """Images of a study as paths that begin with a top folder, as in train.csv."""
    folder = base / study.split("/", 1)[-1]
    if not folder.is_dir():
        return [MISSING]
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    return [f"{study}/{name}" for name in names] or [MISSING]
