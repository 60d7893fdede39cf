"""A scale whose downstream records are fabricated: no data, no weights, no torch."""

import base64
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cxrmim import grid
from cxrmim.params import Params
from cxrmim.paths import Paths

UNREADABLE = {"covidx": "dataset covidx has no reader yet"}
UNTRAINABLE = {"gloria", "mrm", "cmitm"}
SIZES = {"train": 60, "valid": 5, "test": 15}
CUTS = (1, 5, 10)
SIDES = [f"{side}_r{k}" for side in ("t2i", "i2t") for k in CUTS]
MAIN = "i2t_r10"
HOSTILE = "<script>alert(1)</script>"
WORDS = ["heart", "size", "normal", "no", "effusion", HOSTILE, "left", "$lung_base$", "clear"]


def pending(params: Params, run: grid.Run) -> str | None:
    """A fixed idea of what has code, whatever the tree holds while the tests run.

    One dataset and some methods always wait, so that every table has measured and pending cells.
    """
    if run.dataset in UNREADABLE:
        return UNREADABLE[run.dataset]
    if run.baseline is not None:
        return None
    method = params.pretraining(grid.entry_of(run.checkpoint).entry)[0]
    return f"method {method} has no code yet" if method in UNTRAINABLE else None


def replicates(run: grid.Run, value: object, count: int, key: str = "value") -> list[float]:
    """Bootstrap values round a value: what the draws do to every run, and to this one."""
    middle = value if type(value) is float and 0 <= value <= 1 else 0.5
    common = noise(f"{run.dataset}/{run.task}", count)
    own = noise(f"{run.id}/{key}", count)
    return [float(v) for v in np.clip(middle + 0.02 * common + 0.005 * own, 0, 1).round(5)]


def noise(name: str, count: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return np.random.default_rng(seed).normal(size=count)


def attend_details() -> dict[str, Any]:
    """Three pairs as `downstream.tasks.attend` keeps them (a test there holds the keys)."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        pixels = rng.integers(0, 256, (96, 96), dtype=np.uint8)
        pair: dict[str, Any] = {
            "words": WORDS,
            "mesh": [word in ("heart", "effusion") for word in WORDS],
            "chosen": [place < 3 for place in range(len(WORDS))],
            "pixels": base64.b64encode(pixels.tobytes()).decode(),
        }
        for key in ("kwm", "sdm"):
            attention = rng.random(36).round(5)
            pair[f"attention_{key}"] = attention.tolist()
            pair[f"mask_{key}"] = (attention > np.median(attention)).tolist()
        pairs.append(pair)
    return {"grid": 6, "side": 96, "pairs": pairs}


class World:
    """Parameters in a folder of their own and the records that a test puts there."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.paths = Paths(params.scale)

    def path(self, run: grid.Run) -> Path:
        return self.paths.record("downstream", run.id)

    def write(self, run: grid.Run, metrics: dict[str, Any], **over: Any) -> None:
        """A record; what `metrics` leaves out of a usable one is made up."""
        count = self.params.downstream.bootstrap
        usual: dict[str, Any] = {"metric": "made up", "n": 100}
        if run.task == "retrieve":
            usual = {
                "metric": MAIN,
                "n": 100,
                "replicates_of": {
                    side: replicates(run, metrics.get(side), count, side)
                    for side in SIDES
                    if side != MAIN
                },
            }
        value = metrics.get(MAIN) if run.task == "retrieve" else metrics.get("value")
        drawn = [] if run.task == "attend" else replicates(run, value, count)
        tree = {
            "schema": 1,
            "kind": "downstream",
            "id": run.id,
            "scale": self.params.scale,
            "source": self.params.manifest.source,
            "metrics": usual | {"replicates": drawn} | metrics,
            "parents": {f"shards/{run.dataset}": hashlib.sha256(run.dataset.encode()).hexdigest()},
            "details": attend_details() if run.task == "attend" else {},
        } | over
        self.path(run).parent.mkdir(parents=True, exist_ok=True)
        self.path(run).write_text(json.dumps(tree))

    def write_data(self, kind: str, name: str, metrics: dict[str, Any], **details: Any) -> None:
        tree = {
            "schema": 1,
            "kind": kind,
            "id": name,
            "scale": self.params.scale,
            "source": self.params.manifest.source,
            "metrics": metrics,
            "details": details,
        }
        path = self.paths.record(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree))

    def fill_data(self) -> None:
        """Manifest and shards records of every dataset entry: clean if used, leaky if replayed."""
        for name in [*grid.datasets(self.params), *grid.audited(self.params)]:
            leak = 7 * (name in grid.audited(self.params))
            pairs = {"train-valid": leak, "train-test": 2 * leak, "valid-test": 0}
            metrics = {
                "flow": {"rows": 100, "view is lateral": 20, "kept": 80},
                "audit": dict.fromkeys(("images", "studies", "patients"), pairs),
                "splits": {s: {"images": n} for s, n in SIZES.items()},
            }
            facts = {
                "unit": None if leak else "patient",
                "flow": ["rows", "view is lateral", "kept"],
                "named": ["images", "patients"],
            }
            self.write_data("manifest", name, metrics, **facts)
            found = {"audit": {"pixels": pairs | {"train": 3}, "similar": pairs}}
            found |= {"rows": 90, "not_stored": 40} if leak else {"kept": 80}
            self.write_data("shards", name, found)

    def write_cost(self, checkpoint: str, seconds: object, images: object) -> None:
        """Record and circumstances of a pretraining."""
        curve, losses = [3.0 - 0.05 * k for k in range(40)], {"total": 1.0, "pixels": 1.0}
        told = {"images": images, "steps": 40, "curve": curve, "losses": losses}
        self.write_data("pretrain", checkpoint, told)
        path = self.paths.circumstances("pretrain", checkpoint)
        path.write_text(json.dumps({"schema": 1, "cost": {"cpu_seconds": seconds}}))

    def fill(self) -> None:
        """A record for every run that can be made; values grow with percent and seed."""
        self.fill_data()
        for entry in grid.entries(self.params):
            for seed in self.params.seeds.pretrain:
                self.write_cost(f"{entry}-s{seed}", 100 + seed, 5000)
        for number, run in enumerate(grid.runs(self.params)):
            base = 0.4 + 0.1 * (number % 5) + 0.001 * run.percent + 0.01 * run.seed
            metrics = {"value": base}
            if run.task == "retrieve":
                scale = 0.01 if run.baseline else 0.05
                metrics |= {side: scale * int(side.partition("_r")[2]) for side in SIDES}
            if run.task == "probe" and run.baseline is None:
                self.write(run, metrics, details={"train_value": 0.9, "rank": 7.25})
            else:
                self.write(run, metrics)

    def cell_runs(self, table: str, entry: str, dataset: str, percent: int) -> list[grid.Run]:
        block = self.params.grid[table]
        cells = next(c for c in block.cells if c.dataset == dataset)
        return grid.runs_of_cell(self.params, entry, cells, percent)


def added_p(difference: float, images: float, share: float, freedom: int) -> float:
    """Two-sided p of a normal error plus Student's t, by adding up the density of the latter."""
    from scipy.integrate import quad
    from scipy.stats import norm, t

    near, far, size = images**0.5, share**0.5, abs(difference)

    def beyond(x: float) -> float:
        return float(t.pdf(x, freedom) * norm.sf((size - far * x) / near))

    edges = [(size + sigmas * near) / far for sigmas in range(-40, 41)]
    cuts = sorted({*edges, *(float(x) for x in range(-9, 10) if edges[0] < x < edges[-1])})
    inner = sum(quad(beyond, a, b)[0] for a, b in pairwise(cuts))
    return 2 * (inner + float(t.sf(edges[-1], freedom)))
