"""Shards of noise images and random reports, in the form that training reads; for benchmarks."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.pretrain_steps import (
    MASK,
    MEDIAN,
    SHORTEST,
    SPREAD,
    random_reports,
    stored_text,
    tokens,
)
from cxrmim.params import Params
from cxrmim.shards.store import Shards, open_shards

REPORTS = 2000
AT_ONCE = 256  # images drawn at a time


def write(folder: Path, params: Params, images: int) -> Shards:
    """Write and open shards of the scale's side, vocabularies and lengths; all rows train.

    Args:
        folder: where to; it is made.
        params: of the scale.
        images: how many.
    """
    folder.mkdir()
    rng, stored, side = np.random.default_rng(0), stored_text(params), side_of(params)
    count = min(REPORTS, images)
    lengths = np.exp(rng.normal(np.log(MEDIAN), SPREAD, count)).round().astype(np.int64)
    captions = random_reports(rng, lengths.clip(SHORTEST, stored.length), stored)
    long = (2 * lengths).clip(SHORTEST, stored.raw_length)
    ids, word = tokens(rng, long, stored.raw_length, stored.raw_vocab)
    arrays = {
        "report": rng.integers(0, count, images),
        "ids": captions.ids,
        "word": captions.word,
        "sentence": captions.sentence,
        "mesh": captions.mesh,
        "raw_ids": ids,
        "raw_word": word,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    shape = (images, side, side)
    drawn = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for first in range(0, images, AT_ONCE):
        part = drawn[first : first + AT_ONCE]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    drawn.flush()
    table = pd.DataFrame({"split": ["train"] * images, "source_row": np.arange(images)})
    table.to_parquet(folder / "table.parquet")
    for name, pieces in (("vocab", stored.vocab), ("raw_vocab", stored.raw_vocab)):
        known = {str(i): i for i in range(pieces)}
        del known[str(MASK)]
        tree = {"model": {"vocab": known | {"[MASK]": MASK}}}
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    return open_shards(folder, verify=False)


def side_of(params: Params) -> int:
    """Side of the corpus' stored images in px."""
    return params.side(params.pretrain.corpus)
