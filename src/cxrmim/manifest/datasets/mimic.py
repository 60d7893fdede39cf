"""MIMIC-CXR-JPG 2.0.0 with the MIMIC-CXR reports in the same tree (protocols §1.1).

Source rows are those of ``mimic-cxr-2.0.0-metadata.csv``.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from cxrmim.manifest import sections, splits
from cxrmim.manifest.contract import Flow, Reading, find, read_table
from cxrmim.plugins import Strict
from cxrmim.progress import track

DATASET = "mimic"
LABELS: tuple[str, ...] = ()
PREFIX = "mimic-cxr-2.0.0-"
KEYS = ["dicom_id", "subject_id", "study_id"]
OFFICIAL = {"train": "train", "validate": "valid", "test": "test"}
MISSING = "report is missing"
UNREADABLE = "report cannot be read"
EMPTY = "report is empty"
NO_SECTION = "report has neither impression nor findings"
LONGEST = 1 << 20  # bytes of a report; the longest real one has a few thousand


class Options(Strict):
    """Switches of the ledger: split, its unit and share, views, fallback section."""

    split: Literal["manual", "official"]
    unit: Literal["patient", "study", "image"]
    train: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]
    views: Literal["frontal", "all"]
    fallback: Literal["none", "last_paragraph"]


def read(root: Path, options: Options) -> Reading:
    """Read image-report pairs, one row per image.

    Raises:
        DataError: a table or one of its columns is missing.
    """
    metadata_file = find(root, DATASET, [f"{PREFIX}metadata.csv"])
    split_file = find(root, DATASET, [f"{PREFIX}split.csv"])
    metadata = read_table(metadata_file, DATASET, [*KEYS, "ViewPosition"])
    official = read_table(split_file, DATASET, [*KEYS, "split"])[[*KEYS, "split"]]

    flow = Flow(metadata)
    flow.fault(~_plain(flow.table), "an id is not of the released form")
    flow.fault(flow.table["dicom_id"].duplicated(), "image listed twice")
    if options.views == "frontal":
        flow.drop(~flow.table["ViewPosition"].isin(["PA", "AP"]), "view is neither PA nor AP")
    merged = flow.table.merge(official.drop_duplicates(KEYS), on=KEYS, how="left")
    flow.table["split"] = merged["split"].to_numpy()
    flow.drop(~flow.table["split"].isin(list(OFFICIAL)), "not in the split table")
    digest = _read_reports(flow, root, options.fallback)

    table = flow.table
    folder = _folder(table)
    table["image"] = table["dicom_id"]
    table["path"] = folder + "/s" + table["study_id"] + "/" + table["dicom_id"] + ".jpg"
    table["patient"] = table["subject_id"]
    table["study"] = "s" + table["study_id"]
    table["view"] = table["ViewPosition"]
    if options.split == "official":
        table["split"] = table["split"].map(OFFICIAL)
    else:
        units = table[options.unit]
        shares = [options.train, 1 - options.train]
        table["split"] = splits.by_unit(units, shares, ["train", "test"], options.seed)
    unit = "patient" if options.split == "official" else options.unit
    raw = [metadata_file, split_file]
    return Reading(table, flow.counts, raw, flow.faults, unit, details={"reports": digest})


def _plain(table: pd.DataFrame) -> pd.Series:
    """Whether ids have the released form; paths are made of them."""
    numbers = table["subject_id"].str.fullmatch(r"[0-9]{3,}")
    numbers &= table["study_id"].str.fullmatch(r"[0-9]+")
    return numbers & table["dicom_id"].str.fullmatch(r"[0-9A-Za-z-]+")


def _folder(table: pd.DataFrame) -> pd.Series:
    """Patient folders: ``files/p10/p10000032``."""
    subject = table["subject_id"]
    return "files/p" + subject.str[:2] + "/p" + subject


def _read_reports(flow: Flow, root: Path, fallback: str) -> dict[str, int | str]:
    """Add impression and findings; drop rows without either. Returns the reports' digest."""
    flow.table["report"] = _folder(flow.table) + "/s" + flow.table["study_id"] + ".txt"
    found: dict[str, tuple[str, str]] = {}
    wrong: dict[str, str] = {}
    sha, size, files = hashlib.sha256(), 0, 0
    paths = sorted(set(flow.table["report"]))
    for path in track(paths, "reports"):
        content, state = _read_report(root / path)
        pair = sections.sections(content.decode("utf-8", errors="replace"), fallback)
        if state is None:
            sha.update(hashlib.sha256(content).digest())
            size, files = size + len(content), files + 1
        if pair is None:
            wrong[path] = state or NO_SECTION
        else:
            found[path] = pair
    for reason in (MISSING, UNREADABLE, EMPTY, NO_SECTION):
        # A twentieth of the real reports has no section: named, but no sign of broken data.
        bad = flow.table["report"].map(lambda path, r=reason: wrong.get(path) == r)
        flow.fault(bad, reason, unreadable=reason != NO_SECTION)
    for i, name in enumerate(("impression", "findings")):
        texts = [found[path][i] for path in flow.table["report"]]
        flow.table[name] = pd.Series(texts, dtype=object, index=flow.table.index)
    return {"files": files, "bytes": size, "sha256": sha.hexdigest()}


def _read_report(path: Path) -> tuple[bytes, str | None]:
    """Bytes of a report and what is wrong with it, None for nothing."""
    try:
        if path.stat().st_size > LONGEST:
            return b"", UNREADABLE
        content = path.read_bytes()
    except FileNotFoundError:
        return b"", MISSING
    except OSError:
        return b"", UNREADABLE
    return (content, None) if content.strip() else (b"", EMPTY)
