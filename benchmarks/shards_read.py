"""Reading stored images: random crops of 224 px a second on one core, and the memory it takes.

    python benchmarks/shards_read.py [FOLDER]

A store of 22,000 images of 256 px (1.4 GB) is written into FOLDER (default: a temporary one) and
opened as every stop opens its shards. Crops at random places of random images are then copied into
uint8 batches, once with the file just dropped from the page cache and then with it in memory.
Augmentation, which comes after, is timed apart. The official code's data loader makes 14 to 23
items a CPU second; the target is 400 times its best.
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import torch
from machine import describe

from cxrmim import params as params_module
from cxrmim.pretrain.parts import augment
from cxrmim.shards.journal import Growing
from cxrmim.shards.store import open_shards, seal

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks" / "results" / "shards_read.json"
IMAGES, SIDE, CROP, BATCH, BATCHES, PASSES = 22_000, 256, 224, 256, 80, 5
OFFICIAL, TARGET = 23, 400 * 23


def main() -> int:
    """Write, open, read and augment; print and write the figures."""
    torch.set_num_threads(1)
    with TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        folder = Path(temporary) / "store"
        write_store(folder)
        started, cpu = time.perf_counter(), time.process_time()
        shards = open_shards(folder)
        opening = time.perf_counter() - started, time.process_time() - cpu
        forget(folder / "images.npy")
        before = memory()
        cold = read(shards.images, wall=True)
        warm = max(read(shards.images) for _ in range(PASSES))
        after = memory()
        gigabytes = (folder / "images.npy").stat().st_size / 1e9
    result = {
        "what": "random 224 px crops as uint8 batches from a memory-mapped store",
        "store": {"images": IMAGES, "side": SIDE, "GB": round(gigabytes, 2)},
        "opening, every checksum verified": {
            "seconds": round(opening[0], 2),
            "GB a CPU second": round(gigabytes / opening[1], 2),
        },
        "crops a CPU second": round(warm),
        "times the official loader's best": round(warm / OFFICIAL),
        "crops a second, page cache dropped": round(cold),
        "memory in MB": {
            "of the process alone, before": before["RssAnon"],
            "of the process alone, after": after["RssAnon"],
            "of the file, shared by all workers": after["RssFile"] - before["RssFile"],
        },
        "augmented crops a CPU second, counted apart": augmented(),
        "target": {"crops a CPU second": TARGET},
        "machine": describe("numpy", "torch"),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(OUT.read_text(encoding="utf-8"))
    return 0 if warm >= TARGET else 1


def write_store(folder: Path) -> None:
    """Images of noise: reading does not depend on what is in them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = Growing(folder / "images.npy", (SIDE, SIDE))
    for first in range(0, IMAGES, 1000):
        images.append(rng.integers(0, 256, (min(1000, IMAGES - first), SIDE, SIDE), dtype=np.uint8))
    images.finish(IMAGES)
    images.close()
    pd.DataFrame({"split": ["train"] * IMAGES}).to_parquet(folder / "table.parquet")
    seal(folder)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(images: np.ndarray, wall: bool = False) -> float:
    """Crops a second (CPU seconds, or by the clock) over some batches."""
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(images))[: BATCH * BATCHES]
    corners = rng.integers(0, SIDE - CROP + 1, (len(rows), 2))
    clock = time.perf_counter if wall else time.process_time
    batch, total = np.empty((BATCH, CROP, CROP), dtype=np.uint8), 0
    started = clock()
    for first in range(0, len(rows), BATCH):
        picked = zip(rows[first : first + BATCH], corners[first : first + BATCH], strict=True)
        for k, (row, (y, x)) in enumerate(picked):
            batch[k] = images[row, y : y + CROP, x : x + CROP]
        total += int(batch[0, 0, 0])
    seconds = clock() - started
    return len(rows) / seconds


def augmented() -> dict[str, int]:
    """Crops a CPU second through the training augmentation of some methods, one thread."""
    params = params_module.load(REPO / "params.yaml", "paper")
    stored = torch.randint(0, 256, (64, SIDE, SIDE), dtype=torch.uint8)
    found = {}
    for entry in ("mgca", "mae", "medim"):
        chosen = params.pretraining(entry)[1].augment
        if chosen is None:
            continue
        seconds = []
        for seed in range(PASSES):
            generator = torch.Generator().manual_seed(seed)
            started = time.process_time()
            augment.train(stored, chosen, CROP, generator)
            seconds.append(time.process_time() - started)
        found[entry] = round(len(stored) / min(seconds))
    return found


def memory() -> dict[str, int]:
    """Resident memory of this process in MB: its own, and that of mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(fields[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")}


if __name__ == "__main__":
    raise SystemExit(main())
