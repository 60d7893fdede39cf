"""Learning rate and optimiser of a pretraining."""

from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cxrmim.errors import ParamsError
from cxrmim.schema import Optim, Schedule


class Cosine:
    """Linear warm-up over a share of all steps, then half a cosine (protocols §2, MGCA and MAE).

    With W = round(warmup * steps): start + (peak - start) * t / W for t < W, then
    end + (peak - end) * (1 + cos(pi * (t - W) / (steps - W))) / 2. The rate is a function of the
    step, so a resumed run needs nothing but the step's number.

    Args:
        optimiser: its learning rate is the peak.
        schedule: warm-up share and both ends.
        steps: all steps of the training.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, schedule: Schedule, steps: int) -> None:
        warm = round(schedule.warmup * steps)
        self._rates = CosineLRScheduler(
            optimiser,
            t_initial=max(steps - warm, 1),
            lr_min=schedule.end,
            warmup_t=warm,
            warmup_lr_init=schedule.start,
            warmup_prefix=True,
            t_in_epochs=False,
        )

    def at(self, step: int) -> None:
        """Set the rate of a step, counted from 0."""
        self._rates.step_update(step)

    def judge(self, loss: float) -> None:
        """A validation loss changes nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing beyond the step's number."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class Plateau:
    """Multiply the rate by `factor` after more than `patience` epochs without a lower loss.

    Args:
        optimiser: starts at its learning rate.
        schedule: factor, patience, and the lowest rate as `end`.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, schedule: Schedule) -> None:
        self._rates = ReduceLROnPlateau(
            optimiser, factor=schedule.factor, patience=schedule.patience, min_lr=schedule.end
        )

    def at(self, step: int) -> None:
        """The rate changes between epochs only."""

    def judge(self, loss: float) -> None:
        """Take in an epoch's validation loss."""
        self._rates.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Best loss and epochs since."""
        return self._rates.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the rate itself is the optimiser's."""
        self._rates.load_state_dict(state)


def build_schedule(
    optimiser: torch.optim.Optimizer, schedule: Schedule, steps: int
) -> Cosine | Plateau:
    """The schedule that the parameters name."""
    if schedule.name == "plateau":
        return Plateau(optimiser, schedule)
    return Cosine(optimiser, schedule, steps)


def build_optimiser(module: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """Fused Adam or AdamW over the trainable parameters.

    Biases, norms and other one-dimensional weights are decayed only where `decay_1d` says so.
    """
    found = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in found if optim.decay_1d or p.ndim > 1]
    plain = [p for p in found if not (optim.decay_1d or p.ndim > 1)]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, optim.weight_decay), (plain, 0.0))
        if group
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optim.name]
    built: torch.optim.Optimizer = kind(groups, lr=optim.lr, betas=optim.betas, fused=True)
    return built


def check(schedule: Schedule, entry: str) -> None:
    """Refuse a schedule that contradicts itself.

    Raises:
        ParamsError: a plateau schedule is to warm up, or does not lower the rate.
    """
    if schedule.name != "plateau":
        return
    where = f"pretrain entry {entry}: schedule"
    if schedule.warmup > 0:
        raise ParamsError(
            f"{where}.warmup = {schedule.warmup}: 'plateau' has no warm-up; set it to 0"
        )
    if schedule.factor >= 1:
        raise ParamsError(
            f"{where}.factor = {schedule.factor}: must be below 1, it multiplies the rate"
        )
