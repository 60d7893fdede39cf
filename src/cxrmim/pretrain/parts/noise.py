"""Random numbers of a batch that do not depend on how many processes share it."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Noise:
    """Uniform random numbers.

    Every process draws the numbers of the whole batch from a generator in the same state and keeps
    its own rows, so that two processes mask what one would.

    Attributes:
        generator: torch's global one if None.
        rank: this process.
        size: processes that share the batch.
    """

    generator: Generator | None = None
    rank: int = 0
    size: int = 1

    def rand(self, rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """(rows, *shape) uniform in [0, 1), of this process's `rows`."""
        drawn = torch.rand(rows * self.size, *shape, device=device, generator=self.generator)
        return drawn[rows * self.rank : rows * (self.rank + 1)]
