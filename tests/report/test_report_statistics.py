"""Intervals, p and Holm: by hand, against slow definitions, and what must always hold."""

import numpy as np
import pytest
from fabricated import added_p
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_rel
from scipy.stats import t as student

from cxrmim import grid
from cxrmim.report import cells, statistics

SHARES = st.floats(0, 1).map(lambda v: round(v, 5))
PS = st.lists(st.floats(1e-9, 1), min_size=1, max_size=12)


# Holm


def falls(p: list[float], at: int, alpha: float) -> bool:
    """Holm's procedure as he states it: from the smallest p, stop at the first that stays."""
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] > alpha / (len(p) - step):
            return False
        if index == at:
            return True
    raise AssertionError


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.001, 0.9, 0.02], [0.08, 0.004, 0.9, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.3], [0.3]),
    ],
)
def test_holm_by_hand(p, expected) -> None:
    assert statistics.holm(np.array(p)) == pytest.approx(expected)


@given(PS)
def test_holm_is_the_level_at_which_a_hypothesis_falls(p) -> None:
    for at, level in enumerate(statistics.holm(np.array(p))):
        if level < 1:
            assert falls(p, at, level * (1 + 1e-9))
        assert not falls(p, at, level * (1 - 1e-9))


@given(PS)
def test_holm_only_raises_and_keeps_the_order(p) -> None:
    found = statistics.holm(np.array(p))
    assert (found >= np.array(p)).all() and (found <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert (found <= np.minimum(1, len(p) * np.array(p)) * (1 + 1e-12)).all()  # Bonferroni


# p


def p_of(difference, images, seeds, count, draws=1000) -> float:
    one = [np.array([v]) for v in (difference, images, seeds, count, draws)]
    return float(statistics.p_values(*one)[0])


def test_p_of_images_alone_is_nearly_normal() -> None:
    for z in (0.5, 1.96, 3.0):
        assert p_of(0.01 * z, 0.01**2, 0.0, 1, 10**6) == pytest.approx(2 * norm.sf(z), rel=1e-3)
    assert p_of(0.0196, 0.01**2, 0.0, 1) > 2 * norm.sf(1.96)


def test_p_of_seeds_alone_is_the_paired_t_test() -> None:
    left, right = [0.80, 0.84, 0.85], [0.79, 0.80, 0.78]
    gap = np.subtract(left, right)
    found = p_of(gap.mean(), 0.0, gap.var(ddof=1), 3)
    assert found == pytest.approx(ttest_rel(left, right).pvalue, rel=1e-9)


def test_the_two_variances_add() -> None:
    alone = p_of(0.03, 1e-4, 0.0, 3)
    both = p_of(0.03, 1e-4, 3e-4, 3)  # var = 1e-4 + 3e-4 / 3
    assert both == pytest.approx(added_p(0.03, 1e-4, 1e-4, 2), rel=1e-5)
    assert both > alone
    rng = np.random.default_rng(0)
    error = 0.01 * (rng.normal(size=10**6) + rng.standard_t(2, size=10**6))
    assert both == pytest.approx((np.abs(error) > 0.03).mean(), rel=0.01)


@pytest.mark.parametrize("ratio", [0, 1, 3, 5, 10, 30])
def test_p_is_kept_far_out_where_holm_asks(ratio) -> None:
    """Three seeds that vary `ratio` times as much as images: p < 0.0014 comes up no oftener."""
    rng = np.random.default_rng(ratio)
    count = 100_000
    by_seed = ratio * rng.normal(size=(count, 3))
    p = statistics.p_values(
        by_seed.mean(axis=1) + rng.normal(size=count),
        np.ones(count),
        by_seed.var(axis=1, ddof=1),
        np.full(count, 3),
        np.full(count, 1000),
    )
    for level in (0.05, 0.01, 0.0014):
        allowed = level * count
        assert (p < level).sum() < allowed + 4 * allowed**0.5


@pytest.mark.parametrize(
    ("difference", "images", "p"),
    [
        (0.0, 0.0, 1.0),
        (0.0, 1e-34, 1.0),  # what is left of equal replicates after summing
        (0.2, 0.0, 2 / 1001),
        (-0.2, 1e-34, 2 / 1001),
        (0.5, 1e-8, 1e-9),  # 5000 standard errors: no smaller p is claimed
        (0.0, 1e-4, 1.0),
        (5e-6, 1e-12, 2 * student.sf(5.0, 999)),  # little variance is not none
    ],
)
def test_p_without_variance_and_far_out(difference, images, p) -> None:
    assert p_of(difference, images, 0.0, 3) == pytest.approx(p, rel=1e-12)


@given(
    st.floats(-1, 1), st.floats(0, 0.01), st.floats(0, 0.01), st.integers(1, 5), st.integers(2, 99)
)
def test_p_is_a_share_and_has_no_sign(difference, images, seeds, count, draws) -> None:
    seeds = seeds if count > 1 else 0.0
    p = p_of(difference, images, seeds, count, draws)
    assert statistics.LEAST <= p <= 1
    assert p == p_of(-difference, images, seeds, count, draws)


def test_equal_methods_differ_about_as_often_as_p_says() -> None:
    """Images and seeds vary, no row is better: p < 0.05 in 5 % of 1500 invented pairs or less."""
    rng = np.random.default_rng(0)
    size, seeds, draws, count = 100, 3, 200, 1500
    weights = rng.multinomial(size, np.full(size, 1 / size), size=draws) / size
    gaps = rng.normal(size=(count, size, 1)) + 0.1 * rng.normal(size=(count, 1, seeds))
    gaps += 0.3 * rng.normal(size=(count, size, seeds))
    by_seed = gaps.mean(axis=1)
    p = statistics.p_values(
        by_seed.mean(axis=1),
        np.var(gaps.mean(axis=2) @ weights.T, axis=1, ddof=1),
        np.var(by_seed, axis=1, ddof=1),
        np.full(count, seeds),
        np.full(count, draws),
    )
    assert 0.01 < (p < 0.05).mean() < 0.06
    assert 0.35 < (p < 0.5).mean() < 0.55


# intervals


@given(st.integers(1, 3), st.integers(2, 30), st.data())
def test_interval_by_sorting(runs, draws, data) -> None:
    replicates = data.draw(st.lists(st.lists(SHARES, min_size=draws, max_size=draws),
                                    min_size=runs, max_size=runs))  # fmt: skip
    means = sorted(sum(column) / runs for column in zip(*replicates, strict=True))

    def percentile(share: float) -> float:
        place = share * (draws - 1)
        below = int(place)
        above = min(below + 1, draws - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    low, high = statistics.interval(replicates)
    assert (low, high) == pytest.approx((percentile(0.025), percentile(0.975)), abs=1e-12)
    assert low - 1e-12 <= float(np.median(means)) <= high + 1e-12


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.02, 0.98))
def test_interval_of_a_bootstrap_holds_the_mean_of_its_replicates(seed, share) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random(200) < share
    drawn = rng.choice(right, (3, 200, 200)).mean(axis=2)
    low, high = statistics.interval(drawn.tolist())
    assert low <= drawn.mean() <= high


# pairs


@settings(max_examples=40)
@given(st.data())
def test_swapping_rows_flips_the_sign_and_leaves_p(data) -> None:
    def cell(row: str, column) -> cells.Cell:
        runs = tuple(grid.Run(f"{row}-s0", "d", "probe", 1, seed) for seed in range(3))
        drawn = data.draw(
            st.lists(st.lists(SHARES, min_size=5, max_size=5), min_size=3, max_size=3)
        )
        values = tuple(np.mean(drawn, axis=1).tolist())
        state = "measured"
        return cells.Cell("t", row, row, column, runs, state, "", values, None, tuple(drawn))

    layout = cells.layout_of("medim_table1")
    column = cells.Column("d_1", "", "", "value", None, 1)
    rows = [cells.Row(name, name, False, (), (cell(name, column),)) for name in ("a", "b")]
    (one,), (other,) = (
        statistics.compare(cells.Table("t", layout, (column,), tuple(order), "phantom"))
        for order in (rows, rows[::-1])
    )
    assert (one.row, one.other) == (other.other, other.row)
    assert one.difference == pytest.approx(-other.difference, abs=1e-15)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
    assert (one.sd, one.p, one.p_holm) == pytest.approx((other.sd, other.p, other.p_holm))


@pytest.mark.parametrize(("share", "shown"), [(-1e-6, "+0.00"), (0.0, "+0.00"), (-0.0123, "-1.23")])
def test_no_negative_zero_is_printed(share, shown) -> None:
    assert f"{statistics._points(share):+.2f}" == shown
