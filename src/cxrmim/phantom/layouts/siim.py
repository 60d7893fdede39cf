"""SIIM-ACR pneumothorax: DICOMs in `<study uid>/<series uid>/` folders and `train-rle.csv`.

Each pair of the run-length code is (offset from the end of the run before, length), over pixels
counted down the columns; an image has a row for each of its regions, or one row with " -1".
"""

import io
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxrmim.phantom.acquisition import DIFFICULTIES, Acquisition, draw_acquisition
from cxrmim.phantom.findings import Patient, draw_finding, draw_patient, draw_study
from cxrmim.phantom.painting import render
from cxrmim.phantom.streams import PhantomSpec, spread, stream

UID_ROOT = "1.2.276.0.7230010.3.1"
JPEG_QUALITY = 95
MONOCHROME1_SHARE = 0.08
UNLABELLED_SHARE = 37 / 10_675
BILATERAL = 0.06
"""Share of the pneumothoraces that have a second one on the other side."""

SPLIT_REGION = 0.15
"""Share of the regions that the annotators drew in two pieces."""


@dataclass(frozen=True)
class _Task:
    number: int
    clock: int


def encode(mask: NDArray[np.bool_]) -> str:
    """Run-length code of a mask (rows, cols): relative offsets, counted down the columns."""
    flat = np.concatenate(([False], mask.T.ravel(), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    gaps = np.diff(edges, prepend=0)
    return " ".join(str(gap) for gap in gaps)


def regions(mask: NDArray[np.bool_], cut: bool) -> list[NDArray[np.bool_]]:
    """The pieces that the annotation lists in rows of their own; their union is the mask.

    A mask on both sides of the image falls into two pieces, and `cut` parts each of these at half
    its height. Empty pieces are left out.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    if not columns.size:
        return []
    gaps = np.flatnonzero(np.diff(columns) > 1)
    bounds = [0, *(int(columns[gap]) + 1 for gap in gaps), mask.shape[1]]
    pieces = []
    for left, right in pairwise(bounds):
        piece = np.zeros_like(mask)
        piece[:, left:right] = mask[:, left:right]
        rows = np.flatnonzero(piece.any(axis=1))
        if cut and rows.size > 3:
            middle = int(rows[rows.size // 2])
            upper, lower = piece.copy(), piece.copy()
            upper[middle:], lower[:middle] = False, False
            pieces += [upper, lower]
        elif rows.size:
            pieces.append(piece)
    return pieces


def _dicom(
    pixels: NDArray[np.uint8], patient: Patient, shot: Acquisition, uids: list[str], inverted: bool
) -> bytes:
    """A DICOM file as the challenge's: JPEG baseline, 8 bits, synthetic identity, no clock."""
    shown = 255 - pixels if inverted else pixels
    stream_bytes = io.BytesIO()
    Image.fromarray(shown).save(stream_bytes, "JPEG", quality=JPEG_QUALITY)
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uids[2]
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID = "1.2.276.0.7230010.3.0.3.6.0"
    meta.ImplementationVersionName = "OFFIS_DCMTK_360"
    data = Dataset()
    data.file_meta = meta
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = uids[2]
    data.StudyDate, data.StudyTime = "19010101", "000000.00"
    data.AccessionNumber = ""
    data.Modality, data.ConversionType = "CR", "WSD"
    data.ReferringPhysicianName = ""
    data.SeriesDescription = f"view: {shot.view}"
    digits = uids[2].rsplit(".", 3)[-2:]
    data.PatientName = data.PatientID = f"phantom-{digits[0]}-{digits[1]}"
    data.PatientBirthDate = ""
    data.PatientSex = patient.sex
    # The challenge's files say 62 where the standard wants 062Y.
    data.add(DataElement(0x00101010, "AS", str(patient.age), validation_mode=IGNORE))
    data.BodyPartExamined, data.ViewPosition = "CHEST", str(shot.view)
    data.StudyInstanceUID, data.SeriesInstanceUID = uids[0], uids[1]
    data.StudyID, data.SeriesNumber, data.InstanceNumber = "", "1", "1"
    data.PatientOrientation = ""
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing = ["0.168", "0.168"]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "ISO_10918_1"
    data.PixelData = encapsulate([stream_bytes.getvalue()])
    data["PixelData"].VR = "OB"
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _write_image(
    task: _Task, root: Path, seed: int, raster: int, difficulty: str
) -> tuple[str, list[str]]:
    """Write one DICOM; return its image id and the codes of its regions ("-1" for none)."""
    level = DIFFICULTIES[difficulty]
    patient = draw_patient(stream(seed, "siim", task.number))
    rng = stream(seed, "siim", task.number, 0)
    view = "AP" if rng.random() < 0.4 else "PA"
    study = draw_study(rng, None, portable=view == "AP")
    found = study.find("Pneumothorax")
    rolls = rng.random(3)
    if found is not None and rolls[0] < BILATERAL:
        other = draw_finding("Pneumothorax", rng)
        other = replace(other, side="left" if found.side == "right" else "right")
        study = replace(study, findings=(*study.findings, other))
    shot = draw_acquisition("AP" if view == "AP" else "PA", level, rng, square=True)
    pixels_rng = stream(seed, "siim", task.number, 0, 0, "pixels")
    image = render(patient, study, shot, level, raster, pixels_rng)
    names = stream(seed, "siim", task.number, 0, purpose="names")
    tail = f"8323329.{1000 + task.number}.{task.clock}.{int(names.integers(100_000, 1_000_000))}"
    uids = [f"{UID_ROOT}.{kind}.{tail}" for kind in (2, 3, 4)]
    folder = root / "dicom-images-train" / uids[0] / uids[1]
    folder.mkdir(parents=True)
    inverted = rolls[1] < MONOCHROME1_SHARE
    (folder / f"{uids[2]}.dcm").write_bytes(_dicom(image.pixels, patient, shot, uids, inverted))
    codes = [encode(piece) for piece in regions(image.mask, bool(rolls[2] < SPLIT_REGION))]
    return uids[2], codes or ["-1"]


def write(root: Path, params: PhantomSpec, workers: int) -> dict[str, int]:
    """Write the data set under `root` (an existing, empty folder).

    Args:
        root: where `dicom-images-train/` and `train-rle.csv` go.
        params: seed, raster, difficulty and `patients["siim"]`, the number of labelled images.
        workers: processes; the bytes do not depend on them.

    Returns:
        Counts: labelled images, positives, rows, and images without a row.
    """
    labelled = params.patients["siim"]
    extra = max(2, round(UNLABELLED_SHARE * labelled))
    start = 1_517_875_160 + int(stream(params.seed, "siim", 0, purpose="names").integers(0, 10_000))
    tasks = [_Task(number, start + number // 9) for number in range(labelled + extra)]
    work = partial(
        _write_image,
        root=root,
        seed=params.seed,
        raster=params.raster,
        difficulty=params.difficulty,
    )
    images = list(spread(work, tasks, workers))[:labelled]
    lines = ["ImageId, EncodedPixels"]
    lines += [f"{name}, {code}" for name, codes in images for code in codes]
    (root / "train-rle.csv").write_bytes(("\n".join(lines) + "\n").encode())
    positive = sum(codes != ["-1"] for _, codes in images)
    rows = len(lines) - 1
    return {"images": labelled, "positive": positive, "rows": rows, "unlabelled": extra}
