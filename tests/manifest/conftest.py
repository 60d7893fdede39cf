"""Hand-made raw layouts of a few rows, and parameters that read them."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrmim.manifest.build import Manifest, build
from cxrmim.params import Params
from cxrmim.schema import ManifestParams

LABELS = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
OTHERS = [
    *("Enlarged Cardiomediastinum", "Lung Lesion", "Lung Opacity", "Pneumonia", "Pneumothorax"),
    *("Pleural Other", "Fracture", "Support Devices"),
]
REPORT = " FINAL REPORT\n FINDINGS: Lungs are clear.\n \n IMPRESSION: No acute process.\n"


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


class Mimic:
    """A MIMIC-CXR-JPG root; rows of (dicom, subject, study, view, official split).

    `place` is where the reports go: tree, folder, or zip with a prefix of its members.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.suffix, self.place, self.prefix = root, ".csv.gz", "tree", ""
        self.rows = [
            [f"d{i:03d}", f"{10000000 + i // 2}", f"{50000000 + i}", "PA", "train"]
            for i in range(20)
        ]
        self.reports: dict[str, str | bytes] = {row[2]: REPORT for row in self.rows}

    @property
    def tables(self) -> tuple[Path, Path]:
        prefix = "mimic-cxr-2.0.0-"
        metadata = self.root / f"{prefix}metadata{self.suffix}"
        return metadata, self.root / f"{prefix}split{self.suffix}"

    def members(self) -> dict[str, bytes]:
        """Reports by their path below files/.."""
        return {
            f"files/p{patient[:2]}/p{patient}/s{study}.txt": text
            if isinstance(text := self.reports[study], bytes)
            else text.encode()
            for _, patient, study, _, _ in self.rows
            if study in self.reports and patient.isdigit()
        }

    def write(self) -> Path:
        metadata, split = self.tables
        write_csv(
            metadata,
            ["dicom_id", "subject_id", "study_id", "Rows", "ViewPosition"],
            [[d, p, s, "3056", view] for d, p, s, view, _ in self.rows],
        )
        write_csv(
            split,
            ["dicom_id", "study_id", "subject_id", "split"],
            [[d, s, p, side] for d, p, s, _, side in self.rows if side],
        )
        if self.place == "zip":
            with zipfile.ZipFile(
                self.root / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED
            ) as packed:
                for name, content in self.members().items():
                    packed.writestr(self.prefix + name, content)
            return self.root
        below = self.root / ("mimic-cxr-reports" if self.place == "folder" else ".")
        for name, content in self.members().items():
            (below / name).parent.mkdir(parents=True, exist_ok=True)
            (below / name).write_bytes(content)
        return self.root


class Chexpert:
    """A CheXpert root; rows of train.csv as lists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train = [self.row("train", i) for i in range(20)]
        self.valid = [self.row("valid", 100 + i) for i in range(4)]
        self.test = [
            [f"CheXpert-v1.0/test/patient{200 + i:05d}/study1", *"01010"] for i in range(3)
        ]

    @staticmethod
    def row(split: str, patient: int, view: str = "Frontal", labels: str = "") -> list[str]:
        path = f"CheXpert-v1.0-small/{split}/patient{patient:05d}/study1/view1_{view.lower()}.jpg"
        marks = labels.split(",") if labels else [f"{(patient >> k) & 1}.0" for k in range(5)]
        return [path, view, "AP" if view == "Frontal" else "", *marks]

    def write(self) -> Path:
        header = ["Path", "Frontal/Lateral", "AP/PA", *LABELS, *OTHERS]
        for name, rows in (("train", self.train), ("valid", self.valid)):
            full = [[*row, *[""] * len(OTHERS)] for row in rows]
            write_csv(self.root / f"CheXpert-v1.0-small/{name}.csv", header, full)
        self.write_test()
        for study, *_ in self.test:
            folder = self.root / "CheXpert" / study.split("/", 1)[1]
            folder.mkdir(parents=True)
            for name in ("view1_frontal.jpg", "view2_lateral.jpg"):
                (folder / name).touch()
        return self.root

    def write_test(self) -> None:
        write_csv(self.root / "groundtruth.csv", ["Study", *LABELS], self.test)


class Siim:
    """A SIIM-ACR root; rows of (image id, code), images by folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.table = root, "train-rle.csv"
        self.rows = [[f"1.2.{i}", "3 2 4 1" if i % 4 == 0 else " -1"] for i in range(40)]
        self.images = [row[0] for row in self.rows]
        self.later: list[str] = []  # those of them that lie in the folder of test images

    def write(self) -> Path:
        write_csv(self.root / self.table, ["ImageId", " EncodedPixels"], self.rows)
        for name in self.images:
            place = "dicom-images-test" if name in self.later else "dicom-images-train"
            folder = self.root / place / f"s{name}" / f"t{name}"
            folder.mkdir(parents=True)
            (folder / f"{name}.dcm").touch()
        return self.root


@pytest.fixture
def mimic(tmp_path: Path) -> Mimic:
    return Mimic(tmp_path / "raw")


@pytest.fixture
def chexpert(tmp_path: Path) -> Chexpert:
    return Chexpert(tmp_path / "raw")


@pytest.fixture
def siim(tmp_path: Path) -> Siim:
    return Siim(tmp_path / "raw")


@pytest.fixture
def write_lists() -> Callable[..., Path]:
    """Writer of the MRM repository's lists of a dataset; returns the folder of all lists."""

    def write(folder: Path, name: str, lists: dict[str, list[str]]) -> Path:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, lines in lists.items():
            text = "".join(f"{line}\n" for line in lines)
            (folder / name / f"{file}.txt").write_text(text, encoding="ascii")
        return folder

    return write


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ran before in this process keeps its log from caplog."""
    monkeypatch.setattr(logging.getLogger("cxrmim"), "propagate", True)


@pytest.fixture
def made(setup: Callable[..., Params]) -> Callable[..., Manifest]:
    """Build the manifest of what lies in the test's raw folder; its flow must add up."""

    def make(dataset: str, **options: Any) -> Manifest:
        manifest = build(dataset, setup(dataset, **options))
        flow = dict(manifest.metrics["flow"])
        assert flow.pop("rows") == sum(flow.values())
        assert flow["kept"] == len(manifest.table)
        assert list(manifest.metrics["flow"]) == manifest.details["flow"]
        return manifest

    return make


@pytest.fixture
def setup(paper: Params, tmp_path: Path) -> Callable[..., Params]:
    """Parameters of scale paper whose roots are the test's raw folder.

    `entries` are more readings of a dataset; `lists` is the folder of the MRM lists.
    """

    def make(
        dataset: str,
        limit: float = 0.5,
        subset: dict[str, Any] | None = None,
        entries: dict[str, Any] | None = None,
        lists: Path | None = None,
        **options: Any,
    ) -> Params:
        tree = paper.manifest.model_dump(mode="json")
        tree["max_unreadable"] = limit
        tree["roots"] = {name: str(tmp_path / "raw") for name in tree["roots"]}
        tree["lists"] = None if lists is None else str(lists)
        tree["datasets"][dataset] |= options
        tree["entries"] |= entries or {}
        tree["subset"] |= subset or {}
        return paper.model_copy(update={"manifest": ManifestParams.model_validate(tree)})

    return make
