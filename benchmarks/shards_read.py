"""Reading stored images: random crops of 224 px a second on one core, and the memory it takes.

A store of 22,000 images of 256 px (1.4 GB) is written into a temporary folder and opened as every
stop opens its shards. Crops at random places of random images are then copied into uint8 batches,
once with the file just dropped from the page cache (by the clock) and then several times with it in
memory (CPU seconds). Augmentation, which comes after, is timed apart. The official code's data
loader makes 14 to 23 items a CPU second (shared notes on the official code, another machine); the
target is 400 times its best. A toy store has 300 images.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from benchmarks import runner
from benchmarks.pagecache import STAYS, forget
from benchmarks.rows import Row, measured, not_measured
from cxrmim import params as params_module
from cxrmim.pretrain.parts import augment
from cxrmim.shards.journal import Growing
from cxrmim.shards.store import open_shards, seal

IMAGES, SIDE, CROP, BATCH, BATCHES, PASSES, TOY = 22_000, 256, 224, 256, 80, 5, 300
OFFICIAL, FACTOR = 23, 400


def measure(toy: bool = False) -> list[Row]:
    """Write, open, read and augment."""
    torch.set_num_threads(1)
    passes = 1 if toy else PASSES
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        write_store(folder, TOY if toy else IMAGES)
        gigabytes = (folder / "images.npy").stat().st_size / 1e9
        opening = [runner.cpu_seconds(lambda: open_shards(folder)) for _ in range(passes)]
        shards = open_shards(folder)
        gone = forget(folder / "images.npy")
        before = memory()
        cold = read(shards.images, wall=True)
        warm = [read(shards.images) for _ in range(passes)]
        after = memory()
    augmented = [
        measured(f"augmenting 224 px crops as {entry} does, float32", "crops/CPU s", rates)
        for entry, rates in augmentation(passes).items()
    ]
    return [
        measured(
            "opening a store, every checksum verified",
            "GB/CPU s",
            [gigabytes / seconds for seconds in opening],
            details={"GB": round(gigabytes, 2)},
        ),
        measured(
            "random 224 px crops as uint8 batches",
            "crops/CPU s",
            warm,
            target=FACTOR * OFFICIAL,
            bound=">=",
            details={"official loader's best on another machine": OFFICIAL},
        ),
        dropped(cold, gone),
        measured("memory that reading adds to the process", "MB", [after - before]),
        *augmented,
    ]


def write_store(folder: Path, count: int) -> None:
    """So many images of noise: reading does not depend on what is in them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = Growing(folder / "images.npy", (SIDE, SIDE))
    for first in range(0, count, 1000):
        images.append(rng.integers(0, 256, (min(1000, count - first), SIDE, SIDE), dtype=np.uint8))
    images.finish(count)
    images.close()
    pd.DataFrame({"split": ["train"] * count}).to_parquet(folder / "table.parquet")
    seal(folder)


def dropped(rate: float, gone: bool) -> Row:
    """The rate from disk, if it is one."""
    what, unit = "the same by the clock, page cache dropped", "crops/s"
    return measured(what, unit, [rate]) if gone else not_measured(what, unit, STAYS)


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


def augmentation(passes: int) -> dict[str, list[float]]:
    """Crops a CPU second through the training augmentation of some methods, one thread."""
    params = params_module.load(runner.REPO / "params.yaml", "paper")
    stored = torch.randint(0, 256, (64, SIDE, SIDE), dtype=torch.uint8)
    found = {}
    for entry in ("mgca", "mae", "medim"):
        chosen = params.pretraining(entry)[1].augment
        if chosen is None:
            continue
        found[entry] = []
        for seed in range(passes):
            generator = torch.Generator().manual_seed(seed)
            seconds = runner.cpu_seconds(lambda: augment.train(stored, chosen, CROP, generator))  # noqa: B023
            found[entry].append(len(stored) / seconds)
    return found


def memory() -> float:
    """Resident memory of this process in MB, files that it maps left out."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
