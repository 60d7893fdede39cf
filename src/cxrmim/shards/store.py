"""Reading a dataset's shards; numpy and pandas only, so that any stop can afford it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrmim.errors import CheckError, DataError

Array = npt.NDArray[Any]
LABEL = "label_"


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
        table: (N, .) manifest rows of the stored images, `sha256` of each raw file added.
        images: (N, S, S) uint8 memory map.
        masks: (N, S, S) uint8 memory map, 255 = all of the pixel is foreground; None without masks.
        report: (N,) int64 row of each image's report in `reports`; None unless a corpus.
        reports: tokenised reports; None unless a corpus.
    """

    folder: Path
    table: pd.DataFrame
    images: Array
    masks: Array | None
    report: Array | None
    reports: Reports | None

    @property
    def vocab_size(self) -> int:
        """Number of WordPieces of the reports, 0 without reports."""
        return 0 if self.reports is None else self.reports.vocab_size

    def rows(self, split: str, percent: int = 100) -> npt.NDArray[np.int64]:
        """Row numbers of a split, ascending.

        Args:
            split: train, valid or test.
            percent: label subset of the training rows: 1, 10 or 100.
        """
        keep = (self.table["split"] == split).to_numpy(dtype=bool)
        if percent != 100:
            if split != "train":
                raise ValueError(f"only the training split has a {percent} % subset")
            keep = keep & self.table[f"in_{percent}"].to_numpy(dtype=bool)
        return np.flatnonzero(keep).astype(np.int64)

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
        return self.table[columns].to_numpy(dtype=np.float32)


def open_shards(folder: Path) -> Shards:
    """Map a dataset's arrays.

    Args:
        folder: `paths.Paths.shards(dataset)`.

    Raises:
        CheckError: a file is missing, or the arrays differ in length.
    """
    if not (folder / "table.parquet").is_file():
        raise CheckError(f"{folder}: no shards there; `dvc pull` or run `snakemake --cores all`")
    table = pd.read_parquet(folder / "table.parquet")
    images = _map(folder, "images")
    masks, report = _optional(folder, "masks"), _optional(folder, "report")
    for name, array in (("images", images), ("masks", masks), ("report", report)):
        if array is not None and len(array) != len(table):
            raise CheckError(
                f"{folder}: {name}.npy has {len(array)} rows, table.parquet {len(table)}; "
                f"remake the shards"
            )
    return Shards(folder, table, images, masks, report, _reports(folder, report is not None))


def _reports(folder: Path, has: bool) -> Reports | None:
    if not has:
        return None
    ids, word, sentence, mesh = (_map(folder, n) for n in ("ids", "word", "sentence", "mesh"))
    tokenizer = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return Reports(ids, word, sentence, mesh, tokenizer["model"]["vocab"])


def _optional(folder: Path, name: str) -> Array | None:
    return _map(folder, name) if (folder / f"{name}.npy").is_file() else None


def _map(folder: Path, name: str) -> Array:
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise CheckError(f"{path}: not there; `dvc pull` it or run `snakemake --cores all`")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
