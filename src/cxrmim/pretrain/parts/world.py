"""The processes that train together; without torchrun there is one, and nothing here does work."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

_alone: list[bool] = []  # not empty: this process computes by itself


def size() -> int:
    """Number of processes."""
    if _alone or not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Number of this process, from 0."""
    if _alone or not dist.is_available() or not dist.is_initialized():
        return 0
    return dist.get_rank()


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process computes as if there was no other: no function here waits for one."""
    _alone.append(True)
    try:
        yield
    finally:
        _alone.pop()


def gather(x: Tensor) -> Tensor:
    """(B, ...) of each process -> (W * B, ...) of all in rank order, with gradient.

    All processes must hold the same shape.
    """
    if size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))  # type: ignore[no-untyped-call]


def total(x: Tensor) -> Tensor:
    """Sum over processes, with gradient."""
    if size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(x.clone())  # type: ignore[no-untyped-call]
    return summed


def own(rows: int) -> slice:
    """This process's rows among those that `gather` gives, of `rows` each."""
    return slice(rank() * rows, (rank() + 1) * rows)


def agree(value: int) -> int:
    """The largest of the processes' numbers, without waiting for a device."""
    if size() == 1:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_hosts())
    return int(found)


def wait() -> None:
    """Wait until every process is here."""
    agree(0)


@cache
def _hosts() -> dist.ProcessGroup | None:
    """The processes as connected over the network and not through their GPUs."""
    if dist.get_backend() == "gloo":
        return None
    made = dist.new_group(backend="gloo")
    return made if isinstance(made, dist.ProcessGroup) else None
