"""Decoding, squaring and masks against brute force, hand-made files and real ones."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxrmim.shards.images import UnreadableError, area, decode, read_bytes, square, stretch
from cxrmim.shards.masks import decode_rle


def picture(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    handle = io.BytesIO()
    image.save(handle, kind, **options)
    return handle.getvalue()


def dicom(pixels: np.ndarray, interpretation: str = "MONOCHROME2") -> bytes:
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2"
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2"
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, interpretation
    data.PixelData = pixels.tobytes()
    handle = io.BytesIO()
    data.save_as(handle, enforce_file_format=True)
    return handle.getvalue()


RAMP = np.arange(200, dtype=np.uint8).reshape(10, 20)


def test_eight_bit_grey_keeps_its_values():
    assert (decode(picture(Image.fromarray(RAMP)), ".png") == RAMP).all()


def test_sixteen_bit_grey_is_multiplied_by_255_over_its_maximum():
    deep = RAMP.astype(np.uint16) * 20
    expected = np.rint(deep * (255 / deep.max()))
    assert (decode(picture(Image.fromarray(deep)), ".png") == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_become_one_grey_channel(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    grey = np.where(RAMP > 100, 255, 0).astype(np.uint8)
    image = Image.fromarray(grey).convert(mode)
    assert (decode(picture(image, kind), ".img") == grey).all()


def test_a_transparent_palette_and_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    found = decode(picture(image, transparency=0), ".png")
    assert found.tolist() == [[76, 150]]  # 0.299 and 0.587 of 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_and_its_inversion(dtype):
    pixels = RAMP.astype(dtype) * (1 if dtype == np.uint8 else 15)
    plain = decode(dicom(pixels), ".dcm")
    assert (plain == np.rint(pixels * (255 / pixels.max()))).all()
    assert (decode(dicom(pixels, "MONOCHROME1"), ".DCM") == 255 - plain).all()


def test_stretching_degenerate_values():
    assert (stretch(np.zeros((2, 2), dtype=np.uint16)) == 0).all()
    assert stretch(np.array([[-10, 10]], dtype=np.int16)).tolist() == [[255, 255]]


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
BROKEN = {
    "text": (b"not an image", ".png", "not an image file"),
    "half-png": (halved(picture(Image.fromarray(NOISE))), ".png", "cannot be decoded"),
    "half-jpeg": (halved(picture(Image.fromarray(NOISE), "JPEG")), ".jpg", "cannot be decoded"),
    "no-dicom": (b"not a dicom", ".dcm", r"cannot be decoded \(InvalidDicomError\)"),
    "half-dicom": (halved(dicom(NOISE)), ".dcm", "cannot be decoded"),
    "frames": (dicom(np.stack([NOISE, NOISE])), ".dcm", "not one grey"),
}


@pytest.mark.parametrize(("content", "suffix", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_a_typed_fault_without_content(content, suffix, reason):
    with pytest.raises(UnreadableError, match=reason):
        decode(content, suffix)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.png").touch()
    for name, reason in (("none.png", "missing"), ("empty.png", "is empty"), (".", "opened")):
        with pytest.raises(UnreadableError, match=reason):
            read_bytes(tmp_path / name)


def covered(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area means by brute force: each source pixel's covered share of each output pixel."""

    def shares(n: int, m: int) -> np.ndarray:
        edges, index = np.arange(m + 1) * n / m, np.arange(n)
        low = np.maximum(edges[:-1, None], index)
        return np.clip(np.minimum(edges[1:, None], index + 1) - low, 0, 1) * m / n

    return shares(pixels.shape[0], height) @ pixels @ shares(pixels.shape[1], width).T


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shrink=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_area_averaging_is_exact(shape, shrink, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    height, width = (max(1, int(n * s)) for n, s in zip(shape, shrink, strict=True))
    found = area(pixels, height, width)
    assert found.shape == (height, width)
    assert np.abs(found - covered(pixels, height, width)).max() <= 0.5 + 1e-9


def test_a_square_is_padded_in_the_centre():
    found = square(np.full((40, 20), 200, dtype=np.uint8), 10)
    expected = np.zeros((10, 10))
    expected[:, 2:7] = 200  # 5 wide, 5 to pad: 2 left, 3 right
    assert (found == expected).all()
    assert (square(np.full((20, 40), 200, dtype=np.uint8), 10) == expected.T).all()


def test_a_small_image_is_padded_and_never_enlarged():
    found = square(np.full((4, 6), 9, dtype=np.uint8), 10)
    assert (found > 0).sum() == 24
    assert (found[3:7, 2:8] == 9).all()
    assert (square(RAMP[:, :10], 10) == RAMP[:, :10]).all()
    assert square(np.full((1, 900), 7, dtype=np.uint8), 8).max() == 7  # no side shrinks to nothing


def test_run_lengths_are_relative_and_run_down_the_columns():
    """Height 4, width 3; flat index = column * 4 + row."""
    mask = decode_rle(["1 2 3 2"], 4, 3)  # flat 1, 2, then 3 further: 6, 7
    expected = [[0, 0, 0], [255, 0, 0], [255, 255, 0], [0, 255, 0]]
    assert mask.tolist() == expected
    assert decode_rle([], 4, 3).max() == 0
    both = decode_rle(["1 2 3 2", "0 1"], 4, 3)
    assert (both > 0).sum() == 5
    assert decode_rle(["0 12"], 4, 3).min() == 255


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("0 13", "past the image"),
        ("12 1", "past the image"),
        ("1 2 3", "pairs"),
        ("", "pairs"),
        ("1 -2", "whole numbers"),
        ("1.5 2", "whole numbers"),
        ("1 99999999999999999999", "whole numbers"),
        ("²3 1", "whole numbers"),
    ],
)
def test_a_bad_mask_is_a_typed_fault(code, reason):
    with pytest.raises(UnreadableError, match=reason):
        decode_rle([code], 4, 3)


@given(seed=st.integers(0, 999), height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_masks_come_back_from_their_code(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    code = " ".join(map(str, np.diff(edges, prepend=0)))
    assert ((decode_rle([code] if code else [], height, width) > 0) == mask).all()


def test_real_dicoms_one_the_inversion_of_the_other(repo):
    folder = repo.parent / "shared/real/rsna"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    plain = next(p for p in sorted(folder.glob("*.dcm")) if p.name.startswith("1.2"))
    found = decode(plain.read_bytes(), ".dcm")
    assert found.shape == (1024, 1024)
    assert found.max() == 255
    inverted = decode((folder / "Fake_MONOHR1.dcm").read_bytes(), ".dcm")
    assert (inverted == 255 - found).all()


def test_real_pictures_of_every_mode_decode(repo):
    folder = repo.parent / "shared/real"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    files = [p for p in sorted(folder.rglob("*.*")) if p.suffix in (".png", ".jpeg")][:15]
    modes = set()
    for path in files:
        with Image.open(path) as image:
            modes.add(image.mode)
        found = square(decode(path.read_bytes(), path.suffix), 256)
        assert found.shape == (256, 256)
        assert found.std() > 10
    assert {"L", "RGB", "RGBA"} <= modes
