"""Training steps at the papers' size: useful FLOPs a second, over what a matrix product reaches.

A step is forward, backward and the fused optimiser of a method of scale `paper` (ViT-B/16 at 224
px, BERT with its dropout), on random images and reports of usual lengths (median of 60 tokens, 112
at most), batch 8, float32, one thread, weights at random. Useful FLOPs are those that the method's
definition needs by the formulae of benchmarks/flops.py, where a batch's padding to its longest
report counts as needed. Before every step the same thread multiplies two 2048 x 2048 matrices five
times; the first turn of each method is dropped. Each turn gives

    ratio = useful FLOPs of a step / CPU seconds of the step / FLOPs a CPU second of the product

and the row has their median. What the definition does not need is what torch.utils.flop_counter
counts of a step beyond the formula, as a share of it. The formula takes whole layers; how much of
them no loss reads is told by the gradient (benchmarks/unread.py), on reports of equal length, so
that no padding is among it. Seconds stand beside those of the official code on another machine, for
orientation. A toy takes scale demo and small matrices.
"""

import time
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops, runner, unread
from benchmarks.rows import Row, explained, measured
from cxrmim import job as job_module
from cxrmim import params as params_module
from cxrmim.params import Params
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Batch, Method, Stored
from cxrmim.pretrain.parts import words
from cxrmim.pretrain.schedule import build_optimiser
from cxrmim.shards.store import RawReports, Reports

ENTRIES = {"medim": "MedIM", "cmitm": "CMITM stage 2", "mrm": "MRM"}
OFFICIAL = {"medim": 22.4, "cmitm": 12.6, "mrm": 8.1}  # CPU s a step, another machine
STEPS, WARM = 5, 1
BATCH = {"cpu": 8, "cuda": 144}
PRODUCT, TOY = {"cpu": 2048, "cuda": 8192}, 128  # side of the square matrices
TIMES = 5  # products before each step
TARGET = 0.85
MEDIAN, SHORTEST, SPREAD = 60, 12, 0.45  # tokens of a caption: log-normal, as in the corpus
SPECIAL = 4  # ids of [PAD], [CLS], [SEP], [MASK] come first
CLS, SEP, MASK = 1, 2, 3
EPOCH = 1  # after the one in which prototypes stand still


def measure(toy: bool = False) -> list[Row]:
    """Ratio, needless FLOPs and seconds of each method."""
    job_module.keep_freed_memory()  # as a training's job does
    torch.set_num_threads(1)
    torch.manual_seed(0)
    params = params_module.load(runner.REPO / "params.yaml", "demo" if toy else "paper")
    product, steps = Product(TOY if toy else PRODUCT["cpu"], "cpu"), 1 if toy else STEPS
    out = []
    for entry in ENTRIES:
        job, turns = Job(params, entry, BATCH["cpu"], "cpu"), []
        for _ in range(WARM + steps):
            turns.append((product.rate(), timed(job.step, "cpu")))
        out += [*rows(entry, job, turns[WARM:]), unread_row(params, entry)]
    return out


def rows(entry: str, job: "Job", turns: list[tuple[float, float]]) -> list[Row]:
    """The rows of a method.

    Args:
        entry: of the method.
        job: what was timed.
        turns: GFLOP a second of the product, and seconds of the step that followed.
    """
    name, counted = ENTRIES[entry], count(job)
    needed = flops.needed(job.method, job.batch)
    useful = sum(needed.values())
    text = job.batch.text
    details = {
        "images": len(job.batch.image),
        "tokens of the longest report": None if text is None else text.ids.shape[1],
        "GFLOP needed": {part: round(n / 1e9, 3) for part, n in needed.items()},
        "GFLOP of the product a CPU s": [round(rate, 1) for rate, _ in turns],
    }
    ratios = [useful / 1e9 / seconds / rate for rate, seconds in turns]
    return [
        explained(
            measured(
                f"{name} step: useful FLOPs a second over a product's",
                "",
                ratios,
                target=TARGET,
                bound=">=",
                details=details,
            ),
            "what works on single elements (norms, activations, softmax, dropout, optimiser) takes "
            "the rest of the time and no FLOPs of the formula",
        ),
        explained(
            measured(
                f"{name} step: FLOPs that the definition does not need, of those it needs",
                "%",
                [100 * (counted - useful) / useful],
                target=0,
                details={"counted": counted, "needed": useful},
            ),
            "no formula states them",
        ),
        measured(
            f"{name} step: CPU (official code on another machine: {OFFICIAL[entry]} s)",
            "s",
            [seconds for _, seconds in turns],
        ),
    ]


def unread_row(params: Params, entry: str) -> Row:
    """What a method computes and no loss reads, without padding."""
    job = Job(params, entry, BATCH["cpu"], "cpu", even=True)
    watch = unread.watched(job.loss)
    needed = sum(flops.needed(job.method, job.batch).values())
    found = watch.unread
    return measured(
        f"{ENTRIES[entry]} step: FLOPs of rows that no loss reads, of those it needs",
        "%",
        [100 * sum(found.values()) / needed],
        details={
            "GFLOP in all layers": round(watch.flops / 1e9, 3),
            "GFLOP that no loss reads": {k: round(n / 1e9, 3) for k, n in found.items()},
        },
    )


class Job:
    """A method, its optimiser, and one batch that every step takes."""

    def __init__(
        self, params: Params, entry: str, batch: int, device: str, *, even: bool = False
    ) -> None:
        optim = params.pretraining(entry)[1].optim
        if optim is None:
            raise ValueError(f"{entry}: is not trained")
        stored = stored_text(params)
        self.device = device
        self.method: Method = weights.build_method(params, entry, stored).to(device).train()
        self.optimiser = build_optimiser(self.method, optim)
        self.batch = make_batch(self.method, stored, batch, device, even=even)

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


def make_batch(
    method: Method, stored: Stored, size: int, device: str, *, even: bool = False
) -> Batch:
    """Noise images and random reports of usual lengths, as the loader hands them over.

    Args:
        method: what it needs is made.
        stored: as reports are stored.
        size: B.
        device: of the batch.
        even: whether all reports are as long as the longest.
    """
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(MEDIAN), SPREAD, size)).round().astype(np.int64)
    if even:
        lengths[:] = lengths.max()
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
        """GFLOP a second, over some products."""
        seconds = sum(timed(self.multiply, self.device) for _ in range(TIMES))
        return TIMES * 2 * self.side**3 / seconds / 1e9


def timed(work: Any, device: str) -> float:
    """CPU seconds of this process; seconds by the clock of a card, which is waited for."""
    if device == "cpu":
        return runner.cpu_seconds(work)
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def count(job: Job) -> int:
    """FLOPs of forward and backward, attention counted as plain products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        total = job.loss()
    if not bool(total.isfinite()):
        raise ValueError(f"{type(job.method).__name__}: loss {float(total)}")
    job.optimiser.zero_grad()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
