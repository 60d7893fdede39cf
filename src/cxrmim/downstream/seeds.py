"""Random numbers of a run: they follow from its name alone, not from what ran before it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cxrmim.grid import Run

if TYPE_CHECKING:
    import torch


def seed_of(run: Run, purpose: str) -> int:
    """Seed of one source of randomness of a run.

    The checkpoint takes no part: runs of one cell that differ only in their weights share batch
    order, augmentation and, where the shapes allow it, the head's first weights, so that methods
    are compared under common random numbers.

    Args:
        run: the run; dataset, task, percent and seed count.
        purpose: what the numbers are for.

    Returns:
        A number below 2**63.
    """
    name = f"{run.dataset}-{run.task}-{run.percent}-s{run.seed}/{purpose}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def generator(run: Run, purpose: str) -> "torch.Generator":
    """CPU generator of one source of randomness of a run."""
    import torch

    return torch.Generator().manual_seed(seed_of(run, purpose))


@contextmanager
def global_seed(run: Run, purpose: str) -> Iterator[None]:
    """Seed torch's global generators inside the block, and put them back after.

    For modules that draw their first weights, dropout or stochastic depth from them.
    """
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if started else []):
        torch.manual_seed(seed_of(run, purpose))
        yield
