"""Split rules on the real public label tables that torchxrayvision's package ships.

Its wheel holds the label tables of CheXpert, SIIM-ACR, RSNA and NIH ChestX-ray14 as published, so
what a rule shares between splits can be counted without any image (protocols §1).
"""

import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrmim.downstream.metrics import dice
from cxrmim.errors import DataError
from cxrmim.manifest import released, splits
from cxrmim.manifest.audit import SPLITS, audit
from cxrmim.manifest.contract import BROKEN, read_table
from cxrmim.shards.masks import decode_rle

PACKAGE = "torchxrayvision"
FILES = {
    "chexpert": "chexpert_train.csv.gz",
    "siim": "siim-pneumothorax-train-rle.csv.gz",
    "nih": "Data_Entry_2017_v2020.csv.gz",
    "rsna": "kaggle_stage_2_train_labels.csv.zip",
}
NIH = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "Width",
    "Height",
    "Spacing x",
    "Spacing y",
)
SIDE = 1024  # of the SIIM and RSNA images, px
HELD_OUT = 5000  # images that validate, CheXpert
THREE_WAY = (0.7, 0.15, 0.15)
NIH_SHARES = (0.7, 0.1, 0.2)
MRM_TRAIN, MRM_TENTH = 25184, 2518  # RSNA images of MRM's training list and of its 10 % list
SEED = 0

Figures = dict[str, float]


@dataclass(frozen=True)
class Line:
    """A split rule and what came of it.

    Attributes:
        dataset: of the table.
        rule: its name: a value of the switch `split`, then what else it depends on.
        released: a rule of released code; otherwise one of ours.
        how: the rule in words.
        named: what the table names: images, studies, patients.
        sizes: images of each split.
        shared: for each of `named`, "<split>-<split>" -> shared count.
        figures: other counts and scores.
    """

    dataset: str
    rule: str
    released: bool
    how: str
    named: tuple[str, ...]
    sizes: dict[str, int]
    shared: dict[str, dict[str, int]]
    figures: Figures = field(default_factory=dict)


def folder() -> Path:
    """Where the package keeps its tables; it is not imported.

    Raises:
        DataError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"{PACKAGE}, whose package ships the public label tables, is not installed; "
            f'`pip install "cxrmim[test]"`'
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def version() -> str:
    """Version of the package."""
    return metadata.version(PACKAGE)


def load(dataset: str, place: Path) -> pd.DataFrame:
    """A public table as text, in the order of its rows.

    Raises:
        DataError: the package has no such table, or it is damaged.
    """
    file = place / FILES[dataset]
    if not file.is_file():
        raise DataError(f"{file}: not there; install {PACKAGE} again")
    read: dict[str, Callable[[Path], pd.DataFrame]] = {
        "chexpert": lambda f: read_table(f, dataset, ["Path", released.VIEW, *released.SINGLE]),
        "siim": lambda f: read_table(f, dataset, ["ImageId", "EncodedPixels"]),
        "nih": lambda f: read_table(f, dataset, ["Image Index", "Patient ID"], header=NIH),
        "rsna": lambda f: read_table(f, dataset, ["patientId", "Target"]),
    }
    with TemporaryDirectory() as temporary:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                unpacked = Path(temporary) / "table.csv"
                unpacked.write_bytes(archive.read(archive.namelist()[0]))
            table = read[dataset](unpacked)
        else:
            table = read[dataset](file)
    if (table[BROKEN] != "").any():
        raise DataError(f"{file}: has rows that cannot be read; install {PACKAGE} again")
    return table


def lines(tables: dict[str, pd.DataFrame]) -> Iterator[Line]:
    """Every rule that the tables decide, released rules first.

    Args:
        tables: `load` of each of `FILES`.
    """
    yield from chexpert(tables["chexpert"])
    yield from siim(tables["siim"])
    yield from rsna(tables["rsna"])
    yield from nih(tables["nih"])


def chexpert(table: pd.DataFrame) -> Iterator[Line]:
    """MGCA's rule, and 5,000 validation images of patients that do not train."""
    parts = table["Path"].str.split("/")
    rows = pd.DataFrame({"image": table["Path"], "path": table["Path"], "patient": parts.str[2]})
    rows["study"] = rows["patient"] + "/" + parts.str[3]
    frontal = (table[released.VIEW] == "Frontal").to_numpy(dtype=bool)
    numbers = table[list(released.SINGLE)].apply(pd.to_numeric).assign(**table[[released.VIEW]])
    train, valid = released.chexpert_mgca(numbers)
    leaky = pd.concat(
        [rows.iloc[train].assign(split="train"), rows.iloc[valid].assign(split="valid")]
    )
    named = ("images", "studies", "patients")
    how = (
        "5 x 200 single-label images set aside, 5,000 positions validate, and the rows of those "
        "index labels leave the training split"
    )
    yield _line("chexpert", "mgca, all views", True, how, named, leaky)
    kept = leaky[frontal[leaky.index]]
    sizes = [len(released.sample_mgca(int(frontal[train].sum()), p)) for p in (1, 10)]
    subset: Figures = {"train_1": sizes[0], "train_10": sizes[1]}
    yield _line("chexpert", "mgca, frontal", True, how, named, kept, subset)
    for views, chosen in (("all views", rows), ("frontal", rows[frontal])):
        weights = [len(chosen) - HELD_OUT, HELD_OUT]
        split = splits.by_unit(chosen["patient"], weights, ["train", "valid"], SEED)
        text = "patients of 5,000 images held out of train.csv; valid.csv tests"
        rule = f"valid_as_test, {views}"
        yield _line("chexpert", rule, False, text, named, chosen.assign(split=split))


def siim(table: pd.DataFrame) -> Iterator[Line]:
    """MGCA's cut by row, and ours by image."""
    rows = pd.DataFrame(dict.fromkeys(("image", "path", "patient", "study"), table["ImageId"]))
    rows["codes"] = [[] if code == "-1" else [code] for code in table["EncodedPixels"]]
    whole = rows.groupby("image", sort=False)["codes"].sum()
    images = rows.drop_duplicates("image").assign(codes=lambda r: r["image"].map(whole))
    names = list(SPLITS)
    by_row = rows.assign(split=released.siim_mgca(len(rows)))
    seen = by_row.groupby(["image", "split"], sort=False)["codes"].sum().reset_index()
    seen = seen.assign(path=seen["image"], patient=seen["image"], study=seen["image"])
    figures = _masks(seen, whole)
    figures |= {f"rows_{s}": int((by_row["split"] == s).sum()) for s in names}
    text = "70/15/15 of the ROWS of the table, of which an image has up to ten"
    yield _line("siim", "mgca", True, text, ("images",), seen, figures)
    split = splits.by_unit(images["image"], THREE_WAY, names, SEED)
    ours = images.assign(split=split)
    text = "70/15/15 of the images, each with all of its rows"
    yield _line("siim", "fractions, by image", False, text, ("images",), ours, _masks(ours, whole))


def rsna(table: pd.DataFrame) -> Iterator[Line]:
    """MGCA's cut by patient, MRM's cut of the alphabetical list, and ours."""
    truth = table.assign(Target=table["Target"].astype(int)).groupby("patientId")["Target"].max()
    ids = truth.index.to_numpy(dtype=str)  # ascending
    rows = pd.DataFrame(dict.fromkeys(("image", "path", "patient", "study"), ids))
    named = ("images", "patients")
    alphabetical = np.where(np.arange(len(ids)) < MRM_TRAIN, "train", "valid").astype(object)
    rules = {
        "mgca": (True, "70/15/15 of the patients", released.rsna_mgca(ids)),
        "mrm": (
            True,
            "the first 25,184 ids in ALPHABETICAL order train, the others validate, the first "
            "2,518 are the 10 % subset: the positive rates differ",
            alphabetical,
        ),
        "fractions, by patient": (
            False,
            "70/15/15 of the images, whole patients",
            splits.by_unit(rows["patient"], THREE_WAY, list(SPLITS), SEED),
        ),
    }
    for rule, (is_released, how, split) in rules.items():
        sides = {s: truth.to_numpy()[split == s] for s in SPLITS}
        figures = {f"positive_rate_{s}": _percent(v.mean()) for s, v in sides.items() if len(v)}
        if rule == "mrm":
            figures["positive_rate_train_10"] = _percent(truth.to_numpy()[:MRM_TENTH].mean())
        yield _line("rsna", rule, is_released, how, named, rows.assign(split=split), figures)


def nih(table: pd.DataFrame) -> Iterator[Line]:
    """70/10/20 by patient, and by image as the other value of the switch `unit`."""
    rows = pd.DataFrame({"image": table["Image Index"], "patient": table["Patient ID"]})
    rows = rows.assign(path=rows["image"], study=rows["image"])
    for unit, how in (
        ("patient", "70/10/20 of the images, whole patients"),
        ("image", "70/10/20 of the images, patients torn apart (what the unit is for)"),
    ):
        split = splits.by_unit(rows[unit], NIH_SHARES, list(SPLITS), SEED)
        rule = f"fractions, by {unit}"
        yield _line("nih", rule, False, how, ("images", "patients"), rows.assign(split=split))


def facts(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, int]]:
    """What the tables hold: rows, images, patients, positives."""
    chexpert_, siim_, nih_, rsna_ = (tables[name] for name in ("chexpert", "siim", "nih", "rsna"))
    per_image = siim_["ImageId"].value_counts()
    masked = siim_[siim_["EncodedPixels"] != "-1"]
    ends = [sum(map(int, code.split())) for code in masked["EncodedPixels"]]
    return {
        "chexpert": {
            "rows": len(chexpert_),
            "frontal": int((chexpert_[released.VIEW] == "Frontal").sum()),
            "patients": int(chexpert_["Path"].str.split("/").str[2].nunique()),
        },
        "siim": {
            "rows": len(siim_),
            "images": len(per_image),
            "positive_images": int(masked["ImageId"].nunique()),
            "most_rows_of_an_image": int(per_image.max()),
            "last_pixel_of_a_mask": max(ends),
        },
        "nih": {"rows": len(nih_), "patients": int(nih_["Patient ID"].nunique())},
        "rsna": {
            "rows": len(rsna_),
            "images": int(rsna_["patientId"].nunique()),
            "positive_images": int(rsna_.loc[rsna_["Target"] == "1", "patientId"].nunique()),
        },
    }


def _line(
    dataset: str,
    rule: str,
    is_released: bool,
    how: str,
    named: tuple[str, ...],
    table: pd.DataFrame,
    figures: Figures | None = None,
) -> Line:
    found: dict[str, Any] = audit(table)
    sizes = {s: int(table.loc[table["split"] == s, "image"].nunique()) for s in SPLITS}
    shared = {name: found[name] for name in named}
    present = {split: size for split, size in sizes.items() if size}
    return Line(dataset, rule, is_released, how, named, present, shared, figures or {})


def _masks(table: pd.DataFrame, whole: pd.Series) -> Figures:
    """Positives and cut masks of each split, and what two simple predictors score on the test.

    Args:
        table: image, split and the `codes` that the split's rows hold.
        whole: all codes of each image.
    """
    figures: Figures = {}
    cut = table["codes"].str.len().to_numpy() < table["image"].map(whole).str.len().to_numpy()
    positive = table["codes"].str.len().to_numpy() > 0
    for split in SPLITS:
        side = (table["split"] == split).to_numpy(dtype=bool)
        figures[f"positive_{split}"] = int((side & positive).sum())
        figures[f"cut_masks_{split}"] = int((side & positive & cut).sum())
    test = table[(table["split"] == "test").to_numpy(dtype=bool)]
    truth, full, overlap = _areas(test["codes"], [whole[image] for image in test["image"]])
    none = np.zeros_like(truth)
    figures["empty_prediction_dice"] = _percent(dice(none, none, truth, "one").mean())
    figures["true_mask_dice"] = _percent(dice(overlap, full, truth, "one").mean())
    marked = truth > 0
    score = dice(overlap[marked], full[marked], truth[marked], "one")
    figures["true_mask_dice_positive"] = _percent(score.mean())
    return figures


def _areas(
    parts: Sequence[list[str]] | pd.Series, wholes: Sequence[list[str]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels of each part, of the whole that it is of, and of both at once."""
    areas = np.zeros((3, len(wholes)), dtype=np.int64)
    for k, (part, whole) in enumerate(zip(parts, wholes, strict=True)):
        if whole:
            full = decode_rle(whole, SIDE, SIDE) > 0
            seen = decode_rle(part, SIDE, SIDE) > 0 if len(part) < len(whole) else full
            areas[:, k] = seen.sum(), full.sum(), (seen & full).sum()
    return areas[0], areas[1], areas[2]


def _percent(share: float) -> float:
    return round(100 * float(share), 4)
