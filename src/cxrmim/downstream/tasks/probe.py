"""Linear probing (MedIM 2.5, table 1; protocols.md 3): frozen encoder, linear head.

    features = CLS token (or patch mean) after the final LayerNorm, centre crop, eval mode
    logits   = W features + b
    loss     = binary cross-entropy; cross-entropy if each image has exactly one class

AdamW at a constant rate, early stop on the validation loss, the best epoch is kept; or the optimum
of the penalised training loss by L-BFGS. Features are used as they are: standardising them is no
part of the protocol. Multi-label sets score the unweighted mean AUC over classes, single-label sets
top-1 accuracy.

The official code augments the training images anew in every epoch, so that the encoder runs once
for each image and epoch (``views: epoch``). With K views it runs K times and epochs take turns;
``views: 1`` trains on the centre crop that is also evaluated, which is encoded anyway.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from cxrmim.downstream import metrics
from cxrmim.downstream.classification import measure, rounded
from cxrmim.downstream.contract import Bench, Result, scores
from cxrmim.downstream.options import Trained
from cxrmim.downstream.seeds import generator
from cxrmim.errors import ParamsError
from cxrmim.explain import fault
from cxrmim.grid import Run
from cxrmim.schema import Augment

if TYPE_CHECKING:
    import torch

    from cxrmim.downstream import linear

__all__ = ["Options", "Seen", "measure", "rule", "run"]
Tree = dict[str, Any]
Rows = NDArray[np.int64]
SCARCE = 1  # percent of the labels at which rows differ most, and another head costs least
AS_IS = Augment(resize=1, crop="centre", mean=0.5, std=0.5)  # stands for any method's


class Options(Trained):
    """Training of the head.

    `solver: lbfgs` reads none of the options of training: `l2` is the strength of its penalty.
    `views` is the number of augmented views of the training images that epochs take turns with, 1
    for the centre crop, `epoch` for a view of each epoch's own. `augment` has, by dataset, what of
    `schema.Augment` a view draws.
    """

    pool: Literal["cls", "avg"]
    solver: Literal["adamw", "lbfgs"]
    l2: Annotated[float, Field(gt=0)]
    views: Annotated[int, Field(ge=1)] | Literal["epoch"]
    augment: dict[str, dict[str, object]]


def run(run: Run, bench: Bench) -> Result:
    """Train a head on a share of the training labels and score the test images.

    Returns:
        Predictions: one row a test image, `label_<class>` (truth) and `score_<class>` (logit).
        Details: beside the course of training, `encoded`, how many training images the encoder saw
        for it, and what tells why a row is low: `train_value`, the same metric on the images that
        the head was trained on, `rank`, the effective rank of the test images' features, and, where
        labels are scarce, `other_value`: the metric of a head on the other pooling. Masked
        modelling trains CLS only through what patches take from it.

    Raises:
        ParamsError: the options do not fit together, or training fails.
    """
    import torch

    from cxrmim.downstream import linear
    from cxrmim.downstream.features import POOLS, effective_rank

    options = Options.model_validate(bench.params.downstream.probe)
    names, labels = bench.classes(run.dataset), bench.labels(run.dataset)
    multiclass = bench.multiclass(run.dataset)
    target = torch.from_numpy(labels).to(bench.device)
    train = bench.rows(run.dataset, "train", run.percent, run.seed)
    valid = bench.rows(run.dataset, "valid")
    test = bench.rows(run.dataset, "test")
    scarce = run.percent == SCARCE
    seen = Seen(run, bench, options, train, POOLS if scarce else (options.pool,))

    def fit(pool: str) -> linear.Fitted | linear.Optimum:
        if options.solver == "lbfgs":
            return linear.solve((seen(1, pool), target[train]), options.l2, multiclass)
        features = bench.features(run.checkpoint, run.dataset, pool)
        return linear.fit(
            (lambda epoch: seen(epoch, pool), target[train]),
            (features[valid], target[valid]),
            options,
            multiclass,
            generator(run, "probe"),
        )

    def value(head: linear.Head, pool: str, rows: Rows) -> float | None:
        logits = head(bench.features(run.checkpoint, run.dataset, pool)[rows])
        return rounded(metrics.separation(labels[rows], logits.cpu().numpy(), multiclass))

    features, head = bench.features(run.checkpoint, run.dataset, options.pool), fit(options.pool)
    logits = head(features[test]).cpu().numpy()
    told = _course(head, head(features[valid]), target[valid], multiclass)
    told["train_value"] = value(head, options.pool, train)
    if scarce:
        other = next(pool for pool in POOLS if pool != options.pool)
        told["other_value"] = value(fit(other), other, test)
    return Result(
        scores(bench.identity(run.dataset, test), names, labels[test], logits, multiclass),
        {
            **told,
            "solver": options.solver,
            "encoded": seen.encoded,
            "rank": round(effective_rank(features[test]), 4),
            "train_n": len(train),
            "valid_n": len(valid),
        },
    )


def _course(
    head: "linear.Fitted | linear.Optimum",
    logits: "torch.Tensor",
    target: "torch.Tensor",
    multiclass: bool,
) -> Tree:
    """How training went; `logits` are those of the validation images."""
    from cxrmim.downstream import linear

    found = {"valid_loss": round(linear.loss(logits, target, multiclass).item(), 6)}
    if isinstance(head, linear.Optimum):  # one that does not converge is an error
        return found | {"iterations": head.iterations, "converged": True}
    course = {"best_epoch": head.best_epoch, "epochs": len(head.losses), "stopped": head.stopped}
    return found | course


class Seen:
    """Features of the training images as each epoch sees them.

    Args:
        run: whose.
        bench: gives the features.
        options: `views` and `augment`.
        rows: (n,) the training images.
        pools: the poolings that will be asked for.

    Raises:
        ParamsError: the options do not fit together.
    """

    def __init__(
        self, run: Run, bench: Bench, options: Options, rows: Rows, pools: Sequence[str]
    ) -> None:
        self.rows, self.pools, self.count = rows, pools, options.views
        self.numbers: set[int] = set()
        for dataset, tree in options.augment.items():
            rule(AS_IS, dataset, tree)
        if options.views == 1:
            self.centre = {
                pool: bench.features(run.checkpoint, run.dataset, pool)[rows] for pool in pools
            }
            return
        if options.solver == "lbfgs":
            raise ParamsError(
                f"downstream.probe.views = {options.views!r}: L-BFGS finds the optimum of fixed "
                f"features; set it to 1 or take `solver: adamw`"
            )
        from cxrmim.downstream.features import SHARED

        reader = bench.params.reading(run.dataset)[0]
        if reader not in options.augment:
            raise ParamsError(
                f"downstream.probe.augment: lacks {reader}, whose training images "
                f"`views: {options.views}` augments; add it or set `views: 1`"
            )
        own = bench.method(run.checkpoint).evaluation
        drawn = rule(own, reader, options.augment[reader])
        limit = SHARED if options.views == "epoch" else None
        self.views = bench.augmented(run.checkpoint, run.dataset, drawn, limit)

    def __call__(self, epoch: int, pool: str) -> "torch.Tensor":
        """(n, D) in an epoch, counted from 1."""
        number = epoch if self.count == "epoch" else (epoch - 1) % self.count + 1
        self.numbers.add(number)
        if self.count == 1:
            return self.centre[pool]
        return self.views(number, self.rows, self.pools)[pool]

    @property
    def encoded(self) -> int:
        """Images that the encoder saw for this run's training, had it been the only one."""
        return len(self.numbers) * len(self.rows)


def rule(own: Augment, dataset: str, tree: Mapping[str, object]) -> Augment:
    """How the training images of a dataset are augmented.

    Args:
        own: the method's evaluation transform, whose resizing, mean and deviation hold.
        dataset: its reader.
        tree: what `augment` says of it.

    Raises:
        ParamsError: naming the key.
    """
    where = f"downstream.probe.augment.{dataset}"
    fixed = {"resize": own.resize, "mean": own.mean, "std": own.std}
    for key in fixed.keys() & tree.keys():
        raise ParamsError(f"{where}.{key}: is that of the method's pretraining; remove it")
    try:
        return Augment.model_validate({**fixed, **tree})
    except ValidationError as error:
        raise ParamsError(fault(error, Augment, where)) from None
