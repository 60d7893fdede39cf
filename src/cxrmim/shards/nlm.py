"""Terms of MeSH descriptors, from the files that the NLM publishes.

Two forms, told apart by their first bytes, each also gzipped: XML (``desc20XX.xml``) and ASCII
(``d20XX.bin``). Both are read as streams in bounded memory. The XML is not trusted: an entity
declaration is refused, and the DTD that its DOCTYPE line names is never fetched.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from xml.parsers import expat

from cxrmim.errors import DataError

WHERE = "https://nlmpubs.nlm.nih.gov/projects/mesh/MESH_FILES/"
AGAIN = f"fetch desc20XX.xml or d20XX.bin, plain or .gz, from {WHERE}"
LARGEST = 1 << 32  # bytes, unpacked; the real files have 0.03 to 0.4 GB
LONGEST = 1 << 14  # characters of a term or a line; the real ones stay below 1,000
MOST = 1 << 21  # terms; the real files have a quarter of a million
WIDEST = 1 << 14  # terms of a descriptor; the real ones have at most 300
DEEPEST = 32  # nested elements; the real file has 8
CHUNK = 1 << 18
ROOT, RECORD = "DescriptorRecordSet", "DescriptorRecord"
TREE = ("TreeNumberList", "TreeNumber")
TERMS = (("DescriptorName", "String"), ("ConceptList", "Concept", "TermList", "Term", "String"))
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # byte-order marks


class _WrongFileError(Exception):
    """Why a file is not one of the NLM's."""


@dataclass
class Descriptor:
    """A main heading: its name and entry terms, and its places in the trees."""

    terms: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    def add(self, kind: str, text: str) -> None:
        """Keep a tree number (kind MN or TreeNumber) or a term (any other kind).

        Raises:
            _WrongFileError: the record has more of them than any real one.
        """
        known = self.numbers if kind in ("MN", "TreeNumber") else self.terms
        if len(known) == WIDEST:
            raise _WrongFileError(f"a descriptor has more than {WIDEST} terms or tree numbers")
        known.append(text.strip())


def terms(file: Path, trees: Sequence[str]) -> list[str]:
    """Names and entry terms of all descriptors that stand in one of the trees.

    Args:
        file: XML or ASCII, plain or gzipped.
        trees: beginnings of tree numbers, such as C or C08.

    Raises:
        DataError: it is missing, not a descriptor file, or holds nothing in the trees.
    """
    found: list[str] = []
    descriptors = 0
    try:
        for descriptor in _read(file):
            descriptors += 1
            if any(number.startswith(tuple(trees)) for number in descriptor.numbers):
                found += descriptor.terms
                if len(found) > MOST:
                    raise _WrongFileError(f"more than {MOST} terms")
    except FileNotFoundError:
        raise DataError(
            f"{file}: no such file, and shards.text.mesh.source is nlm; {AGAIN}, or set "
            f"shards.text.mesh.source: radiology"
        ) from None
    except (OSError, EOFError, zlib.error, expat.ExpatError) as error:
        raise DataError(
            f"{file}: cannot be read as MeSH descriptors ({type(error).__name__}); {AGAIN}"
        ) from None
    except _WrongFileError as error:
        raise DataError(f"{file}: {error}; {AGAIN}") from None
    if not descriptors:
        raise DataError(f"{file}: holds no MeSH descriptor; {AGAIN}")
    if not found:
        raise DataError(
            f"{file}: none of its {descriptors} descriptors stands in the trees "
            f"{', '.join(trees)}; change shards.text.mesh.trees"
        )
    return found


def _read(file: Path) -> Iterator[Descriptor]:
    with file.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    with opener(file, "rb") as stream:
        start = stream.read(64)
        stream.seek(0)
        if any(start.startswith(mark) for mark in MARKS) or start.lstrip().startswith(b"<"):
            yield from _read_xml(stream)
        elif start.lstrip().startswith(b"*NEWRECORD"):
            yield from _read_ascii(stream)
        else:
            raise _WrongFileError("neither XML nor *NEWRECORD at its beginning")


def _read_xml(stream: BufferedIOBase) -> Iterator[Descriptor]:
    reader = _Xml()
    size, chunk = 0, b"?"
    while chunk:
        chunk = stream.read(CHUNK)
        size += len(chunk)
        _check_size(size)
        try:
            reader.parser.Parse(chunk, not chunk)
        except (LookupError, ValueError):
            raise _WrongFileError("XML in an encoding that cannot be read") from None
        yield from reader.take()


class _Xml:
    """Handlers of an expat parser that keep one descriptor at a time."""

    def __init__(self) -> None:
        self.parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        # No handler for external entities: expat itself opens no file and no address.
        parser.EntityDeclHandler = self._entity
        parser.SkippedEntityHandler = self._entity
        self._done: list[Descriptor] = []
        self._path: list[str] = []
        self._current = Descriptor()
        self._parts: list[str] | None = None  # text of the element that is wanted, if inside one
        self._length = 0

    def take(self) -> list[Descriptor]:
        """Descriptors that have ended since the last call."""
        done, self._done = self._done, []
        return done

    def _start(self, tag: str, _attributes: dict[str, str]) -> None:
        path = self._path
        path.append(tag)
        if len(path) == 1 and tag != ROOT:
            raise _WrongFileError(f"XML, but its root is not {ROOT}")
        if len(path) > DEEPEST:
            raise _WrongFileError(f"elements nested deeper than {DEEPEST}")
        if len(path) == 2 and tag == RECORD:
            self._current = Descriptor()
        elif tag in ("String", "TreeNumber"):
            below = tuple(path[2:])
            self._parts = [] if below == TREE or below in TERMS else None
            self._length = 0

    def _text(self, text: str) -> None:
        if self._parts is not None:
            self._length += len(text)
            if self._length > LONGEST:
                raise _WrongFileError(f"a term has more than {LONGEST} characters")
            self._parts.append(text)

    def _end(self, tag: str) -> None:
        if self._parts is not None and tag in ("String", "TreeNumber"):
            self._current.add(tag, "".join(self._parts))
            self._parts = None
        self._path.pop()
        if len(self._path) == 1 and tag == RECORD:
            self._done.append(self._current)

    def _entity(self, *_declaration: object) -> None:
        raise _WrongFileError("declares or uses an entity, which the NLM's files never do")


def _read_ascii(stream: BufferedIOBase) -> Iterator[Descriptor]:
    """Records of ``KEY = value`` lines; only those of type D are descriptors."""
    current, kind = Descriptor(), ""
    for line in _lines(stream):
        key, _, value = line.decode("utf-8", errors="replace").partition(" = ")
        if key.strip() == "*NEWRECORD":
            if kind == "D":
                yield current
            current, kind = Descriptor(), ""
        elif key == "RECTYPE":
            kind = value.strip()
        elif key in ("MN", "MH", "ENTRY", "PRINT ENTRY"):
            if len(line) == LONGEST:
                raise _WrongFileError(f"a term has more than {LONGEST} characters")
            current.add(key, value.partition("|")[0])
    if kind == "D":
        yield current


def _lines(stream: BufferedIOBase) -> Iterator[bytes]:
    """The first `LONGEST` bytes of each line; scope notes may be longer."""
    size, inside = 0, False
    while line := stream.readline(LONGEST):
        size += len(line)
        _check_size(size)
        if not inside:
            yield line
        inside = not line.endswith(b"\n")


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise _WrongFileError(f"more than {LARGEST >> 30} GiB when unpacked")
