"""GLoRIA's scores and losses from the formulas, with loops, in float64."""

from __future__ import annotations

import math

import torch
from slow_losses import cross_entropy, softmax
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Product of norms at least 1e-8 (exactness B)."""
    norms = torch.sqrt((a * a).sum()) * torch.sqrt((b * b).sum())
    return (a * b).sum() / (norms if norms > 1e-8 else 1e-8)


def region_score(regions: list[Tensor], words: list[Tensor], t1: float, t2: float) -> Tensor:
    """Z of one image and one report: softmax over words, then over regions, on raw products."""
    over_words = []
    for region in regions:
        over_words.append(softmax([(word * region).sum() for word in words]))
    powers = []
    for i, word in enumerate(words):
        weight = softmax([t1 * row[i] for row in over_words])
        seen = sum(a * region for a, region in zip(weight, regions, strict=True))
        powers.append(torch.exp(t2 * cosine(word, seen)))
    return torch.log(sum(powers))


def both_ways(scores: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of rows (images) and of columns (reports); i belongs to i."""
    n = len(scores)
    rows = sum(cross_entropy(scores[i], i) for i in range(n)) / n
    columns = sum(cross_entropy([scores[j][i] for j in range(n)], i) for i in range(n)) / n
    return rows, columns


def gloria(
    image: Tensor,
    regions: Tensor,
    pieces: Tensor,
    ids: Tensor,
    word: Tensor,
    t: tuple[float, float, float],
    released: bool,
) -> dict[str, Tensor]:
    """The four terms of a batch.

    Args:
        image: (B, d) global embeddings.
        regions: (B, N, d) local ones.
        pieces: (B, L, d) token embeddings, summed over layers.
        ids: (B, L), 0 = PAD.
        word: (B, L) word of each token.
        t: t1, t2, t3.
        released: CLS is a word; the sentence is the mean over all slots, empty ones too.
    """
    texts, sentences = [], []
    for b in range(len(ids)):
        real = [i for i in range(ids.shape[1]) if ids[b, i] != 0]
        words = [
            sum(pieces[b, i] for i in real if word[b, i] == w)
            for w in range(int(word[b].max()) + 1)
        ]
        texts.append([pieces[b, 0], *words] if released else words)
        slots = 97 if released else len(real)
        sentences.append(sum(pieces[b, i] for i in real) / slots)
    t1, t2, t3 = t
    local = [[t3 * region_score(list(v), w, t1, t2) for w in texts] for v in regions]
    whole = [[t3 * cosine(v, s) for s in sentences] for v in image]
    values = (*both_ways(local), *both_ways(whole))
    assert all(math.isfinite(v.item()) for v in values)
    return dict(zip(("local_i2t", "local_t2i", "global_i2t", "global_t2i"), values, strict=True))
