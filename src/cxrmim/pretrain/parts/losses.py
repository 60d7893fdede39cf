"""Losses as plain functions of tensors, without loops; call them in float32 or wider."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrmim.pretrain.parts import world

Gather = Callable[[Tensor], Tensor]
HIDDEN = -1e4  # a score whose probability is exactly zero beside real ones, yet finite


def own_rows(x: Tensor) -> Tensor:
    """The rows of one process: what `contrast` and `swap` gather by default."""
    return x


def contrast(image: Tensor, text: Tensor, tau: float, gather: Gather = own_rows) -> Tensor:
    """Image-text alignment (MGCA eq. 2-4): CE over rows plus CE over columns, no factor 1/2.

    Each process scores its own images against all reports and its own reports against all images;
    the mean over processes is the loss of the joined batch.

    Args:
        image: (B, d) unit vectors.
        text: (B, d) unit vectors of the same pairs.
        tau: temperature.
        gather: rows of all processes in rank order, with gradient (`Setup.gather`).
    """
    images, texts = gather(image), gather(text)
    target = torch.arange(len(images), device=image.device)[_own(image, images)]
    rows = F.cross_entropy(image @ texts.T / tau, target)
    return rows + F.cross_entropy(text @ images.T / tau, target)


def _own(x: Tensor, gathered: Tensor) -> slice:
    """Where a process's rows lie among those that it gathered, which may be its own only."""
    return world.own(len(x)) if len(gathered) > len(x) else slice(None)


def importance(attention: Tensor, used: Tensor, clip: tuple[float, float]) -> Tensor:
    """Weights omega of words or patches from attention (rG mgca_module.py).

    Entries in use are clipped to two quantiles of theirs (linear interpolation), then each row is
    divided by its sum. Words in use are those with attention; patches all are.

    Args:
        attention: (B, N) non-negative.
        used: (B, N) bool.
        clip: lower and upper quantile.

    Returns:
        (B, N), zero outside `used`; rows sum to 1, or to 0 where nothing is in use.
    """
    order = attention.masked_fill(~used, torch.inf).sort(1).values
    last = (used.sum(1, keepdim=True) - 1).clamp(min=0)
    low, high = (_quantile(order, last, q) for q in clip)
    clipped = torch.where(used, attention.clamp(low, high), 0.0)
    return clipped / clipped.sum(1, keepdim=True).clamp(min=torch.finfo(clipped.dtype).tiny)


def _quantile(order: Tensor, last: Tensor, q: float) -> Tensor:
    """(B, 1) quantile of the first `last` + 1 entries of sorted rows."""
    at = q * last.to(order.dtype)
    below = at.floor().long()
    above = torch.minimum(below + 1, last)
    return torch.lerp(order.gather(1, below), order.gather(1, above), at - below)


def matched(scores: Tensor, weight: Tensor, valid: Tensor | None = None) -> Tensor:
    """Two-sided CE of n matched items inside each pair, weighted and averaged over pairs.

    An item's weight serves both directions, which are averaged (MGCA eq. 7).

    Args:
        scores: (B, n, n) similarities over temperature; item i belongs to column i.
        weight: (B, n) omega, zero where there is no item.
        valid: (B, n) bool; others are no candidates. None if all are.
    """
    if valid is not None:
        scores = scores.masked_fill(~(valid[:, :, None] & valid[:, None, :]), HIDDEN)
    hit = scores.diagonal(dim1=1, dim2=2)
    wrong = (scores.logsumexp(2) + scores.logsumexp(1)) / 2 - hit
    if valid is not None:
        wrong = torch.where(valid, wrong, 0.0)
    return (wrong * weight).sum() / len(scores)


def attend(words: Tensor, patches: Tensor, tau: float) -> Tensor:
    """Attention of every word over the patches: softmax_j(w_i . p_j / tau).

    Args:
        words: (B, W, d).
        patches: (B, N, d).
        tau: temperature.

    Returns:
        (B, W, N).
    """
    return torch.softmax(words @ patches.transpose(1, 2) / tau, -1)


def align(
    words: Tensor,
    patches: Tensor,
    valid: Tensor,
    word_weight: Tensor,
    patch_weight: Tensor,
    tau: float,
    *,
    pads: bool = False,
) -> tuple[Tensor, Tensor]:
    """Token-wise bidirectional alignment inside each pair (MGCA eq. 5-8, protocols §2).

    Words attend to patches, the attended vector is normalised; patches attend to the real words,
    the attended vector is not normalised (ViT). Each item must find its own attended vector among
    those of its pair. Padding is neither candidate nor target, unless `pads`.

    Args:
        words: (B, W, d) unit vectors; zero, or with `pads` a unit vector, where there is no word.
        patches: (B, N, d) unit vectors.
        valid: (B, W) bool, the slot holds a word.
        word_weight: (B, W) omega of the words.
        patch_weight: (B, N) omega of the patches.
        tau: temperature of attention and scores.
        pads: as in the official code, empty slots attend and are candidates for the words, of
            weight zero (exactness.md B). Patches never attend to them.

    Returns:
        The loss (sum of both sides), and the attention (B, W, N) of the words without gradient.
    """
    similar = words @ patches.transpose(1, 2) / tau
    attention = similar.softmax(2)
    seen = F.normalize(attention @ patches, dim=-1)
    scores = words @ seen.transpose(1, 2) / tau
    word_loss = matched(scores, word_weight, None if pads else valid)

    back = similar.transpose(1, 2).masked_fill(~valid[:, None, :], HIDDEN).softmax(2)
    patch_loss = matched(patches @ (back @ words).transpose(1, 2) / tau, patch_weight)
    return word_loss + patch_loss, attention.detach()


@torch.no_grad()
def sinkhorn(scores: Tensor, eps: float, rounds: int) -> Tensor:
    """Soft codes of a batch by optimal transport (SwAV; rG mgca_module.py), without gradient.

    Rows and columns of exp(scores / eps) are scaled in turn to equal shares, without a shift by the
    maximum.

    Args:
        scores: (B, K) similarities to the prototypes.
        eps: entropy of the transport.
        rounds: times that rows and columns are scaled.

    Returns:
        (B, K); each row sums to 1.
    """
    plan = torch.exp(scores / eps).T
    plan = plan / plan.sum()
    for _ in range(rounds):
        plan = plan / plan.sum(1, keepdim=True) / plan.shape[0]
        plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
    return (plan * plan.shape[1]).T


def swap(
    image: Tensor, text: Tensor, tau: float, eps: float, rounds: int, gather: Gather = own_rows
) -> Tensor:
    """Cross-modal prototype alignment (MGCA eq. 9-11): each side predicts the other's code.

    Args:
        image: (B, K) similarities of images to the prototypes.
        text: (B, K) similarities of reports to the prototypes.
        tau: temperature of the prediction.
        eps: entropy of the codes.
        rounds: Sinkhorn rounds.
        gather: rows that share a transport plan, those of all processes or one's own.
    """
    code_image, code_text = (_codes(x, eps, rounds, gather) for x in (image, text))
    one = (code_image * F.log_softmax(text / tau, 1)).sum(1).mean()
    other = (code_text * F.log_softmax(image / tau, 1)).sum(1).mean()
    return -(one + other) / 2


def _codes(scores: Tensor, eps: float, rounds: int, gather: Gather) -> Tensor:
    """(B, K) codes of a process's rows from the plan of all rows."""
    everyone = gather(scores.detach())
    return sinkhorn(everyone, eps, rounds)[_own(scores, everyone)]
