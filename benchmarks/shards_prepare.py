"""One-time preparation of images: images a second and core, and the error of scaled decoding.

What is timed is all that a worker of the shards stop does for a row: read the file, its sha256,
decoding, area averaging, padding, the hashes of the pixels. The files are phantoms at the sizes of
the real data sets: MIMIC-CXR-JPG (grey JPEG of quality 95, 3056 x 2544, about 1.5 MB each; and
noisy ones of twice that, as a worst case), NIH (PNG, 1024 x 1024), RSNA (DICOM around a baseline
JPEG, 1024 x 1024), SIIM (the same, with a mask).
CPU seconds of one thread over all files of a kind; several passes. Error is the mean absolute
difference of grey levels between scaled and full decoding over an image, padding left out; its row
gives every image's. A toy has one file of each kind.
"""

import io
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from benchmarks import runner
from benchmarks.rows import Row, measured
from cxrmim.phantom.acquisition import DIFFICULTIES, draw_acquisition
from cxrmim.phantom.findings import draw_patient, draw_study
from cxrmim.phantom.painting import render
from cxrmim.shards import images, pool
from cxrmim.shards.pool import Item

COUNT, REPEATS = 16, 5
NOISE = 1.5  # standard deviation in grey levels; gives files as large as MIMIC-CXR-JPG's
LEVELS = {"jpeg": "easy", "noisy": "hard"}  # of the phantom's own clutter and noise
TARGET_RATE, TARGET_ERROR = 40, 0.5
CASES = (  # name, files, side, scaled
    ("JPEG 3056 x 2544 to 256 px, scaled", "jpeg", 256, True),
    ("JPEG 3056 x 2544 to 256 px, full", "jpeg", 256, False),
    ("JPEG 3056 x 2544 to 512 px, scaled", "jpeg", 512, True),
    ("JPEG 3056 x 2544 to 512 px, full", "jpeg", 512, False),
    ("noisy JPEG 3056 x 2544 to 256 px, scaled", "noisy", 256, True),
    ("noisy JPEG 3056 x 2544 to 256 px, full", "noisy", 256, False),
    ("PNG 1024 x 1024 to 256 px", "png", 256, True),
    ("DICOM 1024 x 1024 to 256 px", "dicom", 256, True),
    ("DICOM 1024 x 1024 and mask to 256 px", "masked", 256, True),
)


def measure(toy: bool = False) -> list[Row]:
    """Images a CPU second of every kind of file, and the error of scaled decoding."""
    out = []
    with TemporaryDirectory() as temporary:
        kinds = write_files(Path(temporary), 1 if toy else COUNT)
        for place, (name, kind, side, scaled) in enumerate(CASES):
            rates = [rate(kinds[kind], side, scaled) for _ in range(1 if toy else REPEATS)]
            size = sum(item.path.stat().st_size for item in kinds[kind]) / len(kinds[kind]) / 1e6
            out.append(
                measured(
                    f"preparing {name}",
                    "images/CPU s",
                    rates,
                    target=None if place else TARGET_RATE,
                    bound=">=",
                    details={"images": len(kinds[kind]), "MB a file": round(size, 2)},
                )
            )
        for kind in LEVELS:
            out.append(
                measured(
                    f"scaled against full decoding, {kind}, 256 px",
                    "grey levels",
                    [error(item, 256) for item in kinds[kind]],
                    target=TARGET_ERROR,
                )
            )
    return out


def write_files(folder: Path, count: int) -> dict[str, list[Item]]:
    """Phantoms as so many files of each kind."""
    found: dict[str, list[Item]] = {kind: [] for kind in (*LEVELS, "png", "dicom", "masked")}
    for i in range(count):
        for kind in LEVELS:
            path = folder / f"{kind}{i}.jpg"
            Image.fromarray(large(kind, i)).save(path, quality=95)
            found[kind].append(Item(path, None))
        square = phantom("easy", i, 1.0)
        Image.fromarray(square).save(folder / f"{i}.png")
        (folder / f"{i}.dcm").write_bytes(dicom(square))
        found["png"].append(Item(folder / f"{i}.png", None))
        found["dicom"].append(Item(folder / f"{i}.dcm", None))
        runs = " ".join(["300000 400"] + ["624 400"] * 150)
        found["masked"].append(Item(folder / f"{i}.dcm", (runs,)))
    return found


def phantom(level: str, seed: int, aspect: float) -> np.ndarray:
    """A frontal radiograph whose long side has 1024 px; `aspect` is width / height."""
    rng, how = np.random.default_rng(seed), DIFFICULTIES[level]
    shot = replace(draw_acquisition("PA", how, rng, square=True), aspect=aspect)
    patient, study = draw_patient(rng), draw_study(rng, None, False)
    return render(patient, study, shot, how, 1024, rng).pixels


def large(kind: str, seed: int) -> np.ndarray:
    """A phantom brought to 3056 x 2544, with a detector's noise."""
    small = Image.fromarray(phantom(LEVELS[kind], seed, 2544 / 3056))
    pixels = np.asarray(small.resize((2544, 3056), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed).normal(0, NOISE, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def dicom(pixels: np.ndarray) -> bytes:
    """A DICOM around a JPEG, as the challenges on pneumonia and pneumothorax ship them."""
    frame, handle = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(frame, "JPEG", quality=95)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 7, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = encapsulate([frame.getvalue()])
    data.save_as(handle, enforce_file_format=True)
    return handle.getvalue()


def rate(items: list[Item], side: int, scaled: bool) -> float:
    """Images a CPU second of one pass."""

    def work() -> None:
        for item in items:
            result = pool.process(item, side, scaled)
            if result.outcome.reason:
                raise RuntimeError(result.outcome.reason)

    return len(items) / runner.cpu_seconds(work)


def error(item: Item, side: int) -> float:
    """Mean absolute difference of scaled and full decoding over the image, padding left out."""
    content = item.path.read_bytes()
    full, scaled = images.decode(content), images.decode(content, side)
    height, width = images.fitted(full.shape, side)
    pair = [images.square(d.pixels, side, d.shape).astype(int) for d in (full, scaled)]
    return float(np.abs(pair[0] - pair[1]).sum() / (height * width))


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
