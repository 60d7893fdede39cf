"""`protocol: released`: MGCA and MedIM equal the official computation, written out with loops."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import slow_losses as slow
import slow_released as official
import torch
from batches import build, make_batch
from torch import Tensor

from cxrmim.pretrain.parts import encoders, masking
from cxrmim.pretrain.parts.noise import Noise

ROWS = (0, 1, 2, 11, 5)  # 0 has no MeSH word, 11 fills all tokens
OPTIONS = "pretrain.methods."
BLOCK = {
    "pretrain.negatives": "shard",
    "pretrain.text.positions": "zero",
    "pretrain.text.attn_shift": "released",
    OPTIONS + "mgca.options.sinkhorn": "shard",
    OPTIONS + "mgca.options.padding": "released",
    OPTIONS + "medim.options.mask_mode": "diverse",
    OPTIONS + "medim.options.empty_mesh": "released",
    OPTIONS + "medim.options.alpha": 5.0,
}


@dataclass(frozen=True)
class Recorded(Noise):
    """Noise that keeps what it gave."""

    drawn: list[Tensor] = field(default_factory=list)

    def rand(self, rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        self.drawn.append(super().rand(rows, *shape, device=device))
        return self.drawn[-1]


def reference(method, image, reports, rows, drawn):
    """Every term of the official MedIM from the encoders' outputs."""
    cls, tokens, seen = encoders.see(method.encoder, image)
    ids = torch.from_numpy(np.asarray(reports.ids[list(rows)], np.int64))
    hidden, read = method.text_encoder(ids)  # whole captions, padded to L
    captions = [
        official.slots(hidden[b], read[b].tolist(), ids[b].tolist(), reports.word[r].tolist())
        for b, r in enumerate(rows)
    ]
    width, places = tokens.shape[2], tokens.shape[1]
    words = official.head(
        torch.stack([f for c in captions for f in c.features]), method.word_head
    ).reshape(len(rows), ids.shape[1] - 1, -1)
    patches = official.head(tokens.reshape(-1, width), method.patch_head)
    patches = patches.reshape(len(rows), places, -1)
    both, maps = official.local(words, patches, captions, seen.numpy(), 0.1)
    pictures = official.head(cls, method.image_head)
    texts = official.head(hidden[:, 0], method.text_head)
    table = method.prototypes.weight  # put to unit length in place by the step before
    torch.testing.assert_close(table.norm(dim=1), torch.ones(len(table)).double())
    terms = {
        "ita": slow.contrast(pictures, texts, 0.07),
        "local": both,
        "proto": slow.swap(pictures @ table.T, texts @ table.T, 0.2, 0.05, 3),
    }
    masks = guide(method, reports, rows, captions, maps, drawn)
    return terms | official.restoration(tokens, masks, method, image), masks


def guide(method, reports, rows, captions, maps, drawn):
    """KWM and SDM masks: u of the sentence first, then the noise of each strategy."""
    u, *noise = (d.tolist() for d in drawn)
    ratio, minimum = method.options.ratio, method.options.sentence_words
    masks = {"kwm": [], "sdm": []}
    for b, r in enumerate(rows):
        number = captions[b].words
        sentence = reports.sentence[r][:number].tolist()
        choices = slow.sentence_choices(sentence, minimum)
        chosen = choices[min(int(u[b] * len(choices)), len(choices) - 1)]
        flags = {
            "kwm": reports.mesh[r][:number].tolist(),
            "sdm": [s == chosen for s in sentence],
        }
        for place, (name, flag) in enumerate(flags.items()):
            total = [sum(maps[b][i][j] for i in range(number) if flag[i]) for j in range(25)]
            masks[name].append(official.diverse(total, ratio, noise[place][b]))
    return masks


@pytest.fixture
def released(small, stored, reports):
    """MedIM under `protocol: released`, and a batch with recorded noise."""
    method = build(small(protocol="released"), "medim", stored)
    noise = Recorded(torch.Generator().manual_seed(4))
    return method, make_batch(method, reports, rows=ROWS, noise=noise)


def test_the_batch_has_the_cases_that_differ(released, reports):
    method, batch = released
    assert int((reports.ids[11] == 0).sum()) == 0  # no padding: loses its last word and SEP
    words = reports.word[list(ROWS)].max(1) + 1
    assert (batch.text.count - torch.from_numpy(words)).tolist() == [1, 1, 1, -1, 1]
    assert not batch.text.mesh[0].any()
    assert batch.text.sentence.shape[1] < method.setup.stored.length - 1


def test_terms_and_gradients_equal_the_official_computation(released, reports):
    method, batch = released
    got = method.losses(batch)
    want, _ = reference(method, batch.image, reports, ROWS, batch.noise.drawn)
    assert list(got) == list(want) == ["ita", "local", "proto", "kwm", "sdm"]
    for name in got:
        torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=1e-10, msg=name)
    total = want["ita"] + want["local"] + want["proto"] + 5 * want["kwm"] + 5 * want["sdm"]
    torch.testing.assert_close(method.total(got), total, rtol=1e-9, atol=1e-10)
    leaves = {n: p for n, p in method.named_parameters() if p.requires_grad}
    fast, slowly = (
        torch.autograd.grad(x, list(leaves.values())) for x in (method.total(got), total)
    )
    for name, one, two in zip(leaves, fast, slowly, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9, msg=name)


def test_masks_equal_the_official_ones(released, reports):
    method, batch = released
    maps = method.report_maps(batch)
    _, masks = reference(method, batch.image, reports, ROWS, batch.noise.drawn)
    for name, want in masks.items():
        assert maps.mask[name].flatten(1).tolist() == want, name
    assert maps.mask["kwm"][0].sum() == int(25 * (1 - 0.9))  # no MeSH word: a flat map


def test_the_block_is_what_the_protocol_sets(small, stored, reports):
    """The same switches one by one at `protocol: paper` give the same numbers."""
    one, two = small(BLOCK), small(protocol="released")
    assert two.pretrain.negatives == "shard"
    assert two.pretrain.text == one.pretrain.text
    for entry in ("mgca", "medim", "medim-kwm"):
        assert one.pretraining(entry)[1].options == two.pretraining(entry)[1].options
        first, second = (build(p, entry, stored) for p in (one, two))
        assert first.released_words and second.released_words
        losses = [m.losses(make_batch(m, reports, rows=ROWS)) for m in (first, second)]
        assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])
    assert second.weights == {"ita": 1.0, "local": 1.0, "proto": 1.0, "kwm": 5.0}


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("pretrain.text.positions", "normal", {"ita", "local", "proto", "kwm", "sdm"}),
        ("pretrain.text.attn_shift", "none", {"local"}),
        (OPTIONS + "mgca.options.padding", "none", {"local"}),
        (OPTIONS + "medim.options.mask_mode", "high", {"kwm", "sdm"}),
        (OPTIONS + "medim.options.empty_mesh", "random", {"kwm"}),
    ],
)
def test_every_switch_of_the_block_acts(small, stored, reports, key, value, changed):
    """Taking one back to the paper's side changes what it should; the others stay released."""
    terms = []
    for changes in (BLOCK, BLOCK | {key: value}):
        method = build(small(changes), "medim", stored)
        terms.append(method.losses(make_batch(method, reports, rows=ROWS)))
    differ = {k for k in terms[0] if abs((terms[0][k] - terms[1][k]).item()) > 1e-9}
    assert differ >= changed
    assert not differ & ({"ita", "proto"} - changed)


def test_pads_join_batch_norm_and_the_candidates(small, stored, reports):
    """All L - 1 slots enter the statistics of the local head; more padding changes nothing."""
    method = build(small(BLOCK), "mgca", stored)
    seen = []
    method.word_head.register_forward_hook(lambda m, i, o: seen.append(o))
    method.losses(make_batch(method, reports, rows=ROWS))
    assert seen[0].shape[0] == len(ROWS) * (stored.length - 1)
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(len(seen[0])).double())


@pytest.mark.parametrize("tokens", [10, 25, 90, 100, 196])
def test_a_tenth_is_one_minus_nine_tenths_in_double_precision(tokens):
    """Of 10 tokens int(10 * (1 - 0.9)) = 0 are masked, of 196 19."""
    mask = masking.diverse(torch.zeros(1, tokens), tokens // 2, torch.rand(1, tokens))
    assert int(mask.sum()) == int(tokens * (1 - 0.9))
