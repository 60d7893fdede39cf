"""Validation loss of a pretraining: its mean by epoch, early stopping, the best weights."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cxrmim.errors import DataError
from cxrmim.pretrain.contract import Method
from cxrmim.pretrain.data import Loader, Pairs
from cxrmim.pretrain.parts import world
from cxrmim.schema import Method as Block
from cxrmim.schema import Stop

Tree = dict[str, Any]


def asked_for(block: Block) -> bool:
    """Whether a training looks at a validation loss."""
    stop = block.stop
    plateau = block.schedule is not None and block.schedule.name == "plateau"
    return plateau or stop.patience > 0 or stop.select == "best"


class Validation:
    """The validation losses of a run.

    Args:
        method: what is trained.
        loader: makes batches.
        pairs: validation pairs.
        batch: pairs a batch; contrastive losses depend on it.
        drop: leave out the last, incomplete batch.
        stop: patience and which weights are kept.

    Raises:
        DataError: no batch is left.
    """

    def __init__(
        self, method: Method, loader: Loader, pairs: Pairs, batch: int, *, drop: bool, stop: Stop
    ) -> None:
        self.method, self.loader, self.pairs = method, loader, pairs
        self.batch, self.stop = batch, stop
        count = len(pairs.rows)
        self.starts = range(0, count - batch + 1 if drop else count, batch)
        if len(self.starts) == 0:
            raise DataError(
                f"{loader.corpus.name}: {count} validation pairs do not fill a batch of {batch}; "
                f"raise `pretrain.loader.valid` or set `pretrain.loader.drop_val: false`"
            )
        self.curve: list[float] = []
        self.best: dict[str, Tensor] | None = None

    @property
    def chosen(self) -> int:
        """Epoch of the lowest loss so far, from 0."""
        return self.curve.index(min(self.curve))

    @property
    def exhausted(self) -> bool:
        """Whether `patience` epochs have passed without a lower loss."""
        if not self.curve or self.stop.patience == 0:
            return False
        return len(self.curve) - 1 - self.chosen >= self.stop.patience

    def look(self) -> float:
        """Validate once: append the loss to the curve, keep the weights if they are the best."""
        loss = self._mean()
        self.curve.append(loss)
        if not math.isfinite(loss):
            return loss
        if self.stop.select == "best" and self.chosen == len(self.curve) - 1:
            state = self.method.state_dict()
            self.best = {k: v.detach().cpu().clone() for k, v in state.items()}
        return loss

    @torch.no_grad()
    def _mean(self) -> float:
        """Mean total loss; the processes share the batches, each of which one computes whole."""
        rank, size = world.rank(), world.size()
        found = torch.zeros(2, dtype=torch.float64, device=self.loader.device)
        self.method.eval()
        with world.alone():
            for number, start in enumerate(self.starts):
                if number % size != rank:
                    continue
                picked = slice(start, start + self.batch)
                reports = self.pairs.reports
                part = Pairs(self.pairs.rows[picked], None if reports is None else reports[picked])
                total = self.method(self.loader.valid(part, number))[0].double()
                found += torch.stack([total, torch.ones_like(total)]) * len(part.rows)
        self.method.train()
        summed, count = world.total(found).tolist()
        return float(summed / count)

    def select(self) -> None:
        """Put back the weights that are to be kept."""
        if self.stop.select == "best" and self.best is not None:
            self.method.load_state_dict(self.best)

    def metrics(self, rounded: Callable[[float], float]) -> Tree:
        """Curve, and the epoch whose weights are kept, from 1."""
        kept = self.chosen if self.stop.select == "best" else len(self.curve) - 1
        return {"validation": [rounded(v) for v in self.curve], "selected": kept + 1}

    def state_dict(self) -> Tree:
        """Curve and best weights."""
        return {"curve": self.curve, "best": self.best}

    def load_state_dict(self, tree: Tree) -> None:
        """Restore."""
        self.curve, self.best = list(tree["curve"]), tree["best"]
