"""GLoRIA's losses (Huang et al., ICCV 2021; protocols §2): every image against every report.

All pairs of a batch are scored at once; call the functions in float32 or wider.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrmim.pretrain.parts import world
from cxrmim.pretrain.parts.losses import Gather

EPS = 1e-8  # least product of norms in a cosine (rL gloria_loss.py)


def cosine(image: Tensor, text: Tensor) -> Tensor:
    """Cosines of every image with every report: (I, d), (T, d) -> (I, T)."""
    norms: Tensor = torch.linalg.vector_norm(image, dim=1)[:, None]
    norms = norms * torch.linalg.vector_norm(text, dim=1)
    return image @ text.T / norms.clamp(min=EPS)


def match_regions(regions: Tensor, words: Tensor, valid: Tensor, t1: float, t2: float) -> Tensor:
    """How well the words of every report find regions in every image (GLoRIA eq. 4-7).

    For one image and report with s_in = w_i . v_n on raw embeddings: a_in = softmax over the words,
    then softmax over the regions of t1 a_in; the attended region is c_i = sum_n a_in v_n; the score
    is Z = log sum_i exp(t2 cos(w_i, c_i)).

    No c_i is made: w_i . c_i = sum_n a_in s_in, and |c_i|^2 = a_i G a_i with the Gram matrix G of
    the regions. At the papers' size that takes a quarter of the memory.

    Args:
        regions: (I, N, d) local embeddings of the images.
        words: (T, W, d) words of the reports.
        valid: (T, W) bool, the slot holds a word; each report has one at least.
        t1: sharpness of the softmax over regions.
        t2: sharpness of the sum over words.

    Returns:
        (I, T) scores.
    """
    images, reports, slots = len(regions), *valid.shape
    across = regions.transpose(1, 2)
    similar = (words.flatten(0, 1) @ across).view(images, reports, slots, -1)
    over_words = similar.masked_fill(~valid[:, :, None], -torch.inf).softmax(2)
    attention = (t1 * over_words).softmax(3)
    dot = (attention * similar).sum(3)
    spread = (attention.flatten(1, 2) @ (regions @ across)).view_as(attention)
    length = (spread * attention).sum(3).clamp(min=EPS**2).sqrt()
    found: Tensor = dot / (torch.linalg.vector_norm(words, dim=2) * length).clamp(min=EPS)
    return (t2 * found).masked_fill(~valid, -torch.inf).logsumexp(2)


def both_ways(
    score: Callable[..., Tensor],
    image: tuple[Tensor, ...],
    text: tuple[Tensor, ...],
    gather: Gather,
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of finding the report of an image and the image of a report.

    Each process scores its own images against all reports and its own reports against all images;
    the mean over processes is the loss of the joined batch.

    Args:
        score: images' tensors, then reports' tensors -> (I, T) logits.
        image: tensors (B, ...) of the images.
        text: tensors (B, ...) of the same pairs' reports.
        gather: rows of all processes in rank order, with gradient (`Setup.gather`).

    Returns:
        Mean over images, mean over reports.
    """
    images, texts = tuple(map(gather, image)), tuple(map(gather, text))
    rows = score(*image, *texts)
    target = torch.arange(rows.shape[1], device=rows.device)
    if rows.shape[0] == rows.shape[1]:  # one process, or each keeps to its own
        columns = rows
    else:
        columns = score(*images, *text)
        target = target[world.own(len(rows))]
    return F.cross_entropy(rows, target), F.cross_entropy(columns.T, target)
