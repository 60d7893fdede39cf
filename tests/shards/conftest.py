"""Small manifests with their raw files, and parameters for their shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmim.manifest.contract import COLUMNS, write_table
from cxrmim.params import ManifestParams, Params, ShardsParams
from cxrmim.shards.build import build
from cxrmim.shards.store import Shards, open_shards

IMPRESSION = "Small left pleural effusion. No pneumothorax."


class Corpus:
    """A manifest of `count` images, two to a study, whose files lie below `root`."""

    def __init__(self, folder: Path, count: int = 12) -> None:
        self.root, self.folder = folder / "raw", folder
        self.root.mkdir()
        rng = np.random.default_rng(0)
        rows = []
        for i in range(count):
            pixels = rng.integers(0, 256, (40 + i, 30), dtype=np.uint8)
            Image.fromarray(pixels).save(self.root / f"{i}.png")
            rows.append(
                {
                    "image": f"i{i}",
                    "path": f"{i}.png",
                    "patient": f"p{i // 4}",
                    "study": f"s{i // 2}",
                    "view": "PA",
                    "split": "train" if i < count // 2 else "test",
                    "in_1": i == 0,
                    "in_10": i < 2,
                    "source_row": i + 1,
                    "impression": IMPRESSION,
                    "findings": f"Finding number {'abcdefghijkl'[i // 2]} in the lung.",
                    "label_Edema": np.float32(i % 2),
                }
            )
        self.table = pd.DataFrame(rows)

    def build(self, params: Params, dataset: str = "mimic", threads: int = 1) -> tuple[Any, Any]:
        """Run the stop's pure part into `<folder>/out<threads>`."""
        table = self.table.assign(**{c: None for c in COLUMNS if c not in self.table})
        write_table(table, self.folder / "manifest.parquet")
        self.out = self.folder / f"out{threads}"
        self.out.mkdir(exist_ok=True)
        manifest = self.folder / "manifest.parquet"
        return build(dataset, params, manifest, self.root, self.out, threads)

    def open(self) -> Shards:
        return open_shards(self.out)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


@pytest.fixture
def setup(demo: Params) -> Callable[..., Params]:
    """Parameters of the demo with 32 px images and short captions."""

    def make(limit: float = 0.5, **text: Any) -> Params:
        tree = demo.shards.model_dump(mode="json") | {"side": 32}
        tree["text"] |= {"vocab": 120, "length": 24} | text
        manifest = demo.manifest.model_dump(mode="json") | {"max_unreadable": limit}
        changed = {
            "shards": ShardsParams.model_validate(tree),
            "manifest": ManifestParams.model_validate(manifest),
        }
        return demo.model_copy(update=changed)

    return make
