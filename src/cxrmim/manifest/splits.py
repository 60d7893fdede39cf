"""Seeded splits and label subsets; the order of the rows decides neither (protocols §1)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrmim.errors import DataError
from cxrmim.manifest.contract import LABEL
from cxrmim.schema import Subset

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]
PERCENTS = (1, 10)
TRIES = 20
SHUFFLE = 7  # stream of the split's draws


def generator(seed: int, *streams: int) -> np.random.Generator:
    """Random numbers of one draw: `streams` keep the draws of a seed apart."""
    return np.random.default_rng(np.random.SeedSequence([seed, *streams]))


def by_unit(units: pd.Series, weights: Sequence[float], names: Sequence[str], seed: int) -> Names:
    """Split name of each row: whole units, and as near to the wanted numbers of ROWS as they allow.

    Distinct units are shuffled and dealt out in this order until a split is full. What the next
    unit would overfill is filled up with the first later units that fit, so that a patient with
    many images does not push a split off its size.

    Args:
        units: what must not be shared between splits: patients, studies or images.
        weights: of the rows, in the order of `names`, in any scale. A split of weight 0 is empty;
            any other has a unit, if there are enough.
        names: of the splits.
        seed: of the shuffle; the order of the rows decides nothing.

    Returns:
        (rows,) split names.

    Raises:
        DataError: a weight is negative or no number, or all are 0.
    """
    shares = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise DataError(
            f"split weights {list(weights)} must be 0 or more and not all 0; set `fractions` of "
            f"the dataset in params.yaml"
        )
    rows_of = units.astype(object).value_counts().sort_index()
    distinct, sizes = rows_of.index.to_numpy(), np.asarray(rows_of, dtype=np.int64)
    used = [k for k, share in enumerate(shares) if share]
    targets = np.rint(np.cumsum(shares)[used] / shares.sum() * len(units)).astype(np.int64)
    best, least = np.empty(0, dtype=np.int64), np.inf
    for attempt in range(TRIES):
        order = generator(seed, SHUFFLE, attempt).permutation(len(distinct))
        parts = np.empty(len(distinct), dtype=np.int64)
        parts[order] = _deal_all(sizes[order], targets)
        dealt = np.bincount(parts, sizes, minlength=len(used))
        off = np.abs(dealt - np.diff(targets, prepend=0)).max(initial=0)
        if off < least:
            best, least = parts, off
        if not len(sizes) or least <= sizes.min():  # as near as units come; few need luck
            break
    split = {unit: names[used[part]] for unit, part in zip(distinct, best, strict=True)}
    return units.map(split).to_numpy(dtype=object)


def _deal_all(sizes: Rows, targets: Rows) -> Rows:
    """Part of each unit, units in their order.

    Args:
        sizes: (U,) rows of each unit.
        targets: rows wanted in the first part, in the first two, ... in all.
    """
    parts = np.full(len(sizes), len(targets) - 1, dtype=np.int64)
    left = np.arange(len(sizes))
    dealt = 0
    for part, target in enumerate(targets[:-1]):
        take = _deal(sizes[left], int(target) - dealt, len(targets) - part - 1)
        parts[left[take]] = part
        dealt += int(sizes[left[take]].sum())
        left = left[~take]
    return parts


def _deal(sizes: Rows, target: int, after: int) -> Mask:
    """Which units to take, in their order, for about `target` rows.

    Args:
        sizes: (U,) rows of each unit.
        target: rows wanted.
        after: units to leave at least, one for each split that follows.
    """
    most = max(1, len(sizes) - after)  # too few units: the first splits have them
    full = np.cumsum(sizes)
    first = int(np.searchsorted(full, target, side="right"))
    take = np.zeros(len(sizes), dtype=bool)
    take[: max(0, min(first, most))] = True
    gap = target - int(sizes[take].sum())
    while gap > 0 or not take.any():
        free = np.flatnonzero(~take)
        room = min(most, len(sizes)) - int(take.sum())
        if not room:
            break
        fits = free[sizes[free] <= gap]
        if len(fits) and room > 1:
            unit = int(fits[0])
        else:  # one more: the nearest, if that is nearer than none
            unit = int(free[np.abs(sizes[free] - gap).argmin()])
            if take.any() and abs(sizes[unit] - gap) >= gap:
                break
        take[unit] = True
        gap -= int(sizes[unit])
    return take


def balanced(positive: Mask, seed: int) -> Mask:
    """Keep all positives and as many negatives, drawn with a seed (all of them if fewer)."""
    negatives = np.flatnonzero(~positive)
    count = min(len(negatives), int(positive.sum()))
    keep = positive.copy()
    keep[generator(seed, 1).permutation(negatives)[:count]] = True
    return keep


def subsets(table: pd.DataFrame, params: Subset, seeds: Sequence[int] = ()) -> pd.DataFrame:
    """Label subsets of the training rows: bool columns in_1 and in_10, then in_<p>_s<seed>.

    in_1 and in_10 are one draw for all downstream seeds, or those of an imported list as they are.
    A drawn subset has exactly the rounded share of the rows. Where the draw holds fewer than
    `min_positives` positives of a class, or no negative (and the split has them), rows are swapped
    until it does; only a subset too small to hold them at all gets more rows than its share.

    Args:
        table: manifest rows, in any order; needs image, split and label_<Name>, and may have in_1
            and in_10.
        params: `lists` keeps in_1 and in_10 if the table has them, `nested` puts the drawn 1 %
            into the drawn 10 %, `reseed` adds a draw for each of `seeds`.
        seeds: of the downstream runs.
    """
    rows = table.reset_index(drop=True)
    rows = rows[rows["split"] == "train"].sort_values("image")  # the order of rows is no choice
    labels = rows[[c for c in rows.columns if c.startswith(LABEL)]].to_numpy(dtype=np.float32)
    train = rows.index.to_numpy()
    out = pd.DataFrame(index=table.index)
    names = [f"in_{percent}" for percent in PERCENTS]
    if params.lists and set(names) <= set(table.columns):
        out[names] = table[names].astype(bool)
    else:
        out[names] = _columns(len(table), train, _nest(labels, params))
    for seed in seeds if params.reseed else ():
        drawn = _columns(len(table), train, _nest(labels, params, 1 + seed))
        out[[f"{name}_s{seed}" for name in names]] = drawn
    return out


def _columns(rows: int, train: Rows, chosen: Sequence[Rows]) -> Mask:
    """(rows, draws) whether a row is in a draw from the training rows."""
    out = np.zeros((rows, len(chosen)), dtype=bool)
    for column, draw in enumerate(chosen):
        out[train[draw], column] = True
    return out


def _nest(labels: npt.NDArray[np.float32], params: Subset, *streams: int) -> list[Rows]:
    """Row numbers of the draw of each percentage."""
    found: list[Rows] = []
    for percent in PERCENTS:
        stream = 2 if params.nested else 2 + percent
        base = found[-1] if params.nested and found else np.empty(0, dtype=np.int64)
        size = max(1, len(base), round(len(labels) * percent / 100)) if len(labels) else 0
        chosen = None
        while chosen is None:
            chosen = _draw(labels, size, base, params, stream, *streams)
            size += 1
        found.append(chosen)
    return found


def _draw(
    labels: npt.NDArray[np.float32],
    size: int,
    base: Rows,
    params: Subset,
    stream: int,
    *streams: int,
) -> Rows | None:
    """Row numbers of a subset that contains `base`, or None if none is found."""
    positive, negative = labels == 1, labels == 0
    flags = np.concatenate([positive, negative], axis=1)
    least = np.concatenate(
        [np.minimum(params.min_positives, positive.sum(0)), np.minimum(1, negative.sum(0))]
    )
    for attempt in range(TRIES):
        # A nested draw is the prefix of one permutation, so that 10 % extends 1 %.
        order = generator(params.seed, stream + 100 * attempt, *streams).permutation(len(labels))
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
