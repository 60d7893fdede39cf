"""Losses and masks from the formulas, with loops, in float64: what the fast ones must equal."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def softmax(values: list[Tensor]) -> list[Tensor]:
    top = max(v.item() for v in values)
    powers = [torch.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def cross_entropy(row: list[Tensor], target: int) -> Tensor:
    return -torch.log(softmax(row)[target])


def unit(v: Tensor) -> Tensor:
    return v / torch.sqrt((v * v).sum())


def contrast(image: Tensor, text: Tensor, tau: float) -> Tensor:
    """Protocols §2, ITA: CE(rows) + CE(columns), each a mean over the batch, no 1/2."""
    n = len(image)
    s = [[(image[i] * text[j]).sum() / tau for j in range(n)] for i in range(n)]
    rows = sum(cross_entropy(s[i], i) for i in range(n)) / n
    columns = sum(cross_entropy([s[i][j] for i in range(n)], j) for j in range(n)) / n
    return rows + columns


def importance(values: np.ndarray, clip: tuple[float, float]) -> np.ndarray:
    """Non-zeros clipped to quantiles of the non-zeros, normalised to 1."""
    out = values.astype(float).copy()
    used = out != 0
    if not used.any():
        return out
    low, high = np.quantile(out[used], clip)
    out[used] = np.clip(out[used], low, high)
    return out / out.sum()


def align(
    words: list[Tensor], patches: Tensor, omega: list[np.ndarray], mu: np.ndarray, tau: float
) -> Tensor:
    """Local alignment; words[b] is (n_b, d), omega[b] has n_b weights, mu (B, N) the patches'."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(words)):
        w, p = list(words[b]), list(patches[b])
        seen = []
        for x in w:
            a = softmax([(x * y).sum() / tau for y in p])
            seen.append(unit(sum(c * y for c, y in zip(a, p, strict=True))))
        total = total + both_sides(w, seen, omega[b], tau)
        seen = []
        for x in p:
            a = softmax([(x * y).sum() / tau for y in w])
            seen.append(sum(c * y for c, y in zip(a, w, strict=True)))
        total = total + both_sides(p, seen, mu[b], tau)
    return total / len(words)


def both_sides(items: list[Tensor], seen: list[Tensor], weight: np.ndarray, tau: float) -> Tensor:
    n = len(items)
    s = [[(items[i] * seen[j]).sum() / tau for j in range(n)] for i in range(n)]
    rows = sum(float(weight[i]) * cross_entropy(s[i], i) for i in range(n))
    columns = sum(
        float(weight[j]) * cross_entropy([s[i][j] for i in range(n)], j) for j in range(n)
    )
    return (rows + columns) / 2


def sinkhorn(scores: np.ndarray, eps: float, rounds: int) -> np.ndarray:
    """Exactness B: K x B, divided by its total; rounds of rows to 1/K, columns to 1/B."""
    q = np.exp(scores.astype(float) / eps).T
    k, b = q.shape
    q /= q.sum()
    for _ in range(rounds):
        for i in range(k):
            q[i] /= q[i].sum() * k
        for j in range(b):
            q[:, j] /= q[:, j].sum() * b
    return (q * b).T


def swap(image: Tensor, text: Tensor, tau: float, eps: float, rounds: int) -> Tensor:
    code_i = sinkhorn(image.detach().numpy(), eps, rounds)
    code_t = sinkhorn(text.detach().numpy(), eps, rounds)
    n, k = image.shape
    total = torch.zeros((), dtype=torch.float64)
    for b in range(n):
        p_i, p_t = softmax(list(image[b] / tau)), softmax(list(text[b] / tau))
        for c in range(k):
            total = total + float(code_i[b, c]) * torch.log(p_t[c])
            total = total + float(code_t[b, c]) * torch.log(p_i[c])
    return -total / n / 2


def patch_error(predicted: Tensor, image: Tensor, masked: Tensor, patch: int, norm: bool) -> Tensor:
    """MAE: target vector over row, column, channel; unbiased variance, 1e-6 under the root."""
    side = image.shape[2] // patch
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(len(image)):
        for slot, place in enumerate(masked[b].tolist()):
            top, left = divmod(place, side)
            target = [
                image[b, c, top * patch + r, left * patch + q]
                for r in range(patch)
                for q in range(patch)
                for c in range(3)
            ]
            if norm:
                mean = sum(target) / len(target)
                variance = sum((t - mean) ** 2 for t in target) / (len(target) - 1)
                target = [(t - mean) / math.sqrt(variance + 1e-6) for t in target]
            for value, t in zip(predicted[b, slot], target, strict=True):
                total, count = total + (value - t) ** 2, count + 1
    return total / count


def top(scores: list[float], number: int) -> list[bool]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i in order[:number] for i in range(len(scores))]


def sentence_choices(sentence: list[int], words: int) -> list[int]:
    sizes: dict[int, int] = {}
    for s in sentence:
        if s >= 0:
            sizes[s] = sizes.get(s, 0) + 1
    long = [s for s, n in sorted(sizes.items()) if n >= words]
    return long or sorted(sizes)


def sum_pieces(values: np.ndarray, word: np.ndarray) -> list[np.ndarray]:
    """(B, L, C) token values -> for each report the (words, C) sums."""
    out = []
    for b in range(len(values)):
        count = int(word[b].max()) + 1
        sums = np.zeros((count, values.shape[2]))
        for t in range(values.shape[1]):
            if word[b, t] >= 0:
                sums[word[b, t]] += values[b, t]
        out.append(sums)
    return out


def sincos(width: int, grid: int) -> np.ndarray:
    """facebookresearch/mae util/pos_embed.py, written out."""
    out = np.zeros((1 + grid * grid, width))
    half = width // 2
    for row in range(grid):
        for column in range(grid):
            at = out[1 + row * grid + column]
            for k in range(half // 2):
                omega = 1.0 / 10000 ** (k / (half / 2))
                at[k], at[half // 2 + k] = math.sin(column * omega), math.cos(column * omega)
                at[half + k] = math.sin(row * omega)
                at[half + half // 2 + k] = math.cos(row * omega)
    return out
