"""Reading a dataset's shards; numpy and pyarrow only, so that any stop can afford it.

The arrays are plain .npy files. All rows have one shape and are read in random order: a memory map
gives a row, or any crop of it, at the price of touching its pages, shared by all workers of a
machine, without a copy, a server or an index. The same reads from WebDataset need a shuffle buffer
(its tar files are for streaming), from LMDB a key a record and a map size guessed in advance, from
zarr or arrow a chunk or a record batch unpacked for each row; and each is one more dependency.
What .npy lacks, a checksum and a safe way to grow, `checksums.json` and `journal` add. DVC keeps
the files as they are.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cxrmim.errors import CheckError, DataError
from cxrmim.shards.bits import unpack

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]
LABEL = "label_"
CHECKSUMS = "checksums.json"
BLOCK = 1 << 26  # bytes that share a checksum
PIECE = 1 << 20  # bytes read at a time
READERS = 8  # threads that verify


class Table:
    """Rows of a dataset's images on disk, of which a column is read when it is asked for.

    A process holds what it uses of a table and not the whole of it: ids, paths and checksums of
    half a million images take 200 MB in every process that opens them. The file is mapped from
    the start, so that all reads see the bytes that were verified.

    Args:
        path: a parquet file.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet  # a pretraining without a corpus has this module, but no table

        self._file = parquet.ParquetFile(path, memory_map=True)
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)

    def __len__(self) -> int:
        """N rows."""
        rows: int = self._file.metadata.num_rows
        return rows

    def read(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """(N, .) columns in the order wanted; without an argument, all.

        Raises:
            KeyError: the table has no such column.
        """
        if unknown := [name for name in columns or () if name not in self.columns]:
            raise KeyError(unknown[0])
        names = None if columns is None else list(columns)
        frame: pd.DataFrame = self._file.read(names).to_pandas()
        return frame if names is None else frame[names]

    def column(self, name: str) -> Array:
        """(N,) values of a column.

        Raises:
            KeyError: the table has none of that name.
        """
        if name not in self.columns:
            raise KeyError(name)
        values: Array = self._file.read([name], use_threads=False).column(0).to_numpy()
        return values


class Masks:
    """Masks kept as bits, read like a (N, S, S) uint8 array whose foreground is 255.

    Args:
        bits: (N, S, ceil(S / 8)) uint8, a memory map.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, bits: Array) -> None:
        self._bits = bits

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, S, S)."""
        return len(self._bits), self._bits.shape[1], self._bits.shape[1]

    def __len__(self) -> int:
        """N."""
        return len(self._bits)

    def __getitem__(self, rows: int | np.integer[Any] | slice | Sequence[int] | Array) -> Array:
        """(S, S) mask of a row, (n, S, S) masks of rows: a number, a slice or an index array."""
        return unpack(self._bits[rows], self._bits.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All masks unpacked: 8 times the memory."""
        found = unpack(np.asarray(self._bits), self._bits.shape[1])
        return found if dtype is None else found.astype(dtype)


@dataclass(frozen=True)
class RawReports:
    """Whole reports of a corpus, as memory maps; R reports, L tokens.

    Attributes:
        ids: (R, L) int32 WordPiece ids.
        word: (R, L) int16 index of each token's word in its report, -1 for special tokens.
        vocab: token -> id.
    """

    ids: Array
    word: Array
    vocab: dict[str, int]

    @property
    def vocab_size(self) -> int:
        """Number of WordPieces."""
        return len(self.vocab)


@dataclass(frozen=True)
class Reports:
    """Tokenised reports of a corpus, as memory maps; R reports, L tokens.

    Attributes:
        ids: (R, L) int32 WordPiece ids, [CLS] first, [SEP] last, then [PAD] = 0.
        word: (R, L) int16 index of each token's word in its report; -1 for [CLS], [SEP], [PAD].
        sentence: (R, L) int16 index of each word's sentence; -1 past the last word.
        mesh: (R, L) bool, whether a word is a MeSH heading.
        vocab: token -> id.
    """

    ids: Array
    word: Array
    sentence: Array
    mesh: Array
    vocab: dict[str, int]

    @property
    def vocab_size(self) -> int:
        """Number of WordPieces."""
        return len(self.vocab)


@dataclass(frozen=True)
class Shards:
    """A dataset's arrays; N images of side S in the row order of `table`.

    Attributes:
        folder: where they lie.
        table: N manifest rows of the stored images, `sha256` of each raw file added, and `height`
            and `width`, in px, of the image inside its padded square.
        images: (N, S, S) uint8 memory map.
        masks: (N, S, S) uint8, 255 = at least half of the pixel is foreground; None without masks.
        report: (N,) int64 row of each image's report in `reports`; None unless a corpus.
        reports: tokenised captions; None unless a corpus.
        raw: tokenised whole reports, rows as in `reports`; None unless stored.
    """

    folder: Path
    table: Table
    images: Array
    masks: Masks | None
    report: Array | None
    reports: Reports | None
    raw: RawReports | None = None

    @property
    def vocab_size(self) -> int:
        """Number of WordPieces of the reports, 0 without reports."""
        return 0 if self.reports is None else self.reports.vocab_size

    def rows(
        self, split: str, percent: int = 100, seed: int | None = None
    ) -> npt.NDArray[np.int64]:
        """Row numbers of a split, ascending.

        Args:
            split: train, valid or test.
            percent: label subset of the training rows: 1, 10 or 100.
            seed: of a downstream run; its own subset if the manifest drew one for each seed.
        """
        keep = self.table.column("split") == split
        if percent != 100:
            if split != "train":
                raise ValueError(f"only the training split has a {percent} % subset")
            own = f"in_{percent}_s{seed}"
            column = own if own in self.table.columns else f"in_{percent}"
            keep = keep & self.table.column(column).astype(bool)
        return np.flatnonzero(keep).astype(np.int64)

    @property
    def content(self) -> npt.NDArray[np.float32]:
        """(N, 2) height and width of each image inside its square, without the padding, px."""
        found = [self.table.column(name) for name in ("height", "width")]
        return np.stack(found, axis=1).astype(np.float32)

    def labels(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, K) labels: 1 present, 0 absent, NaN unknown.

        Args:
            names: K bare label names in the order wanted.

        Raises:
            DataError: the dataset has no such label.
        """
        columns = [LABEL + name for name in names]
        missing = [c for c in columns if c not in self.table.columns]
        if missing:
            has = ", ".join(c for c in self.table.columns if c.startswith(LABEL)) or "none"
            raise DataError(f"{self.folder}: no column {missing[0]} in its table; it has {has}")
        found = np.empty((len(self.table), len(columns)), np.float32)
        for at, name in enumerate(columns):
            found[:, at] = self.table.column(name)
        return found


def open_shards(folder: Path, verify: bool = True) -> Shards:
    """Map a dataset's arrays.

    Args:
        folder: `paths.Paths.shards(dataset)`.
        verify: whether to read every byte and hold it against `checksums.json`.

    Raises:
        CheckError: a file is missing or has other bytes, or the arrays differ in length.
    """
    if not (folder / "table.parquet").is_file():
        raise CheckError(f"{folder}: no shards there; `dvc pull` or run `snakemake --cores all`")
    if verify:
        check(folder)
    table = Table(folder / "table.parquet")
    images = _map(folder, "images")
    bits, report = _optional(folder, "masks"), _optional(folder, "report")
    for name, array in (("images", images), ("masks", bits), ("report", report)):
        if array is not None and len(array) != len(table):
            raise CheckError(
                f"{folder}: {name}.npy has {len(array)} rows, table.parquet {len(table)}; "
                f"remake the shards"
            )
    masks = None if bits is None else Masks(bits)
    reports = None if report is None else _reports(folder)
    return Shards(folder, table, images, masks, report, reports, _raw(folder))


def seal(folder: Path) -> None:
    """Write `checksums.json`: the sha256 of every block of every file in a folder."""
    files = {p.name: p for p in sorted(folder.iterdir()) if p.name != CHECKSUMS}
    blocks = [(name, i) for name, path in files.items() for i in range(_blocks(path))]
    found: dict[str, list[str]] = {name: [] for name in files}
    for (name, _), digest in zip(blocks, _digests(folder, blocks), strict=True):
        found[name].append(digest)
    tree = {
        "block": BLOCK,
        "files": {
            name: {"bytes": files[name].stat().st_size, "sha256": digests}
            for name, digests in found.items()
        },
    }
    text = json.dumps(tree, indent=1, sort_keys=True) + "\n"
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def check(folder: Path) -> None:
    """Hold every file of a folder against its `checksums.json`.

    Raises:
        CheckError: naming the first file, and block, that is not what was written.
    """
    remake = "`dvc pull` it again or remake the shards"
    try:
        tree = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        files = {name: (int(e["bytes"]), list(e["sha256"])) for name, e in tree["files"].items()}
        block = int(tree["block"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckError(f"{folder / CHECKSUMS}: missing or damaged; {remake}") from None
    if block != BLOCK:
        raise CheckError(f"{folder / CHECKSUMS}: blocks of {block} bytes, not {BLOCK}; {remake}")
    for name, (size, _) in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "not there" if found is None else f"{found} bytes"
            raise CheckError(f"{path}: {state}, {size} bytes were written; {remake}")
    blocks = [(name, i) for name, (_, digests) in files.items() for i in range(len(digests))]
    for (name, i), digest in zip(blocks, _digests(folder, blocks), strict=True):
        if digest != files[name][1][i]:
            raise CheckError(
                f"{folder / name}: block {i} (bytes {i * BLOCK} to {(i + 1) * BLOCK}) has another "
                f"checksum than when it was written; {remake}"
            )


def _blocks(path: Path) -> int:
    return -(-path.stat().st_size // BLOCK)


def _digests(folder: Path, blocks: Sequence[tuple[str, int]]) -> list[str]:
    """sha256 of blocks, read by threads."""

    def digest(at: tuple[str, int]) -> str:
        name, number = at
        found, left = hashlib.sha256(), BLOCK
        with (folder / name).open("rb", buffering=0) as file:
            file.seek(number * BLOCK)
            while left and (piece := file.read(min(PIECE, left))):
                found.update(piece)
                left -= len(piece)
        return found.hexdigest()

    with ThreadPoolExecutor(min(READERS, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(digest, blocks))


def _reports(folder: Path) -> Reports:
    ids, word, sentence, mesh = (_map(folder, n) for n in ("ids", "word", "sentence", "mesh"))
    return Reports(ids, word, sentence, mesh, _vocab(folder, "vocab"))


def _raw(folder: Path) -> RawReports | None:
    if not (folder / "raw_ids.npy").is_file():
        return None
    ids, word = _map(folder, "raw_ids"), _map(folder, "raw_word")
    return RawReports(ids, word, _vocab(folder, "raw_vocab"))


def _vocab(folder: Path, name: str) -> dict[str, int]:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise CheckError(f"{path}: not there; `dvc pull` it or run `snakemake --cores all`")
    tree = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, int] = tree["model"]["vocab"]
    return found


def _optional(folder: Path, name: str) -> Array | None:
    return _map(folder, name) if (folder / f"{name}.npy").is_file() else None


def _map(folder: Path, name: str) -> Array:
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise CheckError(f"{path}: not there; `dvc pull` it or run `snakemake --cores all`")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
