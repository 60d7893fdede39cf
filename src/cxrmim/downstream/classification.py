"""Measure of the tasks that classify images: linear probing and fine-tuning (protocols.md 3).

Multi-label sets score the unweighted mean AUC over classes, single-label sets top-1 accuracy.
"""

from typing import Any

import numpy as np
import pandas as pd

from cxrmim.downstream import bootstrap, metrics
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import truths

Tree = dict[str, Any]


def measure(predictions: pd.DataFrame, options: Tree, draws: Draws) -> Tree:
    """Mean AUC (multi-label) or accuracy (single-label) of predictions.

    Args:
        predictions: what `contract.scores` makes; n rows.
        options: the task's block of params.yaml; nothing of it matters here.
        draws: bootstrap draws of the test set.

    Returns:
        `value` and `replicates` in [0, 1], `metric`, `n`, and of each class `per_class` (its AUC,
        or the share of its images that are right) and `positives`.

    Raises:
        DataError: a class has no positive or no negative test image.
    """
    names, truth, score = truths(predictions)
    groups = predictions["patient"].tolist()
    if "class" in predictions:
        right = (score.argmax(axis=1) == predictions["class"].to_numpy()).astype(np.float64)
        hit = {n: float(right[truth[:, k] == 1].mean()) for k, n in enumerate(names)}
        replicates = bootstrap.mean(right, draws.weights(groups))
        value, metric, per_class = float(right.mean()), "accuracy", hit
    else:
        per_class = metrics.auc_per_class(truth, score, names, f"{draws.key}, test")
        value, metric = float(np.mean(list(per_class.values()))), "mAUC"
        replicates = bootstrap.auc(truth, score, draws.weights(groups, truth))
    return {
        "value": value,
        "metric": metric,
        "n": len(predictions),
        "per_class": per_class,
        "positives": {n: int((truth[:, k] == 1).sum()) for k, n in enumerate(names)},
        "replicates": bootstrap.rounded(replicates),
    }


def rounded(value: float | None) -> float | None:
    """A value as details keep it: to six digits, None where it does not exist."""
    return None if value is None else round(value, 6)
