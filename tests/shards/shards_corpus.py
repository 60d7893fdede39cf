"""Small manifests with their raw files, and programs that break off a build.

As a program: `python shards_corpus.py FOLDER THREADS WHERE N` builds the corpus below FOLDER with
chunks of two rows and kills itself at the N-th event of a kind, see `KILLS`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxrmim import params as params_module
from cxrmim.manifest.contract import COLUMNS, write_table
from cxrmim.params import Params
from cxrmim.schema import ManifestParams, ShardsParams
from cxrmim.shards import build as build_module
from cxrmim.shards import journal, pool
from cxrmim.shards.build import build
from cxrmim.shards.store import Shards, open_shards

IMPRESSION = "Small left pleural effusion. No pneumothorax."
REPO = Path(__file__).resolve().parents[2]


class Corpus:
    """A manifest of `count` images, two to a study, whose files lie below `root`."""

    def __init__(self, folder: Path, count: int = 12) -> None:
        self.root, self.folder = folder / "raw", folder
        self.out, self.building = folder / "out1", folder / "building"
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

    def write(self) -> Path:
        """Write the manifest."""
        manifest = self.folder / "manifest.parquet"
        table = self.table.assign(**{c: None for c in COLUMNS if c not in self.table})
        write_table(table, manifest)
        return manifest

    def build(
        self, params: Params, dataset: str = "mimic", threads: int = 1, keep: bool = False
    ) -> tuple[Any, Any]:
        """Run the stop's pure part into `<folder>/out<threads>`."""
        self.out = self.folder / f"out{threads}"
        args = dataset, params, self.write(), self.root, self.out, self.building, threads
        done = build(*args)
        if not keep:
            shutil.rmtree(self.building)
        return done

    def open(self) -> Shards:
        return open_shards(self.out)

    def bytes(self) -> dict[str, bytes]:
        """Content of every output file."""
        return {path.name: path.read_bytes() for path in sorted(self.out.iterdir())}


def masked(corpus: Corpus) -> Corpus:
    """Give each third image a mask."""
    codes = [[f"{i} 300"] if i % 3 == 0 else [] for i in range(len(corpus.table))]
    corpus.table["rle"] = pd.Series(codes, dtype=object)
    return corpus


def parameters(demo: Params, limit: float = 0.5, **text: Any) -> Params:
    """Parameters of the demo with 32 px images and short captions."""
    own = {k: text.pop(k) for k in ("side", "side_downstream", "decode") if k in text}
    tree = demo.shards.model_dump(mode="json")
    tree |= {"side": 32, "side_downstream": 32} | own
    tree["text"] |= {"vocab": 120, "length": 24, "raw": None} | text
    manifest = demo.manifest.model_dump(mode="json") | {"max_unreadable": limit}
    changed = {
        "shards": ShardsParams.model_validate(tree),
        "manifest": ManifestParams.model_validate(manifest),
    }
    return demo.model_copy(update=changed)


def dying(items: list[pool.Item], side: int, scaled: bool) -> journal.Chunk:
    """`pool.work` of a worker that is killed once, if a file called `kill` says so."""
    order = items[0].path.parent.parent / "kill"
    if order.exists() and items[0].path.name == order.read_text():
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return pool.work(items, side, scaled)


# What is counted: syncs of arrays and journal; appended arrays, the last one half written; rows
# named in the journal, the last line half written; the steps from finished arrays to the folder.
KILLS = {
    "sync": (journal.os, "fsync"),
    "array": (journal.Growing, "append"),
    "line": (journal, "astuple"),
    "seal": (build_module, "seal"),
    "publish": (build_module.os, "link"),
    "record": (build_module, "publish"),
}


def kill_at(where: str, number: int) -> None:
    """Replace a function by one that kills this process in its N-th call."""
    home, name = KILLS[where]
    plain, calls = getattr(home, name), [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] < number:
            return plain(*args, **kwargs)
        if where == "array":
            args[0]._file.seek(0, os.SEEK_END)
            args[0]._file.write(args[1].tobytes()[:1000])
            args[0].sync()
        if where == "line":
            with journal_file.open("ab") as handle:
                handle.write(b'{"first": 4, "kept": 2, "outco')
        if where == "record":
            plain(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return time.sleep(60)

    setattr(home, name, counting)


if __name__ == "__main__":
    folder, threads, where, number = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    journal_file = folder / "building" / journal.JOURNAL
    corpus = Corpus.__new__(Corpus)
    corpus.folder, corpus.root, corpus.building = folder, folder / "raw", folder / "building"
    pool.ROWS = 2
    process = pool.process

    def logged(item: pool.Item, side: int, scaled: bool) -> pool.Result:
        with (folder / "decoded.txt").open("a") as file:
            file.write(f"{item.path.stem}\n")
        return process(item, side, scaled)

    pool.process = logged
    if where != "never":
        kill_at(where, int(number))
    demo = params_module.load(REPO / "params.yaml", "demo")
    params = parameters(demo)
    corpus.out = folder / "out"
    args = "mimic", params, folder / "manifest.parquet", corpus.root, corpus.out, corpus.building
    build(*args, threads)
