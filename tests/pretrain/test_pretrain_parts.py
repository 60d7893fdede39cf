"""Words, encoders, decoder and augmentation against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import slow_losses as slow
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from cxrmim.pretrain.parts import augment, bert, encoders, words
from cxrmim.pretrain.parts.decoders import ConvDecoder, upsampled_conv
from cxrmim.pretrain.parts.heads import Head
from cxrmim.schema import Augment, TextModel, Vit
from cxrmim.shards.store import Reports

VIT = Vit(patch=8, width=16, depth=2, heads=2, mlp=4.0)


def text_model(**changes):
    base = {
        "layers": 2,
        "width": 16,
        "heads": 2,
        "mlp": 32,
        "dropout": 0.0,
        "positions": "normal",
        "attn_shift": "none",
    }
    return TextModel(**(base | changes))


def test_words_are_sums_of_their_pieces(reports):
    rows = np.array([3, 0, 11, 3])
    text = words.collate(reports, rows)
    values = torch.randn(4, text.ids.shape[1], 5, dtype=torch.float64, requires_grad=True)
    packed = words.sum_pieces(values, text)
    want = slow.sum_pieces(values.detach().numpy(), reports.word[rows])
    np.testing.assert_allclose(packed.detach().numpy(), np.concatenate(want), rtol=1e-12)
    slots = words.unpack(packed, text)
    assert slots.shape == (4, text.sentence.shape[1], 5)
    assert not slots[~text.valid].any()
    torch.testing.assert_close(slots[text.valid], packed)
    weight = torch.randn_like(packed)
    (grad,) = torch.autograd.grad((packed * weight).sum(), values)
    pieces = text.ids.shape[1] * torch.arange(4)[:, None] + torch.arange(text.ids.shape[1])
    inside = torch.isin(pieces, text.pieces)
    torch.testing.assert_close(grad[inside], weight[text.owner])
    assert not grad[~inside].any()


def test_a_batch_is_trimmed_to_its_longest_report(reports):
    rows = np.array([1, 2, 4])
    text = words.collate(reports, rows)
    tokens = (reports.ids[rows] != 0).sum(1)
    assert text.ids.shape == (3, tokens.max())
    assert text.count.tolist() == (reports.word[rows].max(1) + 1).tolist()
    assert text.sentence.shape[1] == int(text.count.max())
    assert len(text.slots) == int(text.count.sum())


def sentence(length):
    """CLS heart ##s is big SEP (exactness A2)."""
    ids = np.zeros((1, length), np.int32)
    word = np.full((1, length), -1, np.int16)
    ids[0, :6], word[0, 1:5] = [2, 10, 11, 12, 13, 3], [0, 0, 1, 2]
    flags = np.full((1, length), -1, np.int16)
    flags[0, :3] = 0
    return Reports(ids, word, flags, flags >= 0, {})


def test_released_word_attention_is_shifted_and_sep_is_a_word():
    """Exactness A2: key values 1..7 give hearts 5, is 4, big 5, SEP 6."""
    keys = torch.arange(8.0)[None]
    plain = words.collate(sentence(8), np.array([0]))
    assert words.sum_pieces(keys[:, :6], plain).tolist() == [3.0, 3.0, 4.0]
    text = words.collate(sentence(8), np.array([0]), released=True)
    assert words.sum_pieces(words.shift(keys)[:, :6], text).tolist() == [5.0, 4.0, 5.0, 6.0]
    assert text.count.tolist() == [4]
    assert text.sentence.tolist() == [[0, 0, 0, -1]]
    assert text.mesh.tolist() == [[True, True, True, False]]


def test_released_full_captions_lose_their_last_word_and_sep():
    keys = torch.arange(6.0)[None]
    text = words.collate(sentence(6), np.array([0]), released=True)
    assert words.sum_pieces(words.shift(keys), text).tolist() == [5.0, 4.0]
    assert text.count.tolist() == [2]
    assert words.collate(sentence(6), np.array([0])).count.tolist() == [3]


def test_tokens_keep_their_stored_word(reports):
    rows = np.array([3, 0, 11])
    for released in (False, True):
        text = words.collate(reports, rows, released=released)
        assert text.word.tolist() == reports.word[rows, : text.ids.shape[1]].tolist()


def two_sentences():
    """CLS a ##b c | d ##e ##f g | h SEP: words of 2, 1 | 3, 1 | 1 pieces; g is a MeSH word."""
    ids = np.array([[2, 10, 11, 12, 20, 21, 22, 23, 30, 3, 0]], np.int32)
    word = np.array([[-1, 0, 0, 1, 2, 2, 2, 3, 4, -1, -1]], np.int16)
    sentence = np.array([[0, 0, 1, 1, 2, -1, -1, -1, -1, -1, -1]], np.int16)
    return Reports(ids, word, sentence, np.arange(11)[None] == 3, {})


@pytest.mark.parametrize(
    ("u", "length", "ids", "word", "mesh"),
    [
        (0.0, None, [2, 10, 11, 12, 3], [-1, 0, 0, 1, -1], [False, False]),
        (0.34, None, [2, 20, 21, 22, 23, 3], [-1, 0, 0, 0, 1, -1], [False, True]),
        (0.99, None, [2, 30, 3], [-1, 0, -1], [False]),
        (0.34, 6, [2, 20, 21, 22, 23, 3], [-1, 0, 0, 0, 1, -1], [False, True]),
        (0.34, 5, [2, 20, 21, 22, 3], [-1, 0, 0, 0, -1], [False]),
        (0.34, 4, [2, 20, 21, 3], [-1, 0, 0, -1], [False]),
    ],
)
def test_a_sentence_is_framed_and_cut_as_bert_cuts(u, length, ids, word, mesh):
    text = words.collate_sentence(two_sentences(), np.array([0]), np.array([u]), length=length)
    assert text.ids.tolist() == [ids] and text.word.tolist() == [word]
    assert text.mesh.tolist() == [mesh] and text.sentence.tolist() == [[0] * len(mesh)]
    assert text.count.tolist() == [len(mesh)]
    values = torch.arange(len(ids))[None]
    sums = [sum(i for i, w in enumerate(word) if w == k) for k in range(len(mesh))]
    assert words.sum_pieces(values, text).tolist() == sums


def test_sentences_of_a_batch_are_those_of_each_report(reports):
    rows = np.array([11, 0, 5, 11, 7])
    u = np.array([0.1, 0.5, 0.999, 0.7, 0.3])
    text = words.collate_sentence(reports, rows, u)
    packed = words.sum_pieces(text.ids, text)
    at = 0
    for b, (row, part) in enumerate(zip(rows, u, strict=True)):
        own = reports.sentence[row]
        wanted = np.flatnonzero(own == int(part * (own.max() + 1)))
        tokens = np.flatnonzero(np.isin(reports.word[row], wanted))
        found = text.ids[b][text.ids[b] != 0].tolist()
        assert found == [2, *reports.ids[row, tokens], 3]
        for w in wanted:
            assert packed[at] == reports.ids[row][reports.word[row] == w].sum()
            at += 1
        assert text.mesh[b, : len(wanted)].tolist() == reports.mesh[row, wanted].tolist()
        assert int(text.count[b]) == len(wanted)
    assert at == len(packed)


def test_sentences_are_drawn_evenly():
    u = np.random.default_rng(0).random(3000)
    text = words.collate_sentence(two_sentences(), np.zeros(3000, np.int64), u)
    heads, counts = text.ids[:, 1].unique(return_counts=True)
    assert heads.tolist() == [10, 20, 30]
    assert all(900 < n < 1100 for n in counts.tolist())


def test_text_encoder_equals_eager_bert_with_attention_maps(reports):
    torch.manual_seed(0)
    encoder = bert.TextEncoder(text_model(), 60)
    text = words.collate(reports, np.arange(5))
    config = BertConfig(**encoder.bert.config.to_dict() | {"attn_implementation": "eager"})
    eager = BertModel(config, add_pooling_layer=False)
    eager.load_state_dict(encoder.bert.state_dict())
    eager.eval()
    mask = (text.ids != 0).long()
    out = eager(text.ids, attention_mask=mask, output_attentions=True)
    hidden, attention = encoder.eval()(text.ids)
    real = mask.bool()
    torch.testing.assert_close(hidden[real], out.last_hidden_state[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention, out.attentions[-1][:, :, 0].mean(1))
    assert not attention[~real].any()
    assert not attention.requires_grad
    hidden = eager(text.ids, attention_mask=mask, output_hidden_states=True).hidden_states
    last = encoder.last_states(text.ids, 2)
    assert len(last) == 2 and len(hidden) == 3
    for one, other in zip(last, hidden[1:], strict=True):
        torch.testing.assert_close(one[real], other[real], rtol=1e-4, atol=1e-5)


def test_more_padding_does_not_change_the_text_encoder(reports):
    torch.manual_seed(0)
    encoder = bert.TextEncoder(text_model(), 60).double().eval()
    ids = words.collate(reports, np.array([1, 2])).ids
    hidden, attention = encoder(ids)
    longer, wider = encoder(F.pad(ids, (0, 7)))
    torch.testing.assert_close(longer[:, : ids.shape[1]], hidden, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(wider[:, : ids.shape[1]], attention, rtol=1e-10, atol=1e-12)


def test_zero_positions_make_the_text_encoder_blind_to_order():
    """Exactness A1: CLS is unchanged when words are permuted; there is no token-type table."""
    ids = torch.tensor([[2, 10, 11, 12, 13, 3]])
    swapped = ids[:, [0, 4, 2, 1, 3, 5]]
    for positions, blind in (("zero", True), ("normal", False)):
        torch.manual_seed(0)
        encoder = bert.TextEncoder(text_model(positions=positions), 60).eval()
        one, two = encoder(ids)[0][:, 0], encoder(swapped)[0][:, 0]
        assert torch.allclose(one, two, atol=1e-6) is blind
        types = encoder.bert.embeddings.token_type_embeddings.weight
        assert types.requires_grad is not blind
        assert bool(types.any()) is not blind


def test_image_encoder_gives_the_last_blocks_cls_attention():
    torch.manual_seed(0)
    vit = encoders.build_vit(VIT, 40).eval()
    image = torch.randn(3, 3, 40, 40)
    cls, patches, attention = encoders.see(vit, image)
    torch.testing.assert_close(torch.cat([cls[:, None], patches], 1), vit.forward_features(image))
    maps = []
    last = vit.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda m, i, out: maps.append(out))
    vit.forward_features(image)
    torch.testing.assert_close(attention, maps[0][:, :, 0, 1:].mean(1))
    assert not attention.requires_grad


def test_head_is_linear_norm_relu_linear_norm_unit():
    torch.manual_seed(0)
    head = Head(6, 8, 4).double()
    x = torch.randn(9, 6, dtype=torch.float64)
    first, norm, _, second, last = head.layers
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)

    def standard(h):
        return (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()

    h = (standard(x @ first.weight.T + first.bias) * norm.weight + norm.bias).clamp(min=0)
    h = standard(h @ second.weight.T + second.bias)
    torch.testing.assert_close(head(x), h / h.norm(dim=1, keepdim=True))
    assert last.weight is None


def test_upsampled_conv_is_conv_after_nearest_upsampling():
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=1).double()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64, requires_grad=True)
    fast, plain = upsampled_conv(x, conv), conv(F.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(fast, plain)
    weight = torch.randn_like(fast)
    inputs = (x, conv.weight, conv.bias)
    for a, b in zip(
        torch.autograd.grad((fast * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_decoder_is_four_blocks_of_conv_norm_relu_upsample():
    torch.manual_seed(0)
    decoder = ConvDecoder(16, [8, 6, 5, 4]).double()
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    x = tokens.transpose(1, 2).reshape(2, 16, 3, 3)
    for conv, norm in zip(decoder.convs, decoder.norms, strict=True):
        x = F.interpolate(F.relu(norm(conv(x))), scale_factor=2.0)
    torch.testing.assert_close(decoder(tokens), x)
    assert x.shape == (2, 4, 48, 48)


def plain_augment(**changes):
    return Augment(**({"resize": 44, "crop": "centre", "mean": 0.4, "std": 0.2} | changes))


@pytest.mark.parametrize("resize", [48, 44, 30])
def test_evaluation_is_antialiased_resize_and_centre_crop(resize):
    images = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    size = min(resize, 40)
    got = augment.evaluate(images, plain_augment(resize=resize), size)
    grey = images[:, None].float() / 255
    if resize != 48:
        grey = F.interpolate(grey, (resize, resize), mode="bilinear", antialias=True)
    start = (resize - size) // 2
    want = (grey[:, :, start : start + size, start : start + size] - 0.4) / 0.2
    assert got.shape == (3, 3, size, size)
    torch.testing.assert_close(got[:, :1], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[:, 0], got[:, 2])


def test_cubic_resampling_equals_torch_antialiased_bicubic():
    images = torch.rand(2, 48, 48, dtype=torch.float64)
    box = torch.tensor([[0.0, 48.0]], dtype=torch.float64).expand(2, -1)
    for size in (40, 60):
        got = augment.sample(images, box, box, size, None, cubic=True)
        want = F.interpolate(images[:, None], (size, size), mode="bicubic", antialias=True)
        torch.testing.assert_close(got, want[:, 0].clamp(0, 1), rtol=1e-6, atol=1e-6)


def test_random_crops_are_pixels_of_the_stored_image():
    """Without resizing, a crop is a window of the image; all offsets occur."""
    images = torch.arange(8 * 8, dtype=torch.uint8).reshape(1, 8, 8).expand(400, -1, -1)
    generator = torch.Generator().manual_seed(0)
    rule = plain_augment(resize=8, crop="random", mean=0.5, std=0.5)
    crops = (augment.train(images, rule, 6, generator)[:, 0] * 0.5 + 0.5) * 255
    corners = crops[:, 0, 0].round().long()
    assert sorted(set(corners.tolist())) == [r * 8 + c for r in range(3) for c in range(3)]
    for crop, corner in zip(crops[:20], corners[:20].tolist(), strict=True):
        r, c = divmod(corner, 8)
        torch.testing.assert_close(crop, images[0, r : r + 6, c : c + 6].float())


def test_resized_crops_cover_the_asked_area_and_flip_half():
    generator = torch.Generator().manual_seed(0)
    rule = plain_augment(resize=100, crop="resized", area=(0.2, 1.0), flip=0.5)
    draw = augment.Draw(4000, torch.device("cpu"), generator)
    rows, columns = augment.boxes(draw, rule, 100, 80)
    area = rows[:, 1] * columns[:, 1] / 1e4
    ratio = columns[:, 1] / rows[:, 1]
    assert 0.18 < float(area.min()) < 0.23 and float(area.max()) > 0.9
    assert float(ratio.min()) > 0.7 and float(ratio.max()) < 1.4
    for box in (rows, columns):
        assert float(box[:, 0].min()) == 0 and float((box[:, 0] + box[:, 1]).max()) <= 100
    image = torch.linspace(0, 1, 50).expand(200, 50, 50)
    turned = augment.train(image, plain_augment(resize=50, flip=0.5), 50, generator)
    rising = turned[:, 0, 0, 0] < turned[:, 0, 0, -1]
    assert 70 < int(rising.sum()) < 130


def test_jitter_is_brightness_and_contrast():
    """Against torchvision's formulas: brightness x * f, contrast around the image's own mean."""
    x = torch.rand(300, 6, 6)

    class Fixed(augment.Draw):
        def __init__(self, values):
            self.values = iter(values)

        def uniform(self, low, high):
            return next(self.values)

    half = torch.arange(300) < 150
    always = torch.zeros(300)
    bright, contrast = torch.full((300,), 1.3), torch.full((300,), 0.7)
    order = torch.where(half, 0.0, 1.0)
    rule = plain_augment(jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8)
    got = augment.jitter(x, Fixed([always, bright, contrast, order]), rule)

    def brighten(v):
        return (v * 1.3).clamp(0, 1)

    def flatten(v):
        mean = v.mean((1, 2), keepdim=True)
        return (mean + 0.7 * (v - mean)).clamp(0, 1)

    torch.testing.assert_close(got[half], flatten(brighten(x[half])))
    torch.testing.assert_close(got[~half], brighten(flatten(x[~half])))
    never = torch.full((300,), 0.9)
    torch.testing.assert_close(augment.jitter(x, Fixed([never, bright, contrast, order]), rule), x)


def test_blur_is_a_gaussian_and_sharp_samples_stay():
    x = torch.rand(2, 21, 21, dtype=torch.float64)
    got = augment.blur(x, torch.tensor([augment.SHARPEST, 1.5], dtype=torch.float64))
    torch.testing.assert_close(got[0], x[0])
    kernel = np.exp(-((np.arange(21) - 10) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    want = (np.outer(kernel, kernel) * x[1].numpy()).sum()
    assert abs(float(got[1, 10, 10]) - want) < 1e-9


def test_pixels_undo_normalisation():
    rule = plain_augment(mean=0.3, std=0.25)
    x = torch.rand(2, 5, 5)
    image = augment.normalise(x, rule)
    torch.testing.assert_close(augment.pixels(image, rule)[:, 1], x * 2 - 1)
