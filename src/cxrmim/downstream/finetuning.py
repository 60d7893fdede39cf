"""Network and training of fine-tuning (CMITM table 1; protocols.md 3, fine-tune)."""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from cxrmim.downstream import metrics
from cxrmim.downstream.features import block
from cxrmim.downstream.linear import loss
from cxrmim.downstream.stopping import Best
from cxrmim.errors import DataError, ParamsError
from cxrmim.pretrain.parts import augment as augmentation
from cxrmim.pretrain.parts.noise import Noise
from cxrmim.pretrain.schedule import Cosine
from cxrmim.schema import Augment, Schedule, Vit

log = logging.getLogger("cxrmim")
Rows = NDArray[np.int64]
CACHE = 1 << 30  # bytes of validation images that are prepared once instead of at each validation


@dataclass(frozen=True)
class Plan:
    """Learning rate of a training, by steps."""

    warmup: int
    steps: int
    lr: float


@dataclass(frozen=True)
class Training:
    """How the network is trained; see `tasks.finetune.Options`."""

    batch: int
    eval_batch: int
    optimiser: Literal["sgd", "adamw"]
    momentum: float
    betas: tuple[float, float]
    weight_decay: float
    layer_decay: float
    clip: float
    precision: Literal["fp32", "bf16", "fp16"]
    validate_every: Literal["epoch"] | int
    patience: int


@dataclass(frozen=True)
class Course:
    """How a training went; steps count from 1.

    Attributes:
        best_step: of the highest validation value.
        steps: taken.
        values: validation values, in order.
        value: the highest.
        train_loss: mean loss of the steps since the last validation but one.
        stopped: what ended training.
        weights: state of the network at `best_step`.
    """

    best_step: int
    steps: int
    values: list[float]
    value: float
    train_loss: float
    stopped: Literal["patience", "steps"]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Steady(Noise):
    """Random numbers drawn on the CPU for any device, so that every device sees the same."""

    def rand(self, rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """(rows, *shape) uniform in [0, 1) on the device."""
        return super().rand(rows, *shape).to(device)


@dataclass(frozen=True)
class Pictures:
    """A dataset's images as the network sees them, read from the memory map batch by batch.

    Attributes:
        name: of the dataset, for errors.
        images: (N, S, S) uint8.
        content: (N, 2) height and width of each image inside its square in px; None for crops of
            the padded square.
        augment: crop and flip of training; mean and std of both.
        size: side of the network's input in px.
        device: where they go.
    """

    name: str
    images: NDArray[np.uint8]
    content: NDArray[np.float32] | None
    augment: Augment
    size: int
    device: torch.device

    def train(self, rows: Rows, random: Noise) -> Tensor:
        """(B,) row numbers -> (B, 3, s, s), augmented; bilinear (torchvision's default)."""
        inside = self._inside(rows)
        return augmentation.train(*self._read(rows), self.size, random, inside, cubic=False)

    def evaluate(self, rows: Rows) -> Tensor:
        """(B,) row numbers -> (B, 3, s, s): shorter side to s, centre crop."""
        return augmentation.evaluate(*self._read(rows), self.size, self._inside(rows))

    def _read(self, rows: Rows) -> tuple[Tensor, Augment]:
        return block(self.images, rows, self.device), self.augment

    def _inside(self, rows: Rows) -> Tensor | None:
        if self.content is None:
            return None
        return torch.from_numpy(self.content[rows]).to(self.device)


def network(
    encoder: VisionTransformer,
    vit: Vit,
    image: int,
    classes: int,
    *,
    pool: Literal["avg", "cls"],
    drop_path: float,
    head_std: float,
) -> VisionTransformer:
    """A pretrained encoder with stochastic depth and a new linear head, in eval mode, on the CPU.

    `avg` (rR models_vit.py): the encoder's own final LayerNorm is left out; patch tokens of the
    last block are averaged, then a new LayerNorm. `cls`: CLS after the encoder's final LayerNorm
    and no other. Every weight is trained, positions too. The head and what else is new come from
    torch's global generator, so that all checkpoints of one shape get the same.

    Args:
        encoder: pretrained; its weights are copied.
        vit: its dimensions.
        image: side of its input in px.
        classes: outputs K.
        pool: what the head sees.
        drop_path: rate of the last block; it grows linearly with depth from 0.
        head_std: standard deviation of the head's first weights; its bias is 0.

    Returns:
        ``(B, 3, image, image) -> (B, K)`` logits.
    """
    model = VisionTransformer(
        img_size=image,
        patch_size=vit.patch,
        num_classes=classes,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        mlp_ratio=vit.mlp,
        global_pool={"avg": "avg", "cls": "token"}[pool],
        drop_path_rate=drop_path,
    )
    taken = encoder.state_dict()
    if pool == "avg":
        taken = {name: value for name, value in taken.items() if not name.startswith("norm.")}
    fresh = {name for name in model.state_dict() if name.startswith(("head.", "fc_norm."))}
    left = model.load_state_dict(taken, strict=False)
    assert set(left.missing_keys) == fresh and not left.unexpected_keys, left
    nn.init.normal_(model.head.weight, std=head_std)
    nn.init.zeros_(model.head.bias)
    return model.eval()


def optimise(model: VisionTransformer, lr: float, training: Training) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over all weights.

    Biases, norms and the embeddings that the ViT names are not decayed. With `layer_decay` d the
    rate of block i of L is d^(L + 1 - i) of the head's, that of the stem d^(L + 1) (BEiT).
    """
    skip = model.no_weight_decay()
    groups: Iterable[Any]
    if training.layer_decay != 1.0:
        groups = param_groups_layer_decay(
            model,
            training.weight_decay,
            no_weight_decay_list=skip,
            layer_decay=training.layer_decay,
        )
    elif training.weight_decay > 0:
        groups = param_groups_weight_decay(model, training.weight_decay, no_weight_decay_list=skip)
    else:
        groups = model.parameters()
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, lr, training.momentum, fused=True)
    return torch.optim.AdamW(groups, lr, training.betas, weight_decay=0.0, fused=True)


def schedule(optimiser: torch.optim.Optimizer, plan: Plan) -> Cosine:
    """Rates: ``at(t)`` sets that of step t, from 1 (rR steps its schedule before its optimiser).

    lr * t / W                                        t < W
    lr * (1 + cos(pi * (t - W) / (steps - W))) / 2    W <= t <= steps: 0 at the last step
    """
    rule = Schedule(warmup=plan.warmup / plan.steps, start=0.0, end=0.0)
    return Cosine(optimiser, rule, plan.steps)


def batches(rows: Rows, size: int, random: torch.Generator) -> Iterator[tuple[Rows, bool]]:
    """Endless epochs, each a permutation cut into batches; the last, partial one is kept.

    Args:
        rows: (n,) row numbers.
        size: of a batch, at most.
        random: CPU generator.

    Yields:
        Row numbers, and whether they end an epoch.
    """
    while True:
        order = rows[torch.randperm(len(rows), generator=random).numpy()]
        for first in range(0, len(order), size):
            yield order[first : first + size], first + size >= len(order)


def half(precision: str, device: torch.device) -> torch.dtype | None:
    """Type that matrix products are computed in; None for float32. A CPU does not compute in bf16.

    Raises:
        ParamsError: fp16 is asked for without a GPU.
    """
    if device.type == "cpu" and precision == "fp16":
        raise ParamsError(
            "downstream.finetune.precision = 'fp16': needs a GPU; set it to fp32 or bf16"
        )
    if device.type == "cpu" and precision == "bf16":
        log.warning("downstream.finetune.precision = bf16 is for GPUs; this CPU computes in fp32")
        return None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def logits(model: VisionTransformer, image: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B, 3, s, s) -> (B, K) float32; pooling and head are never computed in half precision."""
    with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
        tokens = model.forward_features(image)
    out: Tensor = model.forward_head(tokens.float())
    return out


def evaluate(
    model: VisionTransformer, images: Iterable[Tensor], dtype: torch.dtype | None = None
) -> NDArray[np.float32]:
    """Logits (n, K) of batches of images; the model is left in eval mode."""
    model.eval()
    with torch.inference_mode():
        found: NDArray[np.float32] = (
            torch.cat([logits(model, image, dtype) for image in images]).cpu().numpy()
        )
    return found


def parts(pictures: Pictures, rows: Rows, size: int) -> Iterator[Tensor]:
    """Evaluation images of rows, in order, `size` at a time."""
    return (pictures.evaluate(rows[i : i + size]) for i in range(0, len(rows), size))


def fit(
    model: VisionTransformer,
    pictures: Pictures,
    labels: NDArray[np.float32],
    rows: tuple[Rows, Rows],
    plan: Plan,
    training: Training,
    random: tuple[torch.Generator, Noise],
    *,
    multiclass: bool,
) -> Course | None:
    """Train for `plan.steps` steps; validate on the way and at the end.

    Validation scores the mean AUC of the classes that have both a positive and a negative image,
    or top-1 accuracy; a tie keeps the earlier step.

    Args:
        model: on its device; its weights are changed. Stochastic depth draws from torch's global
            generator.
        pictures: the dataset's images.
        labels: (N, K) 1/0/NaN of all of them.
        rows: those of training and of validation.
        plan: learning rate and steps.
        training: the rest.
        random: CPU generator of the batch order, and the augmentation's numbers.
        multiclass: see `linear.loss`.

    Returns:
        None if the loss, or a validation logit, is not finite: the learning rate is too high.

    Raises:
        DataError: no class has both a positive and a negative validation image.
        ParamsError: fp16 without a GPU.
    """
    train, valid = rows
    truth = labels[valid]
    if metrics.separation(truth, np.zeros_like(truth), multiclass) is None:
        raise DataError(
            f"{pictures.name}: fine-tuning keeps the weights of the best validation AUC, and no "
            f"class has both a positive and a negative validation image; take a larger validation "
            f"split"
        )
    device = pictures.device
    target = torch.from_numpy(labels).to(device)
    held = Held(pictures, valid, training.eval_batch)
    dtype = half(training.precision, device)
    optimiser = optimise(model, plan.lr, training)
    rate = schedule(optimiser, plan)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    weights = list(model.parameters())
    best, at = Best(training.patience, highest=True), list[int]()
    total, since, mean = torch.zeros((), device=device), 0, 0.0
    order = itertools.islice(batches(train, training.batch, random[0]), plan.steps)
    model.train()
    for step, (part, ends) in enumerate(order, 1):
        rate.at(step)
        found = logits(model, pictures.train(part, random[1]), dtype)
        cost = loss(found, target[torch.from_numpy(part).to(device)], multiclass)
        scaler.scale(cost).backward()  # type: ignore[no-untyped-call]
        if training.clip > 0:
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(weights, training.clip, foreach=True)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        total += cost.detach()
        due = ends if training.validate_every == "epoch" else step % training.validate_every == 0
        if not due and step < plan.steps:
            continue
        mean = total.item() / (step - since)
        score = evaluate(model, held, dtype)
        if not (math.isfinite(mean) and np.isfinite(score).all()):
            return None
        model.train()
        total, since = torch.zeros((), device=device), step
        at.append(step)
        value = metrics.separation(truth, score, multiclass)
        assert value is not None
        if best.judge(value, model.state_dict()):
            break
    stopped: Literal["patience", "steps"] = "patience" if best.stopped == "patience" else "steps"
    return Course(at[best.at - 1], at[-1], best.values, best.value, mean, stopped, best.weights)


class Held:
    """Evaluation images that are looked at again and again: kept if they are few, else remade."""

    def __init__(self, pictures: Pictures, rows: Rows, size: int) -> None:
        self._make = (pictures, rows, size)
        few = len(rows) * pictures.size**2 * 4 <= CACHE
        self._kept = list(parts(*self._make)) if few else None

    def __iter__(self) -> Iterator[Tensor]:
        """Batches in order; the same numbers either way."""
        return iter(self._kept) if self._kept is not None else parts(*self._make)
