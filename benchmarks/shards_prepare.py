"""One-time preparation of images: images a second and core, and the error of scaled decoding.

    python benchmarks/shards_prepare.py

What is timed is all that a worker of the shards stop does for a row: read the file, its sha256,
decoding, area averaging, padding, the hashes of the pixels. The files are phantoms at the sizes of
the real data sets: MIMIC-CXR-JPG (grey JPEG of quality 95, 3056 x 2544, about 1.5 MB each; and
noisy ones of twice that, as a worst case), NIH (PNG, 1024 x 1024), RSNA (DICOM around a baseline
JPEG, 1024 x 1024), SIIM (the same, with a mask).
Seconds are CPU seconds of one thread; each file is timed five times, the best counts, since other
programs of a shared machine only ever add to it. Targets: 40 images/s at 256 px from scaled JPEGs,
0.5 grey levels of mean error against full decoding.
"""

import io
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from machine import describe
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxrmim.phantom.acquisition import DIFFICULTIES, draw_acquisition
from cxrmim.phantom.findings import draw_patient, draw_study
from cxrmim.phantom.painting import render
from cxrmim.shards import images, pool
from cxrmim.shards.pool import Item

OUT = Path(__file__).resolve().parent / "results" / "shards_prepare.json"
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


def main() -> int:
    """Measure every case, print and write the figures."""
    with TemporaryDirectory() as temporary:
        kinds = write_files(Path(temporary))
        sizes = {k: sum(i.path.stat().st_size for i in v) / len(v) / 1e6 for k, v in kinds.items()}
        cases = {name: rate(kinds[kind], side, scaled) for name, kind, side, scaled in CASES}
        errors = {
            f"{kind}, {side} px": error(kinds[kind], side)
            for kind in LEVELS
            for side in (128, 256, 512)
        }
    result = {
        "what": "preparation of one image by one worker of the shards stop",
        "images per case": COUNT,
        "MB a file": {kind: round(size, 2) for kind, size in sizes.items()},
        "images a CPU second": cases,
        "grey levels between scaled and full decoding": errors,
        "targets": {"images a CPU second": TARGET_RATE, "mean error": TARGET_ERROR},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": describe("numpy", "pillow", "pydicom"),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(OUT.read_text(encoding="utf-8"))
    worst = max(found["mean"] for found in errors.values())
    return 0 if cases[CASES[0][0]] >= TARGET_RATE and worst <= TARGET_ERROR else 1


def write_files(folder: Path) -> dict[str, list[Item]]:
    """Phantoms as files of each kind."""
    found: dict[str, list[Item]] = {kind: [] for kind in (*LEVELS, "png", "dicom", "masked")}
    for i in range(COUNT):
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
    """Images a CPU second, the best of a few passes over each file."""
    total = 0.0
    for item in items:
        seconds = []
        for _ in range(REPEATS):
            started = time.process_time()
            result = pool.process(item, side, scaled)
            seconds.append(time.process_time() - started)
            if result.outcome.reason:
                raise RuntimeError(result.outcome.reason)
        total += min(seconds)
    return round(len(items) / total, 1)


def error(items: list[Item], side: int) -> dict[str, float]:
    """Mean absolute difference of scaled and full decoding over the image, padding left out."""
    means, largest = [], 0
    for item in items:
        content = item.path.read_bytes()
        full, scaled = images.decode(content), images.decode(content, side)
        height, width = images.fitted(full.shape, side)
        pair = [images.square(d.pixels, side, d.shape).astype(int) for d in (full, scaled)]
        difference = np.abs(pair[0] - pair[1])
        means.append(difference.sum() / (height * width))
        largest = max(largest, int(difference.max()))
    return {
        "mean": round(float(np.mean(means)), 3),
        "worst image": round(float(np.max(means)), 3),
        "worst pixel": largest,
    }


if __name__ == "__main__":
    raise SystemExit(main())
