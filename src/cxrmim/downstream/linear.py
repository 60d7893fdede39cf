"""Linear classifier on fixed features (MedIM 2.5; protocols.md 3, linear probe)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.adamw import adamw

from cxrmim.downstream.options import Trained
from cxrmim.downstream.stopping import Best
from cxrmim.errors import ParamsError

Floats = NDArray[np.float64]
EPS = 1e-8  # of AdamW, as torch has it
TOLERANCE = 1e-6  # largest entry of the gradient at what L-BFGS may call an optimum
ITERATIONS = 10_000
MEMORY = 20  # pairs that L-BFGS remembers; more cost little here and save passes over the data


@dataclass(frozen=True)
class Head:
    """A linear head.

    Attributes:
        weight: (K, D).
        bias: (K,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(n, D) -> logits (n, K)."""
        return F.linear(features, self.weight, self.bias)


@dataclass(frozen=True)
class Fitted(Head):
    """A head at its best epoch.

    Attributes:
        best_epoch: counted from 1.
        stopped: what ended training.
        losses: validation loss of each epoch.
    """

    best_epoch: int
    stopped: Literal["patience", "epochs"]
    losses: list[float]


@dataclass(frozen=True)
class Optimum(Head):
    """A head of least penalised training loss.

    Attributes:
        iterations: of L-BFGS, over all of its problems.
    """

    iterations: int


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


class Slope:
    """Derivative of `loss` by the logits, without autograd.

    A head of a few hundred weights spends most of its time in autograd and its bookkeeping; the
    derivative is (predicted probability - label) / count, over the known labels.

    Args:
        target: (n, K) labels as `loss` takes them.
        multiclass: as `loss` takes it.
    """

    def __init__(self, target: Tensor, multiclass: bool) -> None:
        known = ~target.isnan()
        self.multiclass = multiclass
        self.known = None if multiclass or bool(known.all()) else known.to(target.dtype)
        self.target = target.nan_to_num()
        if multiclass:
            self.target = F.one_hot(target.argmax(dim=1), target.shape[1]).to(target.dtype)

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Logits (B, K) of `rows` (B,) -> (B, K); the logits are overwritten."""
        logits = logits.softmax(dim=1) if self.multiclass else logits.sigmoid_()
        logits.sub_(self.target.index_select(0, rows))
        if self.known is None:
            return logits.div_(len(logits) if self.multiclass else logits.numel())
        known = self.known.index_select(0, rows)
        return logits.mul_(known).div_(known.sum().clamp_(min=1))


@torch.no_grad()
def fit(
    train: tuple[Callable[[int], Tensor], Tensor],
    valid: tuple[Tensor, Tensor],
    training: Trained,
    multiclass: bool,
    random: torch.Generator,
) -> Fitted:
    """Train a linear head with AdamW at a constant rate; keep the epoch of least validation loss.

    Args:
        train: features (n, D) of an epoch, by its number from 1, and labels (n, K).
        valid: features (m, D) and labels (m, K) of the validation images.
        training: hyper-parameters.
        multiclass: see `loss`.
        random: CPU generator of the head's first weights, then of the batch order.

    Raises:
        ParamsError: the validation loss is never finite.
    """
    view, target = train
    count, classes, width = len(target), target.shape[1], valid[0].shape[1]
    bound = width**-0.5  # as torch.nn.Linear starts
    first = torch.empty(classes, width + 1).uniform_(-bound, bound, generator=random)
    both = torch.cat([first[:, :-1].flatten(), first[:, -1]]).to(target.device)
    gradient = torch.empty_like(both)
    (weight, bias), (by_weight, by_bias) = (_parts(flat, classes) for flat in (both, gradient))
    step, slope, best = (
        _adamw(both, gradient, training),
        Slope(target, multiclass),
        Best(training.patience),
    )
    for epoch in range(1, training.epochs + 1):
        features = view(epoch)
        order = torch.randperm(count, generator=random).to(target.device)
        for rows in torch.split(order, training.batch):
            x = features.index_select(0, rows)
            error = slope(torch.addmm(bias, x, weight.t()), rows)
            torch.mm(error.t(), x, out=by_weight)
            torch.sum(error, 0, out=by_bias)
            step()
        value = loss(F.linear(valid[0], weight, bias), valid[1], multiclass).item()
        if best.judge(value, {"weight": weight, "bias": bias}):
            break
    if best.at == 0:
        raise ParamsError(
            f"downstream: learning rate {training.lr}: the validation loss of a linear head is "
            f"never finite; lower it"
        )
    return Fitted(**best.weights, best_epoch=best.at, stopped=best.stopped, losses=best.values)


def _parts(flat: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Views of a flat head (K * D + K,): weight (K, D) and bias (K,)."""
    return flat[:-classes].view(classes, -1), flat[-classes:]


def _adamw(weights: Tensor, gradient: Tensor, training: Trained) -> Callable[[], None]:
    """A step of torch's AdamW in place, without the 40 us that its class adds to each."""
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    steps = torch.zeros((), device=weights.device)
    lists = [weights], [gradient], [mean], [square], list[Tensor](), [steps]
    beta1, beta2 = training.betas

    def step() -> None:
        adamw(
            *lists,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=training.lr,
            weight_decay=training.weight_decay,
            eps=EPS,
            maximize=False,
        )

    return step


@torch.no_grad()
def solve(train: tuple[Tensor, Tensor], l2: float, multiclass: bool) -> Optimum:
    """The linear head of least training loss, by L-BFGS in float64 from zero.

        minimise over w, b:   mean cross-entropy + l2 / 2 (|w|^2 + |b|^2)

    of each class apart, over its known labels, or of the softmax over all classes at once. The
    penalty holds the bias too, as AdamW's weight decay does: so the optimum exists and is unique
    even where a class has no positive training image.

    Args:
        train: features (n, D) and labels (n, K).
        l2: strength of the penalty, > 0.
        multiclass: see `loss`.

    Raises:
        ParamsError: the gradient at the end is not zero to `TOLERANCE`.
    """
    features, target = train
    columns = [target] if multiclass else list(torch.split(target, 1, dim=1))
    found, iterations = [], 0
    for column in columns:
        known = ~column.isnan().any(dim=1)
        weights, count = _minimum(features[known].double(), column[known].double(), l2, multiclass)
        found.append(weights)
        iterations += count
    both = torch.cat(found).to(features.dtype)
    return Optimum(both[:, :-1].contiguous(), both[:, -1].contiguous(), iterations)


def _minimum(x: Tensor, target: Tensor, l2: float, multiclass: bool) -> tuple[Tensor, int]:
    """(K, D + 1) weights and biases, and the iterations that they took."""
    from scipy.optimize import minimize

    shape, slope = (target.shape[1], x.shape[1] + 1), Slope(target, multiclass)
    rows = torch.arange(len(x), device=x.device)

    def objective(flat: Floats) -> tuple[float, Floats]:
        both = torch.from_numpy(flat).to(x.device).view(shape)
        logits = F.linear(x, both[:, :-1], both[:, -1])
        value = loss(logits, target, multiclass) + l2 / 2 * both.square().sum()
        error = slope(logits, rows)
        gradient = torch.cat([error.t() @ x, error.sum(0)[:, None]], dim=1) + l2 * both
        return value.item(), gradient.cpu().numpy().ravel()

    end = minimize(
        objective,
        np.zeros(shape).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": ITERATIONS,
            "maxfun": 2 * ITERATIONS,
            "maxcor": MEMORY,
            "gtol": TOLERANCE,
            "ftol": 0.0,
        },
    )
    steepest = float(np.abs(end.jac).max())
    if not steepest <= TOLERANCE:
        raise ParamsError(
            f"downstream.probe.l2 = {l2}: L-BFGS ends at a gradient of {steepest:.1e} after "
            f"{end.nit} iterations, which is no optimum; raise it or take `solver: adamw`"
        )
    return torch.from_numpy(end.x).to(x.device).view(shape), int(end.nit)
