"""What a dataset's reader is, and the tools that every reader uses.

A reader is one module in `cxrmim.manifest.datasets` with

- ``Options``: its params block,
- ``LABELS``: bare label names in the class order of the papers, empty for a corpus,
- ``read(root, options) -> Reading``.

Raw tables are hostile: a path is checked before it is used, a missing column is a `DataError`, and
every row that is dropped is counted under its reason. A source row is counted from 1 at the first
row below the header, through a dataset's tables in the order in which its reader names them.
"""

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
}
Mask = npt.NDArray[np.bool_]


class Fault(NamedTuple):
    """A row that was dropped for what it holds.

    `unreadable` says that it counts against `manifest.max_unreadable`.
    """

    source_row: int
    reason: str
    unreadable: bool = True


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Attributes:
        table: one row per image: image, path (relative to the root), patient, study, view, split,
            source_row, and where the dataset has them rle, impression, findings, label_<Name>.
        flow: "rows" read, then the rows dropped per reason, then "kept": the first is the sum of
            the others.
        raw: table files that were read.
        faults: rows dropped for what they hold, in the order found.
        unit: finest thing that no two splits may share: image, study or patient.
        notes: counts that are not rows (images without a row, for example).
        details: other facts, such as digests of report files.
    """

    table: pd.DataFrame
    flow: dict[str, int]
    raw: list[Path]
    faults: list[Fault]
    unit: str = "patient"
    notes: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """A reader's module."""

    LABELS: tuple[str, ...]
    Options: type[Strict]
    read: Callable[[Path, Any], Reading]


class Flow:
    """A table on its way through filters that keep count of what they drop.

    Args:
        table: the rows read; needs a column source_row.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table.reset_index(drop=True)
        self.faults: list[Fault] = []
        self._rows = len(table)
        self._dropped: dict[str, int] = {}

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
        rows = self.table.loc[mask, "source_row"]
        self.faults += [Fault(int(row), reason, unreadable) for row in rows]
        self.drop(mask, reason)


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
    file: Path, dataset: str, columns: Sequence[str], first_row: int = 1
) -> pd.DataFrame:
    """Read columns of a csv or csv.gz as text, blanks around names and values stripped.

    Args:
        file: the table.
        dataset: for messages.
        columns: the columns wanted.
        first_row: source row of the first data row.

    Returns:
        The columns as text ("" for blank) and int64 `source_row`.

    Raises:
        DataError: no table, or a column is missing.
    """
    try:
        header = pd.read_csv(file, nrows=0, encoding="utf-8-sig").columns
        named = {str(name).strip(): str(name) for name in header}
        missing = [c for c in columns if c not in named]
        if missing:
            raise DataError(
                f"{dataset}: {file}: no column {missing[0]!r}; found {', '.join(named)}; "
                f"restore the file as it was released"
            )
        table: pd.DataFrame = pd.read_csv(
            file,
            usecols=[named[c] for c in columns],
            dtype=str,
            na_filter=False,
            encoding="utf-8-sig",
        )
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{dataset}: {file}: cannot be read as a table ({type(error).__name__}); restore the "
            f"file as it was released"
        ) from None
    table = table.rename(columns={v: k for k, v in named.items()})[list(columns)]
    for name in columns:
        table[name] = table[name].str.strip()
    table["source_row"] = np.arange(first_row, first_row + len(table), dtype=np.int64)
    return table


def safe(path: str) -> bool:
    """Whether a path from a table stays below the root: relative, no ``..``, no odd characters."""
    plain = bool(path) and not any(c in path for c in ("\\", "\0", "\n", ":"))
    return plain and not path.startswith("/") and ".." not in path.split("/")


def parse_labels(
    flow: Flow, names: Sequence[str], values: Mapping[str, Mapping[str, float]]
) -> None:
    """Turn label texts into float32 columns ``label_<Name>`` without blanks.

    Args:
        flow: its table has a text column per name; rows with a value not in `values` are faults.
        names: bare label names.
        values: for each name, text -> 1, 0 or NaN.
    """
    for name in names:
        flow.fault(~flow.table[name].isin(list(values[name])), f"unknown value in column {name}")
    for name in names:
        column = flow.table[name].map(dict(values[name])).astype(np.float32)
        flow.table[LABEL + name] = column


def to_arrow(table: pd.DataFrame) -> pa.Table:
    """A manifest as an arrow table with the contract's types; other columns keep theirs."""
    schema = pa.schema(
        [
            (c, COLUMNS.get(c, pa.float32() if c.startswith(LABEL) else pa.string()))
            for c in map(str, table.columns)
        ]
    )
    arrow = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    return arrow.replace_schema_metadata(None)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest, or one restricted and extended, as parquet; equal tables, equal bytes."""
    pq.write_table(to_arrow(table), path, compression="zstd")
