"""Fine-tuning (CMITM table 1; protocols.md 3): all weights of the encoder and a linear head.

    pooled = mean of the last block's patch tokens, new LayerNorm (`pool: avg`; rR models_vit.py)
    logits = W pooled + b,  W ~ N(0, head_std), b = 0
    loss   = binary cross-entropy; cross-entropy if each image has exactly one class

SGD, linear warm-up and cosine to 0 by steps, clipped gradients, stochastic depth; crops, flips. The
weights of the highest validation value are kept: the mean AUC over classes, or top-1 accuracy. A
schedule that lists several learning rates (no schedule of COVIDx is known) trains with each from
the same start and keeps the one that validates best.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from cxrmim.downstream.classification import measure, rounded
from cxrmim.downstream.contract import Bench, Result, scores
from cxrmim.downstream.seeds import generator, global_seed
from cxrmim.errors import ParamsError
from cxrmim.grid import Run
from cxrmim.plugins import Strict
from cxrmim.schema import Augment

__all__ = ["Options", "measure", "run"]
Tree = dict[str, Any]


class Options(Strict):
    """Network, training and augmentation.

    `schedule` has, by dataset and percent of the labels, warm-up steps, steps and the learning
    rate, or several to choose from. `validate_every` is `epoch` or a number of steps; `patience`
    counts validations without a better value, 0 never stops. `clip` 0 clips nothing.
    """

    batch: Annotated[int, Field(ge=1)]
    eval_batch: Annotated[int, Field(ge=1)]
    optimiser: Literal["sgd", "adamw"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    weight_decay: Annotated[float, Field(ge=0)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    clip: Annotated[float, Field(ge=0)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    head_std: Annotated[float, Field(ge=0)]
    pool: Literal["avg", "cls"]
    precision: Literal["fp32", "bf16", "fp16"]
    frame: Literal["content", "padded"]
    area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
    flip: Annotated[float, Field(ge=0, le=1)]
    mean: Annotated[float, Field(gt=0, lt=1)]
    std: Annotated[float, Field(gt=0, lt=1)]
    validate_every: Literal["epoch"] | Annotated[int, Field(ge=1)]
    patience: Annotated[int, Field(ge=0)]
    schedule: dict[
        str,
        dict[
            Literal["1", "10", "100"],
            tuple[
                Annotated[int, Field(ge=0)],
                Annotated[int, Field(ge=1)],
                Annotated[float, Field(gt=0)]
                | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)],
            ],
        ],
    ]


NETWORK = {"pool", "drop_path", "head_std"}
PICTURE = {"frame", "area", "flip", "mean", "std"}


def run(run: Run, bench: Bench) -> Result:
    """Tune on a share of the training labels and score the test images.

    Returns:
        Predictions: one row a test image, `label_<class>` (truth) and `score_<class>` (logit).
        Details: the course of training with the chosen learning rate `lr`; `lr_values`, where there
        were several, is the best validation value of each, None where training diverged.

    Raises:
        DataError: no class has both a positive and a negative validation image.
        ParamsError: the dataset has no schedule, training diverges at every learning rate, or the
            precision needs a GPU.
    """
    from cxrmim.downstream import finetuning
    from cxrmim.downstream.finetuning import Steady

    options = Options.model_validate(bench.params.downstream.finetune)
    where, warmup, steps, rates = planned(options, bench.params.reading(run.dataset)[0], run)
    training = finetuning.Training(**options.model_dump(exclude={*NETWORK, *PICTURE, "schedule"}))
    side = bench.params.pretrain.image
    pictures = finetuning.Pictures(
        run.dataset,
        bench.shards(run.dataset).images,
        bench.content(run.dataset) if options.frame == "content" else None,
        Augment(resize=side, crop="resized", **options.model_dump(include=PICTURE - {"frame"})),
        side,
        bench.device,
    )
    names, labels = bench.classes(run.dataset), bench.labels(run.dataset)
    multiclass = bench.multiclass(run.dataset)
    train = bench.rows(run.dataset, "train", run.percent, run.seed)
    valid, test = (bench.rows(run.dataset, split) for split in ("valid", "test"))
    encoder = bench.method(run.checkpoint).encoder  # loading draws numbers: not inside a seed
    best, values = None, Tree()
    for lr in rates:
        with global_seed(run, "finetune/weights"):
            model = finetuning.network(
                encoder,
                bench.params.pretrain.vit,
                side,
                len(names),
                **options.model_dump(include=NETWORK),
            ).to(bench.device)
        random = generator(run, "finetune/order"), Steady(generator(run, "finetune/augment"))
        with global_seed(run, "finetune/depth"):
            course = finetuning.fit(
                model,
                pictures,
                labels,
                (train, valid),
                finetuning.Plan(warmup, steps, lr),
                training,
                random,
                multiclass=multiclass,
            )
        values[f"{lr:g}"] = rounded(None if course is None else course.value)
        if course is not None and (best is None or course.value > best.value):
            best, chosen = course, lr
    if best is None:
        raise ParamsError(
            f"{where}: learning rate {' and '.join(values)}: the loss of fine-tuning is not "
            f"finite; lower it"
        )
    model.load_state_dict(best.weights)
    logits = finetuning.evaluate(model, finetuning.parts(pictures, test, options.eval_batch))
    return Result(
        scores(bench.identity(run.dataset, test), names, labels[test], logits, multiclass),
        {
            "best_step": best.best_step,
            "steps": best.steps,
            "validations": len(best.values),
            "stopped": best.stopped,
            "lr": chosen,
            "valid_value": rounded(best.value),
            "train_loss": rounded(best.train_loss),
            "train_n": len(train),
            "valid_n": len(valid),
            **({"lr_values": values} if len(rates) > 1 else {}),
        },
    )


def planned(options: Options, dataset: str, run: Run) -> tuple[str, int, int, list[float]]:
    """Key of a run's schedule in params, warm-up steps, steps, learning rates.

    Args:
        options: of the task.
        dataset: the reader's name.
        run: its percent counts.

    Raises:
        ParamsError: there is none, or it warms up to its end.
    """
    where = f"downstream.finetune.schedule.{dataset}.{run.percent}"
    found = options.schedule.get(dataset, {}).get(str(run.percent))  # type: ignore[call-overload]
    if found is None:
        raise ParamsError(
            f"{where}: missing; {run.dataset} is fine-tuned by it: add "
            f"[warm-up steps, steps, learning rate]"
        )
    warmup, steps, rates = found
    if warmup >= steps:
        raise ParamsError(f"{where}: {warmup} of {steps} steps warm up; leave some for the cosine")
    tried = rates if isinstance(rates, list) else [rates]
    if len({f"{lr:g}" for lr in tried}) < len(tried):
        raise ParamsError(f"{where}: learning rates {tried}: one stands there twice; remove it")
    return where, warmup, steps, tried
