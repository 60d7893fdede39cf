"""Report-guided attention and masks of a few held-out pairs (MedIM figure 2).

Pairs are chosen by their reports alone: at least three sentences, then the most MeSH words in
sentences that negate nothing, so that the figure shows findings. For each, the method gives the
attention of the image's tokens to the MeSH words (KWM) and to one sentence (SDM), and the mask that
it leads to. SDM's sentence is the one with the most such words instead of a random one.

The main value is the share of attention that the masked tokens hold, averaged over pairs and
strategies: 1 where all attention is hidden, the masked share of tokens where attention is flat.
"""

from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import Bench, Result
from cxrmim.grid import Run
from cxrmim.plugins import Strict

Tree = dict[str, Any]
STRATEGIES = ("kwm", "sdm")
DIGITS = 5


class Options(Strict):
    """Number of image-report pairs."""

    pairs: Annotated[int, Field(ge=1)]


def run(run: Run, bench: Bench) -> Result:
    """Draw the maps of the chosen pairs.

    Returns:
        Predictions: one row a pair with `words`, per word `mesh` and `chosen` (in SDM's sentence),
        `pixels` (side x side uint8 in raster order, as the encoder sees them), and per strategy
        `attention_*` and `mask_*` (grid x grid in raster order).

    Raises:
        NoTextError: the checkpoint's method draws no report-guided masks.
    """
    from dataclasses import replace

    import torch

    from cxrmim.downstream import features, pairs
    from cxrmim.downstream.seeds import generator
    from cxrmim.pretrain.contract import Batch, NoTextError
    from cxrmim.pretrain.parts.words import collate

    options = Options.model_validate(bench.params.downstream.attend)
    method, shards = bench.method(run.checkpoint), bench.shards(run.dataset)
    reports, report = bench.reports(run.dataset)
    rows = bench.rows(run.dataset, "test")
    chosen = pairs.choose(reports, report[rows], options.pairs)
    rows = rows[[pair.place for pair in chosen]]
    text = collate(reports, report[rows], bench.device, released=method.released_words)
    sentence = torch.tensor([[pair.sentence] for pair in chosen], device=bench.device)
    text = replace(text, sentence=text.sentence.masked_fill(text.sentence != sentence, -1))
    stored = features.block(shards.images, rows, bench.device)
    random = torch.Generator(bench.device).manual_seed(generator(run, "attend").initial_seed())
    try:
        with torch.no_grad():
            image = bench.view(run.checkpoint)(stored)
            maps = method.report_maps(Batch(image, text), random)
    except NoTextError as error:
        raise NoTextError(f"{run.checkpoint}: cannot draw maps: {error}") from None
    grey = (bench.plain(run.checkpoint)(stored) * 255).round().to(torch.uint8).cpu().numpy()
    columns: Tree = {
        "words": [pair.words for pair in chosen],
        "mesh": [pair.mesh for pair in chosen],
        "chosen": [[s == pair.sentence for s in pair.sentences] for pair in chosen],
        "pixels": [picture.tobytes() for picture in grey],
    }
    for name in sorted(maps.attention):
        attention = np.round(maps.attention[name].flatten(1).double().cpu().numpy(), DIGITS)
        columns[f"attention_{name}"] = attention.tolist()
        columns[f"mask_{name}"] = maps.mask[name].flatten(1).cpu().numpy().tolist()
    predictions = bench.identity(run.dataset, rows).assign(**columns)
    grid = next(iter(maps.mask.values())).shape[-1]
    details: Tree = {"grid": grid, "side": grey.shape[-1]}
    if bench.params.manifest.source == "phantom":
        details["pairs"] = shown(predictions)
    else:
        details["note"] = "pairs withheld: credentialed data"
    return Result(predictions, details)


def shown(predictions: pd.DataFrame) -> list[Tree]:
    """Pairs as a phantom's record keeps them; pixels as base64, ids left out."""
    import base64

    out = predictions.drop(columns=["image", "patient", "source_row"]).to_dict("records")
    for pair in out:
        pair["pixels"] = base64.b64encode(pair["pixels"]).decode()
    return [{str(k): v for k, v in pair.items()} for pair in out]


def measure(predictions: pd.DataFrame, options: Tree, draws: Draws) -> Tree:
    """Share of attention under the masks.

    Args:
        predictions: what `run` gives.
        options: the task's block of params.yaml; nothing of it matters here.
        draws: unused: a handful of chosen pairs has no sampling error to speak of.
    """
    out: Tree = {"metric": "masked_attention", "n": len(predictions), "replicates": []}
    for name in STRATEGIES:
        if f"mask_{name}" in predictions:
            attention = np.stack(predictions[f"attention_{name}"].to_list()).astype(np.float64)
            mask = np.stack(predictions[f"mask_{name}"].to_list()).astype(bool)
            attention -= np.minimum(attention.min(axis=1, keepdims=True), 0)  # raw space only
            mass = attention.sum(axis=1)
            share = np.where(
                mass > 0, (attention * mask).sum(axis=1) / mass.clip(1e-9), mask.mean(1)
            )
            out[f"attention_{name}"] = round(float(share.mean()), DIGITS)
            out[f"masked_{name}"] = round(float(mask.mean()), DIGITS)
    found = [out[f"attention_{n}"] for n in STRATEGIES if f"attention_{n}" in out]
    return out | {"value": float(np.mean(found))}
