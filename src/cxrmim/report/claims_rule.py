"""The verdict on a claim, and what would decide one that is open.

A claim is k comparisons that must all be above zero. Two hypotheses are tested for it:

    not all are above zero      p = the largest of the k one-sided p (intersection-union test: each
                                comparison must be shown, so none needs a correction)
    none is below zero          p = k times the smallest p in the opposite direction (Bonferroni:
                                one that is shown to be below will do, so k were looked at)

Rejecting the first supports the claim, rejecting the second contradicts it. Holm's correction is
taken over the 2m hypotheses of all m measured claims together: with probability 0.95 none of a
scale's supported and contradicted claims is wrong, however the comparisons depend on each other.
Where neither falls, the claim is undecided. That is no evidence against it: a claim of many
comparisons is hard to support, since its weakest comparison decides.

The weakest comparison is the one with the largest p; it is also the one most against the claim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxrmim.report.statistics import Contrast, holm, p_values

ALPHA = 0.05
LIMIT = 100  # times the seeds or test images: more than that is no plan
TENTH = 10  # factors are found to a tenth
Outcome = Literal["supported", "contradicted", "undecided"]


@dataclass(frozen=True)
class Ruling:
    """The verdict on one claim.

    Attributes:
        verdict: what was rejected.
        p: corrected p of the hypothesis that fell, else of the one that the weakest comparison
            speaks against.
        weakest: position of the comparison that decides.
        level: p that an open claim's hypothesis needs to be the next to fall.
    """

    verdict: Outcome
    p: float
    weakest: int
    level: float


@dataclass(frozen=True)
class Need:
    """`seeds` and multiple of the test images (`images`, 1 for those at hand) that would decide."""

    seeds: int
    images: float


def rule(claims: Sequence[Sequence[Contrast]]) -> list[Ruling]:
    """Judge the measured claims of a scale together.

    Args:
        claims: the comparisons of each claim, at least one.
    """
    if not claims:
        return []
    support = np.array([max(c.greater for c in claim) for claim in claims])
    against = np.array([_against([c.greater for c in claim]) for claim in claims])
    corrected = holm(np.concatenate([support, against]))
    level = ALPHA / max(int((corrected >= ALPHA).sum()), 1)
    out = []
    for at, claim in enumerate(claims):
        shown, refuted = float(corrected[at]), float(corrected[len(claims) + at])
        weakest = int(np.argmax([c.greater for c in claim]))
        below = claim[weakest].difference < 0
        verdict: Outcome = "undecided"
        if min(shown, refuted) < ALPHA:
            below = refuted < shown
            verdict = "contradicted" if below else "supported"
        out.append(Ruling(verdict, refuted if below else shown, weakest, level))
    return out


def need(claim: Sequence[Contrast], level: float) -> Need | None:
    """What would decide an open claim if its measured effects were the true ones.

    Variance over test images falls as 1 / images, that over seeds as 1 / seeds. More seeds on the
    same test images are tried first, then more images at the same seeds, then both by one factor.
    With what is found, the measured effect just reaches the level: about an even chance, as the
    next measurement will not be the same.

    Args:
        claim: its comparisons.
        level: p to fall below.

    Returns:
        None if `LIMIT` times the seeds and images do not suffice.
    """
    has = max(c.n for c in claim)
    if has > 1:
        seeds = _first(lambda n: decided(claim, n, 1.0, level), has, has * LIMIT)
        if seeds is not None:
            return Need(seeds, 1.0)
    end = TENTH * LIMIT
    images = _first(lambda f: decided(claim, has, f / TENTH, level), TENTH, end)
    if images is not None:
        return Need(has, images / TENTH)
    if has == 1:
        return None
    both = _first(lambda f: decided(claim, _times(has, f), f / TENTH, level), TENTH, end)
    return None if both is None else Need(_times(has, both), both / TENTH)


def decider(claim: Sequence[Contrast], size: Need) -> int:
    """Position of the comparison that decides at a size: the largest p there, not today's."""
    return int(np.argmax(scaled(claim, size.seeds, size.images)))


def decided(claim: Sequence[Contrast], seeds: int, images: float, level: float) -> bool:
    """Whether the measured effects decide a claim at other numbers of seeds and test images.

    Args:
        claim: its comparisons.
        seeds: number of seeds of every comparison that has several.
        images: multiple of the test images.
        level: p to fall below.
    """
    greater = scaled(claim, seeds, images)
    weakest = max(claim, key=lambda c: c.greater)
    p = _against(greater) if weakest.difference < 0 else float(np.max(greater))
    return p < level


def scaled(claim: Sequence[Contrast], seeds: int, images: float) -> NDArray[np.float64]:
    """(k,) one-sided p of the comparisons at other numbers of seeds and test images."""
    difference = np.array([c.difference for c in claim])
    two = p_values(
        difference,
        np.array([c.images for c in claim]) / images,
        np.array([(c.sd or 0.0) ** 2 for c in claim]),
        np.array([seeds if c.n > 1 else 1 for c in claim]),
        np.array([c.draws for c in claim]),
    )
    out: NDArray[np.float64] = np.where(difference > 0, two / 2, 1 - two / 2)
    return out


def _against(greater: Sequence[float] | NDArray[np.float64]) -> float:
    """p of "none is below zero"."""
    return min(1.0, len(greater) * (1.0 - float(np.max(greater))))


def _times(seeds: int, tenths: int) -> int:
    return -(-seeds * tenths // TENTH)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first number in (low, high] from which a condition holds, None if it never does."""
    if not holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
