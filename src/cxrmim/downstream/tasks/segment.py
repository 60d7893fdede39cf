"""Pneumothorax segmentation (MedIM 2.5, table 1; protocols.md 3, SIIM).

Encoder and, where the method has one, decoder start from the pretrained weights; a projection and a
head are new, and all weights are tuned. Loss 10 * focal - log(soft dice), AdamW at a constant rate,
early stop on the validation loss, the best epoch is kept.

Dice is taken per image at the encoder's input size and averaged over images. Truth is a mask pixel
that is at least half foreground after the resize. An image without truth scores 1 if nothing
is predicted and else 0 (`empty: one`), or always 0 (`zero`); the record holds both, and the mean
over positive images alone. An image's `score` is its highest pixel probability.
"""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.downstream import bootstrap, metrics
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import Bench, Result, masks
from cxrmim.downstream.options import Trained
from cxrmim.downstream.seeds import generator, global_seed
from cxrmim.errors import ParamsError
from cxrmim.grid import Run

Tree = dict[str, Any]


class Options(Trained):
    """Loss and augmentation; `scale` is a share, `rotate` in degrees.

    An epoch goes over the training images again until it has made `epoch_steps` steps (1: once), so
    that few images are not all validation.
    `frame`: images and masks are resized as a `whole`, so that no pneumothorax is cut off and every
    method has the same truth (rG, rM), or resized and cropped as each `method` does (`method`).
    `freeze` keeps the encoder as it came. `decoder` holds the channels of a new decoder's blocks: a
    method without one gets it in any case, any method under `decoder_init: random`.
    """

    epoch_steps: Annotated[int, Field(ge=1)]
    focal_weight: Annotated[float, Field(ge=0)]
    focal_gamma: Annotated[float, Field(ge=0)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    rotate: Annotated[float, Field(ge=0, le=180)]
    augment_p: Annotated[float, Field(ge=0, le=1)]
    frame: Literal["whole", "method"]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    empty: Literal["one", "zero"]
    freeze: bool
    decoder_init: Literal["method", "random"]
    decoder: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


# what training leaves out
TRAINING = {"frame", "threshold", "empty", "freeze", "decoder_init", "decoder"}


def run(run: Run, bench: Bench) -> Result:
    """Tune on a share of the training images and segment the test images.

    Returns:
        Predictions: see `contract.masks`.
    """
    import copy

    import torch

    from cxrmim.downstream import segmentation

    options = Options.model_validate(bench.params.downstream.segment)
    training = segmentation.Training(**options.model_dump(exclude=TRAINING))
    method = bench.method(run.checkpoint)
    images, truth = bench.scenes(run.checkpoint, run.dataset)
    patch, side = bench.params.pretrain.vit.patch, bench.params.pretrain.image
    pretrained = method.decoder if options.decoder_init == "method" else None
    channels = options.decoder if pretrained is None else pretrained.channels
    if 2 ** len(channels) != patch:
        raise ParamsError(
            f"downstream.segment.decoder = {list(channels)}: {len(channels)} blocks that double "
            f"the grid do not turn patches of {patch} px into pixels; give log2({patch}) of them"
        )
    with global_seed(run, "segment/weights"):
        model = segmentation.Segmenter(
            copy.deepcopy(method.encoder), copy.deepcopy(pretrained), channels, options.freeze
        ).to(bench.device)

    def load(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at = rows.to(bench.device)
        return images[at, None].expand(-1, 3, -1, -1), truth[at]

    train, valid, test = (
        torch.from_numpy(bench.rows(run.dataset, split, percent, run.seed))
        for split, percent in (("train", run.percent), ("valid", 100), ("test", 100))
    )
    random = generator(run, "segment/order")
    best = segmentation.fit(model, load, train, valid, training, random)
    model.eval()
    predicted, real, score = [], [], []
    with torch.no_grad():
        for rows in torch.split(test, options.batch):
            image, mask = load(rows)
            share = model(image).sigmoid()
            score.append(share.amax(dim=(1, 2)).cpu().numpy())
            predicted.append((share > options.threshold).cpu().numpy())
            real.append((mask >= HALF).cpu().numpy())
    identity = bench.identity(run.dataset, test.numpy())
    return Result(
        masks(identity, *(np.concatenate(parts) for parts in (predicted, real, score))),
        {
            "best_epoch": best.at,
            "epochs": len(best.values),
            "stopped": best.stopped,
            "valid_loss": round(best.value, 6),
            "decoder": "random" if pretrained is None else "method",
            "train_n": len(train),
            "valid_n": len(valid),
            "side": side,
        },
    )


HALF = 0.5


def measure(predictions: pd.DataFrame, options: Tree, draws: Draws) -> Tree:
    """Dice of predictions.

    Args:
        predictions: what `run` or a baseline gives.
        options: the task's block of params.yaml; `empty` says what an image without truth scores.
        draws: bootstrap draws of the test set.

    Returns:
        Beside Dice under every reading, `auc`: how well an image's highest pixel tells whether it
        has a pneumothorax (None if all images or none have one), and the `threshold` of a mask.

    Raises:
        DataError: a score is not finite.
    """
    overlap, area, real = (
        predictions[c].to_numpy(np.int64) for c in ("overlap", "area", "truth_area")
    )
    each = {empty: metrics.dice(overlap, area, real, empty) for empty in ("one", "zero")}
    positive = real > 0
    chosen = each[options["empty"]]
    score = predictions["score"].to_numpy(np.float32)
    metrics.finite(score, f"{draws.key}, test: score")
    weights = draws.weights(predictions["patient"].tolist())
    return {
        "value": float(chosen.mean()),
        "metric": "dice",
        "n": len(predictions),
        "positives": int(positive.sum()),
        "predicted": int((area > 0).sum()),
        "dice_one": float(each["one"].mean()),
        "dice_zero": float(each["zero"].mean()),
        "dice_positive": float(each["one"][positive].mean()) if positive.any() else None,
        "auc": metrics.separation(positive[:, None].astype(np.float32), score[:, None], False),
        "threshold": options["threshold"],
        "replicates": bootstrap.rounded(bootstrap.mean(chosen, weights)),
    }
