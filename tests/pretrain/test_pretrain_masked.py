"""Masked modelling: MAE, MRM and CMITM against slow loops, and their switches."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import slow_masked as slow
import torch
from batches import build, make_batch
from torch.nn import functional as F

from cxrmim.errors import ParamsError
from cxrmim.pretrain.contract import Batch, NoTextError
from cxrmim.pretrain.parts import words
from cxrmim.pretrain.parts.decoders import sincos_positions
from cxrmim.pretrain.parts.noise import Noise

MAE = "pretrain.methods.mae.options."
MRM = "pretrain.methods.mrm.options."
CMITM = "pretrain.methods.cmitm.options."
ROWS = (1, 2, 11)  # the last fills all tokens
BERT = {CMITM + "s1_text": "bert"}
VARIANTS = [
    ("mrm", {}),
    ("mrm", {MRM + "norm_pix": False}),
    ("mrm", {MRM + "upscale": 1}),
    ("mrm", {MRM + "upscale": 3}),
    ("mrm", {MRM + "ratio": 0.8}),
    ("mrm", {MRM + "positions": "released"}),
    ("mrm", {MRM + "text_ratio": 0.9}),
    ("mrm", {MRM + "text": "caption"}),
    ("mrm", {MRM + "text": "caption", MRM + "mlm_scope": "masked"}),
    ("mrm", {MRM + "mask_unit": "token"}),
    ("mrm", {MRM + "mlm_scope": "masked"}),
    ("cmitm-s1", {}),
    ("cmitm-s1", {CMITM + "mlm_scope": "all"}),
    ("cmitm-s1", BERT),
    ("cmitm-s1", BERT | {CMITM + "mask_unit": "token"}),
    ("cmitm-s1", BERT | {CMITM + "mlm_scope": "all"}),
    ("cmitm-s1", BERT | {"pretrain.text.positions": "zero"}),
    ("cmitm", {}),
    ("cmitm", {CMITM + "tau": 0.2}),
    ("cmitm", {MRM + "positions": "released"}),
    ("cmitm", {"pretrain.text.positions": "zero"}),
    ("cmitm-nodecoder", {}),
    ("cmitm-nomask", {}),
    ("cmitm-r25", {}),
    ("cmitm-joint", {}),
    ("cmitm-joint", BERT),
    ("cmitm-joint", {CMITM + "rep_decoder": False}),
    ("cmitm-joint", {MRM + "text": "caption"}),
]


LOADED = {}  # params of the changes seen so far


@pytest.fixture
def load(small):
    """Tiny parameters; reading the file takes longer than most of these tests."""

    def of(changes=None):
        key = repr(sorted((changes or {}).items()))
        if key not in LOADED:
            LOADED[key] = small(changes)
        return LOADED[key]

    return of


@pytest.fixture
def made(load, stored, reports, raw):
    """A method in float64 and a batch for it."""

    def make(entry, changes=None, rows=ROWS, seed=0, **kwargs):
        method = build(load(changes), entry, stored)
        return method, make_batch(method, reports, raw, rows, seed=seed, **kwargs)

    return make


def values(method, batch, seed=0):
    batch = replace(batch, noise=Noise(torch.Generator().manual_seed(seed)))
    return {k: float(v.detach()) for k, v in method.losses(batch).items()}


def same(fast, want, method):
    """Values, and gradients of all trainable parameters: each has one that is not zero."""
    assert list(fast) == list(want)
    for name, value in want.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-9, atol=1e-10)
    inside = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    parameters = [p for _, p in inside]
    got = torch.autograd.grad(sum(fast.values()), parameters)
    exact = torch.autograd.grad(sum(want.values()), parameters, allow_unused=True)
    for (name, _), one, other in zip(inside, got, exact, strict=True):
        if name.endswith("word_embeddings.weight"):  # the padding piece stays as it starts
            assert not one[words.PAD].any()
            one, other = one[1:], other[1:]
        assert one.any(), name
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: n + m)
    frozen = ("pos_embed", "positions", "token_type_embeddings.weight")
    assert all(p.requires_grad or n.endswith(frozen) for n, p in method.named_parameters())


@pytest.mark.parametrize("norm", [True, False])
def test_mae_restores_the_masked_patches_alone(made, norm):
    method, batch = made("mae", {MAE + "norm_pix": norm})
    noise = torch.rand(3, 25, generator=torch.Generator().manual_seed(0))
    want = slow.mae(method, batch.image, noise)
    same(method.losses(batch), {"pixels": want}, method)
    torch.testing.assert_close(method.restore(batch.image, noise), want)
    assert method.weights == {"pixels": 1.0}


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 6), (0.6, 10), (0.5, 12)])
def test_mae_keeps_int_of_the_share(made, ratio, kept):
    method, batch = made("mae", {MAE + "ratio": ratio})
    seen = []
    method.encoder.blocks.register_forward_hook(lambda m, i, o: seen.append(o.shape[1]))
    method.losses(batch)
    assert seen == [1 + kept]


@pytest.mark.parametrize(("entry", "changes"), VARIANTS)
def test_terms_and_gradients_equal_the_slow_ones(made, entry, changes):
    method, batch = made(entry, changes, seed=4)
    same(method.losses(batch), slow.terms(method, batch, 4), method)
    assert method.weights == dict.fromkeys(method.losses(batch), 1.0)


@pytest.mark.parametrize(
    ("entry", "key", "value", "changed"),
    [
        ("mrm", MRM + "norm_pix", False, {"pixels"}),
        ("mrm", MRM + "positions", "released", {"pixels"}),
        ("mrm", MRM + "text", "caption", {"report"}),
        ("mrm", MRM + "text_ratio", 0.9, {"report"}),
        ("mrm", MRM + "mask_unit", "token", {"report"}),
        ("mrm", MRM + "mlm_scope", "masked", {"report"}),
        ("cmitm-s1", MRM + "positions", "released", {"pixels"}),
        ("cmitm-s1", CMITM + "s1_text", "bert", {"report"}),
        ("cmitm-s1", CMITM + "mask_unit", "token", {"report"}),
        ("cmitm-s1", CMITM + "mlm_scope", "all", {"report"}),
        ("cmitm", MRM + "positions", "released", {"ita"}),
        ("cmitm", "pretrain.text.positions", "zero", {"ita"}),
        ("cmitm", CMITM + "tau", 0.1, {"ita"}),
        ("cmitm", CMITM + "ratio", 0.3, {"ita"}),
    ],
)
def test_each_switch_changes_its_own_term(made, entry, key, value, changed):
    method, batch = made(entry)
    other, its = made(entry, {key: value})
    shared = {k: v for k, v in method.state_dict().items() if not k.endswith("positions")}
    fits = {k for k, v in other.state_dict().items() if k in shared and v.shape == shared[k].shape}
    other.load_state_dict({k: shared[k] for k in fits}, strict=False)
    before, after = values(method, batch), values(other, its)
    moved = {k for k in before if after[k] != pytest.approx(before[k], rel=1e-9)}
    assert moved == changed


def test_the_shown_report_holds_mask_ids_and_every_position_is_scored(made, stored):
    for entry, changes, where in (("mrm", {}, "raw"), ("mrm", {MRM + "text": "caption"}, "text")):
        method, batch = made(entry, changes)
        seen = []
        method.report_decoder.bert.embeddings.register_forward_pre_hook(
            lambda m, a, k, seen=seen: seen.append(k["input_ids"]), with_kwargs=True
        )
        method.losses(batch)
        length = stored.raw_length if where == "raw" else stored.length
        ids = getattr(batch, where).ids
        ids = F.pad(ids, (0, length - ids.shape[1]))
        changed = seen[0] != ids
        mask_id = stored.raw_mask if where == "raw" else stored.mask
        assert changed.any() and seen[0][changed].unique().tolist() == [mask_id]
        assert seen[0].shape == (3, length)


def test_positions_switch_is_the_decoders_alone(made):
    plain, slip = made("mrm")[0], made("mrm", {MRM + "positions": "released"})[0]
    assert not torch.equal(plain.fill.positions, slip.fill.positions)
    assert torch.equal(plain.encoder.pos_embed, slip.encoder.pos_embed)
    torch.testing.assert_close(plain.encoder.pos_embed, sincos_positions(16, 5).double())


# Invariances


def pad(batch, extra):
    """The same captions with more padding."""
    text = batch.text
    tokens = text.ids.shape[1]
    longer = replace(
        text,
        ids=F.pad(text.ids, (0, extra)),
        word=F.pad(text.word, (0, extra), value=-1),
        pieces=text.pieces // tokens * (tokens + extra) + text.pieces % tokens,
    )
    return replace(batch, text=longer)


@pytest.mark.parametrize(
    ("entry", "changes"),
    [
        ("mrm", {MRM + "text": "caption"}),
        ("mrm", {MRM + "text": "caption", MRM + "mlm_scope": "masked"}),
        ("cmitm-s1", BERT),
        ("cmitm", {}),
        ("cmitm-joint", BERT),
    ],
)
def test_trimming_never_changes_a_loss(made, entry, changes, stored):
    """Under scope `all` captions are padded to their stored length whatever the batch's longest."""
    method, batch = made(entry, changes, rows=(1, 2, 3))
    extra = stored.length - batch.text.ids.shape[1]
    assert extra > 0
    assert values(method, pad(batch, extra)) == pytest.approx(values(method, batch), rel=1e-9)


def test_the_image_reaches_the_report(made):
    method, batch = made("mrm")
    report = values(method, batch)["report"]
    assert values(method, replace(batch, image=-batch.image))["report"] != pytest.approx(report)


# Structure


def test_dropout_is_that_of_params(made):
    method, _ = made("mrm", {"pretrain.text.dropout": 0.25})
    found = [m.p for m in method.report_decoder.modules() if isinstance(m, torch.nn.Dropout)]
    assert found and set(found) == {0.25}


PARTS = {
    "cmitm-s1": {"encoder", "fill", "restorer", "report_decoder"},
    "cmitm": {"encoder", "fill", "rep_decoder", "image_head", "text_head", "text_encoder"},
    "cmitm-nodecoder": {"encoder", "image_head", "text_head", "text_encoder"},
}
PARTS["own text"] = PARTS["cmitm-s1"] - {"report_decoder"} | {"text_encoder", "classify"}
PARTS["cmitm-joint"] = PARTS["cmitm-s1"] | PARTS["cmitm"]


@pytest.mark.parametrize(
    ("entry", "changes", "parts", "needs", "crop"),
    [
        ("cmitm-s1", {}, PARTS["cmitm-s1"], {"image", "raw"}, 80),
        ("cmitm-s1", BERT, PARTS["own text"], {"image", "text"}, 80),
        ("cmitm-s1", {MRM + "text": "caption"}, PARTS["cmitm-s1"], {"image", "text"}, 80),
        ("cmitm", {}, PARTS["cmitm"], {"image", "text"}, 40),
        ("cmitm-nomitm", {}, PARTS["cmitm"], {"image", "text"}, 40),
        ("cmitm-nodecoder", {}, PARTS["cmitm-nodecoder"], {"image", "text"}, 40),
        ("cmitm-joint", {}, PARTS["cmitm-joint"], {"image", "text", "raw"}, 80),
        ("cmitm-joint", BERT, PARTS["own text"] | PARTS["cmitm"], {"image", "text"}, 80),
    ],
)
def test_each_stage_has_the_parts_that_it_trains(made, entry, changes, parts, needs, crop):
    method, batch = made(entry, changes)
    assert {name for name, _ in method.named_children()} == parts
    assert method.needs == needs and method.crop == crop and batch.image.shape[-1] == crop
    assert list(method.losses(batch)) == (
        ["pixels", "report"] * ("restorer" in parts) + ["ita"] * ("image_head" in parts)
    )


@pytest.mark.parametrize(
    ("changes", "entry", "taken"),
    [
        ({}, "cmitm", {"encoder", "fill"}),
        (BERT | {CMITM + "text_init": "stage1"}, "cmitm", {"encoder", "fill", "text_encoder"}),
        (BERT, "cmitm", {"encoder", "fill"}),
        ({}, "cmitm-nodecoder", {"encoder"}),
        ({}, "cmitm-nomask", {"encoder", "fill"}),
        ({}, "cmitm-r25", {"encoder", "fill"}),
    ],
)
def test_stage_two_goes_on_from_stage_one(made, changes, entry, taken):
    first, _ = made("cmitm-s1", changes)
    second, batch = made(entry, changes)
    state, own = first.state_dict(), second.state_dict()
    found = {k for k in state if k.startswith(second.inherits) and k in own}
    assert {k.split(".")[0] for k in found} == taken
    missing = {k for k in own if k.startswith(second.inherits) and k not in state}
    assert not missing
    assert all(state[k].shape == own[k].shape for k in found)
    second.load_state_dict(state | {k: v for k, v in own.items() if k not in found}, strict=False)
    assert math.isfinite(values(second, batch)["ita"])
    assert first.inherits == made("cmitm-joint", changes)[0].inherits == ("encoder.",)


def test_a_ratio_of_zero_masks_nothing_and_keeps_the_decoder(made):
    method, batch = made("cmitm-nomask")
    assert method.fill.mask_token is None
    assert values(method, batch, 0) == values(method, batch, 1)
    masking_one, batch = made("cmitm")
    assert values(masking_one, batch, 0) != pytest.approx(values(masking_one, batch, 1))


def test_validation_masks_too(made):
    method, batch = made("cmitm")
    method.eval()
    seen = []
    method.encoder.blocks.register_forward_hook(lambda m, i, o: seen.append(o.shape[1]))
    method.losses(batch)
    assert seen == [1 + 6]  # int(25 * 0.25)


def test_joint_training_encodes_an_image_once(made):
    method, batch = made("cmitm-joint")
    calls = []
    method.encoder.blocks.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    method.fill.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    method.losses(batch)
    assert calls == [3, 3]


@pytest.mark.parametrize(
    ("entry", "changes"),
    [("cmitm", {}), ("cmitm-nodecoder", {}), ("cmitm-nomask", {}), ("cmitm-joint", {})],
)
def test_evaluation_embeds_the_whole_image(made, entry, changes):
    method, batch = made(entry, changes)
    method.eval()
    image = batch.image[..., :40, :40]
    got, report = method.embed_image(image), method.embed_text(batch.text)
    assert got.shape == report.shape == (3, 8)
    for rows in (got, report):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3).double())
    torch.testing.assert_close(method.embed_image(image[:1]), got[:1])
    tokens = slow.encode(method.encoder, image[0], list(range(25)))
    if method.options.rep_decoder:
        filled = slow.lift(method.fill, tokens, list(range(25)), 25)
        tokens = slow.blocks(filled, method.rep_decoder)
    torch.testing.assert_close(method.image_head(tokens[1:].mean(0)[None]), got[:1])


@pytest.mark.parametrize("entry", ["mrm", "cmitm-s1"])
def test_masked_modelling_has_no_common_space(made, entry):
    method, batch = made(entry)
    for call in (method.embed_image, method.embed_text):
        with pytest.raises(NoTextError, match="learns no space that both are embedded in"):
            call(batch.image)


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        ("cmitm", {CMITM + "text_init": "stage1"}, "only under s1_text: bert"),
        ("cmitm-s1", {CMITM + "ratio": 0.0}, "no patch to restore"),
        ("cmitm-joint", {CMITM + "ratio": 0.0}, "no patch to restore"),
        ("cmitm-s1", BERT | {"pretrain.vit.width": 32}, "make them equal"),
        ("mrm", {MRM + "ratio": 0.99}, "mrm.options.ratio = 0.99: leaves none of 25 patches"),
        ("cmitm", {CMITM + "ratio": 0.99}, "cmitm.options.ratio = 0.99: leaves none"),
        ("mrm", {MRM + "ratio": 0.0}, "mrm.options.ratio"),
    ],
)
def test_combinations_that_cannot_work_are_named(made, entry, changes, message):
    with pytest.raises(ParamsError, match=message) as caught:
        made(entry, changes)
    assert "\n" not in str(caught.value).strip()


def test_a_corpus_without_whole_reports_is_named(load, stored):
    bare = replace(stored, raw_vocab=0, raw_length=0)
    for entry in ("mrm", "cmitm-s1"):
        with pytest.raises(ParamsError, match=r"set shards.text.raw, or text: caption"):
            build(load(), entry, bare)
    for entry, changes in (("mrm", {MRM + "text": "caption"}), ("cmitm", {}), ("cmitm-s1", BERT)):
        build(load(changes), entry, bare)


def test_batches_without_reports_are_refused(made):
    for entry, changes, what in (("mrm", {}, "raw"), ("mrm", {MRM + "text": "caption"}, "text")):
        method, batch = made(entry, changes)
        with pytest.raises(ValueError, match=f"with {what}"):
            method.losses(Batch(batch.image))


@pytest.mark.parametrize("entry", ["mrm", "cmitm-s1", "cmitm"])
def test_some_steps_learn(made, entry):
    method, batch = made(entry, rows=(1, 2, 3, 4, 5))
    twin = copy.deepcopy(method)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(30):
        total, _ = method(replace(batch, noise=Noise(torch.Generator().manual_seed(step))))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    before, after = values(twin, batch, 99), values(method, batch, 99)
    for name, value in before.items():
        assert after[name] < value - 0.02 * abs(value), name
