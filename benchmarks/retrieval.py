"""Ranking 42,000 images against 42,000 reports, both ways, on one thread.

Embeddings of 128 numbers are invented: a report's is its image's plus noise, so that own pairs
stand in all places. One report in twenty is shared with another pair, and ties with it exactly. The
CPU seconds of `retrieval.standing` are set beside those of a bare float32 product of the same size.
Peak memory is that of the whole process, libraries and embeddings too. A toy ranks 500 pairs.
"""

import resource

import numpy as np

from benchmarks import runner
from benchmarks.rows import Row, measured
from cxrmim import params as params_module
from cxrmim.downstream import metrics, retrieval

PAIRS, WIDTH, NOISE, SHARED, PASSES, TOY = 42_000, 128, 3.0, 0.05, 5, 500
TARGET_SECONDS, TARGET_MB = 20, 1000


def measure(toy: bool = False) -> list[Row]:
    """Rank, and multiply alone, in turn."""
    pairs = TOY if toy else PAIRS
    block = params_module.load(runner.REPO / "params.yaml", "paper").downstream.retrieve["block"]
    image, text, which = embeddings(pairs)
    start = peak()
    seconds, products, found = [], [], {}

    def rank() -> None:
        found.update(retrieval.standing(image, text, which, "strict", block))

    for _ in range(1 if toy else PASSES):
        seconds.append(runner.cpu_seconds(rank))
        products.append(runner.cpu_seconds(lambda: bare(image, text[which], block)))
    memory = peak()
    hits = metrics.recall_at(10, *(found[f"i2t_{c}"] for c in retrieval.COUNTS))
    details = {
        "images": len(image),
        "reports": len(text),
        "block": block,
        "queries with a tie": int((found["i2t_tied"] > 0).sum()),
        "image to text, recall at 10": round(float(hits.mean()), 4),
    }
    what = f"retrieval, {pairs:,} pairs of {WIDTH} numbers, both ways"
    return [
        measured(f"{what}: CPU", "s", seconds, target=TARGET_SECONDS, details=details),
        measured("bare float32 product of that size, once: CPU", "s", products),
        measured(
            f"{what}: peak memory",
            "MB",
            [memory],
            target=TARGET_MB,
            details={"before ranking": start},
        ),
    ]


def embeddings(pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, d), distinct reports (R, d), both L2-normalised, and (N,) each pair's report."""
    rng = np.random.default_rng(0)
    reports = round(pairs * (1 - SHARED))
    which = np.concatenate([np.arange(reports), rng.integers(0, reports, pairs - reports)])
    text = rng.standard_normal((reports, WIDTH), np.float32)
    image = text[which] + NOISE * rng.standard_normal((pairs, WIDTH), np.float32)
    for side in (image, text):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    return image, text, which


def bare(image: np.ndarray, texts: np.ndarray, block: int) -> None:
    """The product alone, block by block."""
    for first in range(0, len(image), block):
        for start in range(0, len(texts), block):
            image[first : first + block] @ texts[start : start + block].T


def peak() -> int:
    """Highest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
