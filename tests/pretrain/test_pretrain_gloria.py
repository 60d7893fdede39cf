"""GLoRIA against its formulas, written out with loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import slow_regions as slow
import torch
from batches import build, make_batch, padded, pictures
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from cxrmim.errors import ParamsError
from cxrmim.pretrain.contract import Batch
from cxrmim.pretrain.parts import regions, words, world
from cxrmim.shards.store import Reports

OPTIONS = "pretrain.methods.gloria.options."
DOUBLE = {"dtype": torch.float64}


def gloria(small, stored, seed=0, **options):
    return build(small({OPTIONS + k: v for k, v in options.items()}), "gloria", stored, seed)


def terms(method, batch):
    return {k: float(v.detach()) for k, v in method.losses(batch).items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"full_report": True},
        {"words": "released"},
        {"sum_layers": 1},
        {"t1": 9.0, "t2": 2.0, "t3": 3.0},
    ],
    ids=["sentence", "report", "released", "last layer", "temperatures"],
)
def test_terms_and_gradients_equal_the_formulas(small, stored, reports, options):
    method = gloria(small, stored, **options)
    batch = make_batch(method, reports, rows=(1, 2, 3))
    o = method.options
    assert method.needs == {"image", "text" if o.full_report else "sentence"}
    bert = method.text_encoder.bert
    config = BertConfig(**bert.config.to_dict() | {"attn_implementation": "eager"})
    eager = BertModel(config, add_pooling_layer=False).double()
    eager.load_state_dict(bert.state_dict())
    text = batch.text
    out = eager(text.ids, attention_mask=(text.ids != 0).long(), output_hidden_states=True)
    assert len(out.hidden_states) == 1 + o.text_layers == 3
    pieces = sum(out.hidden_states[-k] for k in range(1, o.sum_layers + 1))
    tokens = method.encoder.forward_features(batch.image)
    image = tokens[:, 0] @ method.image_head.weight.T + method.image_head.bias
    local = tokens[:, 1:] @ method.region_head.weight.T
    want = slow.gloria(
        image, local, pieces, text.ids, text.word, (o.t1, o.t2, o.t3), o.words == "released"
    )
    got = method.losses(batch)
    assert list(got) == list(want) == list(method.weights)
    watched = [
        method.image_head.weight,
        method.region_head.weight,
        method.encoder.pos_embed,
        bert.embeddings.position_embeddings.weight,
    ]
    mirror = [*watched[:3], eager.embeddings.position_embeddings.weight]
    for name, value in got.items():
        torch.testing.assert_close(value, want[name], rtol=1e-10, atol=1e-10)
        fast = torch.autograd.grad(value, watched, retain_graph=True, allow_unused=True)
        loops = torch.autograd.grad(want[name], mirror, retain_graph=True, allow_unused=True)
        for a, b in zip(fast, loops, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.abs().max() > 1e-9
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    total = method.total(got)
    torch.testing.assert_close(total, sum(want.values()), rtol=1e-10, atol=1e-10)


def test_more_padding_and_another_order_change_nothing(small, stored, reports):
    for side in ("real", "released"):
        method = gloria(small, stored, words=side)
        batch = make_batch(method, reports)
        want = terms(method, batch)
        assert terms(method, replace(batch, text=padded(batch.text, 5))) == pytest.approx(want)
        order = (4, 2, 5, 1, 3)
        assert terms(method, make_batch(method, reports, rows=order)) == pytest.approx(want)


def test_pairs_are_what_is_learned(small, stored, reports):
    """Another image for every report changes all terms: each compares images with reports."""
    method = gloria(small, stored)
    batch = make_batch(method, reports)
    want = terms(method, batch)
    moved = terms(method, replace(batch, image=batch.image.roll(1, 0)))
    assert all(abs(moved[k] - want[k]) > 1e-6 for k in want)


def test_the_slip_of_other_methods_does_not_reach_its_bert(small, stored, reports):
    plain = gloria(small, stored)
    changed = small({"pretrain.text.positions": "zero", "pretrain.text.layers": 1})
    slipped = build(changed, "gloria", stored)
    batch = make_batch(plain, reports)
    assert terms(slipped, batch) == terms(plain, batch)
    ids = batch.text.ids
    swapped = ids[:, [0, 2, 1, *range(3, ids.shape[1])]]
    apart = slipped.embed_text(batch.text) - slipped.embed_text(replace(batch.text, ids=swapped))
    assert apart.abs().max() > 1e-4


def test_embeddings_are_unit_vectors_of_the_global_scores(small, stored, reports):
    method = gloria(small, stored)
    batch = make_batch(method, reports)
    image, text = method.embed_image(batch.image), method.embed_text(batch.text)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(5, **DOUBLE))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(5, **DOUBLE))
    want = F.cross_entropy(10 * image @ text.T, torch.arange(5))
    torch.testing.assert_close(method.losses(batch)["global_i2t"], want)
    whole = words.collate(reports, np.array([0, 11]))
    torch.testing.assert_close(method.embed_text(whole), method.embed_text(padded(whole, 3)))


def test_every_parameter_learns(small, stored, reports):
    for full in (False, True):
        method = gloria(small, stored, full_report=full)
        method(make_batch(method, reports))[0].backward()
        still = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not still
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.requires_grad)


def test_shares_of_processes_average_to_the_whole(monkeypatch):
    """Two processes of three pairs each: the mean of their terms is the term of all six."""
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(6, 4, 5, generator=rng, **DOUBLE, requires_grad=True)
    text = torch.randn(6, 3, 5, generator=rng, **DOUBLE, requires_grad=True)
    valid = torch.tensor([1, 3, 2, 3, 2, 1])[:, None] > torch.arange(3)

    def score(v, w, real):
        return 10 * regions.match_regions(v, w, real, 4.0, 5.0)

    whole = regions.both_ways(score, (image,), (text, valid), lambda x: x)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(world, "rank", lambda rank=rank: rank)
        mine = world.own(3)
        own = (image[mine], text[mine], valid[mine])
        every = {id(part): full for part, full in zip(own, (image, text, valid), strict=True)}
        share = regions.both_ways(score, own[:1], own[1:], lambda x, every=every: every[id(x)])
        parts.append(share)
    for got, one, other in zip(whole, *parts, strict=True):
        torch.testing.assert_close(got, (one + other) / 2)
        for wanted, found in zip(
            torch.autograd.grad(got, (image, text), retain_graph=True),
            torch.autograd.grad((one + other) / 2, (image, text), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(found, wanted)
    assert not torch.allclose(parts[0][0], parts[1][0])


def test_joined_processes_pad_words_to_one_width(small, stored, reports, monkeypatch):
    """What is gathered has the same shape everywhere, and the terms stay what they were."""
    shapes = []

    def gather(x):
        shapes.append(tuple(x.shape))
        return x

    monkeypatch.setattr(world, "gather", gather)
    for options in ({}, {"words": "released"}, {"full_report": True}):
        method = gloria(small, stored, **options)
        batch = make_batch(method, reports, rows=(1, 2))
        monkeypatch.setattr(world, "size", lambda: 1)
        want = terms(method, batch)
        monkeypatch.setattr(world, "size", lambda: 2)
        shapes.clear()
        assert terms(method, batch) == pytest.approx(want)
        assert (2, method.text_length, 16) in shapes and (2, method.text_length) in shapes


def test_a_text_without_words_keeps_the_loss_finite(small, stored):
    ids = np.array([[2, 3, 0, 0, 0], [2, 9, 10, 3, 0]], np.int32)
    word = np.array([[-1] * 5, [-1, 0, 1, -1, -1]], np.int16)
    flags = np.array([[-1] * 5, [0, 0, -1, -1, -1]], np.int16)
    empty = Reports(ids, word, flags, np.zeros((2, 5), bool), {})
    for full in (True, False):
        method = gloria(small, stored, full_report=full)
        rows = np.array([0, 1])
        text = words.collate(empty, rows)
        if not full:
            text = words.collate_sentence(empty, rows, np.array([0.5, 0.5]))
        total, _ = method(Batch(pictures(method, rows), text))
        total.backward()
        assert bool(total.isfinite())
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "told"), [({"dim": 8}, "text.width = 16"), ({"sum_layers": 3}, "2 layers")]
)
def test_options_that_do_not_fit_are_refused(small, stored, options, told):
    with pytest.raises(ParamsError, match=told):
        gloria(small, stored, **options)
