"""A manifest's images, masks and reports as arrays."""

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from cxrmim.errors import DataError
from cxrmim.manifest.contract import write_table
from cxrmim.params import Params, ShardText
from cxrmim.progress import track
from cxrmim.shards import mesh, text, tokenizer
from cxrmim.shards.images import Grey, UnreadableError, decode, read_bytes, square
from cxrmim.shards.masks import decode_rle

log = logging.getLogger("cxrmim")
CHUNK = 512  # images in flight
SHORT = f"report has fewer than {text.SHORTEST} tokens"


@dataclass(frozen=True)
class Item:
    """A row's work: file below the root and mask codes, None without masks."""

    path: Path
    codes: tuple[str, ...] | None


@dataclass(frozen=True)
class Outcome:
    """A row's result: arrays of one side, digest of the raw file, or why there are none."""

    image: Grey | None = None
    mask: Grey | None = None
    sha256: str = ""
    size: int = 0
    reason: str = ""


def build(dataset: str, params: Params, manifest: Path, root: Path, out: Path, threads: int) -> Any:
    """Write a dataset's arrays.

    Args:
        dataset: its name; the corpus of `params.pretrain` also gets its reports.
        params: `shards`, `manifest.max_unreadable` and `pretrain.corpus` are used.
        manifest: parquet file of the manifest stop.
        root: folder that the manifest's paths are relative to.
        out: an empty folder.
        threads: images decoded at a time; the result does not depend on it.

    Returns:
        (metrics, details): counts; facts such as shapes and the digest of the raw files.

    Raises:
        DataError: too many rows cannot be read, none is left, or the corpus has no reports.
    """
    table = pd.read_parquet(manifest)
    rows, side = len(table), params.shards.side
    corpus = dataset == params.pretrain.corpus
    short: pd.Series | None = None
    if corpus:
        table["sentences"] = _captions(table, dataset)
        short = table["sentences"].isna()
        table = table[~short].reset_index(drop=True)
    masked = bool(table["rle"].notna().any())
    outcomes = _store(table, root, out, side, masked, threads)
    faults = [
        (int(row), outcome.reason)
        for row, outcome in zip(table["source_row"], outcomes, strict=True)
        if outcome.reason
    ]
    check_faults(dataset, faults, rows, params.manifest.max_unreadable)
    read = np.array([not outcome.reason for outcome in outcomes], dtype=bool)
    table["sha256"] = [outcome.sha256 for outcome in outcomes]
    kept = table[read].reset_index(drop=True)
    if not len(kept):
        raise DataError(f"{dataset}: no row of {rows} is left; check the files below {root}")
    metrics: dict[str, Any] = {
        "rows": rows,
        "kept": len(kept),
        "short_reports": 0 if short is None else int(short.sum()),
        "unreadable": dict(sorted(Counter(reason for _, reason in faults).items())),
    }
    details: dict[str, Any] = {"raw": _raw_digest(outcomes), "images": [len(kept), side, side]}
    if corpus:
        tokens, shape = _write_reports(kept, params.shards.text, out)
        metrics["tokens"], details["ids"] = tokens, shape
        kept = kept.drop(columns="sentences")
    write_table(kept, out / "table.parquet")
    return metrics, details


def check_faults(dataset: str, faults: list[tuple[int, str]], rows: int, limit: float) -> None:
    """Log every fault; stop where they are too many.

    Raises:
        DataError: a larger share of the rows than `limit` is unreadable.
    """
    for row, reason in faults:
        log.info("%s, source row %d: %s", dataset, row, reason)
    if faults:
        log.warning("%s: %d images left out, named in the log", dataset, len(faults))
    if len(faults) > limit * rows:
        raise DataError(
            f"{dataset}: {len(faults)} of {rows} images cannot be read, first source row "
            f"{faults[0][0]}: {faults[0][1]}; mend the files or raise "
            f"manifest.max_unreadable = {limit}"
        )


def process(item: Item, side: int) -> Outcome:
    """Read, decode and resize one image and its mask.

    Args:
        item: which.
        side: S in px.
    """
    digest, size = "", 0
    try:
        content = read_bytes(item.path)
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        pixels = decode(content, item.path.suffix)
        image, mask = square(pixels, side), None
        if item.codes is not None:
            mask = square(decode_rle(item.codes, *pixels.shape), side)
    except UnreadableError as error:
        return Outcome(sha256=digest, size=size, reason=str(error))
    return Outcome(image, mask, digest, size)


class Writer:
    """A .npy file of (N, S, S) uint8 whose N is known only at the end.

    numpy leaves room in the header for the first axis to grow, so it is written again on closing.
    """

    def __init__(self, path: Path, side: int) -> None:
        self._file: BinaryIO = path.open("wb")
        self._side = side
        self._count = 0
        self._header()
        self._start = self._file.tell()

    def add(self, image: Grey) -> None:
        """Append one (S, S) image."""
        self._file.write(np.ascontiguousarray(image).tobytes())
        self._count += 1

    def close(self) -> None:
        """Write the true length and close."""
        self._file.seek(0)
        self._header()
        if self._file.tell() != self._start:
            raise RuntimeError("the header of a .npy file changed its length")
        self._file.close()

    def _header(self) -> None:
        shape = (self._count, self._side, self._side)
        fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, fields)


def _store(
    table: pd.DataFrame, root: Path, out: Path, side: int, masked: bool, threads: int
) -> list[Outcome]:
    """Write images.npy (and masks.npy); the outcomes, pixels dropped, in row order."""
    images = Writer(out / "images.npy", side)
    masks = Writer(out / "masks.npy", side) if masked else None
    done: list[Outcome] = []
    items = (
        Item(root / path, tuple(codes if codes is not None else ()) if masked else None)
        for path, codes in zip(table["path"], table["rle"], strict=True)
    )
    for outcome in track(_outcomes(items, side, threads), "images", len(table)):
        if outcome.image is not None:
            images.add(outcome.image)
        if masks is not None and outcome.mask is not None:
            masks.add(outcome.mask)
        done.append(Outcome(sha256=outcome.sha256, size=outcome.size, reason=outcome.reason))
    images.close()
    if masks is not None:
        masks.close()
    return done


def _outcomes(items: Iterator[Item], side: int, threads: int) -> Iterator[Outcome]:
    work = partial(process, side=side)
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(items, CHUNK)):
            yield from pool.map(work, chunk)


def _captions(table: pd.DataFrame, dataset: str) -> pd.Series:
    """Sentences of each row's report, None where it is too short.

    Raises:
        DataError: no row has a report.
    """
    if not (table["impression"].notna() | table["findings"].notna()).any():
        raise DataError(
            f"{dataset}: the corpus has no reports; set pretrain.corpus to a dataset that does"
        )
    pairs = zip(table["impression"], table["findings"], strict=True)
    texts = [text.caption(_text(i), _text(f)) for i, f in pairs]
    return pd.Series(texts, dtype=object, index=table.index)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _write_reports(
    kept: pd.DataFrame, params: ShardText, out: Path
) -> tuple[dict[str, int], list[int]]:
    """Tokenise each study's report once; returns counts and the shape (R, L)."""
    codes, studies = pd.factorize(kept["study"])
    first = kept.drop_duplicates("study")
    captions = list(first["sentences"])
    if params.tokenizer == "phantom":
        training = [c for c, s in zip(captions, first["split"], strict=True) if s == "train"]
        wordpiece = tokenizer.train(training, params.vocab)
    else:
        wordpiece = tokenizer.load(tokenizer.VOCABULARY, params.vocab)
    encoded = text.encode(
        captions,
        lambda word: list(wordpiece.encode(word, add_special_tokens=False).ids),
        tokenizer.special(wordpiece),
        mesh.headings(params.mesh),
        params.length,
    )
    np.save(out / "report.npy", codes.astype(np.int64))
    for name in ("ids", "word", "sentence", "mesh"):
        np.save(out / f"{name}.npy", getattr(encoded, name))
    (out / "vocab.json").write_text(wordpiece.to_str(pretty=True), encoding="utf-8")
    counts = {
        "reports": len(studies),
        "vocabulary": int(wordpiece.get_vocab_size()),
        "words": encoded.words,
        "truncated": encoded.truncated,
        "words_cut": encoded.words_cut,
        "unknown_words": encoded.unknown,
        "mesh_words": int(encoded.mesh.sum()),
        "reports_without_mesh": int((~encoded.mesh.any(axis=1)).sum()),
    }
    return counts, list(encoded.ids.shape)


def _raw_digest(outcomes: list[Outcome]) -> dict[str, int | str]:
    """Files read, their bytes, and a sha256 over their sorted sha256s."""
    found = sorted(outcome.sha256 for outcome in outcomes if outcome.sha256)
    joined = "".join(f"{digest}\n" for digest in found)
    return {
        "files": len(found),
        "bytes": sum(outcome.size for outcome in outcomes),
        "sha256": hashlib.sha256(joined.encode()).hexdigest(),
    }
