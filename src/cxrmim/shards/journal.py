"""Arrays that grow chunk by chunk and outlive a kill at any moment.

One process appends finished chunks to the .npy files, in order. After a chunk's bytes have been
synced to the disk, its line is appended to the journal and synced: what the journal names is whole.
On the next start everything behind the last good line is cut off and done again, so that the bytes
in the end do not depend on where, or how often, the work was broken off.

Appending by one writer, rather than many writers in a preallocated file, keeps rows that cannot be
read out of the arrays without moving any row, which could not be done safely across a kill. It
costs a copy of the pixels between processes: 4 MB for a chunk that takes seconds to decode.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cxrmim.errors import CxrmimError

Array = npt.NDArray[np.uint8]
FULL = (errno.ENOSPC, errno.EDQUOT)
JOURNAL, KEY, DATA, LOCK = "journal.jsonl", "key", "data", "lock"


@dataclass(frozen=True)
class Outcome:
    """A row's result apart from its pixels.

    Attributes:
        sha256: of the raw file; "" if it could not be read.
        size: of the raw file, bytes.
        pixels: sha256 of the stored image.
        dhash: perceptual hash of the stored image.
        height: of the image inside the stored square, without its padding, px.
        width: the same.
        reason: why the row has no image; "" if it has one.
    """

    sha256: str = ""
    size: int = 0
    pixels: str = ""
    dhash: str = ""
    height: int = 0
    width: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows, done.

    Attributes:
        outcomes: one a row.
        arrays: file stem -> (k, ...) uint8 of the k rows that could be read.
        state: digest of the raw files' sizes and times.
    """

    outcomes: list[Outcome]
    arrays: dict[str, Array]
    state: str


class Growing:
    """A .npy file of (N, ...) uint8 whose N is known only at the end.

    numpy leaves room in the header for the first axis to grow, so it is written again on finishing.
    """

    def __init__(self, path: Path, row: tuple[int, ...]) -> None:
        self._row = row
        self._size = math.prod(row)
        self._file: BinaryIO = path.open("r+b" if path.is_file() else "w+b")
        self._header(0)
        self._start = self._file.tell()

    def digest(self, first: int, count: int) -> str:
        """sha256 of rows, "" if the file is shorter."""
        self._file.seek(self._start + first * self._size)
        content = self._file.read(count * self._size)
        whole = len(content) == count * self._size
        return hashlib.sha256(content).hexdigest() if whole else ""

    def cut(self, rows: int) -> None:
        """Keep the first rows only."""
        self._file.truncate(self._start + rows * self._size)

    def append(self, array: Array) -> str:
        """Write rows at the end and sync them; returns their sha256."""
        content = np.ascontiguousarray(array).data
        self._file.seek(0, os.SEEK_END)
        self._file.write(content)
        self.sync()
        return hashlib.sha256(content).hexdigest()

    def finish(self, rows: int) -> None:
        """Write the true length and sync."""
        self._header(rows)
        if self._file.tell() != self._start:
            raise RuntimeError("the header of a .npy file changed its length")
        self.sync()

    def sync(self) -> None:
        """Bring everything written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what could not be written is given up."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _header(self, rows: int) -> None:
        self._file.seek(0)
        fields = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._row)}
        np.lib.format.write_array_header_1_0(self._file, fields)


class Journal:
    """A dataset's arrays while they are made, in `folder`: data/, journal.jsonl, key.

    Use as a context manager.

    Args:
        folder: `paths.Paths.building`; kept when the work breaks off.
        key: fingerprint of all that decides the arrays; work of another key is discarded.
        rows: file stem -> shape of a row.
        dataset: for messages.

    Raises:
        CxrmimError: on entering, if another process is building the same arrays.
    """

    def __init__(
        self, folder: Path, key: str, rows: dict[str, tuple[int, ...]], dataset: str
    ) -> None:
        self.data = folder / DATA
        self.outcomes: list[Outcome] = []
        self.kept = 0
        self._folder, self._key, self._rows, self._dataset = folder, key, rows, dataset
        self._arrays: dict[str, Growing] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Journal":
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        with self._open:  # closes what is open if anything below fails
            lock = self._open.enter_context((folder / LOCK).open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CxrmimError(
                    f"{self._dataset}: another process is writing {folder}; wait for it, or end it"
                ) from None
            if not (folder / KEY).is_file() or (folder / KEY).read_text() != self._key:
                (folder / KEY).unlink(missing_ok=True)
                (folder / JOURNAL).unlink(missing_ok=True)
                shutil.rmtree(self.data, ignore_errors=True)
                self.data.mkdir()
                (folder / KEY).write_text(self._key)
            for name, row in self._rows.items():
                self._arrays[name] = Growing(self.data / f"{name}.npy", row)
                self._open.callback(self._arrays[name].close)
            self._file: BinaryIO = (folder / JOURNAL).open("a+b")
            self._open.callback(self._close)
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written is given up
            self._file.close()

    @property
    def faults(self) -> int:
        """Number of rows without arrays."""
        return len(self.outcomes) - self.kept

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in all arrays."""
        return sum(math.prod(row) for row in self._rows.values())

    def resume(self, states: Callable[[int, int], str]) -> int:
        """Take up what an earlier process finished; cut off the rest.

        Args:
            states: (first row, last row + 1) -> `Chunk.state` of the raw files as they are now.

        Returns:
            Number of rows that are done.
        """
        self._file.seek(0)
        end = 0
        for line in self._file.readlines():
            entry = _parsed(line)
            if entry is None or not self._whole(entry, states):
                break
            self.outcomes += [Outcome(*fields) for fields in entry["outcomes"]]
            self.kept += entry["kept"]
            end += len(line)
        self._file.truncate(end)
        for array in self._arrays.values():
            array.cut(self.kept)
        return len(self.outcomes)

    def _whole(self, entry: dict[str, Any], states: Callable[[int, int], str]) -> bool:
        first = len(self.outcomes)
        found = {n: a.digest(self.kept, entry["kept"]) for n, a in self._arrays.items()}
        unchanged = entry["state"] == states(first, first + len(entry["outcomes"]))
        return bool(unchanged and entry["first"] == first and entry["sha256"] == found)

    def add(self, chunk: Chunk) -> None:
        """Append a chunk, first its rows, then its line in the journal."""
        kept = sum(not outcome.reason for outcome in chunk.outcomes)
        digests = {name: self._arrays[name].append(a) for name, a in chunk.arrays.items()}
        entry = {
            "first": len(self.outcomes),
            "kept": kept,
            "state": chunk.state,
            "sha256": digests,
            "outcomes": [astuple(outcome) for outcome in chunk.outcomes],
        }
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.outcomes += chunk.outcomes
        self.kept += kept

    def finish(self) -> None:
        """Write the arrays' true lengths; other files, of an earlier end, go."""
        for array in self._arrays.values():
            array.finish(self.kept)
        for file in self.data.iterdir():
            if file.stem not in self._arrays:
                file.unlink()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A journal's line, None if it is torn."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def state_of(states: Sequence[str]) -> str:
    """`Chunk.state` of raw files' sizes and times."""
    return hashlib.sha256("\n".join(states).encode()).hexdigest()


def check_room(dataset: str, folder: Path, missing: int) -> None:
    """Assert that the disk has room.

    Args:
        dataset: for the message.
        folder: on the disk; it need not exist yet.
        missing: bytes still to be written.

    Raises:
        CxrmimError: it has not.
    """
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < missing:
        raise _full(dataset, folder, missing, free)


@contextlib.contextmanager
def disk(dataset: str, folder: Path, missing: Callable[[], int]) -> Iterator[None]:
    """Turn a disk that fills up into one line.

    Args:
        dataset: for the message.
        folder: on the disk.
        missing: bytes still to be written, at the time of asking.

    Raises:
        CxrmimError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        # numpy reports a short write without an error number
        if error.errno in FULL or (error.errno is None and "written" in str(error)):
            check_room(dataset, folder, missing())
            raise _full(dataset, folder, missing(), 0) from None
        raise


def _full(dataset: str, folder: Path, need: int, free: int) -> CxrmimError:
    return CxrmimError(
        f"{dataset}: disk full at {folder}: {_size(need)} still to write, {_size(free)} free, "
        f"{_size(need - free)} missing; free at least that and run again: what is done is kept"
    )


def _size(count: int) -> str:
    """A number of bytes for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
