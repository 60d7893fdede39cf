"""Batches for any method, made from what it `needs`; the same rows always give the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cxrmim import grid, params
from cxrmim.params import Params
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Batch, Method, Stored
from cxrmim.pretrain.parts import words
from cxrmim.pretrain.parts.noise import Noise
from cxrmim.shards.store import RawReports, Reports

ROWS = (1, 2, 3, 4, 5)
PARAMS = params.load(Path(__file__).parents[2] / "params.yaml", "demo")
READY = [e for e in grid.trained(PARAMS) if grid.pending_entry(PARAMS, e) is None]


def kind(entry: str) -> str:
    """What code an entry runs: its method and its options, but for the rule and share of masks."""
    name, block = PARAMS.pretraining(entry)
    options = {k: v for k, v in block.options.items() if k not in ("ratio", "mask_mode")}
    return f"{name} {sorted(options.items())}"


KINDS = list({kind(entry): entry for entry in reversed(READY)}.values())[::-1]  # the first of each


@dataclass(frozen=True)
class Reordered(Noise):
    """Noise of the samples in another order: sample ``order[i]`` comes i-th and keeps its own."""

    order: tuple[int, ...] = ()

    def rand(self, rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        return super().rand(rows, *shape, device=device)[list(self.order)]


def build(params: Params, entry: str, stored: Stored, seed: int = 0) -> Method:
    """An entry's method in float64, training."""
    torch.manual_seed(seed)
    return weights.build_method(params.training(entry), entry, stored).double().train()


def make_batch(
    method: Method,
    reports: Reports | None = None,
    raw: RawReports | None = None,
    rows: Sequence[int] = ROWS,
    *,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    noise: Noise | None = None,
) -> Batch:
    """What the loader would hand to a method.

    Args:
        method: its `needs`, `crop`, `released_words` and precision decide.
        reports: stored captions.
        raw: stored whole reports.
        rows: sample numbers of the whole batch; each also picks its report.
        seed: of the batch's noise.
        share: (rank, size): keep only the rows of one of several processes.
        noise: in place of that of `seed`.
    """
    rank, size = share
    each = len(rows) // size
    own = np.asarray(rows)[rank * each : (rank + 1) * each]
    text, whole, label = None, None, None
    if "sentence" in method.needs:
        assert reports is not None
        u = own * 0.37 % 1
        text = words.collate_sentence(reports, own, u, length=getattr(method, "text_length", None))
    elif "text" in method.needs:
        assert reports is not None
        text = words.collate(reports, own, released=method.released_words)
    if "raw" in method.needs:
        assert raw is not None
        whole = words.collate_raw(raw, own)
    if "label" in method.needs:
        images = method.own_images()
        assert images is not None
        label = torch.from_numpy(images[1][own % len(images[1])])
    drawn = noise or Noise(torch.Generator().manual_seed(seed), rank, size)
    return Batch(pictures(method, own), text, whole, label, drawn)


def pictures(method: Method, rows: Sequence[int]) -> Tensor:
    """(B, 3, C, C) grey noise in [-1, 1], sample by sample, with a gradient from top to bottom."""
    side, dtype = method.crop, next(method.parameters()).dtype
    drawn = [
        torch.rand(1, side, side, generator=torch.Generator().manual_seed(1000 + int(r)))
        for r in rows
    ]
    slope = torch.linspace(0, 1, side)[:, None]
    return (torch.stack(drawn) * slope * 2 - 1).to(dtype).expand(-1, 3, -1, -1)


def padded(text: words.Text, extra: int) -> words.Text:
    """The same reports with `extra` more empty tokens and word slots each."""
    tokens, width = text.ids.shape[1], text.sentence.shape[1]
    return replace(
        text,
        ids=F.pad(text.ids, (0, extra)),
        word=F.pad(text.word, (0, extra), value=-1),
        sentence=F.pad(text.sentence, (0, extra), value=-1),
        mesh=F.pad(text.mesh, (0, extra)),
        pieces=text.pieces // tokens * (tokens + extra) + text.pieces % tokens,
        slots=text.slots // width * (width + extra) + text.slots % width,
    )
