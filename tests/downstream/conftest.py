"""A small workspace: invented shards, untrained checkpoints, a grid of a few runs."""

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from cxrmim import grid, params, record
from cxrmim.downstream import runs
from cxrmim.downstream.contract import Bench
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Stored
from cxrmim.shards.store import seal

ROOT = Path(__file__).parents[2]
SIDE = 56
CLASSES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
SECRET = "secret"  # every id of the invented data holds it
GRID = {
    "probes": {
        "rows": ["random", "mae"],
        "cells": [{"dataset": "chexpert", "task": "probe", "percents": [10, 100]}],
    },
    "masks": {
        "rows": ["random", "medim"],
        "cells": [{"dataset": "siim", "task": "segment", "percents": [100]}],
    },
    "pairs": {
        "rows": ["mgca", "medim"],
        "cells": [{"dataset": "mimic", "task": "retrieve", "percents": [100], "seeded": False}],
    },
    "maps": {
        "rows": ["medim"],
        "cells": [{"dataset": "mimic", "task": "attend", "percents": [100], "seeded": False}],
    },
}
STORED = Stored(vocab=40, length=24)
METHODS = yaml.safe_load((ROOT / "params.yaml").read_text())["pretrain"]["methods"]
EXTRA = {"medim": {"options": {"decoder": [16, 16, 8, 8]}}}
SMALL = {
    "seeds": {"pretrain": [0], "downstream": [0, 1]},
    "shards": {"side_downstream": SIDE},
    "pretrain": {
        "image": 48,
        "vit": {"width": 32, "depth": 2, "heads": 2},
        "text": {"layers": 1, "width": 32, "heads": 2, "mlp": 64},
        "methods": {
            name: {"augment": {"resize": SIDE}} | EXTRA.get(name, {})
            for name, block in METHODS.items()
            if "augment" in block
        },
    },
    "downstream": {
        "bootstrap": 50,
        "probe": {"epochs": 6, "patience": 2},
        "segment": {"epochs": 2, "batch": 16, "decoder": [16, 16, 8, 8]},
        "finetune": {
            "batch": 16,
            "validate_every": 3,
            "schedule": {"chexpert": {"10": [1, 7, 1.0e-2], "100": [2, 12, 1.0e-2]}},
        },
    },
    "grid": GRID,
}


@dataclass(frozen=True)
class Workspace:
    """A folder that holds what a downstream job reads."""

    params: Params

    @property
    def paths(self) -> Paths:
        return Paths(self.params.scale)

    def run(self, name: str) -> grid.Run:
        return next(r for r in grid.runs(self.params) if r.id == name)

    def job(self, *names: str) -> grid.Job:
        return grid.Job("test", tuple(self.run(n) for n in names))

    def do(self, *names: str) -> list[dict]:
        runs.do(self.job(*names), self.params)
        return [record.read(self.paths.record("downstream", n)) for n in names]

    def wipe(self, *names: str) -> None:
        for name in names:
            self.paths.record("downstream", name).unlink(missing_ok=True)
            self.paths.prediction(name).unlink(missing_ok=True)

    def changed(self, **downstream: dict) -> "Workspace":
        """The same folder under other downstream options."""
        tree = copy.deepcopy(self.params.downstream.model_dump())
        for task, options in downstream.items():
            tree[task] = {**tree[task], **options} if isinstance(options, dict) else options
        block = type(self.params.downstream).model_validate(tree)
        return Workspace(self.params.model_copy(update={"downstream": block}))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("downstream")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["scales"]["demo"] = params.merge(tree["scales"]["demo"], SMALL)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = params.load("params.yaml", "demo")
        store(settings, "chexpert", 160)
        store(settings, "siim", 72)
        store(settings, "mimic", 60)
        for item in grid.pretrainings(settings):
            torch.manual_seed(item.seed + len(item.entry))
            method = weights.build_method(settings, item.entry, STORED)
            path = weights.save_method(settings, item.checkpoint, method)
            record.write(
                settings,
                "pretrain",
                item.checkpoint,
                outputs={"weights": path},
                parents=grid.parents(settings, "pretrain", item.checkpoint),
                seed=item.seed,
            )
    return folder, settings


@pytest.fixture
def workspace(built: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    folder, settings = built
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / Paths(settings.scale).results / "features", ignore_errors=True)
    return Workspace(settings)


@pytest.fixture
def bench(workspace: Workspace) -> Bench:
    return Bench(workspace.params)


def store(settings: Params, dataset: str, count: int) -> None:
    """Write invented shards: bright corners tell the classes, a bright box is the pneumothorax."""
    rng = np.random.default_rng(len(dataset))
    folder = Paths("demo").shards(dataset)
    folder.mkdir(parents=True)
    images = rng.integers(0, 90, (count, SIDE, SIDE)).astype(np.uint8)
    split = np.array(["train"] * (count // 2) + ["valid"] * (count // 4))
    split = np.concatenate([split, ["test"] * (count - len(split))])
    table = pd.DataFrame(
        {
            "image": [f"{SECRET}-image-{i}" for i in range(count)],
            "patient": [f"{SECRET}-patient-{i // 2}" for i in range(count)],
            "split": split,
            "in_1": split == "train",
            "in_10": (split == "train") & (np.arange(count) % 3 == 0),
            "source_row": np.arange(count),
            "height": SIDE,
            "width": SIDE,
        }
    )
    if dataset == "chexpert":
        for k, name in enumerate(CLASSES):
            label = rng.random(count) < 0.4
            images[label, 10 * k : 10 * k + 10, 10 * k : 10 * k + 10] += 80
            table[f"label_{name}"] = label.astype(np.float32)
    if dataset == "siim":
        masks = np.zeros_like(images)
        masks[::3, 20:36, 16:40] = 255
        images[masks > 0] += 120
        np.save(folder / "masks.npy", np.packbits(masks > 0, axis=-1))
        table["label_Pneumothorax"] = masks.any(axis=(1, 2)).astype(np.float32)
    if dataset == "mimic":
        reports(folder, count, rng)
    np.save(folder / "images.npy", images)
    table.to_parquet(folder / "table.parquet")
    seal(folder)
    outputs = {p.stem: p for p in sorted(folder.iterdir())}
    record.write(settings, "shards", dataset, outputs=outputs)


def reports(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Invented reports of four sentences of three words; every fifth pair repeats a report."""
    rows, length = count * 4 // 5, 24
    words = ["[PAD]", "[CLS]", "[SEP]", "no", *(f"word{i}" for i in range(36))]
    ids, word = np.zeros((rows, length), np.int32), np.full((rows, length), -1, np.int16)
    sentence, mesh = np.full((rows, length), -1, np.int16), np.zeros((rows, length), bool)
    ids[:, 0], ids[:, 13] = 1, 2
    ids[:, 1:13] = rng.integers(3, 40, (rows, 12))
    word[:, 1:13] = np.arange(12)
    sentence[:, :12] = np.arange(12) // 3
    mesh[:, :12] = ids[:, 1:13] % 4 == 0
    for name, array in (("ids", ids), ("word", word), ("sentence", sentence), ("mesh", mesh)):
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "report.npy", np.arange(count, dtype=np.int64) * rows // count)
    vocab = {w: i for i, w in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps({"model": {"vocab": vocab}}))
