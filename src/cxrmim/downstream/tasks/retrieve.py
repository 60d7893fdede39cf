"""Image-text retrieval (MedIM 3.1, table 2): recall of the own pair among the first k.

The pool is the corpus' held-out images, each with its report; similarity is the cosine of the
learned embeddings. Equal similarities are broken at random, in expectation (`metrics.recall_at`).
"""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cxrmim.downstream import bootstrap, metrics
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import Bench, Result
from cxrmim.grid import Run
from cxrmim.plugins import Strict

Tree = dict[str, Any]
CUTS = (1, 5, 10)
MAIN = "i2t_r10"


class Options(Strict):
    """Which pairs are ranked, and what a repeated report means.

    `size`: that many pairs of the pool at random, the same for all methods; null: all of them.
    `duplicates`: whether another pair with an identical report counts as the own one (`identical`)
    or not (`strict`), or each distinct report stays in the pool once (`merge`). `block`: images
    held against as many texts at once; it costs memory and changes nothing else.
    """

    pool: Literal["heldout"]
    size: Annotated[int, Field(ge=1)] | None
    duplicates: Literal["strict", "identical", "merge"]
    block: Annotated[int, Field(ge=1)]


def run(run: Run, bench: Bench) -> Result:
    """Rank all pairs of the pool both ways.

    Returns:
        Predictions: one row a pair, with the six counts of `retrieval.standing`.

    Raises:
        NoTextError: the checkpoint's method has no text side.
        ParamsError: the pool is smaller than `size`.
        DataError: an embedding is not finite.
    """
    import torch

    from cxrmim.downstream import features, retrieval
    from cxrmim.pretrain.contract import NoTextError
    from cxrmim.pretrain.parts.words import collate

    options = Options.model_validate(bench.params.downstream.retrieve)
    method, view = bench.method(run.checkpoint), bench.view(run.checkpoint)
    images, (reports, _) = bench.shards(run.dataset).images, bench.reports(run.dataset)
    pool = retrieval.pool(bench, run.dataset)
    rows, texts = pool.rows, pool.texts
    found: dict[str, list[torch.Tensor]] = {"image": [], "text": []}
    try:
        with torch.no_grad():
            for part in np.split(texts, range(features.BATCH, len(texts), features.BATCH)):
                words = collate(reports, part, bench.device, released=method.released_words)
                found["text"].append(method.embed_text(words))
            for part in np.split(rows, range(features.BATCH, len(rows), features.BATCH)):
                seen = view(features.block(images, part, bench.device))
                found["image"].append(method.embed_image(seen))
    except NoTextError as error:
        raise NoTextError(f"{run.checkpoint}: cannot retrieve: {error}") from None
    embedded = {side: torch.cat(parts).float().cpu().numpy() for side, parts in found.items()}
    for side, values in embedded.items():
        metrics.finite(values, f"{run.id}: numbers of the {side} embeddings")
    counts = retrieval.standing(
        embedded["image"], embedded["text"], pool.which, options.duplicates, options.block
    )
    identity = bench.identity(run.dataset, rows)
    return Result(identity.assign(**counts), {"pool": len(rows), "reports": len(texts)})


def measure(predictions: pd.DataFrame, options: Tree, draws: Draws) -> Tree:
    """Recall at 1, 5 and 10 both ways; the main value is image to text at 10.

    Args:
        predictions: what `run` or a baseline gives.
        options: the task's block of params.yaml; nothing of it matters here.
        draws: bootstrap draws of the queries; the pool of candidates stays whole.
    """
    weights = draws.weights(predictions["patient"].tolist())
    out: Tree = {"metric": MAIN, "n": len(predictions), "replicates_of": {}}
    for way in ("t2i", "i2t"):
        counts = [predictions[f"{way}_{c}"].to_numpy(np.int64) for c in ("above", "tied", "own")]
        for k in CUTS:
            hit, name = metrics.recall_at(k, *counts), f"{way}_r{k}"
            out[name] = float(hit.mean())
            out["replicates_of"][name] = bootstrap.rounded(bootstrap.mean(hit, weights))
    return out | {"value": out[MAIN], "replicates": out["replicates_of"].pop(MAIN)}
