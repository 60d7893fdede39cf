"""Reports of a corpus, read where they lie: loose files or a zip archive that is never unpacked.

Both are hostile: a report is looked up by its exact name only, at most `LONGEST` bytes of it are
read whatever an archive's directory says, and everything that is wrong with it has a reason.
"""

import codecs
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Protocol

from cxrmim.errors import DataError
from cxrmim.manifest.contract import CLASH, safe

MISSING = "report is missing"
UNREADABLE = "report cannot be read"
LONG = "report is longer than 1 MiB"
LOCKED = "report is encrypted"
BINARY = "report is no text"
EMPTY = "report is empty"
REASONS = (MISSING, CLASH, UNREADABLE, LONG, LOCKED, BINARY, EMPTY)

LONGEST = 1 << 20  # bytes of a report; the longest real one has a few thousand
LARGEST_RATIO = 200  # text shrinks to a third, repetitions of one line to a fiftieth
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16, so it is looked for first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class ReportError(Exception):
    """A report that cannot be used; one of `REASONS`."""


class Source(Protocol):
    """Where reports come from.

    Attributes:
        file: the archive, None for loose files.
        strange: members of the archive whose names leave its folder; never touched.
    """

    file: Path | None
    strange: int

    def read(self, name: str) -> bytes:
        """Bytes of a report.

        Raises:
            ReportError: there are none to be had.
        """
        ...


class Folder:
    """Reports as loose files below a folder."""

    file: Path | None = None
    strange = 0

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes:
        """Bytes of a report; see `Source`."""
        try:
            with (self._root / name).open("rb") as file:
                content = file.read(LONGEST + 1)
        except FileNotFoundError:
            raise ReportError(MISSING) from None
        except OSError:
            raise ReportError(UNREADABLE) from None
        return _short(content)


class Archive:
    """Reports as members of a zip archive.

    Args:
        file: the archive.
        prefix: folder that member names may begin with.
        dataset: for the message.

    Raises:
        DataError: it is no archive, or not a whole one.
    """

    def __init__(self, file: Path, prefix: str, dataset: str) -> None:
        self.file: Path | None = file
        try:
            self._zip = zipfile.ZipFile(file)
        # ValueError and NotImplementedError: a damaged directory, a version that no zip has
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{dataset}: {file}: no whole zip archive ({type(error).__name__}); download it "
                f"again"
            ) from None
        members = [info for info in self._zip.infolist() if not info.is_dir()]
        sound = [info for info in members if safe(info.filename)]
        self.strange = len(members) - len(sound)
        self._members = {info.filename.removeprefix(prefix): info for info in sound}
        claims = Counter(info.filename.removeprefix(prefix) for info in sound)
        self._twice = {name for name, count in claims.items() if count > 1}

    def read(self, name: str) -> bytes:
        """Bytes of a report; see `Source`."""
        if name in self._twice:
            raise ReportError(CLASH)
        member = self._members.get(name)
        if member is None:
            raise ReportError(MISSING)
        if member.flag_bits & 0x1:
            raise ReportError(LOCKED)
        # Only these are unpacked piece by piece: one read of the others may fill the memory.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ReportError(UNREADABLE)
        if member.file_size > LONGEST:
            raise ReportError(LONG)
        if member.file_size > LARGEST_RATIO * max(1, member.compress_size):
            raise ReportError(UNREADABLE)
        try:
            with self._zip.open(member) as file:
                return _short(file.read(LONGEST + 1))
        except (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile):
            raise ReportError(UNREADABLE) from None


def _short(content: bytes) -> bytes:
    if len(content) > LONGEST:
        raise ReportError(LONG)
    return content


def decode(content: bytes) -> tuple[str, bool]:
    """Text of a report, its lines ended by a newline each, and whether it was UTF-8.

    UTF-8, or UTF-16 and UTF-32 that begin with a byte-order mark, or else Windows-1252, and Latin-1
    where that has no such character.

    Raises:
        ReportError: it holds no text.
    """
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), None)
    plain = encoding in (None, "utf-8-sig")
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding is not None:
            raise ReportError(BINARY) from None
        plain = False
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    if "\0" in text:
        raise ReportError(BINARY)
    if not text.strip():
        raise ReportError(EMPTY)
    return text.replace("\r\n", "\n").replace("\r", "\n"), plain
