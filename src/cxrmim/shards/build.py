"""A manifest's images, masks and reports as arrays."""

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from cxrmim.errors import DataError
from cxrmim.manifest.contract import write_table
from cxrmim.params import Params, fingerprint
from cxrmim.paths import atomic_folder
from cxrmim.progress import track
from cxrmim.record import closure
from cxrmim.shards import audit, pool, reports
from cxrmim.shards.journal import Journal, Outcome, check_room, disk
from cxrmim.shards.pool import Item
from cxrmim.shards.store import seal

log = logging.getLogger("cxrmim")
Tree = dict[str, Any]
TEXT = ["impression", "findings", "report", "rle", "sentences"]  # columns that end at this stop
DECODERS = ("numpy", "pillow", "pydicom")
MODULES = ("cxrmim.shards.pool",)
ROW = 4096  # bytes, an ample guess at a row's share of the table and the tokens


def build(
    dataset: str,
    params: Params,
    manifest: Path,
    root: Path,
    folder: Path,
    building: Path,
    threads: int,
) -> tuple[Tree, Tree]:
    """Write a dataset's arrays.

    Args:
        dataset: its name; the corpus of `params.pretrain` also gets its reports.
        params: `shards`, `manifest.max_unreadable` and `pretrain.corpus` are used.
        manifest: parquet file of the manifest stop.
        root: folder that the manifest's paths are relative to.
        folder: appears when all is done; an older one is replaced.
        building: folder that keeps what is done until then, on the same disk; remove it once the
            record is written.
        threads: worker processes; the result does not depend on it.

    Returns:
        (metrics, details): counts; facts such as shapes and the digest of the raw files.

    Raises:
        DataError: too many rows cannot be read, none is left, or the corpus has no reports.
        CxrmimError: the disk is full, a worker died, or another process builds the same.
    """
    table = pd.read_parquet(manifest)
    rows, side = len(table), params.side(dataset)
    corpus = dataset == params.pretrain.corpus
    if corpus:
        _check_inputs(dataset, params)
        table["sentences"] = reports.captions(table, dataset)
        table = table[table["sentences"].notna()].reset_index(drop=True)
    items = _items(table, root)
    scaled = params.shards.decode == "scaled"
    shapes: dict[str, tuple[int, ...]] = {"images": (side, side)}
    if _masked(table):
        shapes["masks"] = (side, -(-side // 8))
    key = _key(manifest, root, side, scaled)
    limit = params.manifest.max_unreadable
    journal = Journal(building, key, shapes, dataset)

    def missing() -> int:
        return (len(items) - len(journal.outcomes)) * journal.row_bytes + len(items) * ROW

    with disk(dataset, building, missing), journal:
        first = journal.resume(lambda a, b: pool.states(items[a:b]))
        if first:
            log.info("%s: %d of %d images are done already", dataset, first, len(items))
        check_room(dataset, building, missing())
        parts = pool.chunks(items, first, side, scaled, threads, dataset)
        for chunk in track(parts, "images", -(-(len(items) - first) // pool.ROWS)):
            journal.add(chunk)
            if journal.faults > limit * rows:  # do not read on for hours
                break
        faults = _faults(table, journal.outcomes)
        check_faults(dataset, faults, len(journal.outcomes), len(items), rows, limit)
        check_splits(dataset, table["split"], journal.outcomes, limit)
        journal.finish()
        kept = _kept(table, journal.outcomes)
        if not len(kept):
            raise DataError(f"{dataset}: no row of {rows} is left; check the files below {root}")
        metrics: Tree = {
            "rows": rows,
            "kept": len(kept),
            "short_reports": rows - len(items),
            "unreadable": dict(sorted(Counter(reason for _, reason in faults).items())),
            "audit": audit.pixels(kept),
        }
        details: Tree = {"raw": _raw_digest(table["path"], journal.outcomes)}
        details |= {name: [len(kept), *shape] for name, shape in shapes.items()}
        if corpus:
            text = params.shards.text
            metrics["tokens"], facts = reports.write_reports(kept, text, journal.data)
            details |= facts
        stored = kept.drop(columns=[c for c in TEXT if c in kept.columns])
        write_table(stored, journal.data / "table.parquet")
        seal(journal.data)
        publish(journal.data, folder)
    return metrics, details


def check_faults(
    dataset: str, faults: list[tuple[int, str]], done: int, items: int, rows: int, limit: float
) -> None:
    """Log every fault; stop where they are too many.

    Args:
        dataset: its name.
        faults: (source row, reason).
        done: images that have been read.
        items: images to read.
        rows: all rows of the manifest.
        limit: share of all rows that may be unreadable.

    Raises:
        DataError: a larger share is.
    """
    for row, reason in faults:
        log.info("%s, source row %d: %s", dataset, row, reason)
    if faults:
        log.warning("%s: %d images left out, named in the log", dataset, len(faults))
    if len(faults) > limit * rows:
        so_far = "" if done == items else f" ({done} read so far)"
        raise DataError(
            f"{dataset}: {len(faults)} of {rows} images{so_far} cannot be read, first source row "
            f"{faults[0][0]}: {faults[0][1]}; mend the files or raise "
            f"manifest.max_unreadable = {limit}"
        )


def check_splits(
    dataset: str, splits: pd.Series, outcomes: Sequence[Outcome], limit: float
) -> None:
    """Stop where one split lost too many images: a test set is little beside a training set.

    Args:
        dataset: its name.
        splits: split of each row.
        outcomes: one a row.
        limit: share of a split's rows that may be unreadable; one row always may.

    Raises:
        DataError: a larger share is.
    """
    bad = pd.Series([bool(outcome.reason) for outcome in outcomes], index=splits.index)
    for split, lost in bad.groupby(splits):
        if lost.sum() > max(1, limit * len(lost)):
            raise DataError(
                f"{dataset}: {lost.sum()} of the {len(lost)} images of split {split} cannot be "
                f"read, the log has their source rows; mend the files or raise "
                f"manifest.max_unreadable = {limit}"
            )


def publish(done: Path, folder: Path) -> None:
    """Let a finished folder appear elsewhere in one step.

    Its files are hard links, so that `done` still has all of them if the process is killed before
    the record is written; on another disk they are copies.
    """
    for stale in folder.parent.glob(f".*.{folder.name}"):
        shutil.rmtree(stale, ignore_errors=True)
    with atomic_folder(folder) as temporary:
        for file in sorted(done.iterdir()):
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)


def _check_inputs(dataset: str, params: Params) -> None:
    """Find a file that the reports need missing now, not once all images are decoded."""
    for name, path in reports.inputs(params.shards.text).items():
        if not path.is_file():
            raise DataError(
                f"{dataset}: {path}: no such file; the reports need it ({name}), see shards.text "
                f"in params.yaml"
            )


def _items(table: pd.DataFrame, root: Path) -> list[Item]:
    masked = _masked(table)
    return [
        Item(root / path, tuple(codes if codes is not None else ()) if masked else None)
        for path, codes in zip(table["path"], table["rle"], strict=True)
    ]


def _masked(table: pd.DataFrame) -> bool:
    return bool(table["rle"].notna().any())


def _key(manifest: Path, root: Path, side: int, scaled: bool) -> str:
    """Fingerprint of all that decides the arrays, the raw files' own states apart."""
    return fingerprint(
        {
            "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            "root": os.fspath(root.resolve()),
            "side": side,
            "scaled": scaled,
            "chunk": pool.ROWS,
            "code": closure(MODULES),
            "decoders": {name: metadata.version(name) for name in DECODERS},
        }
    )


def _faults(table: pd.DataFrame, outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    """(source row, reason) of rows without an image, of as many rows as are done."""
    return [
        (int(row), outcome.reason)
        for row, outcome in zip(table["source_row"], outcomes, strict=False)
        if outcome.reason
    ]


def _kept(table: pd.DataFrame, outcomes: list[Outcome]) -> pd.DataFrame:
    """Rows that have an image, and what was found in their files."""
    found = table.assign(
        sha256=[o.sha256 for o in outcomes],
        pixels=[o.pixels for o in outcomes],
        dhash=[o.dhash for o in outcomes],
        height=[o.height for o in outcomes],
        width=[o.width for o in outcomes],
    )
    return found[[not o.reason for o in outcomes]].reset_index(drop=True)


def _raw_digest(paths: pd.Series, outcomes: list[Outcome]) -> Tree:
    """Files read, their bytes, and a sha256 over their sorted sha256s; a file counts once."""
    files = {p: o for p, o in zip(paths, outcomes, strict=True) if o.sha256}
    found = sorted(outcome.sha256 for outcome in files.values())
    joined = "".join(f"{digest}\n" for digest in found)
    return {
        "files": len(found),
        "bytes": sum(outcome.size for outcome in files.values()),
        "sha256": hashlib.sha256(joined.encode()).hexdigest(),
    }
