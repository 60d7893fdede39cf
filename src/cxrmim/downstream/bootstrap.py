"""Bootstrap over test images, clustered by patient.

All runs of a test set share their draws, so that differences between methods are paired. A draw is
kept as the number of times that it holds each image; the metrics take these counts as weights.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrmim.errors import DataError

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.uint16]
DIGITS = 4  # a hundredth of a point; records of a scale stay below 5 MB together
TRIES = 200  # draws of one replicate before a class counts as too rare
CHUNK = 4_000_000  # weights worked on at once


@dataclass(frozen=True)
class Draws:
    """The draws of a test set: `key` is its dataset and task, and seeds them."""

    key: str
    replicates: int

    def weights(self, groups: Sequence[str], truth: Floats | None = None) -> Counts:
        """See `draws`."""
        return draws(groups, self.replicates, self.key, truth)


def draws(groups: Sequence[str], replicates: int, key: str, truth: Floats | None = None) -> Counts:
    """Draw patients with replacement.

    Args:
        groups: (n,) patient of each image.
        replicates: number of draws B.
        key: dataset and task; the seed of the draws.
        truth: (n, K) labels 1/0/NaN. A draw in which a class lacks positives or negatives, so that
            it has no AUC, is drawn again; the labels alone decide, never a run's scores.

    Returns:
        (B, n) times that a draw holds each image.

    Raises:
        DataError: a class is so rare that nearly no draw holds it.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1].astype(np.int64)
    labels = np.zeros((len(codes), 0), np.float32) if truth is None else truth.astype(np.float32)
    return _draws(codes.tobytes(), labels.tobytes(), labels.shape[1], replicates, key)


@lru_cache(maxsize=4)
def _draws(codes: bytes, labels: bytes, classes: int, replicates: int, key: str) -> Counts:
    member = np.frombuffer(codes, np.int64)
    truth = np.frombuffer(labels, np.float32).reshape(len(member), classes)
    needed = np.concatenate([truth == 1, truth == 0], axis=1).astype(np.float32)
    seed = int.from_bytes(hashlib.sha256(f"bootstrap/{key}".encode()).digest()[:16])
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    patients = int(member.max()) + 1
    out = np.empty((replicates, len(member)), np.uint16)
    for row in out:
        for _ in range(TRIES):
            drawn = np.bincount(rng.integers(0, patients, patients), minlength=patients)
            row[:] = drawn[member]
            if (row.astype(np.float32) @ needed > 0).all():
                break
        else:
            raise DataError(
                f"{key}: a class is so rare in the test set that {TRIES} bootstrap draws in a row "
                f"lack it; take a larger test set"
            )
    out.flags.writeable = False
    return out


def auc(truth: Floats, score: Floats, weights: Counts) -> NDArray[np.float64]:
    """Mean AUC over classes of every draw.

    Per class sum_i p_i (below_i + tied_i / 2) / (P N), with p_i the positives' weight, below_i and
    tied_i the negatives' weight under and at score i (Mann-Whitney). Sums of whole and half numbers
    are exact in float64, so the order of summation cannot matter.

    Args:
        truth: (n, K) labels 1/0/NaN.
        score: (n, K).
        weights: (B, n) of `draws`.

    Returns:
        (B,).
    """
    total = np.zeros(len(weights))
    step = max(1, CHUNK // max(1, len(truth)))
    for k in range(truth.shape[1]):
        known = np.flatnonzero(~np.isnan(truth[:, k]))
        order = known[np.argsort(score[known, k], kind="stable")]
        ranked = score[order, k]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        present = truth[order, k] > 0.5
        for first in range(0, len(weights), step):
            weight = weights[first : first + step, order].astype(np.float64)
            positive = np.where(present, weight, 0.0)
            negative = weight - positive
            if len(starts) < len(order):
                positive = np.add.reduceat(positive, starts, axis=1)
                negative = np.add.reduceat(negative, starts, axis=1)
            upto = np.cumsum(negative, axis=1)
            wins = np.einsum("bi,bi->b", positive, upto - 0.5 * negative)
            total[first : first + step] += wins / (positive.sum(axis=1) * upto[:, -1])
    total /= truth.shape[1]
    return total


def mean(values: Floats, weights: Counts) -> NDArray[np.float64]:
    """Mean of a per-image score in every draw.

    Args:
        values: (n,).
        weights: (B, n) of `draws`.

    Returns:
        (B,).
    """
    out = np.empty(len(weights))
    step = max(1, CHUNK // max(1, len(values)))
    for first in range(0, len(weights), step):
        weight = weights[first : first + step].astype(np.float64)
        out[first : first + step] = weight @ values / weight.sum(axis=1)
    return out


def rounded(replicates: NDArray[np.float64]) -> list[float]:
    """Replicates as a record keeps them."""
    return [float(v) for v in np.round(replicates, DIGITS)]
