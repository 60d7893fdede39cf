"""Masks as bits; numpy only."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]
HALF = 128  # of 255, rounded


def pack(mask: Array) -> Array:
    """Bits of a mask: foreground where at least half of a pixel is.

    Args:
        mask: (S, S) uint8, 255 times the covered share.

    Returns:
        (S, ceil(S / 8)) uint8, along the rows.
    """
    return np.packbits(mask >= HALF, axis=-1)


def unpack(bits: npt.NDArray[Any], side: int) -> Array:
    """(..., side, side) uint8 masks, 0 or 255, from (..., side, ceil(side / 8)) bits."""
    return np.unpackbits(bits, axis=-1, count=side) * np.uint8(255)
