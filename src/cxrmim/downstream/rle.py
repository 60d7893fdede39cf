"""Run-length encoding of masks as SIIM-ACR writes it.

Pairs (offset, run) separated by blanks. The offset is relative to the end of the previous run, the
flat index runs down the columns first, and ``-1`` stands for an empty mask (protocols.md 1.4).
"""

import numpy as np
from numpy.typing import NDArray

EMPTY = "-1"


def encode(mask: NDArray[np.bool_]) -> str:
    """Encode one mask.

    Args:
        mask: (H, W), true where the finding is.
    """
    flat = np.concatenate([[0], mask.T.reshape(-1).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    if edges.size == 0:
        return EMPTY
    gaps = np.diff(edges, prepend=0)  # offset, run, offset, run, ...
    return " ".join(map(str, gaps.tolist()))


def decode(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """Decode one mask.

    Args:
        text: what `encode` returns.
        height: rows of the mask.
        width: its columns.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: the runs do not come in pairs, or leave the mask.
    """
    flat = np.zeros(height * width, dtype=bool)
    if text.strip() != EMPTY:
        gaps = np.array(text.split(), dtype=np.int64)
        if gaps.size % 2 or (gaps < 0).any():
            raise ValueError("run lengths must be pairs of counts (offset, run)")
        edges = np.cumsum(gaps)
        if edges[-1] > flat.size:
            raise ValueError(f"runs end at {edges[-1]}, beyond the mask's {flat.size} pixels")
        for start, end in edges.reshape(-1, 2):
            flat[start:end] = True
    return flat.reshape(width, height).T
