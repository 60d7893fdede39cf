"""MIMIC-CXR-JPG 2.0.0 with the MIMIC-CXR reports (protocols §1.1).

The reports lie in the images' tree, in a tree of their own below ``mimic-cxr-reports``, or in
``mimic-cxr-reports.zip``, which is read in place. Source rows are those of
``mimic-cxr-2.0.0-metadata.csv``.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from cxrmim.errors import DataError
from cxrmim.manifest import sections, splits
from cxrmim.manifest.about import About, Part
from cxrmim.manifest.contract import (
    BLANKS,
    CLASH,
    CONTRADICTION,
    Flow,
    Raw,
    Reading,
    find,
    read_table,
)
from cxrmim.manifest.reports import MISSING, REASONS, Archive, Folder, ReportError, Source, decode
from cxrmim.plugins import Strict
from cxrmim.progress import track

DATASET = "mimic"
LABELS: tuple[str, ...] = ()
PREFIX = "mimic-cxr-2.0.0-"
REPORTS = "mimic-cxr-reports"
OVERRIDES = "section_overrides.txt"
LOOKED = (
    f"neither in {REPORTS}.zip, nor as files/p../p../s...txt below {REPORTS}, nor so beside the "
    f"images (the first of these that is there counts); put there the reports of MIMIC-CXR 2.0.0"
)
KEYS = ["dicom_id", "subject_id", "study_id"]
# Official name -> ours. The released code knows one held-out side, which it validates and tests on.
OFFICIAL = {"train": "train", "validate": "valid", "test": "test"}
MERGED = {"train": "train", "validate": "test", "test": "test"}
NO_SECTION = "report has neither impression nor findings"
NAMED = ("images", "studies", "patients")
ABOUT = About(
    title="MIMIC-CXR-JPG 2.0.0 and the MIMIC-CXR 2.0.0 reports",
    source="https://physionet.org/content/mimic-cxr-jpg/2.0.0/ and "
    "https://physionet.org/content/mimic-cxr/2.0.0/ (credentialed access)",
    parts=(
        Part("table of images", (f"{PREFIX}metadata.csv",), 377_110),
        Part("official split", (f"{PREFIX}split.csv",), 377_110),
    ),
    suffixes=(".jpg",),
    folders=("files",),
    images=377_110,
    used=210_000,
    format="jpeg",
)


class Options(Strict):
    """Switches of the ledger; `fractions` are weights of train, valid and test.

    `unit` and `fractions` are of split `fractions`; `overrides` drops the studies of a list.
    """

    split: Literal["fractions", "official", "mgca"]
    unit: Literal["patient", "study", "image"]
    fractions: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ]
    seed: Annotated[int, Field(ge=0)]
    views: Literal["frontal", "all"]
    fallback: Literal["none", "last_paragraph"]
    overrides: Literal["keep", "drop"]


def needs(options: Options) -> tuple[Part, ...]:
    """Both tables, and the list of overrides if it drops something."""
    drops = (Part("list of studies with sections set by hand", (OVERRIDES,)),)
    return (*ABOUT.parts, *(drops if options.overrides == "drop" else ()))


def probe(root: Path) -> str | None:
    """Whether there are reports, by one of them; a line that says where none is.

    A few patients' folders are looked into.
    """
    if (root / f"{REPORTS}.zip").is_file():
        return None
    groups = _folders_below(_loose(root) / "files")
    patients = (patient for group in groups for patient in islice(_folders_below(group), 5))
    for patient in islice(patients, 50):
        try:
            if any(patient.glob("s*.txt")):
                return None
        except OSError:
            continue
    return f"{root}: no report found, {LOOKED}"


def _folders_below(folder: Path) -> Iterator[Path]:
    """Folders of a folder, as they come; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return


def read(raw: Raw, options: Options) -> Reading:
    """Read image-report pairs, one row per image.

    ``fractions`` draws whole patients (or studies, or images); ``official`` takes the official
    table's three splits; ``mgca`` merges its validate and test sides into the test.

    Raises:
        DataError: a table, one of its columns, or the list of overrides is missing or broken, or
            the archive of reports is, or there is no report at all.
    """
    metadata_file = find(raw.root, DATASET, [f"{PREFIX}metadata.csv"])
    split_file = find(raw.root, DATASET, [f"{PREFIX}split.csv"])
    files = [metadata_file, split_file]
    flow = Flow(read_table(metadata_file, DATASET, [*KEYS, "ViewPosition"]))
    official = read_table(split_file, DATASET, [*KEYS, "split"])
    notes: dict[str, int] = {}

    flow.fault(~_plain(flow.table), "an id is not of the released form")
    says = {CLASH: ["subject_id", "study_id"], CONTRADICTION: ["ViewPosition"]}
    flow.unique("dicom_id", says)
    flow.fault(_shared_study(flow.table), "one study of two patients")
    if options.views == "frontal":
        flow.drop(~flow.table["ViewPosition"].isin(["PA", "AP"]), "view is neither PA nor AP")
    _join_split(flow, official)
    if options.overrides == "drop":
        files.append(_drop_overrides(flow, raw.root, notes))
    flow.table["study"] = "s" + flow.table["study_id"]
    source = _source(raw.root)
    digest = _read_reports(flow, source, raw.root, options.fallback, notes)
    if source.file is not None:
        files.append(source.file)

    table = flow.table
    table["image"] = table["dicom_id"]
    table["path"] = _folder(table) + "/" + table["study"] + "/" + table["dicom_id"] + ".jpg"
    table["patient"] = table["subject_id"]
    table["view"] = table["ViewPosition"]
    if options.split == "fractions":
        names = ["train", "valid", "test"]
        units = table[options.unit]
        table["split"] = splits.by_unit(units, options.fractions, names, options.seed)
    else:
        table["split"] = table["split"].map(MERGED if options.split == "mgca" else OFFICIAL)
    unit = options.unit if options.split == "fractions" else "patient"
    return Reading(table, flow.counts, files, flow.faults, unit, notes, {"reports": digest})


def _plain(table: pd.DataFrame) -> pd.Series:
    """Whether ids have the released form; paths are made of them."""
    numbers = table["subject_id"].str.fullmatch(r"[0-9]{3,20}")
    numbers &= table["study_id"].str.fullmatch(r"[0-9]{1,20}")
    return numbers & table["dicom_id"].str.fullmatch(r"[0-9A-Za-z-]{1,80}")


def _shared_study(table: pd.DataFrame) -> pd.Series:
    """Rows of a study that two patients claim: whose report it is, nobody can tell."""
    patients = table.groupby("study_id")["subject_id"].nunique()
    return table["study_id"].isin(patients.index[patients > 1])


def _folder(table: pd.DataFrame) -> pd.Series:
    """Patient folders: ``files/p10/p10000032``."""
    subject = table["subject_id"]
    return "files/p" + subject.str[:2] + "/p" + subject


def _join_split(flow: Flow, official: pd.DataFrame) -> None:
    """Add the official split by all three ids; drop images that it does not hold."""
    distinct = official[[*KEYS, "split"]].drop_duplicates()
    twice = distinct[distinct.duplicated(KEYS, keep=False)]
    sides = distinct.drop_duplicates(KEYS)
    merged = flow.table[KEYS].merge(sides, on=KEYS, how="left")["split"].fillna("")
    flow.table["split"] = merged.to_numpy()
    ambiguous = pd.MultiIndex.from_frame(flow.table[KEYS]).isin(
        pd.MultiIndex.from_frame(twice[KEYS])
    )
    flow.fault(ambiguous, "the split table names two splits")
    flow.drop(flow.table["split"].isin(BLANKS), "not in the split table")
    flow.fault(~flow.table["split"].isin(list(OFFICIAL)), "unknown value in column split")


def _drop_overrides(flow: Flow, root: Path, notes: dict[str, int]) -> Path:
    """Drop the studies of the list of hand-made sections; returns the list's file.

    Raises:
        DataError: no such file, or a line of it is no study id.
    """
    file = root / OVERRIDES
    if not file.is_file():
        raise DataError(
            f"{DATASET}: {file}: no such file, and overrides = drop; write there, one a line, the "
            f"studies whose sections MIT-LCP's mimic-cxr repository sets by hand (txt/"
            f"section_parser.py), or set manifest.datasets.mimic.overrides: keep"
        )
    studies: set[str] = set()
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        name = line.partition("#")[0].strip()
        if not re.fullmatch(r"s?[0-9]{1,20}|", name):
            raise DataError(f"{DATASET}: {file}: line {number} is no study id, such as s50000000")
        studies |= {name.removeprefix("s")} - {""}
    notes["override studies not among the images"] = len(studies - set(flow.table["study_id"]))
    flow.drop(flow.table["study_id"].isin(list(studies)), "sections are set by hand")
    return file


def _source(root: Path) -> Source:
    """Where the reports are: the archive, else their own tree, else the images' tree.

    Raises:
        DataError: the archive is broken.
    """
    archive = root / f"{REPORTS}.zip"
    if archive.is_file():
        return Archive(archive, f"{REPORTS}/", DATASET)
    return Folder(_loose(root))


def _loose(root: Path) -> Path:
    """Folder above the ``files`` that hold the reports, where there is no archive."""
    own = root / REPORTS
    return own if (own / "files").is_dir() else root


def _read_reports(
    flow: Flow, source: Source, root: Path, fallback: str, notes: dict[str, int]
) -> dict[str, Any]:
    """Add report, impression and findings; drop rows without either. Returns their digest.

    Raises:
        DataError: all reports are missing.
    """
    names = _folder(flow.table) + "/" + flow.table["study"] + ".txt"
    flow.table["name"] = names
    found: dict[str, tuple[str, str, str]] = {}
    wrong: dict[str, str] = {}
    sha, size, files, odd = hashlib.sha256(), 0, 0, 0
    for name in track(sorted(set(names)), "reports"):
        try:
            content = source.read(name)
            text, plain = decode(content)
        except ReportError as error:
            wrong[name] = str(error)
            continue
        sha.update(hashlib.sha256(content).digest())
        size, files, odd = size + len(content), files + 1, odd + (not plain)
        pair = sections.sections(text, fallback)
        if pair is None:
            wrong[name] = NO_SECTION
        else:
            found[name] = (text, *pair)
    if wrong and len(wrong) == len(set(names)) and set(wrong.values()) == {MISSING}:
        raise DataError(
            f"{DATASET}: {root}: none of the reports of {len(wrong):,} studies found, {LOOKED}"
        )
    notes["reports not in UTF-8"] = odd
    notes["archive members whose names leave it"] = source.strange
    for reason in (*REASONS, NO_SECTION):
        # A twentieth of the real reports has no section: named, but no sign of broken data.
        bad = flow.table["name"].map(wrong).eq(reason)
        flow.fault(bad, reason, unreadable=reason != NO_SECTION)
    for i, column in enumerate(("report", "impression", "findings")):
        texts = [found[name][i] for name in flow.table["name"]]
        flow.table[column] = pd.Series(texts, dtype=object, index=flow.table.index)
    kind = "tree" if source.file is None else source.file.name
    return {"from": kind, "files": files, "bytes": size, "sha256": sha.hexdigest()}
