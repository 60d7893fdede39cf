"""Every loss against its slow float64 twin: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import slow_losses as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cxrmim.pretrain.parts import losses, words
from cxrmim.pretrain.parts.decoders import sincos_positions


def units(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1).requires_grad_()


def same(fast, reference, *inputs):
    """Equal values and equal gradients with respect to every input."""
    torch.testing.assert_close(fast, reference, rtol=1e-10, atol=1e-12)
    for got, want in zip(
        torch.autograd.grad(fast, inputs), torch.autograd.grad(reference, inputs), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-11)


def test_contrast():
    a, b = units(5, 4), units(5, 4, seed=1)
    same(losses.contrast(a, b, 0.07), slow.contrast(a, b, 0.07), a, b)


@pytest.mark.parametrize("clip", [(0.1, 0.9), (0.0, 1.0), (0.25, 0.5)])
def test_importance(clip):
    rng = np.random.default_rng(0)
    values = rng.random((6, 9)) ** 3
    valid = np.arange(9) < rng.integers(1, 10, (6, 1))
    values[2, 0] = 0.0  # a real word without attention, as released SEP has
    values = np.where(valid, values, 0.0)
    fast = losses.importance(torch.from_numpy(values), torch.from_numpy(valid), clip)
    for b in range(6):
        np.testing.assert_allclose(fast[b].numpy(), slow.importance(values[b], clip), rtol=1e-12)
    assert not fast[~torch.from_numpy(valid)].any()


def test_importance_of_nothing_is_zero_and_finite():
    fast = losses.importance(torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.bool), (0.1, 0.9))
    assert not fast.any()


def text_with(counts):
    """A `Text` whose reports have the given numbers of words, one piece each."""
    width = max(counts)
    ids = torch.zeros(len(counts), width, dtype=torch.long)
    real = torch.arange(width) < torch.tensor(counts)[:, None]
    slots = real.flatten().nonzero().squeeze(1)
    sentence = torch.where(real, 0, -1)
    owner = torch.arange(len(slots))
    return words.Text(ids, sentence, real, torch.tensor(counts), slots, owner, slots)


@pytest.mark.parametrize("counts", [[3, 3], [1, 4, 2]])
def test_align(counts):
    text = text_with(counts)
    packed, patches = units(sum(counts), 5), units(len(counts), 6, 5, seed=1)
    rng = np.random.default_rng(0)
    omega = [slow.importance(rng.random(n), (0.1, 0.9)) for n in counts]
    mu = np.stack([slow.importance(rng.random(6), (0.1, 0.9)) for _ in counts])
    padded = torch.zeros(len(counts), max(counts), dtype=torch.float64)
    for b, w in enumerate(omega):
        padded[b, : len(w)] = torch.from_numpy(w)
    fast, attention = losses.align(packed, patches, text, padded, torch.from_numpy(mu), 0.1)
    reference = slow.align(list(packed.split(counts)), patches, omega, mu, 0.1)
    same(fast, reference, packed, patches)
    torch.testing.assert_close(attention.sum(2), torch.ones(len(counts), max(counts)).double())
    want = slow.softmax([(packed[0] * p).sum() / 0.1 for p in patches[0]])
    torch.testing.assert_close(attention[0, 0], torch.stack(want).detach())
    assert not attention.requires_grad


def test_align_of_a_report_without_words_is_finite():
    text = text_with([2, 0])
    packed, patches = units(2, 5), units(2, 6, 5, seed=1)
    loss, _ = losses.align(
        packed, patches, text, torch.full((2, 2), 0.5), torch.full((2, 6), 1 / 6), 0.1
    )
    grads = torch.autograd.grad(loss, (packed, patches))
    assert loss.isfinite() and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("shape", [(7, 4), (3, 9)])
def test_sinkhorn_and_swap(shape):
    a, b = units(*shape), units(*shape, seed=1)
    codes = losses.sinkhorn(a, 0.05, 3)
    np.testing.assert_allclose(codes.numpy(), slow.sinkhorn(a.detach().numpy(), 0.05, 3), rtol=1e-9)
    torch.testing.assert_close(codes.sum(1), torch.ones(len(a)).double())
    assert not codes.requires_grad
    same(losses.swap(a, b, 0.2, 0.05, 3), slow.swap(a, b, 0.2, 0.05, 3), a, b)


@pytest.mark.parametrize("norm", [False, True])
def test_patch_error(norm):
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    predicted = torch.randn(2, 3, 48, dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([[0, 3, 2], [1, 0, 3]])
    target = losses.patchify(image, 4)
    assert target.shape == (2, 4, 48)
    target = target.gather(1, masked[:, :, None].expand(-1, -1, 48))
    same(
        losses.patch_error(predicted, target, norm_pix=norm),
        slow.patch_error(predicted, image, masked, 4, norm),
        predicted,
    )


def test_sincos_positions():
    np.testing.assert_allclose(sincos_positions(16, 3)[0].numpy(), slow.sincos(16, 3), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 4), st.integers(0, 99))
def test_padding_and_order_never_change_the_local_loss(counts, extra, seed):
    """More empty slots, or the pairs in another order, give the same loss."""
    text = text_with(counts)
    rng = torch.Generator().manual_seed(seed)
    packed, patches = units(sum(counts), 4, seed=seed), units(len(counts), 5, 4, seed=seed + 1)
    attention = torch.rand(len(counts), max(counts), generator=rng, dtype=torch.float64)
    attention = attention * text.valid
    mu = torch.full((len(counts), 5), 0.2, dtype=torch.float64)

    def loss(text, packed, patches, attention):
        omega = losses.importance(attention, text.valid, (0.1, 0.9))
        return losses.align(packed, patches, text, omega, mu, 0.1)[0]

    plain = loss(text, packed, patches, attention)
    wide = max(counts) + extra
    rows = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    columns = text.slots - rows * max(counts)
    longer = words.Text(
        F.pad(text.ids, (0, extra)),
        F.pad(text.sentence, (0, extra), value=-1),
        F.pad(text.mesh, (0, extra)),
        text.count,
        text.pieces,
        text.owner,
        rows * wide + columns,
    )
    padded = loss(longer, packed, patches, F.pad(attention, (0, extra)))
    torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-12)

    order = torch.randperm(len(counts), generator=rng).tolist()
    parts = packed.split(counts)
    permuted = loss(
        text_with([counts[i] for i in order]),
        torch.cat([parts[i] for i in order]),
        patches[order],
        attention[order],
    )
    torch.testing.assert_close(permuted, plain, rtol=1e-12, atol=1e-12)
