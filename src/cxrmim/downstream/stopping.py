"""Early stopping: the weights of the best validation value, and when to end."""

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor


class Best:
    """Keeps a copy of the weights at the best validation value so far.

    Args:
        patience: validations without a better value after which to stop; 0: never.
        highest: whether a higher value is better; else a lower one is.

    Attributes:
        at: number of the best validation, from 1; 0 while no value was finite.
        values: all values, in order.
        weights: copies of the weights at `at`.
    """

    def __init__(self, patience: int, *, highest: bool = False) -> None:
        self.patience, self.sign = patience, 1.0 if highest else -1.0
        self.at, self.values = 0, list[float]()
        self.weights: dict[str, Tensor] = {}
        self._ended = False

    @property
    def value(self) -> float:
        """The best value.

        Raises:
            IndexError: none was finite.
        """
        if self.at == 0:
            raise IndexError("no validation value was finite")
        return self.values[self.at - 1]

    @property
    def stopped(self) -> Literal["patience", "epochs"]:
        """What ended training: patience, or the budget."""
        return "patience" if self._ended else "epochs"

    def judge(self, value: float, weights: Mapping[str, Tensor]) -> bool:
        """Take in a validation value; whether to stop. A tie keeps the earlier weights."""
        self.values.append(value)
        count = len(self.values)
        if math.isfinite(value) and (self.at == 0 or self.sign * (value - self.value) > 0):
            self.at = count
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self._ended = 0 < self.patience <= count - self.at
        return self._ended
