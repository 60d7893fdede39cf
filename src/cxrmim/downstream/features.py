"""Features of a frozen encoder: one pass over a dataset, shared by all fractions and seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cxrmim.progress import track
from cxrmim.shards.store import Masks

BATCH = 128  # fixed, so that a row's last bits do not depend on the machine's memory
ROUNDING = 1e-12  # share of a feature's square that float32 cannot tell from nothing
View = Callable[[Tensor], Tensor]


def extract(
    encoder: VisionTransformer,
    images: NDArray[np.uint8],
    view: View,
    device: torch.device,
) -> dict[str, Tensor]:
    """Encode all images of a dataset (protocols.md 3: CLS after the final LayerNorm).

    The encoder runs in eval mode and without gradients whatever mode it is in, and is left in the
    mode it came in.

    Args:
        encoder: ``forward_features: (B, 3, s, s) -> (B, 1 + N, D)``.
        images: (n, S, S) uint8 squares.
        view: (B, S, S) uint8 -> (B, 3, s, s), the evaluation transform.
        device: where the encoder is.

    Returns:
        (n, D) float32 on the device of each pooling: `cls`, and `avg`, the mean over patch tokens.
    """
    was_training = encoder.training
    encoder.eval()
    cls, avg = [], []
    with torch.no_grad():
        for first in track(range(0, len(images), BATCH), "features"):
            tokens = encoder.forward_features(
                view(block(images, slice(first, first + BATCH), device))
            )
            cls.append(tokens[:, 0].clone())  # a view would keep all tokens
            avg.append(tokens[:, 1:].mean(dim=1))
    encoder.train(was_training)
    return {"cls": torch.cat(cls).float(), "avg": torch.cat(avg).float()}


def effective_rank(features: Tensor) -> float:
    """Directions that features spread over: the participation ratio of their covariance.

        (sum_i l_i)^2 / sum_i l_i^2 = trace(C)^2 / |C|_F^2,  l_i the eigenvalues of C

    D if all directions vary alike, 1 if one varies, 0 if none varies by more than float32 rounds.

    Args:
        features: (n, D).
    """
    values = features.cpu().double()
    centred = values - values.mean(0)
    covariance = centred.T @ centred / len(centred)
    if covariance.trace() <= ROUNDING * values.square().sum(1).mean():
        return 0.0
    return float(covariance.trace() ** 2 / covariance.square().sum())


def views(images: NDArray[np.uint8] | Masks, view: View, device: torch.device) -> Tensor:
    """Transformed images of a dataset, for a task that reads them again and again.

    Args:
        images: (n, S, S) uint8 squares.
        view: (B, S, S) uint8 -> (B, ..., s, s).
        device: where they go.

    Returns:
        (n, ..., s, s) float32 on the device.
    """
    parts = range(0, len(images), BATCH)
    return torch.cat([view(block(images, slice(i, i + BATCH), device)) for i in parts])


def block(
    images: NDArray[Any] | Masks, rows: slice | NDArray[np.int64], device: torch.device
) -> Tensor:
    """(b, S, S) rows of a stored array on the device."""
    return torch.from_numpy(np.array(images[rows])).to(device)
