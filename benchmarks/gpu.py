"""Pretraining steps on one GPU as the product takes them: use of the card, waits, reading.

`loop.Training.step` itself runs: bf16 autocast, a batch of 144, augmentation on the card, on shards
of noise and random reports, at the side that the scale's corpus has. Runs are of 20 steps, between
two looks of the Watch; steps are timed by CUDA events, and what is compared takes turns.

    utilisation = useful FLOPs of a step (benchmarks/flops.py) / its time / the card's rate
    rate        = 2 * 8192^3 / time of a bf16 product of two 8192 x 8192 matrices, before each run
    compiled    = time of a step / time of the same step after `Training.model.compile()`
    loading     = time of a step / time of one that gets images and reports from the card's memory
                  and augments them; the shards lie in the page cache, or were just dropped from it

Host synchronisations are what torch.cuda.set_sync_debug_mode and torch.profiler find within steps.
Without a card these rows are not measured. The host's part is, on any CPU: CPU time to read 144
images from the page cache and to collate their reports, into a buffer that is kept, as torch keeps
the pinned ones of a card. Its bound is the time of a step at 45 % of 989.4 TFLOP/s, the dense bf16
rate in the data sheet of an H100 SXM: a host that needs less runs ahead of the card, as far as
launching the step leaves it time, which only a card shows.

A toy runs all of it at scale demo on the CPU, where operations are counted that a card's host would
wait for.
"""

import gc
import mmap
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch._dynamo
import yaml
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks import corpus, flops, pagecache, runner
from benchmarks.pretrain_steps import ENTRIES, Product
from benchmarks.rows import Row, measured, not_measured
from benchmarks.waits import waits
from cxrmim import grid, job
from cxrmim import params as params_module
from cxrmim.params import Params
from cxrmim.pretrain import data, loop
from cxrmim.pretrain.contract import Batch
from cxrmim.pretrain.watch import WATCH
from cxrmim.shards.store import Shards

UTILISATION, LOADED = 0.45, 1.05
SHEET = 989.4e12  # FLOPs a second, dense bf16, of an H100 SXM by its data sheet
WHY = "no GPU here: `make bench-gpu`, or `python -m benchmarks --gpu`, on a machine that has one"


@dataclass(frozen=True)
class Size:
    """How large: batch, steps of a run, runs of each kind, side of the multiplied matrices."""

    scale: str
    batch: int
    warm: int
    steps: int
    rounds: int
    side: int
    backend: str


PAPER = Size("paper", 144, 10, 20, 3, 8192, "inductor")
TOY = Size("demo", 4, 1, 2, 1, 64, "eager")


def measure(toy: bool = False) -> list[Row]:
    """Rows of the card, and of the host that serves it."""
    job.keep_freed_memory()  # as a training's job does
    torch.set_num_threads(1)
    size = TOY if toy else PAPER
    here = toy or torch.cuda.is_available()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = edited(folder, size)
        batches = size.warm + (size.steps if here else 1)
        shards = corpus.write(folder / "shards", params, batches * size.batch)
        rows: list[Row] = []
        rates: list[float] = []
        for entry in ENTRIES:
            found = on_card(params, entry, shards, size, rates) if here else None
            rows += card(ENTRIES[entry], size, found)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        rows += [host(params, entry, shards, size) for entry in ENTRIES]
    what = f"bf16 product of {size.side} x {size.side} matrices"
    return [row(what, "TFLOP/s", [r / 1e12 for r in rates], details={"card": query()}), *rows]


@dataclass(frozen=True)
class Found:
    """What is found of a method on the card: values by run or by step."""

    use: list[float]
    seconds: list[float]
    waits: Counter[str]
    faster: list[float]
    loaded: list[float]
    dropped: list[float]
    details: dict[str, Any]


def card(name: str, size: Size, found: Found | None) -> list[Row]:
    """The rows of a method on the card."""
    f = found or Found([], [], Counter(), [], [], [], {})
    counted = [float(f.waits.total())] if found else []
    return [
        row(
            f"{name}: useful FLOPs over the card's bf16 rate",
            "",
            f.use,
            target=UTILISATION,
            bound=">=",
            details=f.details,
        ),
        row(f"{name}: step of {size.batch}, bf16", "ms", [1e3 * s for s in f.seconds]),
        row(
            f"{name}: host synchronisations, warned of or in a profile",
            "",
            counted,
            target=0,
            details={"found": dict(f.waits)},
        ),
        row(f"{name}: step over the same step with torch.compile", "", f.faster),
        row(
            f"{name}: step with loading over a cached batch, page cache warm",
            "",
            f.loaded,
            target=LOADED,
        ),
        row(
            f"{name}: the same by the mean, page cache dropped",
            "",
            f.dropped,
            why=pagecache.STAYS if found else WHY,
        ),
    ]


def row(what: str, unit: str, values: Sequence[float], why: str = WHY, **other: Any) -> Row:
    """A measured row, or one that says what measures it."""
    return (
        measured(what, unit, values, **other) if values else not_measured(what, unit, why, **other)
    )


def on_card(params: Params, entry: str, shards: Shards, size: Size, rates: list[float]) -> Found:
    """Run a method's training; adds the rates of the product to `rates`."""
    torch._dynamo.reset()  # methods share code, and a function is compiled so many times at most
    case, compiled = Case(params, entry, shards), Case(params, entry, shards)
    compiled.training.loader = Marked(compiled.training.loader)
    compiled.training.model.compile(backend=size.backend)
    counters.clear()
    first = [each.run(size.warm) for each in (case, compiled)]
    details = {
        "seconds of the first step, as it is and compiled": [run[0] for run in first],
        "graph breaks": sum(counters["graph_break"].values()),
        "last losses, as it is and compiled": [each.loss() for each in (case, compiled)],
    }
    loader = case.training.loader
    cached = Cached(loader, case.training.corpus.train.of(case.training.order[0]))
    useful = sum(flops.needed(case.training.method, case.batch()).values())
    product = Product(size.side, case.device.type)
    use, seconds, faster, loaded, dropped = [], [], [], [], []
    for _ in range(size.rounds):
        rate = 2 * size.side**3 / median(timed(product.multiply, size.steps, case.device))
        plain = case.run(size.steps)
        faster.append(median(plain) / median(compiled.run(size.steps)))
        case.training.loader = cached
        bare = median(case.run(size.steps))
        case.training.loader = loader
        loaded.append(median(plain) / bare)
        if forget(shards):
            dropped.append(sum(case.run(size.steps)) / size.steps / bare)
        rates.append(rate)
        seconds += plain
        use += [useful / s / rate for s in plain]
    case.training.inspect()
    found = waits(case.step, size.steps // 2, case.device)
    return Found(use, seconds, found, faster, loaded, dropped, details)


class Case:
    """A training of the product, between two of its steps."""

    def __init__(self, params: Params, entry: str, shards: Shards) -> None:
        item = grid.Pretraining(entry, 0)
        torch.manual_seed(0)
        method = loop.prepare(params, item, shards)
        self.training = loop.Training(params, item, method, shards)
        self.device = self.training.accelerator.device
        self.number = 0

    def step(self) -> None:
        """The next step."""
        self.training.step(self.number)
        self.number += 1

    def run(self, steps: int) -> list[float]:
        """Seconds of each of some steps, too few for the Watch to look in between."""
        if steps >= WATCH:
            raise ValueError(f"{steps} steps: the Watch looks every {WATCH}")
        self.training.inspect()
        return timed(self.step, steps, self.device)

    def loss(self) -> float:
        """The last step's."""
        self.training.inspect()
        watch = self.training.watch
        return float(watch.values[-1][watch.names.index("total")])

    def batch(self) -> Batch:
        """The next step's."""
        training = self.training
        pairs = training.corpus.train.of(training.order[self.number])
        return training.loader.train(pairs, self.number, data.Share(0, 1))


class Copied(data.Loader):
    """A loader like another."""

    def __init__(self, loader: data.Loader) -> None:
        super().__init__(loader.corpus, loader.method, loader.device, loader.seed)


class Marked(Copied):
    """A loader that tells torch.compile which sizes change from batch to batch."""

    def train(self, pairs: data.Pairs, step: int, share: data.Share) -> Batch:
        """A training batch, its reports marked."""
        batch = super().train(pairs, step, share)
        if batch.text is not None:
            for name, tensor in vars(batch.text).items():
                if name != "count":  # one number a report: as many as images
                    torch._dynamo.maybe_mark_dynamic(tensor, tensor.ndim - 1)
        return batch


class Cached(Copied):
    """A loader that reads one batch and keeps it on the card; every step augments it anew."""

    def __init__(self, loader: data.Loader, pairs: data.Pairs) -> None:
        super().__init__(loader)
        self._read = super()._images(pairs.rows)
        empty = torch.empty(0, device=loader.device)
        self._rest = super()._batch(empty, pairs, np.zeros(len(pairs.rows)), data.Noise())

    def _images(self, rows: data.Rows) -> Tensor:
        return self._read

    def _batch(self, image: Tensor, pairs: data.Pairs, u: Any, noise: data.Noise) -> Batch:
        return replace(self._rest, image=image, noise=noise)


def timed(work: Callable[[], None], times: int, device: torch.device) -> list[float]:
    """Seconds of each of some calls, by the card's events; it is waited for at the end alone."""
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(times):
            work()
            marks.append(time.perf_counter())
        return [after - before for before, after in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def forget(shards: Shards) -> bool:
    """Drop the images, first from this process's map, then from the cache; whether they went."""
    shards.images.base.madvise(mmap.MADV_DONTNEED)
    return pagecache.forget(shards.folder / "images.npy")


def host(params: Params, entry: str, shards: Shards, size: Size) -> Row:
    """CPU time of reading for a step; its bound is the card's time at the rate aimed at."""
    item = grid.Pretraining(entry, 0)
    method = loop.prepare(params, item, shards)
    found = loop.read_corpus(params, item, method, shards, validated=False)
    order = data.Order(len(found.train.rows), size.batch, 1, 0)
    loader = Reading(found, method, torch.device("cpu"), 0)
    seconds = []
    for step in range(order.steps):
        started = time.process_time()
        batch = loader.read(found.train.of(order[step]))
        seconds.append(time.process_time() - started)
    useful = sum(flops.needed(method, batch).values())
    side = shards.images.shape[1]
    return measured(
        f"{ENTRIES[entry]}: host reads {size.batch} images of {side} px and collates, CPU",
        "ms",
        [1e3 * s for s in seconds[1:]],  # the first makes the buffer
        target=1e3 * useful / (UTILISATION * SHEET),
        details={"useful TFLOP of a step": useful / 1e12},
    )


class Reading(data.Loader):
    """A loader that hands over stored images as they are, in one buffer."""

    _kept: npt.NDArray[np.uint8] | None = None

    def read(self, pairs: data.Pairs) -> Batch:
        """A batch without augmentation."""
        return self._batch(self._images(pairs.rows), pairs, np.zeros(len(pairs.rows)), data.Noise())

    def _images(self, rows: data.Rows) -> Tensor:
        if self._kept is None:
            self._kept = super()._images(rows).numpy()
        np.take(self.corpus.images, rows, axis=0, out=self._kept, mode="clip")
        return torch.from_numpy(self._kept)


def edited(folder: Path, size: Size) -> Params:
    """The scale's parameters with this benchmark's batch and in bf16."""
    tree = yaml.safe_load((runner.REPO / "params.yaml").read_text(encoding="utf-8"))
    over = tree["scales"][size.scale].setdefault("pretrain", {})
    over["precision"] = "bf16"
    methods = over.setdefault("methods", {})
    for entry in ENTRIES:
        methods[entry] = methods.get(entry, {}) | {"batch": size.batch}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return params_module.load(path, size.scale)


def query() -> dict[str, str]:
    """The card's name, driver and clocks, as nvidia-smi tells them; nothing without it."""
    if shutil.which("nvidia-smi") is None:
        return {}
    asked = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return dict(zip(asked.split(","), (out.splitlines() or [""])[0].split(", "), strict=False))


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
