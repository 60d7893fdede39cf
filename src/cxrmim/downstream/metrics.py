"""Metrics of the downstream tasks; all are shares in [0, 1]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrmim.downstream import bootstrap
from cxrmim.errors import DataError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def finite(values: Floats, what: str) -> None:
    """Refuse scores that cannot be ranked.

    Args:
        values: any shape.
        what: whose scores, for the error.

    Raises:
        DataError: one is NaN or infinite.
    """
    bad = int(np.size(values) - np.isfinite(values).sum())
    if bad:
        raise DataError(
            f"{what}: {bad} of {np.size(values)} are NaN or infinite, so no metric exists; "
            f"look for a diverged training, and do the run again"
        )


def auc_per_class(
    truth: Floats, score: Floats, names: Sequence[str], where: str
) -> dict[str, float]:
    """Area under the ROC curve of each class (MedIM 3.1; mAUC is their unweighted mean).

    Args:
        truth: (n, K) labels 1/0, NaN = unknown (left out).
        score: (n, K), higher = more likely present.
        names: K class names.
        where: test set, for the error.

    Raises:
        DataError: a class has no positive or no negative image, or a score is not finite.
    """
    out = {}
    for k, name in enumerate(names):
        finite(score[:, k], f"{where}: score of {name}")
        known = ~np.isnan(truth[:, k])
        present = truth[known, k] > 0.5
        if present.all() or not present.any():
            missing = "positive" if not present.any() else "negative"
            raise DataError(
                f"{where}: class {name} has no {missing} image, so its AUC does not exist; "
                f"take a larger test set"
            )
        out[name] = _auc(present, score[known, k])
    return out


def separation(truth: Floats, score: Floats, multiclass: bool) -> float | None:
    """The main value of a classifier on images that may lack a class, as the training images do.

    Args:
        truth: (n, K) labels 1/0, NaN = unknown (left out).
        score: (n, K), higher = more likely present.
        multiclass: top-1 accuracy; else the mean AUC of the classes that have both a positive and a
            negative image.

    Returns:
        None if no class has both.
    """
    if multiclass:
        return float((score.argmax(axis=1) == truth.argmax(axis=1)).mean())
    found = []
    for real, given in zip(truth.T, score.T, strict=True):
        known = ~np.isnan(real)
        present = real[known] > 0.5
        if present.any() and not present.all():
            found.append(_auc(present, given[known]))
    return float(np.mean(found)) if found else None


def _auc(present: NDArray[np.bool_], score: Floats) -> float:
    """AUC of (n,) labels and scores: that of the bootstrap draw which holds each image once.

    scikit-learn gives the same number; a job would spend a second on importing it for this alone.
    """
    once = np.ones((1, len(score)), np.uint16)
    return float(bootstrap.auc(present[:, None].astype(float), score[:, None], once)[0])


def dice(overlap: Ints, area: Ints, truth_area: Ints, empty: str) -> NDArray[np.float64]:
    """Dice coefficient of each image (protocols.md 3, SIIM).

    Args:
        overlap: (n,) pixels that are in prediction and truth.
        area: (n,) pixels in the prediction.
        truth_area: (n,) pixels in the truth.
        empty: what an image without truth scores: `one` = 1 if nothing is predicted, else 0;
            `zero` = 0 whatever is predicted.

    Returns:
        (n,) 2 * overlap / (area + truth_area).
    """
    total = area + truth_area
    ratio: NDArray[np.float64] = 2.0 * overlap / np.maximum(total, 1)
    if empty == "one":
        ratio = np.where(total == 0, 1.0, ratio)
    return ratio


def recall_at(k: int, above: Ints, tied: Ints, own: Ints) -> NDArray[np.float64]:
    """Chance of each query that one of its own candidates is among the first k.

    Equal similarities are broken at random, in expectation: of the candidates as similar as the
    best own one, any order is as likely. With one own candidate this is (k - above) / (tied + 1)
    held to [0, 1], and if all candidates tie it is k / pool.

    Args:
        k: length of the list.
        above: (n,) other candidates that are more similar than the best own one.
        tied: (n,) other candidates that are exactly as similar.
        own: (n,) own candidates of that similarity, at least 1.

    Returns:
        (n,) 1 - C(tied, k - above) / C(tied + own, k - above).
    """
    slots = np.clip(k - above, 0, tied + own)
    miss = np.ones(len(above))
    for j in range(int(own.max(initial=0))):
        # C(t, s) / C(t + m, s) = prod_{j < m} (t + m - s - j) / (t + m - j)
        left = np.maximum(tied + own - slots - j, 0)
        miss *= np.where(j < own, left / np.maximum(tied + own - j, 1), 1.0)
    return 1.0 - miss
