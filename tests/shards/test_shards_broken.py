"""Broken and hostile image files: a typed fault without content, whatever the bytes."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    JPEGBaseline8Bit,
)
from shards_files import dataset, dicom, encapsulated, picture, saved

from cxrmim.shards import images
from cxrmim.shards.images import UnreadableError, read_bytes, square


def decode(content: bytes, side: int | None = None) -> np.ndarray:
    return images.decode(content, side).pixels


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 50,000 px wide and high."""

    def part(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">2I5B", 50_000, 50_000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", body) + part(b"IEND", b"")


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without(*tags: str, **options) -> bytes:
    data = dataset(NOISE, **options)
    for tag in tags:
        delattr(data, tag)
    return saved(data)


CUT = "image data is cut short or damaged"


BROKEN = {
    "text": (b"not an image", "not an image file"),
    "html": (b"<html><body>please log in</body></html>" * 20, "not an image file"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "half-png": (halved(picture(Image.fromarray(NOISE))), CUT),
    "half-jpeg": (halved(picture(Image.fromarray(NOISE), "JPEG")), CUT),
    "no-data-png": (picture(Image.fromarray(NOISE)).replace(b"IDAT", b"IDAX"), "not an image"),
    "damaged-png": (picture(Image.fromarray(NOISE))[:2000] + b"?" * 2000, CUT),
    "bomb": (bomb(), "image is too large"),
    "half-dicom": (halved(dicom(NOISE)), CUT),
    "half-compressed-dicom": (
        encapsulated(NOISE, JPEGBaseline8Bit, halved(picture(Image.fromarray(NOISE), "JPEG"))),
        CUT,
    ),
    "frames": (dicom(np.stack([NOISE, NOISE])), "not one grey or colour image"),
    "no-pixels": (without("PixelData"), "DICOM holds no pixel data"),
    "no-size": (without("Rows"), "DICOM does not say how large its image is"),
    "huge-dicom": (dicom(NOISE, Rows=60_000, Columns=60_000), "image is too large"),
    "many-frames": (dicom(NOISE, NumberOfFrames=10**6), "image is too large"),
    "flat-rescale": (dicom(NOISE, RescaleSlope=0, RescaleIntercept=3), "rescale slope of 0"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_a_typed_fault_without_content(content, reason):
    for side in (None, 32):
        with pytest.raises(UnreadableError, match=reason):
            decode(content, side)


@given(st.integers(0, 10**6), st.sampled_from(["PNG", "JPEG", "DICOM"]))
@settings(max_examples=150)
def test_no_damage_is_worse_than_a_fault(seed, kind):
    """Whatever bytes are changed: an array comes out, or the one kind of error."""
    rng = np.random.default_rng(seed)
    whole = dicom(NOISE) if kind == "DICOM" else picture(Image.fromarray(NOISE), kind)
    content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
    for at in rng.integers(0, min(len(content), 900), rng.integers(1, 6)):
        content[at] = rng.integers(256)
    try:
        found = images.decode(bytes(content), 16)
    except UnreadableError as error:
        assert "\n" not in str(error)
    else:
        assert found.pixels.ndim == 2
        assert square(found.pixels, 16, found.shape).shape == (16, 16)


def test_memory_that_runs_out_is_no_fault_of_the_image(monkeypatch):
    def out(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_picture", out)
    with pytest.raises(MemoryError):
        decode(picture(Image.fromarray(NOISE)))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    for name, reason in (("none.png", "missing"), ("empty.png", "is empty"), (".", "opened")):
        with pytest.raises(UnreadableError, match=reason):
            read_bytes(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableError, match="opened"):
        read_bytes(tmp_path / "pipe.png")
    (tmp_path / "heavy.png").write_bytes(b"12345")
    monkeypatch.setattr(images, "HEAVIEST", 4)
    with pytest.raises(UnreadableError, match="too large"):
        read_bytes(tmp_path / "heavy.png")
