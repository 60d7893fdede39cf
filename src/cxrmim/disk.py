"""A disk that is full, read-only, closed to the user or not there, told in one line.

Libraries tell a full disk each in its own way, and their messages may hold paths and ids: what is
said here names the scale's results folder, the machine and the room that is left, nothing else.
"""

import contextlib
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cxrmim.errors import CxrmimError
from cxrmim.paths import Paths

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM)
# How a full disk is told without an error number: by safetensors, numpy's tofile, torch's writer.
WORDS = (
    " requested and ",
    "iostream error",
    "failed writing file",
)


class DiskError(CxrmimError):
    """Results cannot be written."""


@contextlib.contextmanager
def told(paths: Paths) -> Iterator[None]:
    """Turn errors of the disk that results are written to into one line.

    Raises:
        DiskError: the disk is full, read-only or not there, or may not be written to.
    """
    try:
        yield
    except CxrmimError:
        raise
    except Exception as error:
        line = _line(error, paths.results)
        if line is None:
            raise
        raise DiskError(line) from None


def require_writable(folder: Path) -> None:
    """Assert, before anything is started, that files can be written below a folder.

    Raises:
        DiskError: they cannot.
    """
    if (link := _dangling(folder)) is not None:
        raise DiskError(_away(link))
    if not os.access(_existing(folder), os.W_OK | os.X_OK):
        raise DiskError(_closed(folder))


def _line(error: BaseException, results: Path) -> str | None:
    """What an error, or one that it came of, says of the disk; None if nothing."""
    if isinstance(error, OSError) and (link := _dangling(results)) is not None:
        return _away(link)
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return _closed(results)
    if isinstance(error, OSError) and error.errno in REFUSED:
        named = Path(str(error.filename)).absolute()
        return _closed(results) if named.is_relative_to(results.absolute()) else None
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL or any(os.strerror(one) in str(error) for one in FULL):
        return _full(results, "no room left to write")
    if number is None and any(word in str(error) for word in WORDS):
        return _full(results, "cannot write, as if no room were left,")
    return None if error.__context__ is None else _line(error.__context__, results)


def _dangling(folder: Path) -> Path | None:
    """The link on the way to a folder that leads nowhere."""
    return next((p for p in (folder, *folder.parents) if p.is_symlink() and not p.exists()), None)


def _away(link: Path) -> str:
    return (
        f"{link} is a link to what is not there on {socket.gethostname()}: a disk may not be "
        f"mounted; mend that, then run the same command: what is done is kept"
    )


def _closed(folder: Path) -> str:
    return (
        f"{folder} cannot be written to on {socket.gethostname()}: its disk is read-only there, "
        f"or its rights forbid it; mend that, then run the same command: what is done is kept"
    )


def _full(results: Path, what: str) -> str:
    temporary = Path(tempfile.gettempdir())
    free = ", ".join(f"{_free(place)} in {place}" for place in (results, temporary))
    return (
        f"{what} below {results} on {socket.gethostname()} (free now that what was "
        f"half written is gone: {free}; a quota may allow less); free some (`cxrmim doctor` tells "
        f"how much the scale needs) or move the checkout to a larger disk, then run the same "
        f"command: what is done is kept"
    )


def _free(place: Path) -> str:
    """Room on a folder's disk in words."""
    try:
        return f"{shutil.disk_usage(_existing(place)).free / 1e6:,.0f} MB"
    except OSError:
        return "unknown room"


def _existing(place: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    return next(p for p in (place, *place.absolute().parents) if p.is_dir())
