"""The official code's MGCA and MedIM from their description, with loops, in float64.

Written from protocols.md §2 and exactness.md A2, A3, B. Inputs are what the encoders give for whole
stored captions (L tokens, PAD to the end); words, pads, losses and masks are made here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slow_losses as slow
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLS, SEP = 2, 3


@dataclass
class Slots:
    """The L - 1 word slots of a caption."""

    features: list[Tensor]
    attention: list[float]
    words: int  # real ones, without SEP
    used: int  # with SEP


def slots(hidden: Tensor, read: list[float], ids: list[int], word: list[int]) -> Slots:
    """Walk the tokens as A2 says: L - 1 values of attention, that of CLS left out, are paired with
    tokens that start at CLS; SEP ends the walk and is a word; without it the pending word is lost.
    """
    later = read[1:]
    closed: list[tuple[Tensor, float]] = []
    pending: list[int] = []
    found = False
    for t in range(len(later)):
        if ids[t] == SEP:
            closed.append((sum(hidden[i] for i in pending), sum(later[i] for i in pending)))
            closed.append((hidden[t], later[t]))
            found = True
            break
        if pending and word[t] != word[pending[-1]]:
            closed.append((sum(hidden[i] for i in pending), sum(later[i] for i in pending)))
            pending = []
        pending.append(t)
    closed = closed[1:]  # CLS
    empty = len(ids) - 1 - len(closed)
    return Slots(
        [f for f, _ in closed] + [torch.zeros_like(hidden[0])] * empty,
        [a for _, a in closed] + [0.0] * empty,
        len(closed) - found,
        len(closed),
    )


def batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """(M, C) by the batch's mean and biased variance, eps 1e-5."""
    mean = sum(x) / len(x)
    variance = sum((row - mean) ** 2 for row in x) / len(x)
    out = (x - mean) / torch.sqrt(variance + 1e-5)
    return out if norm.weight is None else out * norm.weight + norm.bias


def head(x: Tensor, module: nn.Module) -> Tensor:
    """Linear, BatchNorm, ReLU, Linear, BatchNorm without affine, unit length."""
    first, norm, _, last, plain = module.layers
    x = batch_norm(x @ first.weight.T + first.bias, norm).clamp(min=0)
    x = batch_norm(x @ last.weight.T + last.bias, plain)
    return torch.stack([slow.unit(row) for row in x])


def local(
    words: Tensor, patches: Tensor, caption: list[Slots], seen: np.ndarray, tau: float
) -> tuple[Tensor, list[np.ndarray]]:
    """Both sides of the token-wise alignment, and the attention of all slots over the patches."""
    total, maps = torch.zeros((), dtype=torch.float64), []
    for b in range(len(words)):
        w, p = list(words[b]), list(patches[b])
        rows, attended = [], []
        for x in w:  # pads are queries too
            a = slow.softmax([(x * y).sum() / tau for y in p])
            rows.append([v.item() for v in a])
            attended.append(slow.unit(sum(c * y for c, y in zip(a, p, strict=True))))
        maps.append(np.array(rows))
        omega = slow.importance(np.array(caption[b].attention), (0.1, 0.9))
        total = total + slow.both_sides(w, attended, omega, tau)
        real = w[: caption[b].used]
        attended = []
        for x in p:
            a = slow.softmax([(x * y).sum() / tau for y in real])
            attended.append(sum(c * y for c, y in zip(a, real, strict=True)))
        low, high = np.quantile(seen[b], (0.1, 0.9))
        mu = np.clip(seen[b], low, high)
        total = total + slow.both_sides(p, attended, mu / mu.sum(), tau)
    return total / len(words), maps


def diverse(scores: list[float], ratio: float, noise: list[float]) -> list[bool]:
    """90 % of the tokens above the threshold and 10 % of the others, those of the least noise."""
    threshold = sorted(scores, reverse=True)[int(len(scores) * ratio)]
    high = [i for i, s in enumerate(scores) if s > threshold]
    low = [i for i, s in enumerate(scores) if s <= threshold]
    masked: set[int] = set()
    for group, share in ((high, 0.9), (low, 1 - 0.9)):
        masked |= set(sorted(group, key=lambda i: noise[i])[: int(len(group) * share)])
    return [i in masked for i in range(len(scores))]


def decode(tokens: Tensor, decoder: nn.Module) -> Tensor:
    """(B, N, D) -> maps of pixel size: conv, BatchNorm over all maps, ReLU, nearest x2."""
    side = int(tokens.shape[1] ** 0.5)
    x = torch.stack([t.T.reshape(-1, side, side) for t in tokens])
    for conv, norm in zip(decoder.convs, decoder.norms, strict=True):
        x = F.conv2d(x, conv.weight, conv.bias, padding=1)
        flat = batch_norm(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), norm)
        x = flat.reshape(len(x), x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2).clamp(min=0)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return x


def restoration(
    tokens: Tensor, masks: dict[str, list[list[bool]]], method: nn.Module, image: Tensor
) -> dict[str, Tensor]:
    """Zeroed tokens of both strategies in one decoder batch, a head each, tanh, whole-image MSE."""
    kept = [
        torch.stack([x * (0.0 if m else 1.0) for x, m in zip(tokens[b], mask[b], strict=True)])
        for mask in masks.values()
        for b in range(len(tokens))
    ]
    out = decode(torch.stack(kept), method.decoder)
    losses = {}
    for place, name in enumerate(masks):
        half = out[place * len(tokens) : (place + 1) * len(tokens)]
        conv = method.restore_heads[name]
        restored = torch.tanh(F.conv2d(half, conv.weight, conv.bias, padding=1))
        losses[name] = ((restored - image) ** 2).mean()
    return losses
