"""What a dataset's reader is, and the tools that every reader uses.

A reader is one module in `cxrmim.manifest.datasets` with

- ``Options``: its params block,
- ``LABELS``: bare label names in the class order of the papers, empty for a corpus,
- ``read(raw, options) -> Reading``,
- optionally ``MULTICLASS = True``: each image has exactly one of the labels.

Raw tables are hostile: a path is checked before it is used, a missing column is a `DataError`, and
every row that is dropped is counted under its reason. A source row is counted from 1 at the first
row below the header, through a dataset's tables in the order in which its reader names them.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrmim.errors import DataError
from cxrmim.plugins import Strict

LABEL = "label_"
COLUMNS = {
    "image": pa.string(),
    "path": pa.string(),
    "patient": pa.string(),
    "study": pa.string(),
    "view": pa.string(),
    "split": pa.string(),
    "in_1": pa.bool_(),
    "in_10": pa.bool_(),
    "source_row": pa.int64(),
    "rle": pa.list_(pa.string()),
    "impression": pa.string(),
    "findings": pa.string(),
    "report": pa.string(),
}
Mask = npt.NDArray[np.bool_]
BLANKS = ("", "nan", "NaN", "NAN", "NA", "N/A", "null", "None")  # ways to write no value
BROKEN = "broken"  # column of `read_table`: why a row cannot be read
REPEATED = "image listed twice"
CLASH = "two files claim this id"
CONTRADICTION = "rows of this image contradict each other"
# Largest real table: 377,110 rows, under 100 MB; what is far beyond is no table, or a bomb.
MOST_ROWS = 2_000_000
LARGEST_TABLE = 1 << 29
LONGEST_LINE = 1 << 17
LONGEST_PATH, LONGEST_NAME = 1024, 255
SEPARATORS = {"semicolons": ";", "tabs": "\t", "bars": "|"}
ODD = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Fault(NamedTuple):
    """A row that was dropped for what it holds.

    `unreadable` says that it counts against `manifest.max_unreadable`; `split` is the side that
    the row was for, "" where its table does not say.
    """

    source_row: int
    reason: str
    unreadable: bool = True
    split: str = ""


@dataclass(frozen=True)
class Raw:
    """Where a dataset's raw files lie.

    Attributes:
        root: folder of the dataset.
        lists: folder of the MRM repository's split lists, None where the user has set none.
    """

    root: Path
    lists: Path | None = None


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Attributes:
        table: one row per image and split: image, path (relative to the root), patient, study,
            view, split, source_row, and where the dataset has them rle, impression, findings,
            report, label_<Name>. An image stands in two splits only where the rule of a released
            code leaks. Columns in_1 and in_10, if an imported split brings them, are its subsets.
        flow: "rows" read, then the rows dropped per reason, then "kept": the first is the sum of
            the others.
        raw: table files that were read.
        faults: rows dropped for what they hold, in the order found.
        unit: coarsest thing that no two splits may share: image, study or patient; None for a
            rule of a released code, whose leaks are counted, not refused.
        notes: counts that are not rows (images without a row, for example).
        details: other facts, such as digests of report files.
    """

    table: pd.DataFrame
    flow: dict[str, int]
    raw: list[Path]
    faults: list[Fault]
    unit: str | None = "patient"
    notes: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """A reader's module."""

    LABELS: tuple[str, ...]
    Options: type[Strict]
    read: Callable[[Raw, Any], Reading]


class Flow:
    """A table on its way through filters that keep count of what they drop.

    Rows that `read_table` could not read are the first faults.

    Args:
        table: the rows read; needs a column source_row.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table.reset_index(drop=True)
        self.faults: list[Fault] = []
        self._rows = len(table)
        self._dropped: dict[str, int] = {}
        if BROKEN in self.table.columns:
            for reason in sorted(set(self.table[BROKEN]) - {""}):
                self.fault(self.table[BROKEN] == reason, reason)
            self.table = self.table.drop(columns=BROKEN)

    @property
    def counts(self) -> dict[str, int]:
        """Rows read, dropped per reason, kept."""
        return {"rows": self._rows, **self._dropped, "kept": len(self.table)}

    def drop(self, bad: pd.Series | Mask, reason: str) -> None:
        """Drop rows that the protocol does not use."""
        mask = np.asarray(bad, dtype=bool)
        self._dropped[reason] = self._dropped.get(reason, 0) + int(mask.sum())
        self.table = self.table[~mask].reset_index(drop=True)

    def fault(self, bad: pd.Series | Mask, reason: str, *, unreadable: bool = True) -> None:
        """Drop rows that cannot be used, and remember each by its source row."""
        mask = np.asarray(bad, dtype=bool)
        rows = self.table.loc[mask, "source_row"].astype(int)
        known = "split" in self.table.columns
        sides = self.table.loc[mask, "split"].fillna("") if known else [""] * len(rows)
        found = zip(rows, map(str, sides), strict=True)
        self.faults += [Fault(row, reason, unreadable, side) for row, side in found]
        self.drop(mask, reason)

    def unique(self, key: str, agree: Mapping[str, Sequence[str]] | None = None) -> None:
        """Leave one row per id: a repetition is a fault, and so is every row of a contradiction.

        Args:
            key: column of the ids.
            agree: reason -> columns that the rows of one id must agree on.
        """
        for reason, columns in (agree or {}).items():
            known = self.table.drop_duplicates([key, *columns])[key]
            self.fault(self.table[key].isin(known[known.duplicated()]), reason)
        self.fault(self.table[key].duplicated(), REPEATED)

    def copy(self, again: pd.Series | Mask, changed: Mapping[str, Any], reason: str) -> None:
        """Let rows stand in the table a second time, as the rule of a released code may ask.

        They count as negative drops, so that the counts still sum up to the rows read.

        Args:
            again: the rows.
            changed: column -> the copies' value.
            reason: why.
        """
        mask = np.asarray(again, dtype=bool)
        self._dropped[reason] = self._dropped.get(reason, 0) - int(mask.sum())
        copies = self.table[mask].assign(**changed)
        self.table = pd.concat([self.table, copies], ignore_index=True)


def find(root: Path, dataset: str, names: Sequence[str]) -> Path:
    """First of several files that is there; each may also be gzipped.

    Raises:
        DataError: none is, so that the root is missing, empty or another dataset's.
    """
    for name in names:
        for candidate in (root / name, root / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    state = "no such folder" if not root.is_dir() else "empty" if not any(root.iterdir()) else None
    expected = " or ".join(names)
    raise DataError(
        f"{dataset}: {root}: {state or 'not this dataset'}, expected {expected} there; set "
        f"manifest.roots.{dataset} to the folder that holds it"
    )


def read_table(
    file: Path,
    dataset: str,
    columns: Sequence[str],
    first_row: int = 1,
    *,
    header: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read columns of a csv or csv.gz as text, blanks around names and values stripped.

    Empty lines are no rows. A row that cannot be read stays in the table: its values are blank and
    `BROKEN` says why, so that `Flow` counts it.

    Args:
        file: the table.
        dataset: for messages.
        columns: the columns wanted.
        first_row: source row of the first data row.
        header: names that replace those of the file's first line.

    Returns:
        The columns as text ("" for blank), int64 `source_row`, and `BROKEN` ("" for sound rows).

    Raises:
        DataError: no table, a column is missing or named twice, or fields are not separated by
            commas.
    """
    values: list[list[str]] = []
    broken: list[str] = []
    try:
        lines = _lines(file)
        first = next((line for line in lines if line.strip()), "")
        found = [name.strip() for name in next(csv.reader([first]), [])]
        names = [name.strip() for name in header or found]
        problem = _header_problem(names, first, columns)
        if problem:
            raise DataError(f"{dataset}: {file}: {problem}")
        where = [names.index(column) for column in columns]
        rows = csv.reader(lines, strict=True)
        for line, row in enumerate(rows, 1):
            if rows.line_num != line:
                raise ValueError(f"a quote that opens {line} lines below the header stays open")
            if row:
                picked, wrong = _pick(row, where, len(names))
                values.append(picked)
                broken.append(wrong)
            if len(values) > MOST_ROWS:
                raise ValueError(f"more than {MOST_ROWS} rows")
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        plain = type(error) in (ValueError, csv.Error)
        why = str(error) if plain else type(error).__name__
        raise DataError(
            f"{dataset}: {file}: cannot be read as a table ({why}); restore the file as it was "
            f"released"
        ) from None
    table = pd.DataFrame(values, columns=list(columns), dtype=object)
    table["source_row"] = np.arange(first_row, first_row + len(table), dtype=np.int64)
    table[BROKEN] = pd.Series(broken, dtype=object)
    return table


def _lines(file: Path) -> Iterator[str]:
    """Lines of a text file, gzipped or not; what it is says its content, not its name.

    Raises:
        ValueError: it is empty, UTF-16, or larger than any table.
    """
    size = 0
    with file.open("rb") as raw:
        start = raw.read(2)
        raw.seek(0)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("UTF-16 text; save it as UTF-8")
        packed = start == b"\x1f\x8b"
        content = gzip.GzipFile(fileobj=raw) if packed else raw
        # Bytes that are not UTF-8 become lone surrogates, which mark the row that holds them.
        text = io.TextIOWrapper(
            cast(BinaryIO, content), "utf-8-sig", errors="surrogateescape", newline=""
        )
        while line := text.readline(LONGEST_LINE + 1):
            size += len(line)
            if len(line) > LONGEST_LINE or size > LARGEST_TABLE:
                limit = f"{LONGEST_LINE} characters a line, {LARGEST_TABLE >> 20} MiB in all"
                raise ValueError(f"larger {'when unpacked ' * packed}than {limit}")
            yield line
    if not size:
        raise ValueError("empty")


def _header_problem(names: list[str], line: str, columns: Sequence[str]) -> str | None:
    """Why a table has not the columns wanted, and what to do; None if it has them."""
    restore = "restore the file as it was released"
    if ODD.search(line.rstrip("\r\n").replace("\t", "")):
        return f"cannot be read as a table (binary); {restore}"
    twice = [column for column in columns if names.count(column) > 1]
    if twice:
        return f"column {twice[0]!r} stands there twice; {restore}"
    missing = [column for column in columns if column not in names]
    if not missing:
        return None
    for name, separator in SEPARATORS.items():
        if {part.strip(' "\r\n') for part in line.split(separator)} >= set(columns):
            return f"fields are separated by {name}, not by commas; save it with commas"
    if len(missing) == len(columns):
        # What stands there may be a patient's row: not for a message.
        return f"no column {missing[0]!r}, nor any other that is expected; {restore}"
    shown = ", ".join(name[:40] for name in names)
    return f"no column {missing[0]!r}; found {shown}; {restore}"


def _pick(row: list[str], where: list[int], width: int) -> tuple[list[str], str]:
    """Wanted values of a row, and why they cannot be read, "" if they can."""
    wrong = ""
    if len(row) < width:
        wrong = "row has too few fields"
    elif len(row) > width and any(value.strip() for value in row[width:]):
        wrong = "row has too many fields"
    else:
        values = [row[i].strip() for i in where]
        if not ODD.search("".join(values)):
            return values, ""
        wrong = "row holds characters that are no text"
    return [""] * len(where), wrong


def safe(path: str) -> bool:
    """Whether a path from a table stays below the root: plain names between single slashes."""
    if not path.isprintable() or any(c in path for c in "\\:") or len(path) > LONGEST_PATH:
        return False
    parts = path.split("/")
    return not any(p in ("", ".", "..") or len(p.encode()) > LONGEST_NAME for p in parts)


def parse_labels(
    flow: Flow, names: Sequence[str], values: Mapping[str, Mapping[str, float]]
) -> None:
    """Turn label texts into float32 columns ``label_<Name>`` without blanks.

    Args:
        flow: its table has a text column per name; rows with a value not in `values` are faults.
        names: bare label names.
        values: for each name, text -> 1, 0 or NaN; `BLANKS` count as "" where that is a value.
    """
    for name in names:
        if "" in values[name]:
            flow.table[name] = flow.table[name].replace(list(BLANKS), "")
        flow.fault(~flow.table[name].isin(list(values[name])), f"unknown value in column {name}")
    for name in names:
        column = flow.table[name].map(dict(values[name])).astype(np.float32)
        flow.table[LABEL + name] = column


def _type(name: str, column: pd.Series) -> pa.DataType:
    if name.startswith(LABEL):
        return pa.float32()
    if name.startswith("in_"):
        return pa.bool_()
    return pa.int64() if pd.api.types.is_integer_dtype(column) else pa.string()


def to_arrow(table: pd.DataFrame) -> pa.Table:
    """A manifest as an arrow table with the contract's types; others are whole numbers or text."""
    names = map(str, table.columns)
    schema = pa.schema([(c, COLUMNS.get(c, _type(c, table[c]))) for c in names])
    arrow = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    return arrow.replace_schema_metadata(None)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest, or one restricted and extended, as parquet; equal tables, equal bytes."""
    pq.write_table(to_arrow(table), path, compression="zstd")
