"""Training steps at the papers' size: seconds, GFLOP/s, and how they stand to a matrix product.

    python benchmarks/pretrain_steps.py [--device cuda] [--entries ENTRY ...] [--batch N]

A step is forward, backward and the fused optimiser of a method of scale `paper` (ViT-B/16 at 224
px, BERT with its dropout), on random images and reports of usual lengths (median of 60 tokens, 112
at most). Between steps the same thread multiplies large matrices, so that the ratio does not hang
on how fast the machine happens to be. On a CPU: one thread, fp32, batch 8. With ``--device cuda``:
bf16 autocast, batch 144.

GFLOP are those of matrix products and convolutions, forward and backward, counted by
torch.utils.flop_counter with attention as plain products (a multiply-add is two).
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from machine import describe
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cxrmim import params as params_module
from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Batch, Method, Stored
from cxrmim.pretrain.parts import words
from cxrmim.pretrain.schedule import build_optimiser
from cxrmim.shards.store import RawReports, Reports

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks" / "results"
ENTRIES = ("medim", "cmitm", "mrm")
STEPS, WARM = 5, 1
BATCH = {"cpu": 8, "cuda": 144}
PRODUCT = {"cpu": 2048, "cuda": 8192}  # side of the square matrices
MEDIAN, SHORTEST, SPREAD = 60, 12, 0.45  # tokens of a caption: log-normal, as in the corpus
SPECIAL = 4  # ids of [PAD], [CLS], [SEP], [MASK] come first
CLS, SEP, MASK = 1, 2, 3
EPOCH = 1  # after the one in which prototypes stand still


def main() -> int:
    """Time the methods that have code; print a table and write the figures."""
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    params = params_module.load(REPO / "params.yaml", args.scale)
    batch = args.batch or BATCH[args.device]
    missing = [
        e for e in args.entries if plugins.source("method", params.pretraining(e)[0]) is None
    ]
    jobs = {
        entry: Job(params, entry, batch, args.device)
        for entry in args.entries
        if entry not in missing
    }
    product = Product(args.side or PRODUCT[args.device], args.device)
    before = describe("torch", "timm", "transformers")
    flops = {entry: count(job) for entry, job in jobs.items()}
    seconds: dict[str, list[float]] = {entry: [] for entry in jobs}
    rates: dict[str, list[float]] = {entry: [] for entry in jobs}
    for turn in range(WARM + args.steps):
        for entry, job in jobs.items():
            rate, spent = product.rate(), timed(job.step, args.device)
            if turn >= WARM:
                rates[entry].append(rate)
                seconds[entry].append(spent)
    found = {e: figures(jobs[e], flops[e], seconds[e], rates[e]) for e in jobs}
    result = {
        "what": "training steps: forward, backward, fused optimiser; random weights and batches",
        "scale": params.scale,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU, one thread",
        "precision": "bf16 autocast" if args.device == "cuda" else "fp32",
        "batch": batch,
        "image": params.pretrain.image,
        "steps": f"median of {args.steps} after {WARM} to warm up, methods in turn",
        "product": f"{product.side}^3, {product.name}, before every step, same thread",
        "GFLOP": "matrix products and convolutions, forward and backward, attention as products",
        "methods": found,
        "without code": missing,
        "machine": before,
    }
    show(found, missing)
    if params.scale == "paper" and args.entries == list(ENTRIES) and not missing:
        OUT.mkdir(exist_ok=True)
        name = "pretrain_steps" if args.device == "cpu" else "pretrain_steps_cuda"
        path = OUT / f"{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    else:
        sys.stdout.write("not the whole benchmark: nothing is written\n")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    out = argparse.ArgumentParser(description="time training steps at the papers' size")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    out.add_argument("--entries", nargs="+", default=list(ENTRIES), help="pretraining entries")
    out.add_argument("--scale", default="paper", help="another scale, to try the script")
    out.add_argument("--batch", type=int, help="images a step")
    out.add_argument("--side", type=int, help="side of the multiplied matrices")
    out.add_argument("--steps", type=int, default=STEPS, help="timed steps of each method")
    return out.parse_args()


class Job:
    """A method, its optimiser, and one batch that every step takes."""

    def __init__(self, params: Params, entry: str, batch: int, device: str) -> None:
        optim = params.pretraining(entry)[1].optim
        if optim is None:
            raise SystemExit(f"{entry}: is not trained")
        stored = stored_text(params)
        self.device = device
        self.method: Method = weights.build_method(params, entry, stored).to(device).train()
        self.optimiser = build_optimiser(self.method, optim)
        self.batch = make_batch(self.method, stored, batch, device)

    def loss(self) -> torch.Tensor:
        """Forward and backward."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            total, _ = self.method(self.batch)
        total.backward()
        return total

    def step(self) -> None:
        """One training step."""
        self.optimiser.zero_grad()
        self.loss()
        self.method.after_backward(EPOCH)
        self.optimiser.step()


def stored_text(params: Params) -> Stored:
    """Vocabularies and lengths as the scale's corpus stores them."""
    text = params.shards.text
    raw = text.raw
    return Stored(
        text.vocab,
        text.length,
        MASK,
        0 if raw is None else raw.vocab,
        0 if raw is None else raw.length,
        MASK,
    )


def make_batch(method: Method, stored: Stored, size: int, device: str) -> Batch:
    """Noise images and random reports of usual lengths, as the loader hands them over."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(MEDIAN), SPREAD, size)).round().astype(np.int64)
    side = method.crop
    image = torch.randn(size, 1, side, side, device=device).expand(-1, 3, -1, -1)
    rows = np.arange(size)
    text = raw = None
    if method.needs & {"text", "sentence"}:
        reports = random_reports(rng, lengths.clip(SHORTEST, stored.length), stored)
        if "sentence" in method.needs:
            text = words.collate_sentence(reports, rows, rng.random(size), device)
        else:
            text = words.collate(reports, rows, device, released=method.released_words)
    if "raw" in method.needs:
        long = (2 * lengths).clip(SHORTEST, stored.raw_length)  # whole reports: twice the caption
        ids, word = tokens(rng, long, stored.raw_length, stored.raw_vocab)
        raw = words.collate_raw(RawReports(ids, word, {}), rows, device)
    return Batch(image, text, raw)


def random_reports(rng: np.random.Generator, lengths: Any, stored: Stored) -> Reports:
    """Reports of sentences of eight words, a tenth of them MeSH words."""
    ids, word = tokens(rng, lengths, stored.length, stored.vocab)
    number = np.arange(stored.length)
    real = number < word.max(1)[:, None] + 1
    sentence = np.where(real, number // 8, -1).astype(np.int16)
    mesh = real & (rng.random(real.shape) < 0.1)
    return Reports(ids, word, sentence, mesh, {})


def tokens(
    rng: np.random.Generator, lengths: Any, longest: int, vocab: int
) -> tuple[np.ndarray, np.ndarray]:
    """(R, L) ids with CLS and SEP and the word of each token; a word has 1.3 pieces on average."""
    rows, place = len(lengths), np.arange(longest)
    ids = rng.integers(SPECIAL, vocab, (rows, longest))
    ids[:, 0] = CLS
    ids[np.arange(rows), lengths - 1] = SEP
    ids[place >= lengths[:, None]] = 0
    first = rng.random((rows, longest)) < 1 / 1.3
    first[:, 1] = True
    inner = (place > 0) & (place < lengths[:, None] - 1)
    word = np.where(inner, np.cumsum(first & inner, axis=1) - 1, -1)
    return ids.astype(np.int32), word.astype(np.int16)


class Product:
    """A large matrix product on the same thread or card."""

    def __init__(self, side: int, device: str) -> None:
        kind = torch.bfloat16 if device == "cuda" else torch.float32
        self.side, self.device, self.name = side, device, str(kind).removeprefix("torch.")
        self.left, self.right = (torch.randn(side, side, device=device, dtype=kind) for _ in "ab")
        timed(self.multiply, device)

    def multiply(self) -> None:
        """One product; its result is dropped."""
        torch.mm(self.left, self.right)

    def rate(self) -> float:
        """GFLOP a second."""
        return 2 * self.side**3 / timed(self.multiply, self.device) / 1e9


def timed(work: Any, device: str) -> float:
    """Seconds by the clock, the card waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def count(job: Job) -> float:
    """GFLOP of forward and backward."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        total = job.loss()
    if not bool(total.isfinite()):
        raise SystemExit(f"{type(job.method).__name__}: loss {float(total)}")
    job.optimiser.zero_grad()
    return counter.get_total_flops() / 1e9


def figures(job: Job, flops: float, seconds: list[float], rates: list[float]) -> dict[str, Any]:
    """What is reported of a method."""
    spent, rate = statistics.median(seconds), statistics.median(rates)
    shape = None if job.batch.text is None else list(job.batch.text.ids.shape)
    return {
        "parameters, millions": round(sum(p.numel() for p in job.method.parameters()) / 1e6, 1),
        "tokens of the captions": shape,
        "seconds a step": round(spent, 4),
        "fastest and slowest": [round(min(seconds), 4), round(max(seconds), 4)],
        "GFLOP a step": round(flops, 1),
        "GFLOP/s": round(flops / spent, 1),
        "GFLOP/s of the product": round(rate, 1),
        "ratio": round(flops / spent / rate, 3),
        "images a second": round(len(job.batch.image) / spent, 2),
    }


def show(found: dict[str, dict[str, Any]], missing: list[str]) -> None:
    """Print the figures as a table."""
    heads = ("seconds a step", "GFLOP a step", "GFLOP/s", "GFLOP/s of the product", "ratio")
    lines = [f"{'entry':<16}" + "".join(f"{head:>24}" for head in heads)]
    lines += [f"{e:<16}" + "".join(f"{f[head]:>24}" for head in heads) for e, f in found.items()]
    lines += [f"{entry:<16} has no code yet" for entry in missing]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
