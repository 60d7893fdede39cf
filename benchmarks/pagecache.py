"""Files that are read from disk, although they were just written or read."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

LITTLE = 0.01  # share of a file that may stay where it counts as dropped
STAYS = "the images stay in memory when they are dropped: set TMPDIR to a folder on a disk"


def forget(path: Path) -> bool:
    """Drop a file from the page cache.

    Returns:
        Whether it went. Pages stay on a file system that has no disk (tmpfs), and where a process
        has mapped and touched them.

    Raises:
        OSError: the file is empty or cannot be looked at.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that wait to be written stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(path) <= LITTLE


def resident(path: Path) -> float:
    """Share of a file's pages that are in memory, by mincore."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = np.memmap(path, np.uint8, "r")
    found = np.empty(-(-pages.size // mmap.PAGESIZE), np.uint8)
    address, size = ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(pages.size)
    if libc.mincore(address, size, ctypes.c_void_p(found.ctypes.data)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return float((found & 1).mean())
