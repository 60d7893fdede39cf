"""Masks: exact counts, ties, the official code's quirks, sentences."""

from __future__ import annotations

import pytest
import slow_losses as slow
import slow_released
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.pretrain.parts import masking


def noise(rows, tokens, seed=0):
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_high_and_low_mask_exactly_the_extremes_whatever_the_ties(values, ratio):
    scores, number = torch.tensor([values]), masking.count(ratio, len(values))
    high, low = masking.highest(scores, number), masking.lowest(scores, number)
    assert high[0].tolist() == slow.top(values, number)
    assert low[0].tolist() == slow.top([-v for v in values], number)
    assert int(high.sum()) == int(low.sum()) == number


@pytest.mark.parametrize(
    ("ratio", "high", "diverse"), [(0.25, 49, 58), (0.5, 98, 97), (0.75, 147, 136)]
)
def test_counts_of_the_plain_and_the_diverse_rule(ratio, high, diverse):
    """Exactness A10, run on the official code."""
    scores, found = noise(5, 196), torch.ones(5, dtype=torch.bool)
    for mode, want in (("high", high), ("low", high), ("random", high), ("none", 0)):
        mask = masking.guided(scores, found, ratio, mode, "random", noise(5, 196, 1))
        assert mask.sum(1).tolist() == [want] * 5
    mask = masking.guided(scores, found, ratio, "diverse", "released", noise(5, 196, 1))
    assert mask.sum(1).tolist() == [diverse] * 5
    above = masking.highest(scores, high)
    assert (mask & above).sum(1).tolist() == [int(0.9 * high)] * 5


@pytest.mark.parametrize(
    ("mode", "empty", "want"),
    [
        ("high", "random", 98),
        ("low", "random", 98),
        ("diverse", "random", 98),
        ("high", "released", 0),
        ("low", "released", 0),
        ("diverse", "released", 19),
        ("random", "released", 98),
        ("none", "random", 0),
    ],
)
def test_a_report_without_mesh_words(mode, empty, want):
    """Paper side int(ratio * N) random tokens; released 19 in the diversity routine, else none."""
    scores, found = noise(4, 196), torch.tensor([True, False, False, True])
    scores[1:3] = 0.0
    mask = masking.guided(scores, found, 0.5, mode, empty, noise(4, 196, 1))
    assert mask[1:3].sum(1).tolist() == [want, want]
    if want:
        assert not torch.equal(mask[1], mask[2])


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.sampled_from(["high", "low", "random"]),
    st.integers(0, 999),
)
def test_masks_have_exact_counts_and_follow_order_and_scale(tokens, ratio, mode, seed):
    """int(ratio * N) tokens whatever the map; found or not; a map's scale means nothing."""
    scores, drawn = noise(4, tokens, seed), noise(4, tokens, seed + 1)
    found = torch.tensor([True, False, True, True])
    mask = masking.guided(scores, found, ratio, mode, "random", drawn)
    assert mask.sum(1).tolist() == [int(ratio * tokens)] * 4
    scaled = masking.guided(scores * 4, found, ratio, mode, "random", drawn)
    assert torch.equal(scaled, mask)
    order = [2, 0, 3, 1]
    turned = masking.guided(scores[order], found[order], ratio, mode, "random", drawn[order])
    assert torch.equal(turned, mask[order])


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=2, max_size=40),
    st.sampled_from([0.25, 0.5, 0.75]),
    st.integers(0, 999),
)
def test_the_diverse_rule_is_the_official_one_whatever_the_ties(values, ratio, seed):
    scores, drawn = torch.tensor([values]), noise(1, len(values), seed)
    number = masking.count(ratio, len(values))
    want = slow_released.diverse(values, ratio, drawn[0].tolist())
    assert masking.diverse(scores, number, drawn)[0].tolist() == want


def test_diverse_draws_other_tokens_for_other_noise():
    scores, found = noise(1, 196), torch.ones(1, dtype=torch.bool)
    one, two = (
        masking.guided(scores, found, 0.5, "diverse", "released", noise(1, 196, s)) for s in (1, 2)
    )
    assert not torch.equal(one, two)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 5),
    st.floats(0, 0.999),
)
def test_a_sentence_is_drawn_among_the_long_ones(reports, minimum, u):
    """Sentences of at least `minimum` words if there are any, else any; u chooses evenly."""
    width = max(sum(lengths) for lengths in reports)
    rows = []
    for lengths in reports:
        row = [s for s, n in enumerate(lengths) for _ in range(n)]
        rows.append(row + [-1] * (width - len(row)))
    flags = masking.draw_sentence(torch.tensor(rows), minimum, torch.full((len(rows),), u))
    for row, flag in zip(rows, flags.tolist(), strict=True):
        choices = slow.sentence_choices(row, minimum)
        chosen = choices[min(int(torch.tensor(u) * len(choices)), len(choices) - 1)]
        assert flag == [s == chosen for s in row]


def test_every_long_sentence_is_drawn_equally_often():
    sentence = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 2, -1]]).expand(3000, -1)
    flags = masking.draw_sentence(sentence, 4, noise(3000, 1).squeeze(1))
    first, second, third = flags[:, 0].sum(), flags[:, 4].sum(), flags[:, 6].sum()
    assert int(second) == 0 and int(first + third) == 3000
    assert abs(int(first) - 1500) < 150


def test_keep_splits_all_tokens():
    kept, masked = masking.keep(noise(3, 10), 4)
    assert kept.shape == (3, 4)
    assert torch.cat([kept, masked], 1).sort(1).values.tolist() == [list(range(10))] * 3
