"""Projection heads from encoder features to the space shared by images and text."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.pretrain.parts.norms import BatchNorm1d
from cxrmim.pretrain.parts.precision import widen


class Head(nn.Module):
    """Linear, BatchNorm, ReLU, Linear, BatchNorm without affine, L2 (rG GlobalEmbedding).

    The official LocalEmbedding uses 1x1 convolutions, the same maps on every token; here local
    features are rows, packed ones unless padding is to take part, so that one class serves both.

    Args:
        inside: width of the features.
        hidden: width between.
        dim: width of the shared space.
        sync: BatchNorm sees the rows of all processes.
    """

    def __init__(self, inside: int, hidden: int, dim: int, *, sync: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inside, hidden),
            BatchNorm1d(hidden, sync=sync),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, dim),
            BatchNorm1d(dim, affine=False, sync=sync),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(M, inside) -> (M, dim) unit vectors."""
        out = self.layers(features)
        with torch.autocast(out.device.type, enabled=False):
            return F.normalize(widen(out), dim=-1, eps=1e-12)
