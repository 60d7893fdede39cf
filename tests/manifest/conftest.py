"""Hand-made raw layouts of a few rows, and parameters that read them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrmim.params import ManifestParams, Params

LABELS = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
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
    """A MIMIC-CXR-JPG root; rows of (dicom, subject, study, view, official split)."""

    def __init__(self, root: Path, packed: bool = True) -> None:
        self.root, self.suffix = root, ".csv.gz" if packed else ".csv"
        self.rows = [
            [f"d{i:03d}", f"{10000000 + i // 2}", f"{50000000 + i}", "PA", "train"]
            for i in range(20)
        ]
        self.reports = {row[2]: REPORT for row in self.rows}

    def write(self) -> Path:
        prefix = "mimic-cxr-2.0.0-"
        write_csv(
            self.root / f"{prefix}metadata{self.suffix}",
            ["dicom_id", "subject_id", "study_id", "Rows", "ViewPosition"],
            [[d, p, s, "3056", view] for d, p, s, view, _ in self.rows],
        )
        write_csv(
            self.root / f"{prefix}split{self.suffix}",
            ["dicom_id", "study_id", "subject_id", "split"],
            [[d, s, p, split] for d, p, s, _, split in self.rows if split],
        )
        for _, patient, study, _, _ in self.rows:
            if study in self.reports and patient.isdigit():
                folder = self.root / f"files/p{patient[:2]}/p{patient}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"s{study}.txt").write_text(self.reports[study], encoding="utf-8")
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
        header = ["Path", "Frontal/Lateral", "AP/PA", *LABELS]
        write_csv(self.root / "CheXpert-v1.0-small/train.csv", header, self.train)
        write_csv(self.root / "CheXpert-v1.0-small/valid.csv", header, self.valid)
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
    """A SIIM-ACR root; rows of (image id, code)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows = [[f"1.2.{i}", "3 2 4 1" if i % 4 == 0 else " -1"] for i in range(40)]
        self.images = [row[0] for row in self.rows]

    def write(self) -> Path:
        write_csv(self.root / "train-rle.csv", ["ImageId", " EncodedPixels"], self.rows)
        for name in self.images:
            folder = self.root / "dicom-images-train" / f"s{name}" / f"t{name}"
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
def setup(paper: Params, tmp_path: Path) -> Callable[..., Params]:
    """Parameters of scale paper whose roots are the test's raw folder."""

    def make(
        dataset: str, limit: float = 0.5, subset: dict[str, Any] | None = None, **options: Any
    ):
        tree = paper.manifest.model_dump(mode="json")
        tree["max_unreadable"] = limit
        tree["roots"] = {name: str(tmp_path / "raw") for name in tree["roots"]}
        tree["datasets"][dataset] |= options
        tree["subset"] |= subset or {}
        return paper.model_copy(update={"manifest": ManifestParams.model_validate(tree)})

    return make
