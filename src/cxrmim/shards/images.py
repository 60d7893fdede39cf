"""Radiograph files to square 8-bit grey arrays (protocols §1, "Shared image loading").

Every file may be broken or hostile: whatever goes wrong in decoding becomes an `UnreadableError`
whose reason names neither the file nor what it holds.
"""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrmim.errors import DataError

Grey = npt.NDArray[np.uint8]
LARGEST = 1 << 27  # pixels; a decompression bomb has more
DEEP = ("I", "F")  # Pillow modes of more than 8 bits begin so


class UnreadableError(DataError):
    """A raw image, or its mask, cannot be used; the message is the bare reason."""


def read_bytes(path: Path) -> bytes:
    """Content of a raw file.

    Raises:
        UnreadableError: it is missing, empty or cannot be opened.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableError("image file is missing") from None
    except OSError:
        raise UnreadableError("image file cannot be opened") from None
    if not content:
        raise UnreadableError("image file is empty")
    return content


def decode(content: bytes, suffix: str) -> Grey:
    """Decode a file to (H, W) uint8, black = air.

    8-bit files keep their values; deeper ones and DICOMs are multiplied by 255 / their maximum.

    Args:
        content: the file's bytes.
        suffix: of its name; ``.dcm`` is read as DICOM, all else by Pillow.

    Raises:
        UnreadableError: it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = _dicom(content) if suffix.lower() == ".dcm" else _picture(content)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not an image file") from None
    except Exception as error:  # decoders raise what they like on broken files
        raise UnreadableError(f"image cannot be decoded ({type(error).__name__})") from None
    if pixels.ndim != 2 or not pixels.size:
        raise UnreadableError("not one grey or colour image")
    return pixels


def square(pixels: Grey, side: int) -> Grey:
    """Scale the longest side down to `side` by area averaging, zero-pad centred to a square.

    An image smaller than `side` is padded, never enlarged.

    Args:
        pixels: (H, W) uint8.
        side: S in px.

    Returns:
        (S, S) uint8.
    """
    height, width = pixels.shape
    longest = max(height, width)
    if longest > side:
        # The shorter side is truncated as in the official code: int(other * (side / longest)).
        ratio = side / float(longest)
        height = side if height == longest else max(1, int(height * ratio))
        width = side if width == longest else max(1, int(width * ratio))
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
    rows = _bins(pixels, height)
    columns = _bins(np.ascontiguousarray(rows.T), width).T
    mean = columns / (pixels.shape[0] * pixels.shape[1])
    out: Grey = np.rint(mean).astype(np.uint8)
    return out


def _bins(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Sums over `count` equal bins along axis 0, times `count` (so that they are integers).

    Bin i covers [i n / count, (i + 1) n / count) of the n >= count rows; a row that lies in two
    bins counts in each by its covered share, a multiple of 1 / count.
    """
    length = values.shape[0]
    whole, part = np.divmod(np.arange(count + 1, dtype=np.int64) * length, count)
    sums = np.add.reduceat(values, whole[:-1], axis=0, dtype=np.int64) * count
    edges = values[np.minimum(whole, length - 1)].astype(np.int64) * part[:, None]
    out: npt.NDArray[np.int64] = sums + edges[1:] - edges[:-1]
    return out


def _picture(content: bytes) -> Grey:
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > LARGEST:
            raise UnreadableError("image is too large")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(DEEP):
            return stretch(np.asarray(upright))
        if upright.mode == "P":
            upright = upright.convert("RGBA")
        return np.asarray(upright.convert("L"), dtype=np.uint8)


def _dicom(content: bytes) -> Grey:
    data = pydicom.dcmread(io.BytesIO(content))
    if int(data.Rows) * int(data.Columns) * int(data.get("NumberOfFrames") or 1) > LARGEST:
        raise UnreadableError("image is too large")
    raw: npt.NDArray[Any] = data.pixel_array
    if raw.ndim == 3 and int(data.SamplesPerPixel) == 3:
        raw = np.asarray(Image.fromarray(raw.astype(np.uint8)).convert("L"))
    grey = stretch(raw)
    return 255 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey


def stretch(raw: npt.NDArray[Any]) -> Grey:
    """Multiply by 255 / maximum and round; negative values count by their size (rG utils.py)."""
    top = float(raw.max()) if raw.size else 0.0
    if not np.isfinite(top):
        raise UnreadableError("image holds values that are no numbers")
    if top <= 0:
        return np.zeros(raw.shape, dtype=np.uint8)
    scaled = np.abs(raw * (255.0 / top))
    out: Grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return out
