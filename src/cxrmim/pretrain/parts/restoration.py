"""What masked modelling is scored by: pixels of masked patches, pieces of masked reports."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrmim.pretrain.parts import world


def patchify(image: Tensor, patch: int) -> Tensor:
    """(B, C, S, S) -> (B, N, patch * patch * C); a vector runs over row, column, channel."""
    rows, width, side = len(image), image.shape[1], image.shape[2] // patch
    x = image.reshape(rows, width, side, patch, side, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(rows, side * side, patch * patch * width)


def patch_error(predicted: Tensor, target: Tensor, *, norm_pix: bool) -> Tensor:
    """MSE of predicted patches (MAE; rA models_mae.py:198-213).

    Args:
        predicted: (B, n, p) of the masked patches only.
        target: (B, n, p) their pixels.
        norm_pix: normalise each target patch by its own mean and unbiased variance (+ 1e-6 under
            the root; exactness.md A15).
    """
    if norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return F.mse_loss(predicted, target)


def masked_patch_error(
    predicted: Tensor, image: Tensor, masked: Tensor, patch: int, *, norm_pix: bool
) -> Tensor:
    """MSE of the masked patches of an image (CMITM eq. 2, its target being the original patch).

    Args:
        predicted: (B, n, p) with p = patch * patch * 3.
        image: (B, 3, C, C) grey replicated to three channels, of which one is read; N patches. C is
            twice the encoder's input in MRM.
        masked: (B, n) places of the masked patches.
        patch: side of a patch in this image's px.
        norm_pix: as in `patch_error`.
    """
    grey = patchify(image[:, :1], patch)
    grey = grey.gather(1, masked[:, :, None].expand(-1, -1, grey.shape[2]))
    return patch_error(predicted, grey.repeat_interleave(3, 2), norm_pix=norm_pix)


def token_error(
    scores: Tensor, ids: Tensor, scored: Tensor | None = None, *, joined: bool = False
) -> Tensor:
    """Mean cross entropy of predicted WordPieces (MRM: of all positions; CMITM eq. 3: masked).

    Positions are weighted rather than picked: to pick them, the host would have to wait for their
    number. Zero where nothing is scored.

    Args:
        scores: (B, L, V).
        ids: (B, L) int64 the true pieces.
        scored: (B, L) bool, positions that count; None for all.
        joined: divide by the positions scored in all processes, so that the mean over processes
            is that of their joined batch.
    """
    wrong = F.cross_entropy(scores.flatten(0, 1), ids.flatten(), reduction="none")
    if scored is None:
        return wrong.mean()
    weight = scored.flatten().to(wrong.dtype)
    number = weight.sum()
    if joined:
        number = world.total(number) / world.size()
    return (wrong * weight).sum() / number.clamp(min=torch.finfo(number.dtype).tiny)
