"""MGCA and MedIM as wholes: terms and gradients against the formulas, switches, masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import slow_losses as slow
import torch
from batches import ROWS, build, make_batch

from cxrmim.errors import ParamsError
from cxrmim.pretrain.contract import NoTextError
from cxrmim.pretrain.methods import mgca
from cxrmim.pretrain.parts import encoders

SIX = (0, 1, 2, 3, 4, 5)  # the first has no MeSH word
MGCA, MEDIM = (f"pretrain.methods.{name}.options." for name in ("mgca", "medim"))


def terms(method, batch):
    return {k: float(v.detach()) for k, v in method.losses(batch).items()}


def gradients(total, method, prefixes):
    """Of the parameters whose names start so."""
    names = [n for n, p in method.named_parameters() if p.requires_grad and n.startswith(prefixes)]
    leaves = [method.get_parameter(name) for name in names]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return dict(zip(names, found, strict=True))


def equal_gradients(got, want):
    assert got.keys() == want.keys()
    assert any(g is not None for g in got.values())
    for name, value in want.items():
        if value is None:  # not in the graph of the reference: must not be reached
            assert got[name] is None or not got[name].any(), name
        else:
            torch.testing.assert_close(got[name], value, rtol=1e-7, atol=1e-10, msg=name)


def reference(method, batch, reports, rows):
    """ITA, local and prototype term from the encoders' outputs, by loops (MGCA eq. 2-11)."""
    cls, patches, seen = encoders.see(method.encoder, batch.image)
    hidden, read = method.text_encoder(batch.text.ids)
    each, omega = [], []
    for b, r in enumerate(rows):
        number = reports.word[r][: hidden.shape[1]]
        pieces = [np.flatnonzero(number == w) for w in range(int(number.max()) + 1)]
        each.append([sum(hidden[b, i] for i in at) for at in pieces])
        weight = np.array([sum(float(read[b, i]) for i in at) for at in pieces])
        omega.append(slow.importance(weight, (0.1, 0.9)))
    mu = np.stack([slow.importance(a, (0.1, 0.9)) for a in seen.numpy()])
    counts = [len(e) for e in each]
    word = method.word_head(torch.stack([w for e in each for w in e]))
    patch = method.patch_head(patches.reshape(-1, 16)).reshape(len(rows), 25, -1)
    image, report = method.image_head(cls), method.text_head(hidden[:, 0])
    table = method.prototypes.weight  # put to unit length in place by the step before
    norms = table.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    return {
        "ita": slow.contrast(image, report, 0.07),
        "local": slow.align(list(word.split(counts)), patch, omega, mu, 0.1),
        "proto": slow.swap(image @ table.T, report @ table.T, 0.2, 0.05, 3),
    }, patches


def test_mgca_terms_and_gradients_equal_the_formulas(small, stored, reports):
    method = build(small(), "mgca", stored)
    batch = make_batch(method, reports)
    got = method.losses(batch)
    want, _ = reference(method, batch, reports, ROWS)
    assert list(got) == list(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-10, msg=name)
    fast, slowly = sum(got.values()), sum(want.values())
    equal_gradients(*(gradients(total, method, ("",)) for total in (fast, slowly)))


def test_medim_masks_what_the_report_points_at_and_restores_the_whole_image(small, stored, reports):
    """Equations 2 to 6 by loops, with one sentence a report so that SDM draws nothing."""
    one = dataclasses.replace(reports, sentence=np.where(reports.sentence >= 0, 0, -1))
    method = build(small(), "medim", stored)
    batch = make_batch(method, one)
    maps, aligned = method.report_maps(batch), method.align(batch)
    got = method.losses(batch)  # last: it rescales the prototypes in place
    want, patches = reference(method, batch, one, ROWS)
    word = method.word_head(aligned.words)
    patch = method.patch_head(aligned.patches.reshape(-1, 16)).reshape(5, 25, -1)
    counts = batch.text.count.tolist()
    kept = {"kwm": [], "sdm": []}
    for b, w in enumerate(word.split(counts)):
        flags = {"kwm": batch.text.mesh[b].tolist(), "sdm": [True] * counts[b]}
        for name, flag in flags.items():
            total = torch.zeros(25, dtype=torch.float64)
            for i in range(counts[b]):
                if flag[i]:
                    scores = [(w[i] * patch[b, j]).sum() / 0.1 for j in range(25)]
                    total = total + torch.stack(slow.softmax(scores))
            torch.testing.assert_close(maps.attention[name][b].flatten(), total.detach())
            mask = torch.tensor(slow.top(total.tolist(), 12))
            assert torch.equal(maps.mask[name][b].flatten(), mask)
            kept[name].append(torch.where(mask[:, None], 0.0, patches[b]))
    maps_of_both = method.decoder(torch.stack(kept["kwm"] + kept["sdm"]))
    for name, half in zip(("kwm", "sdm"), maps_of_both.chunk(2), strict=True):
        restored = torch.tanh(method.restore_heads[name](half))
        target = (batch.image * 0.5 + 0.5) * 2 - 1
        want[name] = ((restored - target) ** 2).mean()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-10, msg=name)
    align = want["ita"] + want["local"] + want["proto"]
    total = align + method.options.alpha * (want["kwm"] + want["sdm"])
    torch.testing.assert_close(method.total(got), total)
    equal_gradients(*(gradients(x, method, ("",)) for x in (method.total(got), total)))


def test_no_gradient_passes_through_the_masks(small, stored, reports):
    method = build(small(), "medim", stored)
    got = method.losses(make_batch(method, reports))
    inside = ("word_head", "patch_head", "image_head", "text_head", "text_encoder", "prototypes")
    found = gradients(got["kwm"] + got["sdm"], method, inside)
    assert len(found) > 6 and all(g is None for g in found.values())


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def plain(kept, small, stored, reports):
    """MedIM's terms as params are, computed once."""
    if not kept:
        method = build(small(), "medim", stored)
        kept.update(terms(method, make_batch(method, reports, rows=SIX)))
    return kept


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("pretrain.text.positions", "zero", {"ita", "local", "proto", "kwm", "sdm"}),
        ("pretrain.text.attn_shift", "released", {"local"}),
        (MGCA + "padding", "released", {"local"}),
        (MEDIM + "mask_mode", "low", {"kwm", "sdm"}),
        (MEDIM + "mask_mode", "random", {"kwm", "sdm"}),
        (MEDIM + "mask_mode", "none", {"kwm", "sdm"}),
        (MEDIM + "mask_mode", "diverse", {"kwm", "sdm"}),
        (MEDIM + "empty_mesh", "released", {"kwm"}),
        (MEDIM + "att_space", "raw", {"kwm", "sdm"}),
        (MEDIM + "ratio", 0.25, {"kwm", "sdm"}),
        (MEDIM + "tanh", False, {"kwm", "sdm"}),
        (MEDIM + "sentence_words", 1, {"sdm"}),
        (MGCA + "tau_global", 0.2, {"ita"}),
        (MGCA + "tau_local", 0.2, {"local"}),
        (MGCA + "tau_proto", 0.4, {"proto"}),
        (MGCA + "sinkhorn_eps", 0.5, {"proto"}),
        (MGCA + "sinkhorn_rounds", 1, {"proto"}),
        (MGCA + "clip_weights", [0.4, 0.6], {"local"}),
    ],
)
def test_every_switch_changes_what_it_should(plain, small, stored, reports, key, value, changed):
    method = build(small({key: value}), "medim", stored)
    before, after = plain, terms(method, make_batch(method, reports, rows=SIX))
    assert {k for k in before if after[k] != pytest.approx(before[k], rel=1e-9)} >= changed
    for name in {"ita", "proto"} - changed:
        assert after[name] == pytest.approx(before[name], rel=1e-9)


def test_in_one_process_negatives_and_sinkhorn_change_nothing(small, stored, reports):
    found = []
    for side in ("batch", "shard"):
        changes = {"pretrain.negatives": side, MGCA + "sinkhorn": side}
        method = build(small(changes), "medim", stored)
        found.append(terms(method, make_batch(method, reports)))
    assert found[0] == found[1]


def test_sdm_draws_a_sentence_for_each_report_and_each_batch(small, stored, reports):
    method = build(small(), "medim", stored)
    one, two, again = (
        method.report_maps(make_batch(method, reports, seed=s)).attention["sdm"] for s in (1, 2, 1)
    )
    assert not torch.equal(one, two) and torch.equal(one, again)


def test_with_pads_only_adds_empty_slots(small, stored, reports):
    method = build(small(), "mgca", stored)
    text = make_batch(method, reports).text
    wide = mgca.with_pads(text, stored.length - 1)
    width = text.sentence.shape[1]
    assert wide.sentence.shape == wide.mesh.shape == (5, stored.length - 1)
    assert torch.equal(wide.sentence[:, :width], text.sentence)
    assert bool((wide.sentence[:, width:] == -1).all()) and not wide.mesh[:, width:].any()
    assert torch.equal(wide.valid.flatten().nonzero().squeeze(1), wide.slots)


def test_a_learned_mask_token_fills_masked_places(small, stored):
    method = build(small({MEDIM + "mask_token": "learned"}), "medim", stored)
    assert method.mask_token.shape == (16,)
    patches = torch.randn(2, 25, 16, dtype=torch.float64)
    mask = torch.arange(25).expand(2, -1) < 7
    both = {"kwm": mask, "sdm": mask}
    filled = torch.where(mask[:, :, None], method.mask_token, patches)
    got = method.restore(patches, both)
    want = method.restore(filled, {name: torch.zeros_like(mask) for name in both})
    for name in both:
        torch.testing.assert_close(got[name], want[name])
    assert build(small(), "medim", stored).mask_token is None


def test_weights_and_alpha_are_those_of_params(small, stored):
    changes = {MEDIM + "alpha": 3.0, MGCA + "weight_local": 0.5}
    loaded = small(changes)
    method, alone = (build(loaded, entry, stored) for entry in ("medim", "medim-kwm"))
    assert method.weights == {"ita": 1.0, "local": 0.5, "proto": 1.0, "kwm": 3.0, "sdm": 3.0}
    assert alone.weights == {"ita": 1.0, "local": 0.5, "proto": 1.0, "kwm": 3.0}
    assert list(alone.restore_heads) == ["kwm"]


def test_kwm_and_sdm_work_alone(small, stored, reports):
    """The official code cannot run one strategy (exactness.md A9); alone it keeps its weight."""
    for name, other in (("kwm", "sdm"), ("sdm", "kwm")):
        method = build(small({MEDIM + other: False}), "medim", stored)
        batch = make_batch(method, reports)
        got = method.losses(batch)
        assert list(got) == ["ita", "local", "proto", name]
        maps = method.report_maps(batch)
        assert list(maps.mask) == [name] and method.weights[name] == method.options.alpha


def test_medim_refuses_options_that_cannot_work(small, stored):
    with pytest.raises(ParamsError, match="use mgca"):
        build(small({MEDIM + "kwm": False, MEDIM + "sdm": False}), "medim", stored)
    with pytest.raises(ParamsError, match=r"decoder = \[8, 6\]"):
        build(small({MEDIM + "decoder": [8, 6]}), "medim", stored)
    with pytest.raises(ParamsError, match=r"vit.width = 16 must equal pretrain.text.width = 12"):
        build(small({MEDIM + "att_space": "raw", "pretrain.text.width": 12}), "medim", stored)


def test_a_batch_without_reports_is_refused(small, stored):
    method = build(small(), "mgca", stored)
    mae = build(small(), "mae", stored)
    with pytest.raises(ValueError, match="collate the batch with text"):
        method.losses(make_batch(mae))
    with pytest.raises(NoTextError, match="no report-guided"):
        method.report_maps(make_batch(mae))


def test_report_maps_repeat_with_a_generator(small, stored, reports):
    method = build(small(), "medim", stored).eval()
    batch = make_batch(method, reports)
    one, two = (method.report_maps(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    for name in ("kwm", "sdm"):
        assert one.attention[name].shape == one.mask[name].shape == (5, 5, 5)
        assert torch.equal(one.mask[name], two.mask[name])
        assert one.mask[name].flatten(1).sum(1).tolist() == [12] * 5


def test_prototypes_are_held_in_the_first_epoch(small, stored, reports):
    method = build(small(), "mgca", stored)
    for epoch, held in ((0, True), (1, False)):
        method(make_batch(method, reports))[0].backward()
        method.after_backward(epoch)
        assert (method.prototypes.weight.grad is None) is held
