"""Linear classifier on fixed features (MedIM 2.5; protocols.md 3, linear probe)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrmim.errors import ParamsError


@dataclass(frozen=True)
class Training:
    """How a head is trained; see `tasks.probe.Options`."""

    batch: int
    epochs: int
    patience: int
    lr: float
    weight_decay: float
    betas: tuple[float, float]


@dataclass(frozen=True)
class Fitted:
    """A head at its best epoch.

    Attributes:
        weight: (K, D).
        bias: (K,).
        best_epoch: counted from 1.
        stopped: what ended training.
        losses: validation loss of each epoch.
    """

    weight: Tensor
    bias: Tensor
    best_epoch: int
    stopped: Literal["patience", "epochs"]
    losses: list[float]

    def __call__(self, features: Tensor) -> Tensor:
        """(n, D) -> logits (n, K)."""
        return F.linear(features, self.weight, self.bias)


def loss(logits: Tensor, target: Tensor, multiclass: bool) -> Tensor:
    """Cross-entropy of a batch.

    Args:
        logits: (B, K).
        target: (B, K) labels 1/0, NaN = unknown; rows are one-hot if `multiclass`.
        multiclass: softmax cross-entropy over classes; else binary, averaged over known labels.
    """
    if multiclass:
        return F.cross_entropy(logits, target.argmax(dim=1))
    known = ~target.isnan()
    each = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def fit(
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    training: Training,
    multiclass: bool,
    random: torch.Generator,
) -> Fitted:
    """Train a linear head with AdamW at a constant rate; keep the epoch of least validation loss.

    Args:
        train: features (n, D) and labels (n, K).
        valid: the same for the validation images.
        training: hyper-parameters.
        multiclass: see `loss`.
        random: CPU generator of the head's first weights, then of the batch order.

    Raises:
        ParamsError: the validation loss is never finite.
    """
    inputs, target = train
    count, width = inputs.shape
    bound = width**-0.5  # as torch.nn.Linear starts
    first = torch.empty(target.shape[1], width + 1).uniform_(-bound, bound, generator=random)
    weight = first[:, :-1].contiguous().to(inputs.device).requires_grad_()
    bias = first[:, -1].contiguous().to(inputs.device).requires_grad_()
    optimiser = torch.optim.AdamW(
        [weight, bias], training.lr, training.betas, weight_decay=training.weight_decay, fused=True
    )
    best, best_epoch, losses = (weight, bias), 0, [float("inf")]
    stopped: Literal["patience", "epochs"] = "epochs"
    for epoch in range(1, training.epochs + 1):
        order = torch.randperm(count, generator=random).to(inputs.device)
        for x, y in zip(
            torch.split(inputs[order], training.batch),
            torch.split(target[order], training.batch),
            strict=True,
        ):
            optimiser.zero_grad()
            loss(F.linear(x, weight, bias), y, multiclass).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            losses.append(loss(F.linear(valid[0], weight, bias), valid[1], multiclass).item())
        if losses[-1] < min(losses[:-1]):
            best, best_epoch = (weight.detach().clone(), bias.detach().clone()), epoch
        elif epoch - best_epoch >= training.patience:
            stopped = "patience"
            break
    if best_epoch == 0:
        raise ParamsError(
            f"downstream: learning rate {training.lr}: the validation loss of a linear head is "
            f"never finite; lower it"
        )
    return Fitted(best[0].detach(), best[1].detach(), best_epoch, stopped, losses[1:])
