"""Where a query's own pair stands among all candidates (MedIM 3.1, table 2)."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrmim.downstream.contract import Bench
from cxrmim.errors import ParamsError

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
COUNTS = ("above", "tied", "own")
WAYS = ("t2i", "i2t")  # text query for images, image query for texts
ROUNDING: float = 2.0**-24  # unit roundoff of float32
CHUNK = 1 << 15  # similarities looked at again at once
BYTE = 255  # ones that a byte can count
DENSE = 1 / 16  # share of a block near its limits from which all of it is computed exactly
STRIP = 32  # images whose exact similarities to a block of texts are summed up at once


@dataclass(frozen=True)
class Pool:
    """The pairs that are ranked, N images with R distinct reports.

    Attributes:
        rows: (N,) shard rows of the images, ascending.
        texts: (R,) one report number for each distinct report.
        which: (N,) index of each pair's report in `texts`.
    """

    rows: Ints
    texts: Ints
    which: Ints


def pool(bench: Bench, dataset: str) -> Pool:
    """Pairs of a corpus that ``downstream.retrieve`` ranks; the same for every method.

    Held-out pairs; under ``duplicates: merge`` each distinct report once, with its first image;
    of these ``size`` at random, the draw seeded by the dataset's name alone.

    Raises:
        DataError: the dataset has no reports, or none held out.
        ParamsError: there are fewer pairs than `size`.
    """
    options = bench.params.downstream.retrieve
    rows = bench.rows(dataset, "test")
    reports, report = bench.reports(dataset)
    texts, which = distinct(reports.ids, report[rows])
    kept = np.arange(len(rows))
    if options["duplicates"] == "merge":
        kept = np.sort(np.unique(which, return_index=True)[1])
    size = options["size"]
    if size is not None:
        if size > len(kept):
            raise ParamsError(
                f"downstream.retrieve.size = {size}: the pool of {dataset} has {len(kept)} pairs; "
                f"lower it, or write null for all of them"
            )
        seed = hashlib.sha256(f"retrieval/{dataset}".encode()).digest()[:16]
        draw = np.random.default_rng(int.from_bytes(seed)).permutation(len(kept))
        kept = np.sort(kept[draw[:size]])
    used, place = np.unique(which[kept], return_inverse=True)
    return Pool(rows[kept], texts[used], place.astype(np.int64))


def standing(
    image: NDArray[np.float32], text: NDArray[np.float32], which: Ints, duplicates: str, block: int
) -> dict[str, Ints]:
    """Count the candidates above and level with each query's own pair, both ways.

    Pairs are per image: two images of a study are two pairs with one report. Similarities come from
    float32 products, a block of images by a block of texts at a time. One that is nearer to the own
    pair's than such a product can err is looked at again, summed in float64 in a fixed order; where
    many are, the whole block is. So equal embeddings tie exactly, and neither the block nor the
    machine's kernels show.

    Args:
        image: (N, d) L2-normalised images.
        text: (R, d) L2-normalised distinct reports.
        which: (N,) report of each pair.
        duplicates: `identical`: any pair with the same report counts as the own one; `strict`,
            `merge`: only the own pair does.
        block: images, and texts, a block.

    Returns:
        For both `WAYS`, (N,) counts of other candidates more similar than the best own one
        (`above`), exactly as similar (`tied`), and of own ones of that similarity (`own`).
    """
    texts, count = text[which], len(image)
    every = np.arange(count)
    own = _exactly(image, texts, every, every)
    best = {"i2t": own, "t2i": own}
    found = {f"{way}_{c}": np.zeros(count, np.int64) for way in WAYS for c in COUNTS}
    if duplicates == "identical":
        highest = np.full(len(text), -np.inf)
        np.maximum.at(highest, which, own)
        best["t2i"] = highest[which]
        level = np.bincount(which[own == best["t2i"]], minlength=len(text))
        found["i2t_own"] += np.bincount(which, minlength=len(text))[which]
        found["t2i_own"] += level[which]
    else:
        found["i2t_own"] += 1
        found["t2i_own"] += 1
    slack = _error(image, texts)
    for first in range(0, count, block):
        queries = slice(first, first + block)
        for start in range(0, count, block):
            columns = slice(start, start + block)
            similar = image[queries] @ texts[columns].T
            exact: NDArray[np.float64] | None = None
            for way in WAYS:
                by_image = way == "i2t"
                part = queries if by_image else columns
                limit = best[way][part, None] if by_image else best[way][None, part]
                over = similar > (limit + slack).astype(np.float32)
                near = over ^ (similar >= (limit - slack).astype(np.float32))
                per = _per_row if by_image else _per_column
                if np.count_nonzero(near) > DENSE * near.size:
                    if exact is None:
                        exact = _all_exactly(image[queries], texts[columns])
                    found[f"{way}_above"][part] += per(exact > limit)
                    found[f"{way}_tied"][part] += per(exact == limit)
                    continue
                found[f"{way}_above"][part] += per(over)
                places = np.flatnonzero(near)
                for at in np.split(places, range(CHUNK, len(places), CHUNK)):
                    row, column = first + at // similar.shape[1], start + at % similar.shape[1]
                    query = row if by_image else column
                    beyond = _exactly(image, texts, row, column) - best[way][query]
                    np.add.at(found[f"{way}_above"], query[beyond > 0], 1)
                    np.add.at(found[f"{way}_tied"], query[beyond == 0], 1)
    for way in WAYS:
        found[f"{way}_tied"] -= found[f"{way}_own"]
    return found


def _exactly(image: Floats, texts: Floats, row: Ints, column: Ints) -> NDArray[np.float64]:
    """Dot products of pairs of rows, the same bits wherever they are asked for.

    A product of two float32 is exact in float64, and a cumulative sum adds in order.
    """
    out = np.empty(len(row))
    for part in (slice(i, i + CHUNK) for i in range(0, len(row), CHUNK)):
        products = image[row[part]].astype(np.float64) * texts[column[part]]
        out[part] = np.cumsum(products, axis=1)[:, -1]
    return out


def _all_exactly(image: Floats, texts: Floats) -> NDArray[np.float64]:
    """(b, c) dot products of all rows with all rows, bit for bit those of `_exactly`.

    Where most similarities are near ties, as those of a collapsed encoder, it is ten times faster.
    """
    out = np.zeros((len(image), len(texts)))
    across = np.ascontiguousarray(texts.T, np.float64)
    scratch = np.empty((min(STRIP, len(image)), len(texts)))
    for first in range(0, len(image), STRIP):
        part = out[first : first + STRIP]
        rows, product = image[first : first + STRIP].astype(np.float64), scratch[: len(part)]
        for place, column in enumerate(across):
            np.multiply(rows[:, place, None], column, out=product)
            part += product
    return out


def _error(image: Floats, texts: Floats) -> float:
    """How far a float32 dot product can be from the true one, in any order of summation.

    d u |a| |b| (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and some more for
    the rounding of the limits that it is held against.
    """
    longest = [float(np.linalg.norm(side, axis=1).max()) for side in (image, texts)]
    bound: float = (image.shape[1] + 8) * ROUNDING * 1.01 * longest[0] * longest[1]
    return bound


def _per_row(mask: NDArray[np.bool_]) -> Ints:
    return np.array([np.count_nonzero(row) for row in mask], np.int64)


def _per_column(mask: NDArray[np.bool_]) -> Ints:
    """Sums of bytes, widened before they can overflow: many times faster than sums of bools."""
    out = np.zeros(mask.shape[1], np.int64)
    for first in range(0, len(mask), BYTE):
        out += mask[first : first + BYTE].view(np.uint8).sum(axis=0, dtype=np.uint8)
    return out


def chance(which: Ints, duplicates: str) -> dict[str, Ints]:
    """`standing` of a predictor that finds all candidates equally similar."""
    count = len(which)
    own = np.bincount(which)[which] if duplicates == "identical" else np.ones(count, np.int64)
    one = {"above": np.zeros(count, np.int64), "tied": count - own, "own": own}
    return {f"{way}_{c}": one[c].astype(np.int64) for way in WAYS for c in COUNTS}


def distinct(ids: NDArray[np.int32], report: Ints) -> tuple[Ints, Ints]:
    """Distinct reports of pairs; reports are the same if their token ids are.

    Args:
        ids: (R, L) token ids of all reports.
        report: (N,) report of each pair.

    Returns:
        (one report number for each distinct report, (N,) index of each pair's among them).
    """
    rows, place = np.unique(report, return_inverse=True)
    _, first, same = np.unique(
        np.asarray(ids[rows]), axis=0, return_index=True, return_inverse=True
    )
    return rows[first], same.reshape(-1)[place.reshape(-1)].astype(np.int64)
