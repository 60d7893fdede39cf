"""Linear probing (MedIM 2.5, table 1; protocols.md 3): frozen encoder, linear head.

    features = CLS token (or patch mean) after the final LayerNorm, centre crop, eval mode
    logits   = W features + b
    loss     = binary cross-entropy; cross-entropy if each image has exactly one class

AdamW at a constant rate, early stop on the validation loss, the best epoch is kept. Features are
used as they are: standardising them is no part of the protocol. Multi-label sets score the
unweighted mean AUC over classes, single-label sets top-1 accuracy.
"""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.downstream import bootstrap, metrics
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import Bench, Result, scores, truths
from cxrmim.downstream.seeds import generator
from cxrmim.grid import Run
from cxrmim.plugins import Strict

Tree = dict[str, Any]
SCARCE = 1  # percent of the labels at which rows differ most, and another head costs least


class Options(Strict):
    """Training of the head; `patience` counts epochs without a lower validation loss."""

    batch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    patience: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    pool: Literal["cls", "avg"]
    views: Literal[1]


def run(run: Run, bench: Bench) -> Result:
    """Train a head on a share of the training labels and score the test images.

    Returns:
        Predictions: one row a test image, `label_<class>` (truth) and `score_<class>` (logit).
        Details: beside the course of training, what tells why a row is low: `train_value`, the same
        metric on the images that the head was trained on, `rank`, the effective rank of the test
        images' features, and, where labels are scarce, `other_value`: the metric of a head on the
        other pooling. Masked modelling trains CLS only through what patches take from it.
    """
    import torch

    from cxrmim.downstream import linear
    from cxrmim.downstream.features import effective_rank

    options = Options.model_validate(bench.params.downstream.probe)
    names, labels = bench.classes(run.dataset), bench.labels(run.dataset)
    multiclass = bench.multiclass(run.dataset)
    pooled = {p: bench.features(run.checkpoint, run.dataset, p) for p in ("cls", "avg")}
    features, other = pooled.pop(options.pool), next(iter(pooled.values()))
    target = torch.from_numpy(labels).to(features.device)
    train = bench.rows(run.dataset, "train", run.percent, run.seed)
    valid = bench.rows(run.dataset, "valid")
    test = bench.rows(run.dataset, "test")

    def fit(of: torch.Tensor) -> linear.Fitted:
        return linear.fit(
            (of[train], target[train]),
            (of[valid], target[valid]),
            linear.Training(**options.model_dump(exclude={"pool", "views"})),
            multiclass,
            generator(run, "probe"),
        )

    head = fit(features)
    logits = head(features[test]).cpu().numpy()
    fitted = metrics.separation(labels[train], head(features[train]).cpu().numpy(), multiclass)
    told: Tree = {}
    if run.percent == SCARCE:
        found = fit(other)(other[test]).cpu().numpy()
        told["other_value"] = _number(metrics.separation(labels[test], found, multiclass))
    return Result(
        scores(bench.identity(run.dataset, test), names, labels[test], logits, multiclass),
        {
            "best_epoch": head.best_epoch,
            "epochs": len(head.losses),
            "stopped": head.stopped,
            "valid_loss": round(head.losses[head.best_epoch - 1], 6),
            "train_value": _number(fitted),
            "rank": round(effective_rank(features[test]), 4),
            "train_n": len(train),
            "valid_n": len(valid),
            **told,
        },
    )


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def measure(predictions: pd.DataFrame, options: Tree, draws: Draws) -> Tree:
    """Mean AUC (multi-label) or accuracy (single-label) of predictions.

    Args:
        predictions: what `run` or a baseline gives.
        options: the task's block of params.yaml; nothing of it matters here.
        draws: bootstrap draws of the test set.

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
