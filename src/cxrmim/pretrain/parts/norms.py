"""BatchNorm whose statistics are those of all processes that share a batch.

torch's SyncBatchNorm needs a GPU; this one runs on any backend, so that tests hold it to what one
process computes. Processes may hold different numbers of rows: words are packed. The state dict is
that of torch's BatchNorm.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxrmim.pretrain.parts import world
from cxrmim.pretrain.parts.precision import widen


class BatchNorm1d(nn.BatchNorm1d):
    """(M, C) -> (M, C), by the statistics of the rows of all processes.

    Args:
        width: channels, C.
        affine: learn a scale and a shift.
        sync: share statistics; without it, and in one process, this is torch's BatchNorm.
    """

    def __init__(self, width: int, *, affine: bool = True, sync: bool = False) -> None:
        super().__init__(width, affine=affine)
        self.sync = sync

    def forward(self, input: Tensor) -> Tensor:
        """(M, C) -> (M, C)."""
        if self.sync and self.training and world.size() > 1:
            return _joined(self, input)
        return super().forward(input)


class BatchNorm2d(nn.BatchNorm2d):
    """(B, C, h, w) -> (B, C, h, w), by the statistics of the maps of all processes.

    Args:
        width: channels, C.
        sync: share statistics; without it, and in one process, this is torch's BatchNorm.
    """

    def __init__(self, width: int, *, sync: bool = False) -> None:
        super().__init__(width)
        self.sync = sync

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        if self.sync and self.training and world.size() > 1:
            return _joined(self, input)
        return super().forward(input)


def _joined(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise by the statistics of all processes and take them into the running ones.

    Each process gives its count, mean and sum of squared deviations from that mean, which add up
    without the cancellation that a plain sum of squares suffers (Chan et al. 1979). Gradients pass
    through the statistics of all processes.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = widen(x)
        over = [0, *range(2, x.dim())]
        rows = x.numel() // x.shape[1]
        mean = wide.sum(over) / max(rows, 1)
        spread = (wide - _spread(mean, x)).square().sum(over)
        count = mean.new_full((1,), float(rows))
        every = world.gather(torch.cat([count, mean, spread])[None])
        counts, means, spreads = (
            every[:, :1],
            every[:, 1 : 1 + len(mean)],
            every[:, 1 + len(mean) :],
        )
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (spreads + counts * (means - mean).square()).sum(0) / total
        _track(norm, mean.detach(), variance.detach(), total.detach())
        out = (wide - _spread(mean, x)) * _spread((variance + norm.eps).rsqrt(), x)
        if norm.affine:
            out = out * _spread(norm.weight, x) + _spread(norm.bias, x)
        return out.to(x.dtype)


def _spread(channels: Tensor, x: Tensor) -> Tensor:
    """(C,) numbers in the shape that broadcasts over x, (B, C, ...)."""
    return channels.view(-1, *[1] * (x.dim() - 2))


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Update the running statistics as torch does: unbiased variance, exponential mean."""
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    unbiased = variance * (count / (count - 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
