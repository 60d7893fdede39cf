"""Run-length masks of SIIM-ACR (protocols §1.4)."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from cxrmim.shards.images import UnreadableError

Grey = npt.NDArray[np.uint8]


def decode_rle(codes: Iterable[str], height: int, width: int) -> Grey:
    """Union of an image's run-length codes.

    A code is pairs of (offset, length). An offset is relative to the END of the previous run, the
    first to 0; the flat index runs down the columns.

    Args:
        codes: one code per region; none for an empty mask.
        height: of the image as stored, px.
        width: of the image as stored, px.

    Returns:
        (height, width) uint8, 255 = foreground.

    Raises:
        UnreadableError: a code is no list of pairs of whole numbers, or runs past the image.
    """
    flat = np.zeros(height * width, dtype=np.uint8)
    for code in codes:
        words = code.split()
        if not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
            raise UnreadableError("mask holds something else than whole numbers from 0")
        if len(words) % 2 or not words:
            raise UnreadableError("mask is no list of (offset, length) pairs")
        position = 0
        for offset, length in zip(words[::2], words[1::2], strict=True):
            start = position + int(offset)
            position = start + int(length)
            if position > flat.size:
                raise UnreadableError("mask runs past the image")
            flat[start:position] = 255
    return flat.reshape(width, height).T
