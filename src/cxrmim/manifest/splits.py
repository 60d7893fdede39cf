"""Seeded splits and label subsets; the order of the rows decides neither (protocols §1)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrmim.errors import DataError
from cxrmim.manifest.contract import LABEL
from cxrmim.params import Subset

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
PERCENTS = (1, 10)
TRIES = 20


def generator(seed: int, stream: int = 0) -> np.random.Generator:
    """Random numbers of one draw: `stream` keeps the draws of a seed apart."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream]))


def by_unit(
    units: pd.Series, shares: Sequence[float], names: Sequence[str], seed: int
) -> npt.NDArray[np.object_]:
    """Split name of each row: distinct units shuffled, cut at the rounded cumulative shares.

    Args:
        units: what must not be shared between splits: patients, studies or images.
        shares: of the units, in the order of `names`; they sum to 1.
        names: of the splits.
        seed: of the shuffle.

    Raises:
        DataError: the shares do not sum to 1.
    """
    if abs(sum(shares) - 1) > 1e-6:
        raise DataError(f"split shares {list(shares)} do not sum to 1; set them in params.yaml")
    distinct = np.sort(units.unique().astype(object))
    shuffled = distinct[generator(seed).permutation(len(distinct))]
    cuts = np.rint(np.cumsum(shares)[:-1] * len(distinct)).astype(int)
    parts = np.split(shuffled, cuts)
    split = {unit: name for name, part in zip(names, parts, strict=True) for unit in part}
    return units.map(split).to_numpy(dtype=object)


def balanced(positive: Mask, seed: int) -> Mask:
    """Keep all positives and as many negatives, drawn with a seed (all of them if fewer)."""
    negatives = np.flatnonzero(~positive)
    count = min(len(negatives), int(positive.sum()))
    keep = positive.copy()
    keep[generator(seed, 1).permutation(negatives)[:count]] = True
    return keep


def subsets(table: pd.DataFrame, params: Subset) -> pd.DataFrame:
    """Label subsets of the training rows: bool columns in_1 and in_10, one draw for all seeds.

    A subset has exactly the rounded share of the rows. Where the draw holds fewer than
    `min_positives` positives of a class, or no negative (and the split has them), rows are swapped
    until it does; only a subset too small to hold them at all gets more rows than its share.

    Args:
        table: manifest rows, sorted; needs split and label_<Name>.
        params: `nested` puts the 1 % into the 10 %.
    """
    train = np.flatnonzero((table["split"] == "train").to_numpy(dtype=bool))
    names = [c for c in table.columns if c.startswith(LABEL)]
    labels = table[names].to_numpy(dtype=np.float32)[train]
    out = pd.DataFrame(index=table.index)
    inner: Rows = np.empty(0, dtype=np.int64)
    for percent in PERCENTS:
        stream = 2 if params.nested else 2 + percent
        base = inner if params.nested else inner[:0]
        size = max(1, len(base), round(len(train) * percent / 100)) if len(train) else 0
        chosen = None
        while chosen is None:
            chosen = _draw(labels, size, base, params.seed, stream, params.min_positives)
            size += 1
        inner = chosen
        column = np.zeros(len(table), dtype=bool)
        column[train[chosen]] = True
        out[f"in_{percent}"] = column
    return out


def _draw(
    labels: npt.NDArray[np.float32],
    size: int,
    base: Rows,
    seed: int,
    stream: int,
    min_positives: int,
) -> Rows | None:
    """Row numbers of a subset that contains `base`, or None if none is found."""
    positive, negative = labels == 1, labels == 0
    flags = np.concatenate([positive, negative], axis=1)
    least = np.concatenate(
        [np.minimum(min_positives, positive.sum(0)), np.minimum(1, negative.sum(0))]
    )
    for attempt in range(TRIES):
        # A nested draw is the prefix of one permutation, so that 10 % extends 1 %.
        order = generator(seed, stream + 100 * attempt).permutation(len(labels))
        order = np.concatenate([base, order[~np.isin(order, base)]])
        chosen = _repair(flags, least, order, size, len(base))
        if chosen is not None:
            return chosen
    return None


def _repair(flags: Mask, least: Rows, order: Rows, size: int, fixed: int) -> Rows | None:
    """Swap rows of a draw for rows outside it until each flag occurs at least `least` times.

    Args:
        flags: (N, F) bool.
        least: (F,) how often each flag must occur.
        order: (N,) row numbers; the first `size` are the draw, the first `fixed` of them stay.
        size: rows of the draw.
        fixed: rows that may not be swapped out.
    """
    order = order.copy()
    have = flags[order[:size]].sum(0)
    missing = int(np.maximum(least - have, 0).sum())
    while missing:
        # Equal rows are interchangeable: the last of its kind leaves, the first of its kind enters.
        inside = _distinct(flags[order[fixed:size]][::-1])
        outside = _distinct(flags[order[size:]])
        if not len(inside) or not len(outside):
            return None
        leave = size - 1 - inside
        enter = size + outside
        after = (
            have - flags[order[leave]][:, None].astype(int) + flags[order[enter]][None].astype(int)
        )
        deficit = np.maximum(least - after, 0).sum(-1)
        best = int(deficit.argmin())
        if deficit.flat[best] >= missing:
            return None
        i, j = divmod(best, len(enter))
        order[[leave[i], enter[j]]] = order[[enter[j], leave[i]]]
        have = flags[order[:size]].sum(0)
        missing = int(deficit.flat[best])
    return order[:size]


def _distinct(rows: Mask) -> Rows:
    """First position of each distinct row, ascending."""
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    return np.sort(np.unique(rows, axis=0, return_index=True)[1]).astype(np.int64)
