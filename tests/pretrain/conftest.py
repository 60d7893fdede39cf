"""A tiny corpus of image-report pairs as shards, and parameters to match."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cxrmim import params as params_module
from cxrmim import record
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.pretrain.contract import Stored
from cxrmim.shards.store import RawReports, Reports, Shards, open_shards, seal

SIDE, LENGTH, VOCAB = 48, 24, 60
RAW_LENGTH, RAW_VOCAB = 30, 50
STORED = Stored(VOCAB, LENGTH, 1, RAW_VOCAB, RAW_LENGTH, 3)
CLS, SEP = 2, 3


def make_reports(count: int, seed: int = 0, length: int = LENGTH, full: bool = True) -> Reports:
    """Random reports; the first one has no MeSH word, the last fills all tokens if `full`."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((count, length), np.int32)
    word = np.full((count, length), -1, np.int16)
    sentence = np.full((count, length), -1, np.int16)
    mesh = np.zeros((count, length), bool)
    for r in range(count):
        tokens = length if full and r == count - 1 else int(rng.integers(6, length))
        ids[r, 0], ids[r, tokens - 1] = CLS, SEP
        ids[r, 1 : tokens - 1] = rng.integers(4, VOCAB, tokens - 2)
        starts = rng.random(tokens - 2) < 0.7
        starts[0] = True
        word[r, 1 : tokens - 1] = np.cumsum(starts) - 1
        words = int(starts.sum())
        sentence[r, :words] = np.cumsum(rng.random(words) < 0.25)
        sentence[r, :words] -= sentence[r, 0]
        if r:
            mesh[r, :words] = rng.random(words) < 0.3
            mesh[r, 0] = True
    return Reports(ids, word, sentence, mesh, {str(i): i for i in range(VOCAB)})


def make_raw(count: int, seed: int = 0) -> RawReports:
    """Random whole reports: [CLS] = 2 first, PAD = 0 after the last, the last one full."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((count, RAW_LENGTH), np.int32)
    word = np.full((count, RAW_LENGTH), -1, np.int16)
    for r in range(count):
        tokens = RAW_LENGTH if r == count - 1 else int(rng.integers(6, RAW_LENGTH))
        ids[r, 0] = CLS
        ids[r, 1:tokens] = rng.integers(4, RAW_VOCAB, tokens - 1)
        starts = rng.random(tokens - 1) < 0.7
        starts[0] = True
        word[r, 1:tokens] = np.cumsum(starts) - 1
    return RawReports(ids, word, {str(i): i for i in range(RAW_VOCAB)})


@pytest.fixture(scope="session")
def raw() -> RawReports:
    return make_raw(12)


@pytest.fixture(scope="session")
def stored() -> Stored:
    """Vocabularies and lengths of `reports` and `raw`."""
    return STORED


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reports() -> Reports:
    return make_reports(12)


def shrink(tree: dict[str, Any]) -> dict[str, Any]:
    """Edit a params tree so that every method trains in a fraction of a second."""
    small = tree["scales"]["demo"]
    small["shards"] = {
        "side": SIDE,
        "side_downstream": SIDE,
        "text": {
            "tokenizer": "phantom",
            "vocab": 1000,
            "length": LENGTH,
            "raw": {"tokenizer": "phantom", "vocab": 1000, "length": RAW_LENGTH},
        },
    }
    pretrain = copy.deepcopy(small["pretrain"])
    pretrain |= {"image": 40, "device": "cpu"}
    pretrain["vit"] = {"patch": 8, "width": 16, "depth": 2, "heads": 2}
    pretrain["text"] = {"layers": 2, "width": 16, "heads": 2, "mlp": 32, "dropout": 0.0}
    methods = pretrain["methods"]
    for name, block in tree["pretrain"]["methods"].items():  # somebody else's methods too
        if "augment" in block:
            methods.setdefault(name, {}).setdefault("augment", {})["resize"] = 44
        if "batch" in block:
            methods[name] |= {"batch": 4, "epochs": 2}
    methods["mae"]["options"] |= {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    methods["imagenet"] |= {"batch": 4, "epochs": 2}
    methods["imagenet"]["augment"] |= {"resize": 44}
    methods["imagenet"]["options"] = {"stand_in": {"images": 24, "side": 44, "seed": 0}}
    methods["mrm"]["options"] = {
        "decoder_width": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "text_width": 12,
        "text_layers": 1,
        "text_heads": 2,
        "text_mlp": 16,
    }
    methods["cmitm"]["options"] = {"dim": 8, "hidden": 12, "rep_depth": 1, "rep_heads": 2}
    methods["gloria"]["options"] = {
        "dim": 16,
        "text_layers": 2,
        "sum_layers": 2,
        "text_length": LENGTH,
    }
    entries = pretrain["entries"]
    for name in ("cmitm-s1", "cmitm-joint"):
        entries[name] = {"set": {"init": "none", "epochs": 2, "augment": {"resize": 44}}}
    methods["mgca"]["options"] = {"dim": 8, "hidden": 12, "prototypes": 6}
    methods["medim"]["options"] = {"decoder": [8, 6, 4], "sentence_words": 3}
    small["pretrain"] = pretrain
    tree["scale"] = "demo"
    return tree


@pytest.fixture
def small(
    tree: dict[str, Any], write_params: Callable[[dict[str, Any]], Path]
) -> Callable[..., Params]:
    """Tiny parameters; ``small({"pretrain.text.positions": "zero"})`` sets keys of the scale."""

    def load(changes: dict[str, Any] | None = None, protocol: str = "paper") -> Params:
        edited = shrink(copy.deepcopy(tree)) | {"protocol": protocol}
        for key, value in (changes or {}).items():
            *path, last = key.split(".")
            node = edited["scales"]["demo"]
            for part in path:
                node = node.setdefault(part, {})
            node[last] = value
        return params_module.load(write_params(edited))

    return load


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_shards(params: Params, count: int = 20) -> Shards:
    """Write shards of a generated corpus, and their record, below the working directory."""
    rng = np.random.default_rng(1)
    folder = Paths(params.scale).shards(params.pretrain.corpus)
    folder.mkdir(parents=True)
    written, whole = make_reports(12), make_raw(12)
    arrays = {
        "images": rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8),
        "report": rng.integers(0, 12, count),
        "ids": written.ids,
        "word": written.word,
        "sentence": written.sentence,
        "mesh": written.mesh,
        "raw_ids": whole.ids,
        "raw_word": whole.word,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    table = pd.DataFrame(
        {
            "split": ["train"] * (count - 4) + ["test"] * 4,
            "source_row": np.arange(count) + 1000,
            "in_1": False,
            "in_10": True,
        }
    )
    table.to_parquet(folder / "table.parquet")
    vocab = {**written.vocab, "[MASK]": 1}
    for name, known in (("vocab", vocab), ("raw_vocab", {**whole.vocab, "[MASK]": 3})):
        (folder / f"{name}.json").write_text(json.dumps({"model": {"vocab": known}}))
    seal(folder)
    record.write(
        params,
        "shards",
        params.pretrain.corpus,
        outputs={file.stem: file for file in sorted(folder.iterdir())},
    )
    return open_shards(folder)


@pytest.fixture
def corpus(workplace: Path) -> Callable[[Params], Shards]:
    """Write the tiny corpus for given parameters."""
    return write_shards


@pytest.fixture(scope="session")
def make() -> Callable[..., Reports]:
    return make_reports
