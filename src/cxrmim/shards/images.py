"""Radiograph files to square 8-bit grey arrays (protocols §1, "Shared image loading").

What a file is, its content decides, not its name. Every file may be broken or hostile: whatever
goes wrong in decoding becomes an `UnreadableError` whose reason names neither the file nor what it
holds. Only the tags that decide the pixels are read from a DICOM.
"""

import io
import itertools
import logging
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from cxrmim.errors import DataError

Grey = npt.NDArray[np.uint8]
LARGEST = 1 << 27  # pixels; a decompression bomb has more
HEAVIEST = 1 << 29  # bytes of a file
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # others' parsers never see a file
DEEP = ("I", "F")  # Pillow modes of more than 8 bits begin so
DAMAGED = (OSError, EOFError, RuntimeError, SyntaxError, ValueError, struct.error, zlib.error)
TIMES = 3  # a reduced JPEG's size over the wanted one; at 2, small print is off by a grey level
HASH = 16  # rows, and comparisons in a row, of the perceptual hash
TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its messages may quote a patient


class UnreadableError(DataError):
    """A raw image, or its mask, cannot be used; the message is the bare reason."""


class Decoded(NamedTuple):
    """A decoded file.

    Attributes:
        pixels: (h, w) uint8, black = air; smaller than the file's image where a JPEG was decoded
            at a reduced scale.
        shape: (H, W) of the file's image, px, upright.
    """

    pixels: Grey
    shape: tuple[int, int]


def read_bytes(path: Path) -> bytes:
    """Content of a raw file.

    Raises:
        UnreadableError: it is missing, empty, too large, no file or cannot be opened.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise UnreadableError("image file cannot be opened")
        if found.st_size > HEAVIEST:
            raise UnreadableError("image file is too large")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableError("image file is missing") from None
    except OSError:
        raise UnreadableError("image file cannot be opened") from None
    if not content:
        raise UnreadableError("image file is empty")
    return content


def state(path: Path) -> str:
    """Size and time of a raw file, so that one which has changed since can be told; "" if none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def decode(content: bytes, side: int | None = None) -> Decoded:
    """Decode a file to 8-bit grey, black = air.

    8-bit files keep their values; deeper ones and DICOMs are multiplied by 255 / their maximum.

    Args:
        content: the file's bytes; DICOM, or a format of `FORMATS`.
        side: S in px of the square that is wanted. A JPEG is then decoded at the smallest of the
            scales 1, 1/2, 1/4, 1/8 (of its discrete cosine transform) that is at least `TIMES`
            the size that `square` brings it to. None decodes every file in full.

    Raises:
        UnreadableError: it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dicom = content[128:132] == b"DICM"
            found = _dicom(content) if dicom else _picture(content, side)
    except (UnreadableError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise UnreadableError("image is too large") from None
    except UnidentifiedImageError:
        raise UnreadableError("not an image file") from None
    except DAMAGED:
        raise UnreadableError("image data is cut short or damaged") from None
    except Exception as error:  # decoders raise what they like on broken files
        raise UnreadableError(f"image cannot be decoded ({type(error).__name__})") from None
    if found.pixels.ndim != 2 or not found.pixels.size:
        raise UnreadableError("not one grey or colour image")
    return found


def fitted(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """(h, w) of an image once its longest side is scaled down to `side`; never enlarged."""
    longest = max(shape)
    if longest <= side:
        return shape
    # The shorter side is truncated as in the official code: int(other * (side / longest)).
    ratio = side / float(longest)
    height, width = (side if n == longest else max(1, int(n * ratio)) for n in shape)
    return height, width


def square(pixels: Grey, side: int, shape: tuple[int, int] | None = None) -> Grey:
    """Scale the longest side down to `side` by area averaging, zero-pad centred to a square.

    An image smaller than `side` is padded, never enlarged.

    Args:
        pixels: (h, w) uint8.
        side: S in px.
        shape: (H, W) of the image that the pixels are a reduced copy of; its own by default.

    Returns:
        (S, S) uint8.
    """
    height, width = fitted(shape or (pixels.shape[0], pixels.shape[1]), side)
    if pixels.shape != (height, width):
        pixels = area(pixels, height, width)
    top, left = (side - height) // 2, (side - width) // 2
    out = np.zeros((side, side), dtype=np.uint8)
    out[top : top + height, left : left + width] = pixels
    return out


def area(pixels: Grey, height: int, width: int) -> Grey:
    """Mean over the part of the image that each output pixel covers, rounded.

    Boundary pixels count with the share covered, as OpenCV's INTER_AREA does. Sums are exact, so
    that the result depends on nothing but its arguments.
    """
    dtype = np.dtype(np.uint32 if pixels.size * 255 < 1 << 32 else np.int64)
    rows = _bins(pixels, height, dtype)
    columns = _bins(np.ascontiguousarray(rows.T), width, dtype).T
    mean = columns / (pixels.shape[0] * pixels.shape[1])
    out: Grey = np.rint(mean).astype(np.uint8)
    return out


def _bins(values: npt.NDArray[Any], count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Sums over `count` equal bins along axis 0, times `count` (so that they are integers).

    Bin i covers [i n / count, (i + 1) n / count) of the n >= count rows; a row that lies in two
    bins counts in each by its covered share, a multiple of 1 / count. Unsigned sums may wrap on
    their way, never in the end. One call a bin is 4 times as fast as numpy's reduceat.
    """
    length = values.shape[0]
    whole, part = np.divmod(np.arange(count + 1, dtype=np.int64) * length, count)
    out = np.empty((count, *values.shape[1:]), dtype=dtype)
    for i, (first, last) in enumerate(itertools.pairwise(whole.tolist())):
        np.add.reduce(values[first:last], axis=0, dtype=dtype, out=out[i])
    out *= dtype.type(count)
    cut = values[np.minimum(whole, length - 1)].astype(dtype) * part[:, None].astype(dtype)
    out += cut[1:]
    out -= cut[:-1]
    return out


def dhash(image: Grey) -> str:
    """Perceptual hash: whether each of 16 x 16 neighbours to the right is brighter, in hex.

    Copies of an image that were scaled or compressed anew mostly keep it.

    Args:
        image: (S, S) uint8.
    """
    count = min(HASH, image.shape[0] - 1)
    small = area(image, count, count + 1)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def _picture(content: bytes, side: int | None) -> Decoded:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        shape = image.height, image.width
        if shape[0] * shape[1] > LARGEST:
            raise UnreadableError("image is too large")
        if getattr(image, "n_frames", 1) != 1 and image.format not in ("JPEG", "MPO"):
            raise UnreadableError("not one grey or colour image")
        if side is not None and image.format in ("JPEG", "MPO"):
            height, width = fitted(shape, side)
            image.draft(image.mode, (TIMES * width, TIMES * height))
        reduced = image.size
        ImageOps.exif_transpose(image, in_place=True)
        if image.size != reduced:
            shape = shape[::-1]
        if image.mode.startswith(DEEP):
            return Decoded(stretch(np.asarray(image)), shape)
        plain = image.convert("RGBA") if image.mode == "P" else image
        grey = plain if plain.mode == "L" else plain.convert("L")
        return Decoded(np.asarray(grey, dtype=np.uint8), shape)


def _dicom(content: bytes) -> Decoded:
    # A deflated file is inflated as a whole before anything can be checked: a bomb.
    if DeflatedExplicitVRLittleEndian.encode() in content[:4096]:
        raise UnreadableError(_unread(DeflatedExplicitVRLittleEndian))
    data = pydicom.dcmread(io.BytesIO(content), specific_tags=list(TAGS))
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableError("DICOM holds no pixel data")
    if "Rows" not in data or "Columns" not in data:
        raise UnreadableError("DICOM does not say how large its image is")
    if int(data.Rows) * int(data.Columns) * int(data.get("NumberOfFrames") or 1) > LARGEST:
        raise UnreadableError("image is too large")
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise UnreadableError("DICOM does not say its transfer syntax")
    if not _readable(syntax):
        raise UnreadableError(_unread(syntax))
    kind = data.PhotometricInterpretation
    raw: npt.NDArray[Any] = pixel_array(data)
    if kind == "PALETTE COLOR":
        raw = apply_color_lut(raw, data)
    if raw.ndim == 3 and (kind == "PALETTE COLOR" or int(data.SamplesPerPixel) == 3):
        high = 8 * (raw.dtype.itemsize - 1)
        raw = np.asarray(Image.fromarray((raw >> high).astype(np.uint8)).convert("L"))
    else:
        raw = _rescaled(raw, data)
    grey = stretch(raw)
    pixels = 255 - grey if kind == "MONOCHROME1" else grey
    return Decoded(pixels, (int(data.Rows), int(data.Columns)))


def _readable(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # so pydicom says that it knows no decoder for this syntax
        return False


def _unread(syntax: UID) -> str:
    """Why a transfer syntax is not read; a UID that is not the standard's is not repeated."""
    name = syntax.name if syntax.is_transfer_syntax else "unknown"
    return f"no decoder for DICOM transfer syntax {name}"


def _rescaled(raw: npt.NDArray[Any], data: pydicom.Dataset) -> npt.NDArray[Any]:
    """Modality values: rescale slope and intercept, or the modality's table, where they act.

    Slope 1 and intercept 0 leave the stored values as the official code reads them. What a rescale
    makes negative is shifted, so that the smallest value is black.
    """
    if "ModalityLUTSequence" in data:
        found = np.asarray(apply_modality_lut(raw, data), dtype=np.float64)
    else:
        slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
        slope = 1.0 if slope is None else float(slope)
        intercept = 0.0 if intercept is None else float(intercept)
        if (slope, intercept) == (1.0, 0.0):
            return raw
        if slope == 0:
            raise UnreadableError("DICOM has a rescale slope of 0")
        found = raw.astype(np.float64) * slope + intercept
    if not np.isfinite(found).all():
        raise UnreadableError("image holds values that are no numbers")
    return found - min(0.0, float(found.min()))


def stretch(raw: npt.NDArray[Any]) -> Grey:
    """Multiply by 255 / maximum and round; negative values count by their size (rG utils.py)."""
    top = float(raw.max()) if raw.size else 0.0
    if not np.isfinite(top):
        raise UnreadableError("image holds values that are no numbers")
    if top <= 0:
        return np.zeros(raw.shape, dtype=np.uint8)
    if raw.dtype.kind == "u" and raw.dtype.itemsize <= 2:  # a table gives the same, sooner
        levels = np.arange(int(top) + 1)
        return np.take(_stretched(levels, top), raw)
    return _stretched(raw, top)


def _stretched(raw: npt.NDArray[Any], top: float) -> Grey:
    scaled = np.abs(raw * (255.0 / top))
    out: Grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return out
