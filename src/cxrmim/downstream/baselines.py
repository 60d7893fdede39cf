"""Trivial predictors, printed beside every table; they know no pretrained weights.

prior   the classes' frequencies in the training subset: all images tie, AUC 0.5
pixels  logistic regression on 16 x 16 area-averaged pixels
empty   no pneumothorax anywhere
chance  all candidates equally similar: the expected recall at k
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cxrmim.downstream.contract import Bench, Result, masks, scores
from cxrmim.errors import ParamsError
from cxrmim.grid import Run

SIDE = 16
GRID_C = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation tried on the validation images
ROWS = 256  # images averaged at once
Floats = NDArray[np.float64]


def predict(run: Run, bench: Bench) -> Result:
    """Predictions of a baseline, in the form of its task.

    Raises:
        ParamsError: there is no such baseline.
    """
    predictor = PREDICTORS.get(run.baseline or "")
    if predictor is None:
        raise ParamsError(
            f"downstream.baselines.{run.task}: no baseline {run.baseline!r}; "
            f"known: {', '.join(PREDICTORS)}"
        )
    return predictor(run, bench)


def prior(run: Run, bench: Bench) -> Result:
    """Score every image with the log odds of each class among the training labels."""
    names, labels = bench.classes(run.dataset), bench.labels(run.dataset)
    train = bench.rows(run.dataset, "train", run.percent, run.seed)
    test = bench.rows(run.dataset, "test")
    score = np.tile(_log_odds(labels[train]), (len(test), 1))
    multiclass = bench.multiclass(run.dataset)
    return Result(
        scores(bench.identity(run.dataset, test), names, labels[test], score, multiclass),
        {"train_n": len(train)},
    )


def pixels(run: Run, bench: Bench) -> Result:
    """Logistic regression on standardised 16 x 16 pixels, one a class (phantom.md).

    The regularisation of least validation log loss is taken; a class that the training subset does
    not have both ways gets its prior.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    names, labels = bench.classes(run.dataset), bench.labels(run.dataset)
    splits = ("train", run.percent), ("valid", 100), ("test", 100)
    rows = {split: bench.rows(run.dataset, split, percent, run.seed) for split, percent in splits}
    images = bench.shards(run.dataset).images
    small = {split: shrink(images, at) for split, at in rows.items()}
    mean, std = small["train"].mean(axis=0), small["train"].std(axis=0)
    small = {split: (x - mean) / np.where(std > 0, std, 1.0) for split, x in small.items()}
    score = np.tile(_log_odds(labels[rows["train"]]), (len(rows["test"]), 1))
    multiclass, chosen = bench.multiclass(run.dataset), {}
    targets = _targets(labels, multiclass)
    for name, (target, columns) in zip(("all",) if multiclass else names, targets, strict=True):
        known = {split: at[~np.isnan(target[at])] for split, at in rows.items()}
        x = {split: small[split][~np.isnan(target[rows[split]])] for split in rows}
        classes = np.unique(target[known["train"]])
        if len(classes) < 2:
            continue
        fits = []
        for c in GRID_C:
            model = LogisticRegression(C=c, max_iter=1000).fit(x["train"], target[known["train"]])
            seen = np.isin(target[known["valid"]], classes)
            truth, valid = target[known["valid"]][seen], x["valid"][seen]
            loss = (
                log_loss(truth, model.predict_proba(valid), labels=classes) if len(truth) else 0.0
            )
            fits.append((loss, c, model))
        _, chosen[name], model = min(fits, key=lambda fit: fit[:2])
        logits = model.decision_function(small["test"])
        if multiclass and len(classes) > 2:
            score[:, classes.astype(int)] = logits
        elif multiclass:
            score[:, classes.astype(int)] = np.stack([-logits, logits], axis=1) / 2
        else:
            score[:, columns] = logits
    return Result(
        scores(
            bench.identity(run.dataset, rows["test"]),
            names,
            labels[rows["test"]],
            score,
            multiclass,
        ),
        {"C": chosen, "train_n": len(rows["train"]), "valid_n": len(rows["valid"])},
    )


def empty(run: Run, bench: Bench) -> Result:
    """Predict no pneumothorax: what an image without truth scores decides the Dice."""
    import torch

    from cxrmim.downstream.features import BATCH, block

    rows, truth = bench.rows(run.dataset, "test"), bench.masks(run.dataset)
    plain, real = bench.plain(None, whole=bench.whole), []
    for part in np.split(rows, range(BATCH, len(rows), BATCH)):
        real.append((plain(block(truth, part, torch.device("cpu"))) >= 0.5).numpy())
    full = np.concatenate(real)
    return Result(masks(bench.identity(run.dataset, rows), np.zeros_like(full), full))


def chance(run: Run, bench: Bench) -> Result:
    """Find all candidates equally similar: R@k is then k over the pool if one pair counts."""
    from cxrmim.downstream import retrieval

    pool = retrieval.pool(bench, run.dataset)
    found = retrieval.chance(pool.which, bench.params.downstream.retrieve["duplicates"])
    identity = bench.identity(run.dataset, pool.rows)
    return Result(identity.assign(**found), {"pool": len(pool.rows), "reports": len(pool.texts)})


PREDICTORS: dict[str, Callable[[Run, Bench], Result]] = {
    "prior": prior,
    "pixels": pixels,
    "empty": empty,
    "chance": chance,
}


def shrink(images: NDArray[np.uint8], rows: NDArray[np.int64], side: int = SIDE) -> Floats:
    """Average pixels by area.

    Args:
        images: (N, S, S) uint8, S >= side.
        rows: (n,) which of them.
        side: pixels along a side of the result.

    Returns:
        (n, side * side) in [0, 1]; where S is no multiple of side, cells differ by one pixel.
    """
    edges = np.linspace(0, images.shape[1], side + 1).round().astype(int)
    area = np.outer(np.diff(edges), np.diff(edges)) * 255.0
    out = np.empty((len(rows), side, side))
    for first in range(0, len(rows), ROWS):
        part = np.asarray(images[rows[first : first + ROWS]], np.int64)
        summed = np.add.reduceat(np.add.reduceat(part, edges[:-1], axis=1), edges[:-1], axis=2)
        out[first : first + ROWS] = summed / area
    return out.reshape(len(rows), -1)


def _targets(
    labels: NDArray[np.float32], multiclass: bool
) -> list[tuple[NDArray[np.float32], int]]:
    """(target (N,), column of the score) of every classifier to fit."""
    if multiclass:
        return [(labels.argmax(axis=1).astype(np.float32), 0)]
    return [(labels[:, k], k) for k in range(labels.shape[1])]


def _log_odds(labels: NDArray[np.float32]) -> Floats:
    """(K,) log odds of each class, one image added to either side; NaN labels are left out."""
    present = np.nansum(labels, axis=0, dtype=np.float64) + 1
    absent = np.nansum(1 - labels, axis=0, dtype=np.float64) + 1
    odds: Floats = np.log(present / absent)
    return odds
