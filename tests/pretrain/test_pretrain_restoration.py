"""Parts of masked modelling: word masks, targets, resizing, position tables, report decoder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slow_losses
import slow_masked as slow
import torch
from torch.nn import functional as F

from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Stored
from cxrmim.pretrain.parts import masked, reports, restoration, words, world
from cxrmim.pretrain.parts.decoders import sincos_positions

# Word masks


def mask(ids, word, noise, unit="word", length=None, ratio=0.5):
    rows = [torch.tensor(x)[None] for x in (ids, word, noise)]
    got = reports.mask_tokens(*rows, ratio, unit, length or len(ids))
    return got[0].int().tolist()


def test_a_word_is_masked_whole():
    ids = [2, 10, 11, 12, 13, 14, 0, 0]  # CLS, then words of 1, 3 and 1 pieces
    word = [-1, 0, 1, 1, 1, 2, -1, -1]
    noise = [0.9, 0.1, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0]  # draws are those of words 0, 1, 2
    assert mask(ids, word, noise) == [0, 0, 1, 1, 1, 0, 0, 0]
    assert mask(ids, word, [0.1, 0.9, 0.2, *noise[3:]]) == [0, 1, 0, 0, 0, 1, 0, 0]
    assert mask(ids, word, [0.0] * 8) == [0, 1, 1, 1, 1, 1, 0, 0]


def test_the_last_position_of_a_full_report_is_never_masked():
    ids, word = [2, 10, 11, 12], [-1, 0, 1, 1]
    for unit in ("word", "token"):
        assert mask(ids, word, [0.0] * 4, unit) == [0, 1, 1, 0]
        assert mask(ids, word, [0.0] * 4, unit, length=9) == [0, 1, 1, 1]  # trimmed, not full


def test_under_token_each_position_draws_and_sep_can_be_masked():
    ids, word = [2, 10, 11, 12, 3, 0, 0], [-1, 0, 1, 1, -1, -1, -1]
    noise = [0.0, 0.9, 0.1, 0.9, 0.1, 0.0, 0.0]
    assert mask(ids, word, noise, "token") == [0, 0, 1, 0, 1, 0, 0]
    assert mask(ids, word, [0.0] * 7, "word") == [0, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("unit", ["word", "token"])
def test_masks_follow_the_official_walk_along_the_report(raw, unit):
    noise = torch.rand(12, 30, generator=torch.Generator().manual_seed(1))
    batch = words.collate_raw(raw, np.arange(12))
    got = reports.mask_tokens(batch.ids, batch.word, noise, 0.5, unit, 30)
    for b in range(12):
        rows = (batch.ids[b].tolist(), batch.word[b].tolist(), noise[b].tolist())
        assert got[b].tolist() == slow.masked_positions(*rows, 0.5, unit, 30)
    assert not got[:, 0].any() and not got[batch.ids == 0].any() and not got[:, -1].any()
    assert got[batch.word >= 0].float().mean() == pytest.approx(0.5, abs=0.12)


# Restoration


def test_patch_error_and_its_gradient():
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(2, 1, 8, 8, generator=draw, dtype=torch.float64).expand(-1, 3, -1, -1)
    predicted = torch.randn(2, 3, 48, generator=draw, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([[0, 3, 1], [2, 1, 3]])
    for norm in (True, False):
        fast = restoration.masked_patch_error(predicted, image, places, 4, norm_pix=norm)
        want = slow_losses.patch_error(predicted, image, places, 4, norm)
        torch.testing.assert_close(fast, want)
        torch.testing.assert_close(
            torch.autograd.grad(fast, predicted)[0], torch.autograd.grad(want, predicted)[0]
        )


def test_token_error_weighs_every_scored_position_alike(monkeypatch):
    draw = torch.Generator().manual_seed(2)
    scores = torch.randn(4, 5, 7, generator=draw, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 7, (4, 5), generator=draw)
    scored = torch.rand(4, 5, generator=draw) < 0.4
    each = [
        [slow_losses.cross_entropy(list(scores[b, i]), int(ids[b, i])) for i in range(5)]
        for b in range(4)
    ]
    picked = [each[b][i] for b in range(4) for i in range(5) if scored[b, i]]
    fast, want = restoration.token_error(scores, ids, scored), sum(picked) / len(picked)
    torch.testing.assert_close(fast, want)
    grads = [torch.autograd.grad(x, scores, retain_graph=True)[0] for x in (fast, want)]
    torch.testing.assert_close(*grads)
    whole = restoration.token_error(scores, ids)
    torch.testing.assert_close(whole, sum(sum(row) for row in each) / 20)
    none = restoration.token_error(scores, ids, torch.zeros_like(scored))
    assert float(none.detach()) == 0.0

    number = scored.sum()
    monkeypatch.setattr(world, "size", lambda: 2)
    monkeypatch.setattr(world, "total", lambda x: number.to(x.dtype))
    halves = [
        restoration.token_error(scores[part], ids[part], scored[part], joined=True)
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert int(scored[:2].sum()) != int(scored[2:].sum())
    torch.testing.assert_close((halves[0] + halves[1]) / 2, want)


def test_the_encoders_input_is_resized_without_antialiasing():
    image = torch.rand(2, 1, 24, 24, dtype=torch.float64).expand(-1, 3, -1, -1)
    got = masked.shrink(image, 12)
    for one, large in zip(got, image, strict=True):
        torch.testing.assert_close(one, slow.bicubic(large, 12))
    smooth = F.interpolate(image, (12, 12), mode="bicubic", antialias=True)
    assert (got - smooth).abs().max() > 0.05
    line = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    line[..., 3] = 1.0  # four taps a pixel at factor 2: -0.09375, 0.59375, 0.59375, -0.09375
    want = torch.tensor([0.0, 0.59375, -0.09375, 0.0], dtype=torch.float64)
    torch.testing.assert_close(masked.shrink(line, 4)[0, 0, 0], want)
    assert masked.shrink(image, 24) is image


def test_the_position_tables():
    """MAE's frequencies go from 1 to 1e-4, those of MRM's decoder stop at 0.1 (A6)."""
    np.testing.assert_allclose(
        sincos_positions(16, 3)[0].numpy(), slow_losses.sincos(16, 3), atol=1e-6
    )
    for form, slowest in (("mae", 1.05e-4), ("released", 0.101)):
        table = sincos_positions(768, 2, form)[0]
        assert not table[0].any()
        column = torch.asin(table[2, :192])  # patch 2 is row 0, column 1
        assert float(column[191]) == pytest.approx(slowest, rel=1e-2)
        for k in (0, 7, 191):
            exponent = k / 192 if form == "mae" else k / 384 / 2
            omega = 10000**-exponent
            assert float(table[2, k]) == pytest.approx(math.sin(omega), abs=1e-6)
            assert float(table[2, 192 + k]) == pytest.approx(math.cos(omega), abs=1e-6)
            assert float(table[3, 384 + k]) == pytest.approx(math.sin(omega), abs=1e-6)
            assert float(table[3, 576 + k]) == pytest.approx(math.cos(omega), abs=1e-6)


# The nets


def test_the_report_decoder_starts_as_the_official_one(stored):
    torch.manual_seed(0)
    net = reports.ReportDecoder(64, 96, 2, 2, 192, 500, 40, 0.1)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Linear):
            bound = math.sqrt(6 / sum(module.weight.shape))
            assert 0.97 * bound < float(module.weight.detach().abs().max()) <= bound, name
            assert not module.bias.any(), name
        elif isinstance(module, torch.nn.Embedding) and len(module.weight) > 30:
            assert float(module.weight[1:].detach().std()) == pytest.approx(0.02, rel=0.05), name
        elif isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-12
        elif isinstance(module, torch.nn.Dropout):
            assert module.p == 0.1
    embedding = net.bert.embeddings.word_embeddings.weight
    assert net.classify[3].weight is not embedding and net.classify[3].bias.shape == (500,)
    assert net.bert.embeddings.position_embeddings.weight.shape == (40, 96)
    assert net(torch.ones(2, 40, dtype=torch.long), torch.zeros(2, 64)).shape == (2, 40, 500)


def test_padding_is_no_key_of_the_report_decoder():
    torch.manual_seed(0)
    net = reports.ReportDecoder(8, 12, 2, 2, 16, 20, 6, 0.0).double()
    ids = torch.tensor([[2, 5, 6, 0, 0, 0], [2, 7, 8, 9, 4, 0]])
    image = torch.randn(2, 8, dtype=torch.float64)
    before = net(ids, image)
    torch.testing.assert_close(net(ids[:, :5], image), before[:, :5])
    with torch.no_grad():
        net.bert.embeddings.word_embeddings.weight[words.PAD, 0] = 3.0
    after = net(ids, image)
    torch.testing.assert_close(after[ids != 0], before[ids != 0])
    assert not torch.allclose(after[ids == 0], before[ids == 0])


def test_dimensions_of_the_papers(paper):
    stored = Stored(300, 112, 103, 200, 100, 3)
    with torch.device("meta"):
        method = weights.build_method(paper, "mrm", stored)
    assert method.crop == 448 and len(method.restorer.blocks) == 4
    assert method.restorer.predict.weight.shape == (32 * 32 * 3, 768)
    assert masked.visible(196, 0.75) == 49
    config = method.report_decoder.bert.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (
        384,
        6,
        1536,
    )
    assert config.num_attention_heads == 6 and config.max_position_embeddings == 100
    assert method.report_decoder.bridge.weight.shape == (384, 768)
    assert method.restorer.blocks[0].attn.num_heads == 6
