"""What holds for every method of the registry, whoever wrote it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import KINDS, READY, ROWS, Reordered, build, make_batch, padded

from cxrmim import grid, plugins
from cxrmim.errors import CxrmimError
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import NoTextError, Stored
from cxrmim.pretrain.parts import words

EVERY = sorted({*plugins.names("method"), *READY})


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def tiny(kept, small):
    """Tiny parameters as they are, read once."""
    if not kept:
        kept["params"] = small()
    return kept["params"]


def terms(method, batch, seed=0):
    torch.manual_seed(seed)
    return {k: float(v.detach()) for k, v in method.losses(batch).items()}


@pytest.mark.parametrize("entry", EVERY)
def test_every_trainable_parameter_gets_a_gradient_and_no_other(tiny, stored, reports, raw, entry):
    method = build(tiny, entry, stored)
    batch = make_batch(method, reports, raw)
    if entry not in grid.trained(tiny):
        assert method.losses(batch) == {}
        return
    method(batch)[0].backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and bool(parameter.grad.any()), name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("entry", READY)
def test_the_total_is_the_weighted_sum_of_finite_terms(tiny, stored, reports, raw, entry):
    method = build(tiny, entry, stored)
    total, losses = method(make_batch(method, reports, raw))
    assert losses.keys() == method.weights.keys()
    assert all(value.isfinite() and value.dim() == 0 for value in losses.values())
    want = sum(method.weights[name] * value for name, value in losses.items())
    torch.testing.assert_close(total, want)


@pytest.mark.parametrize("entry", KINDS)
def test_draws_come_from_the_batch_alone(tiny, stored, reports, raw, entry):
    """The global generator, which dropout uses, draws no mask and no sentence."""
    method = build(tiny, entry, stored)
    one, two = (terms(method, make_batch(method, reports, raw), seed) for seed in (1, 2))
    assert one == two


@pytest.mark.parametrize("entry", KINDS)
def test_the_order_of_a_batch_never_changes_a_loss(tiny, stored, reports, raw, entry):
    method = build(tiny, entry, stored)
    order = (3, 0, 4, 1, 2)
    noise = Reordered(torch.Generator().manual_seed(0), order=order)
    plain = terms(method, make_batch(method, reports, raw, ROWS))
    rows = [ROWS[i] for i in order]
    permuted = terms(method, make_batch(method, reports, raw, rows, noise=noise))
    assert permuted == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("entry", KINDS)
def test_padding_never_changes_a_loss(tiny, stored, reports, raw, entry):
    method = build(tiny, entry, stored)
    rows = (1, 2, 3, 4, 5)
    assert all((reports.ids[list(rows)] == 0).any(1))  # so that nothing is as long as stored
    batch = make_batch(method, reports, raw, rows)
    if batch.text is None:
        assert not method.needs & {"text", "sentence"}
        return
    extra = stored.length - batch.text.ids.shape[1]
    assert extra > 0
    longer = make_batch(method, reports, raw, rows)
    longer = replace(longer, text=padded(batch.text, extra))
    assert terms(method, longer) == pytest.approx(terms(method, batch), rel=1e-9)


@pytest.mark.parametrize("entry", KINDS)
def test_a_method_survives_a_copy(tiny, stored, reports, raw, entry):
    """Downstream copies encoders before it trains them."""
    method = build(tiny, entry, stored)
    twin = copy.deepcopy(method)
    one, two = (terms(m, make_batch(m, reports, raw)) for m in (twin, method))
    assert one == two
    ours, theirs = dict(method.named_parameters()), dict(twin.named_parameters())
    assert all(ours[name].data_ptr() != theirs[name].data_ptr() for name in ours)


@pytest.mark.parametrize("entry", KINDS)
def test_embeddings_are_unit_vectors_or_refused(tiny, stored, reports, raw, entry):
    method = build(tiny, entry, stored).eval()
    assert issubclass(NoTextError, CxrmimError)
    image = make_batch(method, reports, raw).image[:, :, :40, :40]
    text = words.collate(reports, np.array(ROWS), released=method.released_words)
    try:
        embedded = method.embed_image(image)
    except NoTextError:
        with pytest.raises(NoTextError):
            method.embed_text(text)
        return
    both = embedded, method.embed_text(text)
    assert both[0].shape == both[1].shape
    for x in both:
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(ROWS)).double())
    torch.testing.assert_close(method.embed_image(image[:2]), embedded[:2])


@pytest.mark.parametrize("entry", READY)
def test_one_step_at_demo_size(demo, make, raw, entry):
    torch.manual_seed(0)
    method = weights.build_method(demo, entry, Stored(700, 80, 1, 50, 30, 3))
    step(method, make_batch(method, make(8, length=80), raw, range(8)))


@pytest.mark.parametrize("entry", ["medim", "cmitm"])
def test_one_step_at_paper_size(paper, make, raw, entry):
    """ViT-B/16 at 224 px, six BERT layers: the whole of MedIM, and CMITM's second stage."""
    torch.manual_seed(0)
    method = weights.build_method(paper, entry, Stored(28996, 112, 103, 30000, 30, 3))
    assert sum(p.numel() for p in method.encoder.parameters()) == 85_798_656
    batch = make_batch(method, make(2, length=112), raw, range(2))
    step(method, batch)
    if entry == "medim":
        masks = method.report_maps(batch).mask
        assert masks["kwm"].flatten(1).sum(1).tolist() == [98, 98]


def step(method, batch):
    before = copy.deepcopy(method.encoder.state_dict())
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3, fused=True)
    total, _ = method(batch)
    total.backward()
    optimiser.step()
    assert total.isfinite()
    after = method.encoder.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("entry", [e for e in READY if not e.startswith("imagenet")])
def test_an_evaluation_sees_as_much_as_the_contrast_crops(paper, entry):
    """224 of 256 px (240 in MedIM), whatever the side that training crops at; as in protocols §3.

    The box is checked on an image whose border alone is white: all four sides are cut off alike.
    """
    with torch.device("meta"):  # its shape is enough
        method = weights.build_method(paper, entry, Stored(60, 24, 1, 50, 30, 3))
    seen = 224 / (240 if entry.startswith("medim") else 256)
    stored = 256
    cut = round(stored * (1 - seen) / 2)
    image = torch.zeros(1, stored, stored, dtype=torch.uint8)
    inner = image.clone()
    image[:, : cut - 2], image[:, -cut + 2 :] = 255, 255  # beyond the crop
    inner[:, cut + 2], inner[:, -cut - 3] = 255, 255  # just inside it
    rule = method.evaluation
    dark = method.eval_transform(image) * rule.std + rule.mean
    lines = method.eval_transform(inner) * rule.std + rule.mean
    assert dark.shape == (1, 3, 224, 224) and float(dark.max()) < 1e-5
    assert float(lines[0, 0, :8].max()) > 0.3 and float(lines[0, 0, -8:].max()) > 0.3
