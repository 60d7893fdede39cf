"""Learning rate and optimiser of a pretraining."""

import math

import torch
from torch import nn

from cxrmim.errors import ParamsError
from cxrmim.schema import Optim, Schedule


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Linear warm-up over a share of all steps, then half a cosine (protocols §2, MGCA and MAE).

    With W = round(warmup * steps): start + (peak - start) * t / W for t < W, then
    end + (peak - end) * (1 + cos(pi * (t - W) / (steps - W))) / 2.

    Args:
        step: t, counted from 0.
        steps: all steps of the training.
        peak: the optimiser's learning rate.
        schedule: warm-up share and both ends.
    """
    warm = round(schedule.warmup * steps)
    if step < warm:
        return schedule.start + (peak - schedule.start) * step / warm
    swing = 1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))
    return schedule.end + (peak - schedule.end) * swing / 2


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
    """Refuse a schedule that the loop does not have.

    Raises:
        ParamsError: it is not the cosine.
    """
    if schedule.name != "cosine":
        raise ParamsError(
            f"pretrain entry {entry}: schedule.name = {schedule.name!r}: the loop has only 'cosine'"
        )
