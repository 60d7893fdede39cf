"""Every alignment loss against its slow float64 twin: values, gradients, invariants."""

from __future__ import annotations

import numpy as np
import pytest
import slow_losses as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cxrmim.pretrain.parts import losses, world

CLIP = (0.1, 0.9)


def units(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1).requires_grad_()


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(fast, reference, *inputs):
    """Equal values and equal gradients with respect to every input."""
    torch.testing.assert_close(fast, reference, rtol=1e-10, atol=1e-12)
    for got, want in zip(
        torch.autograd.grad(fast, inputs), torch.autograd.grad(reference, inputs), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-11)


def real(counts, width=None):
    """(B, W) bool: the first `counts` slots hold words."""
    return torch.arange(width or max(counts)) < torch.tensor(counts)[:, None]


def slots(packed, valid):
    """(M, d) words -> (B, W, d) slots, zero where there is none."""
    out = torch.zeros(*valid.shape, packed.shape[1], dtype=packed.dtype)
    return out.masked_scatter(valid[:, :, None], packed)


def test_contrast():
    a, b = units(5, 4), units(5, 4, seed=1)
    same(losses.contrast(a, b, 0.07), slow.contrast(a, b, 0.07), a, b)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_shares_of_a_contrast_average_to_the_joined_one(size, each, seed):
    """Each process sees all rows, in rank order, and scores its own."""
    a, b = units(size * each, 5, seed=seed), units(size * each, 5, seed=seed + 1)
    joined = losses.contrast(a, b, 0.07)
    shares = []
    for rank in range(size):
        own = slice(rank * each, (rank + 1) * each)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world, "rank", lambda r=rank: r)
            every = iter((a, b))
            share = losses.contrast(a[own], b[own], 0.07, lambda x, e=every: next(e))
        shares.append(share)
    same(sum(shares) / size, joined, a, b)


def test_contrast_and_swap_keep_their_own_rows_of_what_is_gathered(monkeypatch):
    scores = units(6, 4)
    monkeypatch.setattr(world, "rank", lambda: 1)
    codes = losses._codes(scores[3:], 0.05, 3, lambda x: scores.detach())
    torch.testing.assert_close(codes, losses.sinkhorn(scores, 0.05, 3)[3:])
    alone = losses._codes(scores[3:], 0.05, 3, losses.own_rows)
    torch.testing.assert_close(alone, losses.sinkhorn(scores[3:], 0.05, 3))


@pytest.mark.parametrize("clip", [CLIP, (0.0, 1.0), (0.25, 0.5)])
def test_importance(clip):
    rng = np.random.default_rng(0)
    values = rng.random((6, 9)) ** 3
    valid = np.arange(9) < rng.integers(1, 10, (6, 1))
    values[2, 0] = 0.0  # a real word without attention, as released SEP has
    values = np.where(valid, values, 0.0)
    fast = losses.importance(torch.from_numpy(values), torch.from_numpy(values > 0), clip)
    for b in range(6):
        np.testing.assert_allclose(fast[b].numpy(), slow.importance(values[b], clip), rtol=1e-12)
    assert not fast[~torch.from_numpy(valid)].any()


def test_importance_of_patches_counts_zeros():
    """Their quantiles are over all patches, so that none is left without weight (exactness B)."""
    values = np.array([[0.0, 0.0, 0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.2, 0.2, 0.2, 0.2]])
    everywhere = torch.ones(2, 6, dtype=torch.bool)
    fast = losses.importance(torch.from_numpy(values), everywhere, (0.3, 0.9))
    for b in range(2):
        low, high = np.quantile(values[b], (0.3, 0.9))
        want = np.clip(values[b], low, high)
        np.testing.assert_allclose(fast[b].numpy(), want / want.sum(), rtol=1e-12)
    assert bool((fast > 0).all())


def test_importance_of_nothing_is_zero_and_finite():
    fast = losses.importance(torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.bool), CLIP)
    assert not fast.any()


rows_of_numbers = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12)


@settings(max_examples=60)
@given(rows_of_numbers, st.integers(0, 5), st.floats(0.1, 50.0), st.randoms(use_true_random=False))
def test_importance_sums_to_one_and_follows_order_scale_and_padding(values, extra, scale, random):
    row = torch.tensor([values], dtype=torch.float64)
    weight = losses.importance(row, row > 0, CLIP)
    assert float(weight.sum()) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(weight[0].numpy(), slow.importance(row[0].numpy(), CLIP))
    order = list(range(len(values)))
    random.shuffle(order)
    torch.testing.assert_close(losses.importance(row[:, order], row > 0, CLIP), weight[:, order])
    torch.testing.assert_close(losses.importance(row * scale, row > 0, CLIP), weight)
    longer = F.pad(row, (0, extra))
    torch.testing.assert_close(
        losses.importance(longer, longer > 0, CLIP), F.pad(weight, (0, extra))
    )


@pytest.mark.parametrize("counts", [[3, 3], [1, 4, 2]])
def test_align(counts):
    valid = real(counts)
    packed, patches = units(sum(counts), 5), units(len(counts), 6, 5, seed=1)
    rng = np.random.default_rng(0)
    omega = [slow.importance(rng.random(n), CLIP) for n in counts]
    mu = np.stack([slow.importance(rng.random(6), CLIP) for _ in counts])
    weight = torch.zeros(valid.shape, dtype=torch.float64)
    for b, w in enumerate(omega):
        weight[b, : len(w)] = torch.from_numpy(w)
    words = slots(packed, valid)
    fast, attention = losses.align(words, patches, valid, weight, torch.from_numpy(mu), 0.1)
    reference = slow.align(list(packed.split(counts)), patches, omega, mu, 0.1)
    same(fast, reference, packed, patches)
    torch.testing.assert_close(attention.sum(2), torch.ones(len(counts), max(counts)).double())
    want = slow.softmax([(packed[0] * p).sum() / 0.1 for p in patches[0]])
    torch.testing.assert_close(attention[0, 0], torch.stack(want).detach())
    assert not attention.requires_grad


def test_align_with_pads_as_candidates():
    """Pads are queries and candidates of the words; patches attend to real words alone."""
    counts, width = [2, 4], 5
    valid = real(counts, width)
    words, patches = units(2, width, 3), units(2, 4, 3, seed=1)
    omega = torch.where(valid, uniform(2, width, seed=2), 0.0)
    mu = uniform(2, 4, seed=3)
    fast, _ = losses.align(words, patches, valid, omega, mu, 0.1, pads=True)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(2):
        w, p = list(words[b]), list(patches[b])
        attended = []
        for x in w:
            a = slow.softmax([(x * y).sum() / 0.1 for y in p])
            attended.append(slow.unit(sum(c * y for c, y in zip(a, p, strict=True))))
        total = total + slow.both_sides(w, attended, omega[b].numpy(), 0.1)
        attended = []
        for x in p:
            a = slow.softmax([(x * y).sum() / 0.1 for y in w[: counts[b]]])
            attended.append(sum(c * y for c, y in zip(a, w, strict=False)))
        total = total + slow.both_sides(p, attended, mu[b].numpy(), 0.1)
    same(fast, total / 2, words, patches)


@pytest.mark.parametrize("pads", [False, True])
def test_align_of_a_report_without_words_is_finite(pads):
    valid = real([2, 0])
    packed, patches = units(2, 5), units(2, 6, 5, seed=1)
    half, sixth = torch.full((2, 2), 0.5), torch.full((2, 6), 1 / 6)
    words = slots(packed, valid)
    loss, _ = losses.align(words, patches, valid, half, sixth, 0.1, pads=pads)
    grads = torch.autograd.grad(loss, (packed, patches))
    assert loss.isfinite() and all(g.isfinite().all() for g in grads)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 4), st.integers(0, 99))
def test_padding_order_and_scale_never_change_the_local_loss(counts, extra, seed):
    """More empty slots, pairs, words or patches in another order, attention times a number."""
    rng = torch.Generator().manual_seed(seed)
    valid = real(counts)
    words = slots(units(sum(counts), 4, seed=seed), valid)
    patches = units(len(counts), 5, 4, seed=seed + 1)
    attention = torch.where(valid, uniform(*valid.shape, seed=seed + 2), 0.0)
    seen = uniform(len(counts), 5, seed=seed + 3)

    def loss(words, patches, valid, attention, seen):
        omega = losses.importance(attention, valid & (attention > 0), CLIP)
        mu = losses.importance(seen, torch.ones_like(seen, dtype=torch.bool), CLIP)
        return losses.align(words, patches, valid, omega, mu, 0.1)[0]

    plain = loss(words, patches, valid, attention, seen)
    wide = F.pad(words, (0, 0, 0, extra)), patches, F.pad(valid, (0, extra))
    order = torch.randperm(len(counts), generator=rng)
    turned = torch.randperm(5, generator=rng)
    columns = torch.randperm(max(counts), generator=rng)
    for other in (
        (*wide, F.pad(attention, (0, extra)), seen),
        (words[order], patches[order], valid[order], attention[order], seen[order]),
        (words, patches[:, turned], valid, attention, seen[:, turned]),
        (words[:, columns], patches, valid[:, columns], attention[:, columns], seen),
        (words, patches, valid, attention * 7, seen * 0.3),
    ):
        torch.testing.assert_close(loss(*other), plain, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 4), (3, 9)])
def test_sinkhorn_and_swap(shape):
    a, b = units(*shape), units(*shape, seed=1)
    codes = losses.sinkhorn(a, 0.05, 3)
    np.testing.assert_allclose(codes.numpy(), slow.sinkhorn(a.detach().numpy(), 0.05, 3), rtol=1e-9)
    assert not codes.requires_grad
    same(losses.swap(a, b, 0.2, 0.05, 3), slow.swap(a, b, 0.2, 0.05, 3), a, b)


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(2, 8), st.integers(1, 5), st.integers(0, 99))
def test_rows_of_a_plan_sum_to_one_and_follow_the_order(rows, columns, rounds, seed):
    scores = uniform(rows, columns, seed=seed) * 2 - 1
    codes = losses.sinkhorn(scores, 0.05, rounds)
    torch.testing.assert_close(codes.sum(1), torch.ones(rows).double(), rtol=1e-12, atol=0)
    assert bool((codes >= 0).all())
    rng = torch.Generator().manual_seed(seed)
    order, turned = torch.randperm(rows, generator=rng), torch.randperm(columns, generator=rng)
    torch.testing.assert_close(losses.sinkhorn(scores[order], 0.05, rounds), codes[order])
    torch.testing.assert_close(losses.sinkhorn(scores[:, turned], 0.05, rounds), codes[:, turned])
    torch.testing.assert_close(losses.sinkhorn(scores + 0.3, 0.05, rounds), codes)


def test_many_rounds_give_every_prototype_its_share():
    codes = losses.sinkhorn(units(12, 4), 0.5, 200)
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0).double())


@settings(max_examples=25)
@given(st.integers(2, 7), st.integers(0, 99))
def test_order_of_pairs_and_prototypes_never_changes_contrast_and_swap(rows, seed):
    a, b = units(rows, 6, seed=seed), units(rows, 6, seed=seed + 1)
    rng = torch.Generator().manual_seed(seed)
    order, turned = torch.randperm(rows, generator=rng), torch.randperm(6, generator=rng)
    plain = losses.contrast(a, b, 0.07), losses.swap(a, b, 0.2, 0.05, 3)
    one, two = a[order][:, turned], b[order][:, turned]
    torch.testing.assert_close(losses.contrast(one, two, 0.07), plain[0])
    torch.testing.assert_close(losses.swap(one, two, 0.2, 0.05, 3), plain[1])
    torch.testing.assert_close(losses.contrast(b, a, 0.07), plain[0])  # sides are alike
    torch.testing.assert_close(losses.swap(b, a, 0.2, 0.05, 3), plain[1])
