"""MIMIC-CXR-JPG 2.0.0 with the MIMIC-CXR reports in the same tree, or zipped as released.

`files/p10/p10000032/s50414267/<dicom_id>.jpg` beside `files/p10/p10000032/s50414267.txt`, and the
three gzipped tables metadata, split and chexpert. `section_overrides.txt` lists two of the studies,
as a user may list those of MIT-LCP whose reports were sectioned by hand.
"""

import csv
import gzip
import io
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.files import write_lines
from cxrmim.phantom.labels import COLUMNS, labelled
from cxrmim.phantom.painting import render
from cxrmim.phantom.population import draw_visits, spread_over
from cxrmim.phantom.reports import write_report
from cxrmim.phantom.streams import PhantomSpec, spread, stream

METADATA = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
VIEW_CODES = {
    "PA": "postero-anterior",
    "AP": "antero-posterior",
    "LATERAL": "lateral",
    "LL": "left lateral",
}
JPEG_QUALITY = 95
BLANK_VIEW = 0.03
"""Share of images whose ViewPosition is blank."""

TEST_SHARE, VALIDATE_SHARE = 0.03, 0.01
PRIME = 9_999_991
OVERRIDES = 2
"""Studies that are listed in section_overrides.txt."""

ARCHIVE = "mimic-cxr-reports.zip"


@dataclass(frozen=True)
class _Rows:
    metadata: list[list[str]]
    labels: list[str]


@dataclass(frozen=True)
class _Task:
    number: int
    subject: int
    first_study: int


def _write_patient(task: _Task, root: Path, seed: int, raster: int, difficulty: str) -> list[_Rows]:
    """Write a patient's images and reports; return the table rows, a study each."""
    level = DIFFICULTIES[difficulty]
    patient, visits = draw_visits(seed, "mimic", task.number, level)
    folder = root / "files" / f"p{task.subject // 1_000_000}" / f"p{task.subject}"
    out = []
    for visit in visits:
        names = stream(seed, "mimic", task.number, visit.index, purpose="names")
        study = 50_000_000 + (task.first_study + visit.index * 7919) % PRIME
        views = [shot.view for shot in visit.shots]
        text = stream(seed, "mimic", task.number, visit.index, purpose="text")
        here = folder / f"s{study}"
        here.mkdir(parents=True)
        report = write_report(patient, visit.study, views, text)
        (folder / f"s{study}.txt").write_bytes(report.text.encode("ascii"))
        two = any(view in ("LATERAL", "LL") for view in views)
        step = "CHEST (PA AND LAT)" if two else "CHEST (PORTABLE AP)" if "AP" in views else "CHEST"
        posture = "Erect" if "PA" in views else "Recumbent" if names.random() < 0.7 else ""
        year, month, day = 2110 + task.number % 90, names.integers(1, 13), names.integers(1, 29)
        date = f"{year + visit.index}{month:02d}{day:02d}"
        clock = f"{names.integers(0, 24)}{names.integers(0, 60):02d}{names.integers(0, 60):02d}"
        time = f"{clock.lstrip('0') or '0'}.{names.integers(0, 1000):03d}"
        rows = []
        for image, shot in enumerate(visit.shots):
            rng = stream(seed, "mimic", task.number, visit.index, image, "pixels")
            pixels = render(patient, visit.study, shot, level, raster, rng).pixels
            dicom = "-".join(f"{value:08x}" for value in names.integers(0, 2**32, 5))
            Image.fromarray(pixels).save(here / f"{dicom}.jpg", quality=JPEG_QUALITY)
            blank = names.random() < BLANK_VIEW
            view = "" if blank else shot.view
            code = "" if blank else VIEW_CODES[shot.view]
            size = [str(side) for side in pixels.shape]
            row = [dicom, str(task.subject), str(study), step, view, *size, date, time, step]
            rows.append([*row, code, posture])
        marks = labelled(visit.study, names)
        label = [str(task.subject), str(study), *(marks[name] for name in sorted(COLUMNS))]
        out.append(_Rows(rows, label))
    return out


def _write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """A gzipped CSV whose bytes hold neither a clock nor a file name."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(text.getvalue().encode())


def _pack_reports(root: Path) -> None:
    """Move the reports of the tree into one archive whose bytes hold no clock."""
    with zipfile.ZipFile(root / ARCHIVE, "w") as archive:
        for path in sorted((root / "files").rglob("s*.txt")):
            member = zipfile.ZipInfo(path.relative_to(root).as_posix())
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED, 6)
            path.unlink()


def _splits(count: int, seed: int) -> list[str]:
    """Each patient's split, about 96/1/3 train/validate/test, none of them empty from 3 up."""
    order = spread_over(count, seed, "mimic")
    tests = max(1, round(TEST_SHARE * count))
    validates = max(1, round(VALIDATE_SHARE * count))
    out = np.full(count, "train", dtype=object)
    out[order[:tests]] = "test"
    out[order[tests : tests + validates]] = "validate"
    return [str(name) for name in out]


def write(root: Path, params: PhantomSpec, workers: int, packed: bool = False) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where `files/` and the tables go.
        params: seed, raster, difficulty and `patients["mimic"]`.
        workers: processes; the bytes do not depend on them.
        packed: put the reports into `mimic-cxr-reports.zip` and not into the tree.

    Returns:
        Counts of patients, studies and images.
    """
    count = params.patients["mimic"]
    offsets = stream(params.seed, "mimic", 0, purpose="names").integers(0, PRIME, 2)
    tasks = [
        _Task(
            number=number,
            subject=10_000_000 + int((offsets[0] + number * 6_700_417) % PRIME),
            first_study=int(offsets[1]) + number * 8 * 7919,
        )
        for number in range(count)
    ]
    splits = {
        str(task.subject): split
        for task, split in zip(tasks, _splits(count, params.seed), strict=True)
    }
    work = partial(
        _write_patient,
        root=root,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    studies = [rows for patient in spread(work, tasks, workers) for rows in patient]
    studies.sort(key=lambda rows: (rows.labels[0], rows.labels[1]))
    images = [row for rows in studies for row in rows.metadata]
    prefix = "mimic-cxr-2.0.0-"
    _write_table(root / f"{prefix}metadata.csv.gz", list(METADATA), images)
    split_rows = [[row[0], row[2], row[1], splits[row[1]]] for row in images]
    _write_table(
        root / f"{prefix}split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], split_rows
    )
    header = ["subject_id", "study_id", *sorted(COLUMNS)]
    _write_table(root / f"{prefix}chexpert.csv.gz", header, [rows.labels for rows in studies])
    chosen = stream(params.seed, "mimic", 0, 0, 0, "names").permutation(len(studies))[:OVERRIDES]
    write_lines(root / "section_overrides.txt", [f"s{studies[i].labels[1]}" for i in chosen])
    if packed:
        _pack_reports(root)
    return {"patients": count, "studies": len(studies), "images": len(images)}
