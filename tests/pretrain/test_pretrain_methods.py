"""Methods as wholes: terms against the formulas, invariants, switches, gradients."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import slow_losses as slow
import torch
from torch.nn import functional as F

from cxrmim import grid, params, plugins
from cxrmim.errors import CxrmimError, ParamsError
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Batch, NoTextError
from cxrmim.pretrain.parts import augment, encoders, words

REPO_PARAMS = params.load("params.yaml", "demo")
READY = [e for e in grid.trained(REPO_PARAMS) if grid.pending_entry(REPO_PARAMS, e) is None]


def build(small, entry, changes=None, reports=None, rows=(1, 2, 3, 4, 5), seed=0):
    """A method in float64 and a batch of its size."""
    loaded = small(changes)
    torch.manual_seed(seed)
    method = weights.build_method(loaded, entry, 60, 24).double()
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(len(rows), 1, 40, 40, generator=generator, dtype=torch.float64)
    released = loaded.pretrain.text.attn_shift == "released"
    text = words.collate(reports, np.array(rows), released=released) if reports else None
    return method, Batch((image * 2 - 1).expand(-1, 3, -1, -1), text)


def terms(method, batch, seed=0):
    torch.manual_seed(seed)
    return {k: float(v.detach()) for k, v in method.losses(batch).items()}


def pad_text(text, extra):
    """The same reports with more padding."""
    tokens = text.ids.shape[1]
    width = text.sentence.shape[1]
    return words.Text(
        F.pad(text.ids, (0, extra)),
        F.pad(text.sentence, (0, extra), value=-1),
        F.pad(text.mesh, (0, extra)),
        text.count,
        text.pieces // tokens * (tokens + extra) + text.pieces % tokens,
        text.owner,
        text.slots // width * (width + extra) + text.slots % width,
    )


def test_mgca_terms_equal_the_formulas(small, reports):
    """ITA, local and prototype term from the encoders' outputs, by loops (MGCA eq. 2-11)."""
    method, batch = build(small, "mgca", reports=reports)
    rows = np.array([1, 2, 3, 4, 5])
    cls, patches, seen = encoders.see(method.encoder, batch.image)
    hidden, read = method.text_encoder(batch.text.ids)
    tokens = hidden.shape[1]
    each = slow.sum_pieces(hidden.detach().numpy(), reports.word[rows, :tokens])
    attention = slow.sum_pieces(read[:, :, None].numpy(), reports.word[rows, :tokens])
    omega = [slow.importance(a[:, 0], (0.1, 0.9)) for a in attention]
    mu = np.stack([slow.importance(a, (0.1, 0.9)) for a in seen.numpy()])
    word = method.word_head(torch.from_numpy(np.concatenate(each)))
    patch = method.patch_head(patches.reshape(-1, 16)).reshape(5, 25, -1)
    image, report = method.image_head(cls), method.text_head(hidden[:, 0])
    table = F.normalize(method.prototypes.weight.detach(), dim=1)
    got = method.losses(batch)
    want = {
        "ita": slow.contrast(image, report, 0.07),
        "local": slow.align(list(word.split([len(e) for e in each])), patch, omega, mu, 0.1),
        "proto": slow.swap(image @ table.T, report @ table.T, 0.2, 0.05, 3),
    }
    assert list(got) == list(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-10)
    norms = method.prototypes.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_medim_masks_what_the_report_points_at_and_restores_the_whole_image(small, reports):
    """Equations 2 to 6 by loops, with one sentence a report so that SDM draws nothing."""
    one = dataclasses.replace(reports, sentence=np.where(reports.sentence >= 0, 0, -1))
    method, batch = build(small, "medim", reports=one)
    got, maps = method.losses(batch), method.report_maps(batch)
    aligned = method.align(batch)
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
            kept[name].append(torch.where(mask[:, None], 0.0, aligned.patches[b]))
    maps_of_both = method.decoder(torch.stack(kept["kwm"] + kept["sdm"]))
    for name, half in zip(("kwm", "sdm"), maps_of_both.chunk(2), strict=True):
        restored = torch.tanh(method.restore_heads[name](half))
        target = (batch.image * 0.5 + 0.5) * 2 - 1
        torch.testing.assert_close(got[name], ((restored - target) ** 2).mean())
    alpha = method.options.alpha
    align = got["ita"] + got["local"] + got["proto"]
    torch.testing.assert_close(method.total(got), align + alpha * (got["kwm"] + got["sdm"]))


def test_no_gradient_passes_through_the_masks(small, reports):
    method, batch = build(small, "medim", reports=reports)
    torch.manual_seed(0)
    got = method.losses(batch)
    inside = [*method.word_head.parameters(), *method.text_encoder.parameters()]
    restoring = got["kwm"] + got["sdm"]
    grads = torch.autograd.grad(restoring, inside, allow_unused=True)
    assert all(g is None for g in grads)


@pytest.mark.parametrize("norm", [True, False])
def test_mae_restores_the_masked_patches_alone(small, norm):
    method, batch = build(small, "mae", {"pretrain.methods.mae.options.norm_pix": norm})
    noise = torch.rand(5, 25, dtype=torch.float64)
    order = noise.argsort(1)
    kept, masked = order[:, :10], order[:, 10:]  # ratio 0.6 of 25
    vit = method.encoder
    x = vit.patch_embed(batch.image) + vit.pos_embed[:, 1:]
    x = torch.stack([x[b, kept[b]] for b in range(5)])
    cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(5, -1, -1)
    tokens = method.restorer.embed(vit.norm(vit.blocks(torch.cat([cls, x], 1))))
    full = method.restorer.mask_token.repeat(5, 25, 1)
    for b in range(5):
        full[b, kept[b]] = tokens[b, 1:]
    full = torch.cat([tokens[:, :1], full], 1) + method.restorer.positions
    out = method.restorer.predict(method.restorer.norm(method.restorer.blocks(full)))[:, 1:]
    predicted = torch.stack([out[b, masked[b]] for b in range(5)])
    want = slow.patch_error(predicted, batch.image, masked, 8, norm)
    torch.testing.assert_close(method.restore(batch.image, noise), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 6), (0.6, 10), (0.5, 12)])
def test_mae_keeps_int_of_the_share(small, ratio, kept):
    method, batch = build(small, "mae", {"pretrain.methods.mae.options.ratio": ratio})
    seen = []
    method.encoder.blocks.register_forward_hook(lambda m, i, o: seen.append(o.shape[1]))
    method.losses(batch)
    assert seen == [1 + kept]


@pytest.mark.parametrize("shift", ["none", "released"])
@pytest.mark.parametrize("entry", ["mgca", "medim", "medim-kwm"])
def test_padding_never_changes_a_loss(small, reports, entry, shift):
    changes = {"pretrain.text.attn_shift": shift}
    method, batch = build(small, entry, changes, reports)
    plain = terms(method, batch)
    padded = terms(method, Batch(batch.image, pad_text(batch.text, 6)))
    assert padded == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("entry", ["mgca", "medim"])
def test_the_order_of_a_batch_never_changes_a_loss(small, reports, entry):
    one = dataclasses.replace(reports, sentence=np.where(reports.sentence >= 0, 0, -1))
    method, batch = build(small, entry, reports=one)
    order = [3, 0, 4, 1, 2]
    text = words.collate(one, np.array([1, 2, 3, 4, 5])[order])
    permuted = terms(method, Batch(batch.image[order], text))
    assert permuted == pytest.approx(terms(method, batch), rel=1e-9)


MEDIM = "pretrain.methods.medim.options."


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("pretrain.text.positions", "zero", {"ita", "local", "proto", "kwm", "sdm"}),
        ("pretrain.text.attn_shift", "released", {"local"}),
        (MEDIM + "mask_mode", "low", {"kwm", "sdm"}),
        (MEDIM + "mask_mode", "random", {"kwm", "sdm"}),
        (MEDIM + "mask_mode", "none", {"kwm", "sdm"}),
        (MEDIM + "mask_mode", "diverse", {"kwm", "sdm"}),
        (MEDIM + "empty_mesh", "released", {"kwm"}),
        (MEDIM + "att_space", "raw", {"kwm", "sdm"}),
        (MEDIM + "ratio", 0.25, {"kwm", "sdm"}),
        (MEDIM + "tanh", False, {"kwm", "sdm"}),
        (MEDIM + "sentence_words", 1, {"sdm"}),
        ("pretrain.methods.mgca.options.tau_global", 0.2, {"ita"}),
        ("pretrain.methods.mgca.options.tau_local", 0.2, {"local"}),
        ("pretrain.methods.mgca.options.tau_proto", 0.4, {"proto"}),
        ("pretrain.methods.mgca.options.sinkhorn_eps", 0.5, {"proto"}),
        ("pretrain.methods.mgca.options.sinkhorn_rounds", 1, {"proto"}),
        ("pretrain.methods.mgca.options.clip_weights", [0.4, 0.6], {"local"}),
    ],
)
def test_every_switch_changes_what_it_should(small, reports, key, value, changed):
    rows = (0, 1, 2, 3, 4, 5)  # the first has no MeSH word
    before = terms(*build(small, "medim", reports=reports, rows=rows))
    after = terms(*build(small, "medim", {key: value}, reports, rows))
    assert {k for k in before if after[k] != pytest.approx(before[k], rel=1e-9)} >= changed
    untouched = {"ita", "proto"} - changed
    for name in untouched:
        assert after[name] == pytest.approx(before[name], rel=1e-9)


def test_a_learned_mask_token_fills_masked_places(small, reports):
    method, _ = build(small, "medim", {MEDIM + "mask_token": "learned"}, reports)
    assert method.mask_token.shape == (16,)
    patches = torch.randn(2, 25, 16, dtype=torch.float64)
    mask = torch.arange(25).expand(2, -1) < 7
    both = {"kwm": mask, "sdm": mask}
    filled = torch.where(mask[:, :, None], method.mask_token, patches)
    got = method.restore(patches, both)
    want = method.restore(filled, {name: torch.zeros_like(mask) for name in both})
    for name in both:
        torch.testing.assert_close(got[name], want[name])
    assert build(small, "medim", None, reports)[0].mask_token is None


def test_weights_and_alpha_are_those_of_params(small):
    changes = {MEDIM + "alpha": 3.0, "pretrain.methods.mgca.options.weight_local": 0.5}
    method, _ = build(small, "medim", changes)
    assert method.weights == {"ita": 1.0, "local": 0.5, "proto": 1.0, "kwm": 3.0, "sdm": 3.0}
    alone, _ = build(small, "medim-kwm", changes)
    assert alone.weights == {"ita": 1.0, "local": 0.5, "proto": 1.0, "kwm": 3.0}
    assert list(alone.restore_heads) == ["kwm"]


def test_medim_refuses_options_that_cannot_work(small):
    with pytest.raises(ParamsError, match="use mgca"):
        build(small, "medim", {MEDIM + "kwm": False, MEDIM + "sdm": False})
    with pytest.raises(ParamsError, match=r"decoder = \[8, 6\]"):
        build(small, "medim", {MEDIM + "decoder": [8, 6]})


def test_embeddings_are_unit_vectors_and_types_without_text_say_so(small, reports):
    method, batch = build(small, "mgca", reports=reports)
    method.eval()
    image, text = method.embed_image(batch.image), method.embed_text(batch.text)
    assert image.shape == text.shape == (5, 8)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(5).double())
    torch.testing.assert_close(method.embed_image(batch.image[:2]), image[:2])
    mae, _ = build(small, "mae")
    for call in (mae.embed_text, mae.embed_image, mae.report_maps):
        with pytest.raises(NoTextError):
            call(batch.text)
    with pytest.raises(NoTextError, match="no report-guided"):
        method.report_maps(batch)
    assert issubclass(NoTextError, CxrmimError)


def test_report_maps_repeat_with_a_generator(small, reports):
    method, batch = build(small, "medim", reports=reports)
    method.eval()
    one, two = (method.report_maps(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    for name in ("kwm", "sdm"):
        assert one.attention[name].shape == one.mask[name].shape == (5, 5, 5)
        assert torch.equal(one.mask[name], two.mask[name])
        assert one.mask[name].flatten(1).sum(1).tolist() == [12] * 5


@pytest.mark.parametrize("entry", sorted({*plugins.names("method"), *READY}))
def test_every_trainable_parameter_gets_a_gradient_and_no_other(small, reports, entry):
    method, batch = build(small, entry, reports=reports)
    if not grid.trained(small()).count(entry):
        assert method.losses(batch) == {}
        return
    method.total(method.losses(batch)).backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and bool(parameter.grad.any()), name
        else:
            assert parameter.grad is None, name


def test_prototypes_are_held_in_the_first_epoch(small, reports):
    method, batch = build(small, "mgca", reports=reports)
    for epoch, held in ((0, True), (1, False)):
        method.total(method.losses(batch)).backward()
        method.after_backward(epoch)
        assert (method.prototypes.weight.grad is None) is held


@pytest.mark.parametrize("entry", READY)
def test_one_step_at_demo_size(demo, make, entry):
    torch.manual_seed(0)
    method = weights.build_method(demo, entry, 700, 80)
    text = words.collate(make(8, length=80), np.arange(8)) if "text" in method.needs else None
    side = demo.side("mimic")
    stored = torch.randint(0, 256, (8, side, side), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    image = augment.train(stored, method.setup.augment, demo.pretrain.image, generator)
    step(method, Batch(image, text))


def test_one_step_at_paper_size(paper, make):
    """ViT-B/16 at 224 px, six BERT layers, the whole of MedIM."""
    torch.manual_seed(0)
    method = weights.build_method(paper, "medim", 28996, 112)
    assert sum(p.numel() for p in method.encoder.parameters()) == 85_798_656
    text = words.collate(make(2, length=112), np.arange(2))
    image = torch.rand(2, 1, 224, 224).expand(-1, 3, -1, -1)
    step(method, Batch(image, text))
    assert method.report_maps(Batch(image, text)).mask["kwm"].flatten(1).sum(1).tolist() == [98, 98]


def step(method, batch):
    before = copy.deepcopy(method.encoder.state_dict())
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3, fused=True)
    total = method.total(method.losses(batch))
    total.backward()
    optimiser.step()
    assert total.isfinite()
    after = method.encoder.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_a_method_survives_a_copy(small, reports):
    """Downstream copies encoders before it trains them."""
    method, batch = build(small, "mgca", reports=reports)
    twin = copy.deepcopy(method)
    assert terms(twin, batch) == terms(method, batch)
