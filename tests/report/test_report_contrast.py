"""Linear combinations of cells: against `compare`, slow definitions, and what must always hold."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from fabricated import added_p
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from cxrmim import grid
from cxrmim.report import cells, statistics
from cxrmim.schema import Cells

Floats = list[float]


def column(dataset: str, percent: int = 1) -> cells.Column:
    wanted = Cells(dataset=dataset, task="probe", percents=[percent])
    return cells.Column(f"{dataset}_{percent}", "", "", "value", wanted, percent)


def cell(
    row: str, drawn: Sequence[Sequence[float]], where: cells.Column, pretrainings: int = 1
) -> cells.Cell:
    """A measured cell whose runs have these replicates, and their means as values."""
    per = len(drawn) // pretrainings
    runs = tuple(
        grid.Run(f"{row}-s{k}", where.cells.dataset, "probe", where.percent, seed)
        for k in range(pretrainings)
        for seed in range(per)
    )
    values = tuple(math.fsum(part) / len(part) for part in drawn)
    replicates = tuple(tuple(part) for part in drawn)
    return cells.Cell("t", row, row, where, runs, "measured", "", values, None, replicates)


def invented(seed: int, runs: int, draws: int = 60, level: float = 0.6) -> list[Floats]:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=draws)
    drawn = level + 0.03 * common + 0.02 * rng.normal(size=(runs, draws))
    return (drawn + 0.02 * rng.normal(size=(runs, 1))).tolist()


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1)


def slow(terms: Sequence[tuple[float, cells.Cell]], constant: float = 0.0) -> dict[str, float]:
    """The head of `statistics` in plain Python: loops over replicates, seeds and terms."""
    draws = len(terms[0][1].replicates[0])
    drawn = [
        constant + math.fsum(c * mean([r[b] for r in one.replicates]) for c, one in terms)
        for b in range(draws)
    ]
    n = max(len(one.values) for _, one in terms)
    seeds = [
        constant + math.fsum(c * one.values[s if len(one.values) > 1 else 0] for c, one in terms)
        for s in range(n)
    ]
    difference = constant + math.fsum(c * mean(one.values) for c, one in terms)
    images, share = variance(drawn), variance(seeds) / n if n > 1 else 0.0
    if share:
        p = added_p(difference, images, share, n - 1)
    else:
        p = 2 * float(student.sf(abs(difference) / math.sqrt(images), draws - 1))
    return {
        "difference": difference,
        "images": images,
        "sd": math.sqrt(share * n),
        "greater": p / 2 if difference > 0 else 1 - p / 2,
        "p": p,
    }


COEFFICIENTS = st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(COEFFICIENTS, st.integers(0, 10**6), st.booleans()),
        min_size=1,
        max_size=6,
        unique_by=lambda part: part[1],  # equal cells can cancel: no variance is left to compare
    ),
    st.sampled_from([0.0, 0.005, -0.3]),
)
def test_contrast_is_the_slow_definition(parts, constant) -> None:
    terms = [
        (c, cell(f"r{at}", invented(seed, 1 if single else 3), column(f"d{at % 2}")))
        for at, (c, seed, single) in enumerate(parts)
    ]
    found, expected = statistics.contrast(terms, constant), slow(terms, constant)
    assert found.n == max(len(one.values) for _, one in terms)
    assert found.draws == 60
    for key, value in expected.items():
        assert (getattr(found, key) or 0.0) == pytest.approx(value, rel=1e-6, abs=1e-9), key


@pytest.mark.parametrize("runs", [(3, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("pretrainings", [1, 3])
def test_a_pair_is_what_compare_says(runs, pretrainings) -> None:
    where = column("d")
    pair = [
        cell(name, invented(at, count, level=0.6 + 0.02 * at), where, min(pretrainings, count))
        for at, (name, count) in enumerate(zip("ab", runs, strict=True))
    ]
    rows = tuple(cells.Row(one.row, one.row, False, (), (one,)) for one in pair)
    table = cells.Table("t", cells.layout_of("medim_table1"), (where,), rows, "phantom")
    (expected,) = statistics.compare(table)
    found = statistics.contrast([(1.0, pair[0]), (-1.0, pair[1])])
    for key in ("difference", "low", "high", "sd", "n", "p"):
        ours, theirs = (getattr(one, key) for one in (found, expected))
        assert (ours is None) == (theirs is None)
        assert ours is None or ours == pytest.approx(theirs, rel=1e-12), key


def test_runs_of_one_pretraining_count_as_their_mean() -> None:
    drawn = invented(0, 6)
    found = statistics.contrast([(1.0, cell("a", drawn, column("d"), pretrainings=3))])
    by_hand = [mean([mean(drawn[2 * k]), mean(drawn[2 * k + 1])]) for k in range(3)]
    assert found.n == 3
    assert found.sd == pytest.approx(math.sqrt(variance(by_hand)))


def test_variances_of_test_sets_with_their_own_draws_add() -> None:
    one = cell("a", invented(1, 3, draws=20_000), column("d"))
    other = cell("a", invented(2, 3, draws=20_000), column("e"))
    both = statistics.contrast([(1.0, one), (1.0, other)])
    parts = [statistics.contrast([(1.0, part)]).images for part in (one, other)]
    assert both.images == pytest.approx(sum(parts), rel=0.03)


def test_pairing_removes_what_is_common_to_a_test_set() -> None:
    rng = np.random.default_rng(0)
    common = 0.6 + 0.05 * rng.normal(size=200)
    own = 0.001 * rng.normal(size=(2, 3, 200))
    left, right = (
        cell(name, (common + own[at]).tolist(), column("d", percent))
        for at, (name, percent) in enumerate((("a", 1), ("b", 100)))
    )
    found = statistics.contrast([(1.0, left), (-1.0, right)])
    assert found.images < 0.01 * statistics.contrast([(1.0, left)]).images


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.01, 5), st.floats(-0.1, 0.1))
def test_sign_and_size_of_the_coefficients(seed, factor, shift) -> None:
    pair = [cell(name, invented(seed + at, 3), column("d")) for at, name in enumerate("ab")]
    one = statistics.contrast([(1.0, pair[0]), (-1.0, pair[1])], shift)
    turned = statistics.contrast([(-1.0, pair[0]), (1.0, pair[1])], -shift)
    scaled = statistics.contrast([(factor, pair[0]), (-factor, pair[1])], factor * shift)
    assert turned.greater == pytest.approx(1 - one.greater, abs=1e-12)
    assert (turned.p, scaled.p) == pytest.approx((one.p, one.p), rel=1e-6)
    assert (turned.low, turned.high) == pytest.approx((-one.high, -one.low), abs=1e-12)
    assert scaled.difference == pytest.approx(factor * one.difference, abs=1e-12)
    assert scaled.images == pytest.approx(factor**2 * one.images, rel=1e-6)
    assert one.p == pytest.approx(2 * min(one.greater, 1 - one.greater), abs=1e-12)


def test_equal_cells_are_no_evidence_either_way() -> None:
    same = cell("a", invented(0, 3), column("d"))
    found = statistics.contrast([(1.0, same), (-1.0, same)])
    assert (found.difference, found.p, found.greater) == (0.0, 1.0, 0.5)


def test_cells_that_cannot_be_combined_are_refused() -> None:
    ready = cell("a", invented(0, 3), column("d"))
    waiting = cells.Cell("t", "b", "b", column("d"), (), "pending", "no code yet")
    with pytest.raises(ValueError, match="t:b:d_1: pending"):
        statistics.contrast([(1.0, ready), (-1.0, waiting)])
    for other in (invented(1, 2), invented(1, 3, draws=50)):
        with pytest.raises(ValueError, match=r"broadcast"):
            statistics.contrast([(1.0, ready), (-1.0, cell("b", other, column("d")))])
