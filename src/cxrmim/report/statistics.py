"""Intervals over test images, and rows of a table compared pair by pair on the same images.

A record holds B bootstrap replicates of its metric. All runs of a test set share their draws
(`downstream.bootstrap`), so replicate b of two runs is taken on the same patients: differences of
replicates are paired, and what makes a test image hard for every method cancels.

The difference D of two cells is the mean over their seeds, on one test set. Two things could have
come out otherwise, and the law of total variance adds them:

    var D = var_images + var_seeds / n_seeds

    var_images  other test patients would have been drawn: variance over b of the cells' difference
    var_seeds   other seeds would have been drawn: variance (n - 1) of the difference seed by seed

What both depend on (a seed that is lucky on these very images) is counted twice, which errs to the
larger variance. p is two-sided. The bootstrap gives no p of its own: counting B = 1000 replicates
cannot tell 0.002 from 0.00001, and Holm over 168 pairs asks for 0.0003. The error of D is taken as
a normal one with the images' variance plus a Student's t with n - 1 degrees of freedom times the
seeds' standard error (Behrens and Fisher's problem with one variance as good as known): the normal
distribution where images dominate, the paired t-test over seeds where these do.

One t with Welch and Satterthwaite's degrees of freedom will not do: where three seeds vary three to
ten times as much as images and happen to agree, it takes their small spread for many degrees, and
p < 0.0007 comes up twelve times as often as it says. Ours comes up as often as it says or less (at
3 seeds down to a tenth of that where both vary alike), which a test simulates far out too.

Limits. The intervals are over test images alone; p is over seeds too, so an interval that leaves 0
out need not come with a small p. Seeds are downstream seeds wherever the papers train each
initialisation once: nothing here knows how much another pretraining would change a row, so a small
p is about these weights. Where a scale has several pretrainings, they are the seeds. A cell with
one run (retrieval) is compared over test images alone. AUCs near 1 are not normal in small sets.

`contrast` does the same for any linear combination of cells. Cells of several test sets have draws
from streams of their own (`downstream.bootstrap` seeds them by dataset and task): replicate b of
each, put together, is one draw of all the sets, and their variances over images add.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrmim import grid

if TYPE_CHECKING:
    from cxrmim.report.cells import Cell, Table

Floats = NDArray[np.float64]
BOUNDS = (2.5, 97.5)  # percentiles of a 95 % interval
NOTHING = 1e-8  # records keep 9 digits; what differs by less is equal
LEAST = 1e-9  # further out in the tails p is a statement about the formula, not about data
FAR, STEPS = 32, 4  # log odds of the quantiles that p is averaged over, steps to each
METHODS, BASELINES = "methods", "baselines"
HEADER = (
    "table",
    "column",
    "row",
    "other",
    "family",
    "difference",
    "ci_low",
    "ci_high",
    "sd_seeds",
    "n",
    "p",
    "p_holm",
)


@dataclass(frozen=True)
class Comparison:
    """Row minus other row in one column.

    Attributes:
        column: key of the column.
        row: entry of the row.
        other: entry that is subtracted.
        family: `methods`, or `baselines` where either is a trivial predictor; Holm's correction is
            taken within a family of a table.
        difference: of the means, in [-1, 1].
        low: 2.5th percentile of the paired replicates.
        high: 97.5th percentile of the paired replicates.
        sd: standard deviation (n - 1) of the difference over seeds, None for fewer than two.
        n: number of seeds.
        p: two-sided, see above.
        p_holm: p after Holm's correction.
    """

    column: str
    row: str
    other: str
    family: str
    difference: float
    low: float
    high: float
    sd: float | None
    n: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Contrast:
    """A linear combination of cells, set against zero; variances as at the head of this module.

    Attributes:
        difference: the combination of the means; 1 is 100 points.
        low: 2.5th percentile over the combined replicates.
        high: 97.5th percentile over the combined replicates.
        sd: standard deviation (n - 1) of the combination over seeds, None for one seed.
        n: number of seeds.
        images: variance of the combination over test images.
        draws: number of replicates.
        p: two-sided.
        greater: one-sided p of "it is zero or less"; small where it is surely above.
    """

    difference: float
    low: float
    high: float
    sd: float | None
    n: int
    images: float
    draws: int
    p: float
    greater: float


def interval(replicates: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval over test images of the mean over runs.

    Args:
        replicates: (R, B) replicates of the runs of a cell, taken under shared draws.

    Returns:
        2.5th and 97.5th percentile over b of the runs' mean replicate b.
    """
    low, high = np.percentile(np.mean(np.asarray(replicates, np.float64), axis=0), BOUNDS)
    return float(low), float(high)


def compare(table: "Table") -> list[Comparison]:
    """Every pair of rows that share a column, in the order of columns and rows.

    Cells without replicates and cells that stand for the same runs (aliases) are not compared.
    A trivial baseline has one run: it is the same number beside every seed of the other row. Pairs
    with one are a family of their own. They ask another question (is a row better than no model?),
    and most of their answers are clear: among the methods' pairs they would only raise the price of
    every comparison of methods.

    Args:
        table: a filled table; all runs of a column are of one test set (`cells.build` sees to it).
    """
    found: list[Comparison] = []
    variances: list[tuple[float, float, int, int]] = []
    for index, column in enumerate(table.columns):
        cells = [row.cells[index] for row in table.rows if row.cells[index].replicates]
        means = {cell.row: np.mean(np.asarray(cell.replicates), axis=0) for cell in cells}
        for cell, other in combinations(cells, 2):
            if set(cell.runs) == set(other.runs):
                continue
            drawn = means[cell.row] - means[other.row]
            seeds = by_seed(cell, other)
            spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
            low, high = np.percentile(drawn, BOUNDS)
            difference = float(np.mean(cell.values) - np.mean(other.values))
            trivial = any(c.row.startswith(grid.BASELINE) for c in (cell, other))
            family = BASELINES if trivial else METHODS
            variances.append(
                (float(np.var(drawn, ddof=1)), (spread or 0.0) ** 2, len(seeds), len(drawn))
            )
            found.append(
                Comparison(
                    column.key, cell.row, other.row, family, difference,
                    float(low), float(high), spread, len(seeds), 1.0, 1.0,
                )
            )  # fmt: skip
    if not found:
        return []
    images, spreads, counts, draws = (np.array(part) for part in zip(*variances, strict=True))
    tested = p_values(np.array([c.difference for c in found]), images, spreads, counts, draws)
    corrected = tested.copy()
    for family in (METHODS, BASELINES):
        mine = [at for at, c in enumerate(found) if c.family == family]
        corrected[mine] = holm(tested[mine])
    return [
        replace(c, p=float(p), p_holm=float(held))
        for c, p, held in zip(found, tested, corrected, strict=True)
    ]


def contrast(terms: Sequence[tuple[float, "Cell"]], constant: float = 0.0) -> Contrast:
    """The combination ``constant + sum(c * cell)`` of measured cells.

    Seeds are matched by order, and the one run of a cell stands beside every seed of the others.

    Args:
        terms: pairs (c, cell), at least one.
        constant: added to the combination, as a margin is.

    Raises:
        ValueError: a cell has no replicates, or the cells' numbers of replicates or seeds differ.
    """
    for _, cell in terms:
        if not cell.replicates:
            raise ValueError(f"{cell.address}: {cell.state}, so there are no replicates to combine")
    drawn = constant + sum(c * np.mean(np.asarray(cell.replicates), axis=0) for c, cell in terms)
    seeds = np.atleast_1d(constant + sum(c * _seeds(cell) for c, cell in terms))
    spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    difference = constant + sum(c * float(np.mean(cell.values)) for c, cell in terms)
    images, (low, high) = float(np.var(drawn, ddof=1)), np.percentile(drawn, BOUNDS)
    one = (difference, images, (spread or 0.0) ** 2, len(seeds), len(drawn))
    p = float(p_values(*(np.array([value]) for value in one))[0])
    greater = p / 2 if difference > 0 else 1.0 - p / 2
    return Contrast(
        difference, float(low), float(high), spread, len(seeds), images, len(drawn), p, greater
    )


def by_seed(cell: "Cell", other: "Cell") -> Floats:
    """(n,) differences of two cells of one column, seed by seed.

    Seeds are the pretrainings where there are several (a pretraining's downstream runs are not
    independent and count as their mean), else the downstream seeds. The grid gives both cells the
    same seeds in the same order; the one run of a baseline stands beside each.
    """
    return _seeds(cell) - _seeds(other)


def p_values(
    difference: Floats,
    images: Floats,
    seeds: Floats,
    count: NDArray[Any],
    draws: NDArray[Any],
) -> Floats:
    """Two-sided p of differences (see the head of this module).

    Without any variance there is no t. Equal rows then have p = 1; a difference that is the same in
    every replicate and every seed has 2 / (B + 1), the least that counting replicates can give.

    Args:
        difference: (m,) differences of means.
        images: (m,) variances over replicates.
        seeds: (m,) variances over seeds, 0 where there is one seed.
        count: (m,) numbers of seeds.
        draws: (m,) numbers of replicates, at least 2.

    Returns:
        (m,) in [`LEAST`, 1].
    """
    from scipy.stats import t

    share = seeds / count
    same = np.sqrt(images + share) < NOTHING
    safe = np.where(same, 1.0, images)
    score = np.abs(difference) / np.sqrt(np.where(share > 0, 1.0, safe))
    both = _mixed(difference, safe, share, np.maximum(count - 1, 1))
    found = np.where(share > 0, both, 2.0 * t.sf(score, draws - 1))
    counted = np.where(np.abs(difference) < NOTHING, 1.0, 2.0 / (draws + 1))
    out: Floats = np.clip(np.where(same, counted, found), LEAST, 1.0)
    return out


def _mixed(difference: Floats, images: Floats, share: Floats, freedom: NDArray[Any]) -> Floats:
    """Two-sided p of a normal error with variance `images` plus sqrt(share) times Student's t.

    Such a t is a normal error with variance share / w, where w is chi-square over its degrees of
    freedom: the p of one normal error, averaged over the quantiles of w. These are taken
    in even steps of their log odds, as the small w make the tails.

    Args:
        difference: (m,) differences of means.
        images: (m,) variances over replicates.
        share: (m,) squared standard errors over seeds.
        freedom: (m,) degrees of freedom of these, at least 1.

    Returns:
        (m,) shares, true to six digits or 1e-13.
    """
    from scipy.special import expit, gammainccinv, gammaincinv, ndtr

    odds, step = np.linspace(-FAR, FAR, 2 * FAR * STEPS + 1, retstep=True)
    below, above = expit(odds), expit(-odds)
    weights = step * below * above
    out = np.empty(len(difference))
    for number in np.unique(freedom):
        mine = freedom == number
        low, high = gammaincinv(number / 2.0, below), gammainccinv(number / 2.0, above)
        w = 2.0 * np.where(odds < 0, low, high) / number
        scale = np.sqrt(images[mine, None] + share[mine, None] / w)
        out[mine] = 2.0 * ndtr(-np.abs(difference[mine, None]) / scale) @ weights
    return out


def holm(p: Floats) -> Floats:
    """Holm's step-down correction: the family-wise error at which each hypothesis falls.

    Args:
        p: (m,) p-values of a family.

    Returns:
        (m,) in the order of `p`: the running maximum, from the smallest p up, of p times the number
        of hypotheses not yet passed, held to 1.
    """
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return out


def lines(table: "Table") -> list[tuple[str, ...]]:
    """Rows of the csv, the heading first; differences, bounds and deviations x100, p as shares."""
    out: list[tuple[str, ...]] = [HEADER]
    for c in compare(table):
        points = [f"{_points(value):+.2f}" for value in (c.difference, c.low, c.high)]
        spread = "" if c.sd is None else f"{_points(c.sd):.2f}"
        tested = [f"{value:.3g}" for value in (c.p, c.p_holm)]
        out.append(
            (table.id, c.column, c.row, c.other, c.family, *points, spread, str(c.n), *tested)
        )
    return out


def _points(share: float) -> float:
    """A share x100 as printed; no -0.00."""
    return round(100.0 * share, 2) + 0.0


def _seeds(cell: "Cell") -> Floats:
    """(n,) mean value of a cell's runs for each seed; (1,) for a baseline."""
    pretrainings = [run.checkpoint for run in cell.runs]
    several = len(set(pretrainings)) > 1
    groups: dict[str | int, list[float]] = {}
    for run, value in zip(cell.runs, cell.values, strict=True):
        groups.setdefault(run.checkpoint if several else run.seed, []).append(value)
    return np.array([np.mean(values) for values in groups.values()])
