"""Linear probing of a dataset: 3 fractions of the labels x 3 seeds x 50 epochs.

Encoder passes, that is images that a frozen encoder sees. The released protocol encodes the
training images of a run in each of its epochs, the validation images after each, and the test
images once:

    recomputed = seeds (epochs (sum of fractions x train + fractions x valid) + fractions x test)

Ours are counted: nine runs of the real probe task on a small dataset, at the grid's and paper
scale's settings (centre crop, `views: 1`), with a hook on the encoder that counts the images that
come in. They see each image of the dataset so many times (once), and so many times CheXpert's.
Under `views: epoch`, which the released protocol's new augmentation in each epoch asks for, the
training images must be encoded in each epoch by definition; its seeds still share them.

Heads: nine heads on 200,000 features of 768 numbers in memory, five labels, with the task's own
`linear.fit` at paper scale's batch, rate and epochs, and no early stop: all 50 epochs are trained.
A toy has 2,000 features and 2 epochs.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import runner
from benchmarks.rows import Row, measured
from cxrmim import params as params_module
from cxrmim.downstream import linear
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.tasks import probe
from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.pretrain import weights

PERCENTS, SEEDS = (1, 10, 100), (0, 1, 2)
CHEXPERT = {"train": 186_027, "valid": 5_000, "test": 202}  # frontal; held out of 191,027: 5,000
SMALL = {"train": 300, "valid": 20, "test": 20}
FEATURES, VALID, WIDTH, CLASSES = 200_000, 5_000, 768, 5
TOY = 2_000, 2  # features, epochs
TARGET_PASSES, TARGET_SECONDS = 150, 120
DATASET, CHECKPOINT = "chexpert", "random-s0"


def measure(toy: bool = False) -> list[Row]:
    """Passes through the encoder, and CPU seconds of the heads."""
    torch.set_num_threads(1)
    params = params_module.load(runner.REPO / "params.yaml", "paper")
    options = probe.Options.model_validate(params.downstream.probe)
    times = encoded(params_module.load(runner.REPO / "params.yaml", "demo")) / sum(SMALL.values())
    ours, theirs = times * sum(CHEXPERT.values()), recomputed(CHEXPERT, options.epochs)
    count, epochs = TOY if toy else (FEATURES, options.epochs)
    heads = seconds(options.model_copy(update={"epochs": epochs, "patience": epochs}), count)
    nine = f"{len(PERCENTS)} fractions x {len(SEEDS)} seeds"
    details = {
        "features": count,
        "width": WIDTH,
        "classes": CLASSES,
        "batch": options.batch,
        "s of each head": {f"{p} %": [round(s, 2) for s in each] for p, each in heads.items()},
    }
    return [
        measured(
            f"probing CheXpert, {nine} x {options.epochs} epochs: encoder passes saved",
            "x",
            [theirs / ours],
            target=TARGET_PASSES,
            bound=">=",
            details={
                "recomputed": theirs,
                "ours": ours,
                "times that an image is encoded": times,
                "sizes": CHEXPERT,
            },
        ),
        measured(
            f"probing {count:,} features, {nine} x {epochs} epochs: heads, CPU",
            "s",
            [sum(sum(each) for each in heads.values())],
            target=TARGET_SECONDS,
            details=details,
        ),
        measured(
            "of these, the heads of one seed",
            "s",
            [sum(each) for each in zip(*heads.values(), strict=True)],
        ),
    ]


def recomputed(sizes: dict[str, int], epochs: int) -> int:
    """Images that the released protocol encodes."""
    drawn = sum(percent * sizes["train"] // 100 for percent in PERCENTS)
    watched = len(PERCENTS) * sizes["valid"]
    return len(SEEDS) * (epochs * (drawn + watched) + len(PERCENTS) * sizes["test"])


def encoded(params: Params) -> int:
    """Images that our encoder sees for nine runs of `probe` on a small dataset.

    Args:
        params: of a small encoder; the options of probing are those of scale paper.
    """
    paper = params_module.load(runner.REPO / "params.yaml", "paper")
    block = params.downstream.model_copy(update={"probe": paper.downstream.probe})
    params = params.model_copy(update={"downstream": block})
    torch.manual_seed(0)
    method = weights.build_method(params, CHECKPOINT.removesuffix("-s0")).eval()
    seen: list[int] = []
    method.encoder.patch_embed.register_forward_hook(lambda _, given, out: seen.append(len(out)))
    bench = Bench(params)
    bench._methods[CHECKPOINT] = method
    bench._shards[DATASET] = Invented(params.shards.side_downstream)  # type: ignore[assignment]
    for percent in PERCENTS:
        for seed in SEEDS:
            probe.run(Run(CHECKPOINT, DATASET, "probe", percent, seed), bench)
    return sum(seen)


class Invented:
    """Noise with the interface of `cxrmim.shards.store.Shards` that probing reads."""

    def __init__(self, side: int) -> None:
        rng, count = np.random.default_rng(0), sum(SMALL.values())
        self.images = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
        self.truth = rng.integers(0, 2, (count, CLASSES)).astype(np.float32)
        self.table = self
        self.split = np.repeat(list(SMALL), list(SMALL.values()))

    def read(self, columns: list[str]) -> pd.DataFrame:
        """(N, .) columns of its table."""
        return pd.DataFrame(dict.fromkeys(columns, range(len(self.images))))

    def labels(self, names: Any) -> np.ndarray:
        """(N, K) labels."""
        return self.truth

    def rows(self, split: str, percent: int = 100, seed: int | None = None) -> np.ndarray:
        """The first so many percent of a split's rows."""
        found = np.flatnonzero(self.split == split)
        return found[: len(found) * percent // 100]


def seconds(options: probe.Options, count: int) -> dict[int, list[float]]:
    """CPU seconds of each head, by percent of the labels."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(count, WIDTH, generator=random)
    labels = (torch.rand(count, CLASSES, generator=random) < 0.3).float()
    valid = features[:VALID].clone(), labels[:VALID].clone()
    found: dict[int, list[float]] = {percent: [] for percent in PERCENTS}

    def fit(percent: int, seed: int) -> None:
        rows = torch.arange(percent * count // 100)
        centre, target = features[rows], labels[rows]
        generator = torch.Generator().manual_seed(seed)
        linear.fit((lambda epoch: centre, target), valid, options, False, generator)

    for percent in PERCENTS:
        for seed in SEEDS:
            found[percent].append(runner.cpu_seconds(lambda p=percent, s=seed: fit(p, s)))
    return found


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
