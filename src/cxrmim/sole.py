"""One process a unit of work: a job holds a lock while it works.

An orphan of a killed run and its replacement, or two people in one folder, would write the same
states and outputs. The lock is the kernel's: it goes with its process, however that ends, and a
child does not keep it. Over NFS it holds between nodes where the server keeps locks; where none can
be had, the job goes on without.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from cxrmim.errors import CxrmimError
from cxrmim.paths import Paths

HELD = (errno.EACCES, errno.EAGAIN)
PATIENCE = 10.0  # seconds: a process that has just been killed may take a moment to go
POLL = 0.2  # seconds


class HeldError(CxrmimError):
    """Another process works on the same unit."""


@contextlib.contextmanager
def alone(paths: Paths, stop: str, unit: str) -> Iterator[None]:
    """Within, no other process works on the unit.

    Args:
        paths: of the scale.
        stop: the stop's word.
        unit: the unit of work.

    Raises:
        HeldError: another one does; tells its host, process id and start.
    """
    note = paths.journal(stop, unit)
    path = note.with_name(f"{note.stem}.lock")
    handle = _take(path, f"{stop} {unit}")
    try:
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                if _is(handle, path):
                    path.unlink()
            os.close(handle)


def _take(path: Path, what: str) -> int | None:
    """The lock as an open file; None if none can be had."""
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            if error.errno not in HELD:
                return None
            if time.monotonic() > limit:
                raise HeldError(
                    f"{what}: another process works on it ({holder or 'it does not say which'}); "
                    f"wait for it, or end it (`cxrmim recover` ends what a killed run has left); "
                    f"if it is surely dead, delete {path}"
                ) from None
            time.sleep(POLL)
            continue
        if _is(handle, path):
            _sign(handle)
            return handle
        os.close(handle)  # the holder before has removed the file: nobody else would look at it
        if time.monotonic() > limit:  # a file system on which no file is the same twice
            return None


def _is(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _sign(handle: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # a full disk
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}, {since}".encode(), 0)
