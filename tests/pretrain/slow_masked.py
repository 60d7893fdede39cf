"""Masked modelling from its formulas, sample by sample, in float64: MAE, MRM and CMITM.

The nets are run by hand from a method's weights, so that gradients reach the same parameters.
"""

from __future__ import annotations

import math

import slow_losses
import torch
from torch import Tensor

Random = torch.Generator


def linear(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def layer_norm(x: Tensor, layer: torch.nn.LayerNorm, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * layer.weight + layer.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """(L, C) queries on (M, C) keys and values, head by head."""
    size = query.shape[1] // heads
    out = []
    for h in range(heads):
        at = slice(h * size, (h + 1) * size)
        scores = query[:, at] @ key[:, at].T / math.sqrt(size)
        powers = torch.exp(scores)
        out.append(powers / powers.sum(1, keepdim=True) @ value[:, at])
    return torch.cat(out, 1)


def vit_block(x: Tensor, block: torch.nn.Module) -> Tensor:
    """Pre-norm block, LayerNorm 1e-6."""
    query, key, value = linear(layer_norm(x, block.norm1, 1e-6), block.attn.qkv).chunk(3, 1)
    x = x + linear(attention(query, key, value, block.attn.num_heads), block.attn.proj)
    inner = gelu(linear(layer_norm(x, block.norm2, 1e-6), block.mlp.fc1))
    return x + linear(inner, block.mlp.fc2)


def blocks(x: Tensor, decoder: torch.nn.Module) -> Tensor:
    for block in decoder.blocks:
        x = vit_block(x, block)
    return layer_norm(x, decoder.norm, 1e-6)


def patch(image: Tensor, place: int, side: int) -> Tensor:
    """Pixels (3, side, side) of a patch; `place` counts along rows."""
    top, left = divmod(place, image.shape[2] // side)
    return image[:, top * side : (top + 1) * side, left * side : (left + 1) * side]


def encode(vit: torch.nn.Module, image: Tensor, kept: list[int]) -> Tensor:
    """CLS and the kept patches of one image, (1 + K, D)."""
    weight, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
    rows = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
    for place in kept:
        pixels = patch(image, place, weight.shape[2])
        rows.append((weight * pixels).sum((1, 2, 3)) + bias + vit.pos_embed[0, 1 + place])
    return blocks(torch.stack(rows), vit)


def lift(fill: torch.nn.Module, tokens: Tensor, kept: list[int], patches: int) -> Tensor:
    """The decoder's input, patches in raster order (rA models_mae.py:172-182)."""
    embedded = linear(tokens, fill.embed)
    rows = [embedded[0]]
    for place in range(patches):
        known = place in kept
        rows.append(embedded[1 + kept.index(place)] if known else fill.mask_token[0, 0])
    return torch.stack(rows) + fill.positions[0]


def split(noise: Tensor, ratio: float) -> tuple[list[int], list[int]]:
    """Kept and masked places of one image: the smallest numbers are kept."""
    order = sorted(range(len(noise)), key=lambda i: float(noise[i]))
    number = int(len(noise) * (1 - ratio))
    return order[:number], order[number:]


def target(image: Tensor, place: int, side: int, norm: bool) -> Tensor:
    """A patch's vector over row, column, channel; unbiased variance, 1e-6 under the root."""
    pixels = patch(image, place, side).permute(1, 2, 0).flatten()
    if norm:
        mean = pixels.mean()
        variance = ((pixels - mean) ** 2).sum() / (len(pixels) - 1)
        pixels = (pixels - mean) / torch.sqrt(variance + 1e-6)
    return pixels


def pixel_error(
    method: torch.nn.Module,
    image: Tensor,
    lifted: list[Tensor],
    masked: list[list[int]],
    side: int,
    norm: bool,
) -> Tensor:
    errors = []
    for b, places in enumerate(masked):
        out = linear(blocks(lifted[b], method.restorer), method.restorer.predict)
        for place in places:
            errors.append((out[1 + place] - target(image[b], place, side, norm)) ** 2)
    return torch.stack(errors).mean()


def bicubic(image: Tensor, side: int) -> Tensor:
    """(C, H, H) -> (C, side, side): four taps a pixel, a = -0.75, edges repeated."""
    a, scale = -0.75, image.shape[1] / side

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    taps = torch.zeros(side, image.shape[1], dtype=image.dtype)
    for out in range(side):
        centre = (out + 0.5) * scale - 0.5
        for source in range(math.floor(centre) - 1, math.floor(centre) + 3):
            at = min(max(source, 0), image.shape[1] - 1)
            taps[out, at] += kernel(source - centre)
    return torch.stack([taps @ channel @ taps.T for channel in image])


def masked_positions(
    ids: list[int], word: list[int], noise: list[float], ratio: float, unit: str, length: int
) -> list[bool]:
    """rR util/pretrain_datasets.py and rC: walk along a report; a piece follows the one before."""
    out = [False] * len(ids)
    for i in range(1, min(len(ids), length - 1)):
        if ids[i] == 0:
            break
        if unit == "token":
            out[i] = noise[i] < ratio
        elif word[i] >= 0:
            continues = word[i] == word[i - 1]
            out[i] = out[i - 1] if continues else noise[word[i]] < ratio
    return out


def bert(model: torch.nn.Module, ids: list[int], image: Tensor | None, zero: bool) -> Tensor:
    """Post-norm BERT on one report; the image is added after the embeddings' LayerNorm."""
    table = model.embeddings
    rows = [
        table.word_embeddings.weight[piece]
        + table.position_embeddings.weight[0 if zero else i]
        + table.token_type_embeddings.weight[0]
        for i, piece in enumerate(ids)
    ]
    x = layer_norm(torch.stack(rows), table.LayerNorm, 1e-12)
    if image is not None:
        x = x + image
    real = [i for i, piece in enumerate(ids) if piece != 0]
    for layer in model.encoder.layer:
        own, out = layer.attention.self, layer.attention.output
        query, key, value = linear(x, own.query), linear(x, own.key), linear(x, own.value)
        seen = attention(query, key[real], value[real], own.num_attention_heads)
        x = layer_norm(x + linear(seen, out.dense), out.LayerNorm, 1e-12)
        inner = linear(gelu(linear(x, layer.intermediate.dense)), layer.output.dense)
        x = layer_norm(x + inner, layer.output.LayerNorm, 1e-12)
    return x


def classify(head: torch.nn.Module, x: Tensor) -> Tensor:
    return linear(layer_norm(gelu(linear(x, head[0])), head[2], 1e-12), head[3])


def batch_norm(x: Tensor, layer: torch.nn.Module) -> Tensor:
    mean, n = x.mean(0), len(x)
    out = (x - mean) / torch.sqrt(((x - mean) ** 2).sum(0) / n + 1e-5)
    return out if layer.weight is None else out * layer.weight + layer.bias


def head(module: torch.nn.Module, x: Tensor) -> Tensor:
    first, norm, _, last, plain = module.layers
    x = batch_norm(linear(x, first), norm)
    x = batch_norm(linear(torch.where(x > 0, x, 0.0), last), plain)
    return torch.stack([slow_losses.unit(row) for row in x])


def mae(method: torch.nn.Module, image: Tensor, noise: Tensor) -> Tensor:
    o, patches = method.options, noise.shape[1]
    lifted, masked = [], []
    for b in range(len(image)):
        kept, hidden = split(noise[b], o.ratio)
        tokens = encode(method.encoder, image[b], kept)
        lifted.append(lift(method.fill, tokens, kept, patches))
        masked.append(hidden)
    return pixel_error(method, image, lifted, masked, method.setup.vit.patch, o.norm_pix)


def terms(method: torch.nn.Module, batch: object, seed: int) -> dict[str, Tensor]:
    """All terms of MRM or of a stage of CMITM; `seed` is that of the batch's noise."""
    setup, o = method.setup, method.setup.options
    stage = getattr(o, "stage", "first")
    side, rows = setup.vit.patch, len(batch.image)
    draw = Random().manual_seed(seed)
    everywhere = list(range(setup.patches))
    split_of = [(everywhere, [])] * rows
    if o.ratio > 0:
        noise = torch.rand(rows, setup.patches, generator=draw)
        split_of = [split(noise[b], o.ratio) for b in range(rows)]
    tokens = [
        encode(method.encoder, bicubic(batch.image[b], setup.image), split_of[b][0])
        for b in range(rows)
    ]
    lifted = []
    if stage != "second" or o.rep_decoder:
        lifted = [lift(method.fill, tokens[b], split_of[b][0], setup.patches) for b in range(rows)]
    out = {}
    if stage != "second":
        masked = [hidden for _, hidden in split_of]
        large = side * o.upscale
        out["pixels"] = pixel_error(method, batch.image, lifted, masked, large, o.norm_pix)
        out["report"] = report_error(method, batch, tokens, draw)
    if stage != "first":
        pooled = []
        for b in range(rows):
            decoded = blocks(lifted[b], method.rep_decoder) if o.rep_decoder else tokens[b]
            pooled.append(sum(decoded[1:]) / len(decoded[1:]))
        zero = setup.text.positions == "zero"
        cls = [
            bert(method.text_encoder.bert, ids, None, zero)[0] for ids in batch.text.ids.tolist()
        ]
        images = head(method.image_head, torch.stack(pooled))
        reports = head(method.text_head, torch.stack(cls))
        out["ita"] = slow_losses.contrast(images, reports, o.tau)
    return out


def report_error(
    method: torch.nn.Module, batch: object, tokens: list[Tensor], draw: Random
) -> Tensor:
    setup, o = method.setup, method.setup.options
    own = getattr(o, "s1_text", "mrm") == "bert"
    raw = o.text == "raw" and not own
    stored = setup.stored
    length = stored.raw_length if raw else stored.length
    ids = batch.raw.ids if raw else batch.text.ids
    word = batch.raw.word if raw else batch.text.word
    noise = torch.rand(len(ids), length, generator=draw)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(len(ids)):
        pieces = ids[b].tolist() + [0] * (length - ids.shape[1])
        words = word[b].tolist() + [-1] * (length - ids.shape[1])
        drawn = noise[b].tolist()
        hidden = masked_positions(pieces, words, drawn, o.text_ratio, o.mask_unit, length)
        mask = stored.raw_mask if raw else stored.mask
        shown = [mask if gone else piece for piece, gone in zip(pieces, hidden, strict=True)]
        seen = [*tokens[b][1:]]
        if own:
            zero = setup.text.positions == "zero"
            states = bert(method.text_encoder.bert, shown, sum(seen) / len(seen), zero)
            scores = classify(method.classify, states)
        else:
            bridge = method.report_decoder.bridge
            mean = sum(linear(x, bridge) for x in seen) / len(seen)
            states = bert(method.report_decoder.bert, shown, mean, False)
            scores = classify(method.report_decoder.classify, states)
        for i, piece in enumerate(pieces):
            if hidden[i] or o.mlm_scope == "all":
                total = total + torch.log(torch.exp(scores[i]).sum()) - scores[i, piece]
                count += 1
    return total / count
