"""Pixel audit: what the splits of a manifest share under different image ids."""

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd

from cxrmim.errors import DataError

Tree = dict[str, Any]
SPLITS = ("train", "valid", "test")
HASHES = {"pixels": "pixels", "similar": "dhash"}  # count -> column of a shards table


def pixels(table: pd.DataFrame) -> Tree:
    """Count the contents that two image ids have in common, between splits and inside each.

    Equal ids are the manifest audit's to count. What has the same pixels looks the same, too, so
    that ``similar`` is never below ``pixels``.

    Args:
        table: a row per image and split: image, split, pixels (sha256 of the stored square, so
            that a file which was saved anew without loss counts as the same) and dhash
            (perceptual hash of the stored square).

    Returns:
        {"pixels": {"train-valid": n, ..., "train": n, ...}, "similar": the same}. "a-b" counts the
        distinct hashes that an image of split a shares with another image of split b, "a" those
        that two images of split a share.
    """
    present = [split for split in SPLITS if (table["split"] == split).any()]
    pairs = list(combinations_with_replacement(present, 2))
    pairs.sort(key=lambda pair: pair[0] == pair[1])
    return {
        name: {
            a if a == b else f"{a}-{b}": _shared(table[["image", "split", column]], column, a, b)
            for a, b in pairs
        }
        for name, column in HASHES.items()
    }


def _shared(table: pd.DataFrame, column: str, a: str, b: str) -> int:
    """Number of hashes that an image of split a and another image of split b have."""
    rows = table[table["split"].isin([a, b])]
    rows = rows[rows[column].duplicated(keep=False)]
    hashes = rows.groupby(column, sort=False)[["image", "split"]].nunique()
    found = (hashes["image"] > 1) & (hashes["split"] == len({a, b}))
    return int(np.count_nonzero(found))


def work(entry: str, manifest: pd.DataFrame, stored: pd.DataFrame) -> Tree:
    """Audit another reading of a dataset on the pixels that the dataset's own shards hold.

    Args:
        entry: the reading's name, for messages.
        manifest: the reading's manifest.
        stored: tables of the shards of all readings of the dataset that are in use, one below the
            other, which say the hashes of each path.

    Returns:
        Metrics: rows; not_stored, the rows whose image no reading in use has (or which could not
        be read), so that they are in no count; audit, see `pixels`.

    Raises:
        DataError: not one of the reading's images is stored.
    """
    hashes = stored.drop_duplicates("path")[["path", *HASHES.values()]]
    rows = manifest[["image", "path", "split"]].merge(hashes, on="path", how="left")
    known = rows[rows["pixels"].notna()]
    if len(rows) and not len(known):
        raise DataError(
            f"{entry}: none of its {len(rows)} images is in the shards of its dataset; remake both"
        )
    return {"rows": len(rows), "not_stored": len(rows) - len(known), "audit": pixels(known)}
