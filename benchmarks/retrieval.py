"""Ranking 42,000 images against 42,000 reports, both ways, on one thread.

    python benchmarks/retrieval.py

Embeddings of 128 numbers are invented: a report's is its image's plus noise, so that own pairs
stand in all places. One report in twenty is shared with another pair, and ties with it exactly. The
time and the memory of `retrieval.standing` are set beside a bare float32 product of the same size
and against the targets of 20 CPU seconds and 1 GB.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from machine import describe

from cxrmim import params as params_module
from cxrmim.downstream import metrics, retrieval

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks" / "results" / "retrieval.json"
PAIRS, WIDTH, NOISE, SHARED, PASSES = 42_000, 128, 3.0, 0.05, 3
TARGET = {"CPU seconds": 20, "peak memory in MB": 1000}


def main() -> int:
    """Rank, print and write the figures; status 1 if a target is missed."""
    machine = describe("numpy")
    block = params_module.load(REPO / "params.yaml", "paper").downstream.retrieve["block"]
    image, text, which = embeddings()
    start = peak()
    seconds, found = [], {}
    for _ in range(PASSES):
        started = time.process_time()
        found = retrieval.standing(image, text, which, "strict", block)
        seconds.append(time.process_time() - started)
    memory = peak()
    hits = metrics.recall_at(10, *(found[f"i2t_{c}"] for c in retrieval.COUNTS))
    product = bare(image, text[which], block)
    best = min(seconds)
    result = {
        "what": "recall of 42,000 pairs of 128 numbers, image to text and text to image",
        "pairs": {"images": len(image), "reports": len(text), "width": WIDTH, "block": block},
        "CPU seconds": round(best, 1),
        "CPU seconds of each pass": [round(s, 1) for s in seconds],
        "CPU seconds of the bare float32 product": round(product, 1),
        "peak memory in MB": memory,
        "of which before ranking": start,
        "queries with a tie": int((found["i2t_tied"] > 0).sum()),
        "i2t_r10": round(float(hits.mean()), 4),
        "target": TARGET,
        "machine": machine,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(OUT.read_text(encoding="utf-8"))
    return 0 if best <= TARGET["CPU seconds"] and memory <= TARGET["peak memory in MB"] else 1


def embeddings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, d), distinct reports (R, d), both L2-normalised, and (N,) each pair's report."""
    rng = np.random.default_rng(0)
    reports = round(PAIRS * (1 - SHARED))
    which = np.concatenate([np.arange(reports), rng.integers(0, reports, PAIRS - reports)])
    text = rng.standard_normal((reports, WIDTH), np.float32)
    image = text[which] + NOISE * rng.standard_normal((PAIRS, WIDTH), np.float32)
    for side in (image, text):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    return image, text, which


def bare(image: np.ndarray, texts: np.ndarray, block: int) -> float:
    """CPU seconds of the product alone, block by block."""
    started = time.process_time()
    for first in range(0, len(image), block):
        for start in range(0, len(texts), block):
            image[first : first + block] @ texts[start : start + block].T
    return time.process_time() - started


def peak() -> int:
    """Highest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    raise SystemExit(main())
