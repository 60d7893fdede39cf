"""Which image tokens are masked. All functions are batched, sync-free and give exact counts."""

import torch
from torch import Tensor


def count(ratio: float, tokens: int) -> int:
    """Tokens that a ratio masks: int(ratio * N)."""
    return int(ratio * tokens)


def first(order: Tensor, number: int) -> Tensor:
    """(B, N) permutation of tokens -> (B, N) bool, True for the first `number` of them."""
    mask = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    return mask.scatter_(1, order[:, :number], True)


def highest(scores: Tensor, number: int) -> Tensor:
    """(B, N) -> bool: exactly the `number` largest; of equal scores the first in raster order."""
    return first(scores.sort(dim=1, descending=True, stable=True).indices, number)


def lowest(scores: Tensor, number: int) -> Tensor:
    """(B, N) -> bool: exactly the `number` smallest; of equal scores the first in raster order."""
    return first(scores.sort(dim=1, stable=True).indices, number)


def diverse(scores: Tensor, number: int, noise: Tensor) -> Tensor:
    """The official code's "diversity" mask (rM medim_train.py:321-350).

    Of the h tokens strictly above the (number + 1)-th largest score int(0.9 * h) random ones, and
    of the N - h others int(0.1 * (N - h)): 58, 97 and 136 of 196 at ratios 25, 50 and 75 %, and
    int(0.1 * N) where the map is flat (exactness.md A3, A10). The official 0.1 is 1 - 0.9 in double
    precision, a little less than 0.1: of 90 tokens it takes 8.

    Args:
        scores: (B, N) attention map.
        number: tokens that the plain rule would mask.
        noise: (B, N) uniform random numbers in [0, 1).

    Returns:
        (B, N) bool.
    """
    tokens = scores.shape[1]
    if number < tokens:
        high = scores > scores.sort(dim=1, descending=True).values[:, number : number + 1]
    else:
        high = torch.ones_like(scores, dtype=torch.bool)
    above = high.sum(1, keepdim=True).double()
    return _some(high, noise, (above * 0.9).floor()) | _some(
        ~high, noise, ((tokens - above) * (1 - 0.9)).floor()
    )


def _some(group: Tensor, noise: Tensor, number: Tensor) -> Tensor:
    """(B, N) bool: `number` (B, 1) random members of each row's group."""
    order = torch.where(group, noise, 2.0).argsort(1)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return group & (rank < number)


def guided(
    scores: Tensor, found: Tensor, ratio: float, mode: str, empty: str, noise: Tensor
) -> Tensor:
    """Masks from a report-guided attention map (MedIM §2.2 and figure 3).

    Args:
        scores: (B, N) attention map.
        found: (B,) bool, False where no word of the report guides the map.
        ratio: share of tokens that is masked, gamma.
        mode: high | low | random | none | diverse.
        empty: what becomes of a report without such words: ``random`` masks int(ratio * N) random
            tokens; ``released`` treats its map as flat, which masks int(0.1 * N) tokens in the
            diversity routine and none under the plain rule (exactness.md A3).
        noise: (B, N) uniform random numbers in [0, 1).

    Returns:
        (B, N) bool, True where the token is masked.
    """
    number = count(ratio, scores.shape[1])
    if mode == "none":
        return torch.zeros_like(scores, dtype=torch.bool)
    if mode == "random":
        return lowest(noise, number)
    flat = torch.zeros_like(scores, dtype=torch.bool)
    if mode == "diverse":
        mask = diverse(scores, number, noise)
        flat = diverse(torch.zeros_like(scores), number, noise)
    else:
        mask = highest(scores, number) if mode == "high" else lowest(scores, number)
    return torch.where(found[:, None], mask, lowest(noise, number) if empty == "random" else flat)


def draw_sentence(sentence: Tensor, words: int, u: Tensor) -> Tensor:
    """Flag the words of one random sentence (MedIM SDM, eq. 4).

    Drawn evenly among the sentences with at least `words` words, or among all if there is none
    (rM data/mesh: "more than 3 words").

    Args:
        sentence: (B, W) sentence of each word, -1 where there is none.
        words: the preferred minimum.
        u: (B,) uniform random numbers in [0, 1).

    Returns:
        (B, W) bool.
    """
    real = sentence >= 0
    sizes = torch.zeros_like(sentence).scatter_add_(1, sentence.clamp(min=0), real.long())
    long = sizes >= words
    eligible = torch.where(long.any(1, keepdim=True), long, sizes > 0)
    total = eligible.sum(1)
    pick = torch.minimum((u * total).long(), total - 1)
    hit = eligible & (eligible.cumsum(1) - 1 == pick[:, None])
    return real & hit.gather(1, sentence.clamp(min=0))


def keep(noise: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Split tokens at random, as a masked autoencoder does (rA models_mae.py:123-148).

    Args:
        noise: (B, N).
        number: tokens to keep.

    Returns:
        (kept, masked): (B, number) and (B, N - number) token indices.
    """
    order = noise.argsort(1)
    return order[:, :number], order[:, number:]
