"""A scale whose downstream records are fabricated: no data, no weights, no torch."""

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cxrmim import grid
from cxrmim import params as params_module
from cxrmim.params import Params
from cxrmim.paths import Paths

ROOT = Path(__file__).parents[2]
UNREADABLE = {"covidx": "dataset covidx has no reader yet"}
UNTRAINABLE = {"gloria", "mrm", "cmitm"}
WORDS = "heart size normal no effusion <script>alert(1)</script> left $lung_base$ clear".split()


def pending(params: Params, run: grid.Run) -> str | None:
    """A fixed idea of what has code, whatever the tree holds while the tests run."""
    if run.task == "finetune":
        return "task finetune has no code yet"
    if run.dataset in UNREADABLE:
        return UNREADABLE[run.dataset]
    if run.baseline is not None:
        return None
    method = params.pretraining(grid.entry_of(run.checkpoint).entry)[0]
    return f"method {method} has no code yet" if method in UNTRAINABLE else None


def attend_details() -> dict[str, Any]:
    """Three pairs as the task `attend` keeps them."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        image = rng.integers(0, 256, (96, 96), dtype=np.uint8)
        flags = {
            "kwm": [w in ("heart", "effusion") for w in WORDS],
            "sdm": [i < 3 for i, _ in enumerate(WORDS)],
        }
        guides = {
            key: {
                "attention": (attention := rng.random((6, 6)).round(4)).tolist(),
                "mask": (attention > np.median(attention)).tolist(),
                "words": flags[key],
            }
            for key in ("kwm", "sdm")
        }
        encoded = base64.b64encode(image.tobytes()).decode()
        pairs.append({"image": encoded, "size": 96, "words": WORDS, **guides})
    return {"pairs": pairs}


class World:
    """Parameters in a folder of their own and the records that a test puts there."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.paths = Paths(params.scale)

    def path(self, run: grid.Run) -> Path:
        return self.paths.record("downstream", run.id)

    def write(self, run: grid.Run, metrics: dict[str, Any], **over: Any) -> None:
        tree = {
            "schema": 1,
            "kind": "downstream",
            "id": run.id,
            "scale": self.params.scale,
            "source": self.params.manifest.source,
            "metrics": metrics,
            "details": attend_details() if run.task == "attend" else {},
        } | over
        self.path(run).parent.mkdir(parents=True, exist_ok=True)
        self.path(run).write_text(json.dumps(tree))

    def fill(self) -> None:
        """A record for every run that can be made; values grow with percent and seed."""
        for number, run in enumerate(grid.runs(self.params)):
            base = 0.4 + 0.1 * (number % 5) + 0.001 * run.percent + 0.01 * run.seed
            metrics = {"value": base, "metric": "made up", "n": 100}
            if run.task == "retrieve":
                scale = 0.01 if run.baseline else 0.05
                sides = {f"{s}_r{k}": scale * k for s in ("t2i", "i2t") for k in (1, 5, 10)}
                metrics |= sides
            self.write(run, metrics)

    def cell_runs(self, table: str, entry: str, dataset: str, percent: int) -> list[grid.Run]:
        block = self.params.grid[table]
        cells = next(c for c in block.cells if c.dataset == dataset)
        return grid.runs_of_cell(self.params, entry, cells, percent)


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a world: a scale of the project's params.yaml, changed by `over`, with records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "pending", pending)
    original = yaml.safe_load((ROOT / "params.yaml").read_text())

    def maker(scale: str = "demo", over: dict[str, Any] | None = None, fill: bool = True) -> World:
        tree = params_module.merge(copy.deepcopy(original), over or {})
        Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        world = World(params_module.load("params.yaml", scale))
        if fill:
            world.fill()
        return world

    return maker
