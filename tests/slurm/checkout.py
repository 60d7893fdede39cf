"""A copy of the repository with a grid of a dozen jobs, in which its own commands are run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
SHIPPED = ("Snakefile", "environment.yml", "slurm", "src", "workflow")


def shrink(tree: dict[str, Any]) -> None:
    """The demo on two datasets and two trained methods."""
    demo = tree["scales"]["demo"]
    demo["seeds"] = {"downstream": [0]}
    demo["phantom"]["patients"] = {"mimic": 60, "covidx": 60}
    demo["shards"]["text"]["vocab"] = 300
    for block in demo["pretrain"]["methods"].values():
        block["epochs"] = 1
    demo["pretrain"]["methods"]["imagenet"]["options"]["stand_in"]["images"] = 128
    demo["downstream"]["probe"]["epochs"] = 2
    demo["downstream"]["bootstrap"] = 20
    entries = tree["manifest"]["entries"]
    for name in [name for name, entry in entries.items() if entry.get("audit")]:
        del entries[name]
    probe = {"dataset": "covidx", "task": "probe", "percents": [100]}
    demo["grid"] = {
        "medim_table1": {"paper": "medim", "rows": ["imagenet", "mgca"], "cells": [probe]}
    }


def checkout(folder: Path, edit: Callable[[dict[str, Any]], Any] = lambda tree: None) -> Path:
    """Lay out a folder like the repository's root, with a small params.yaml.

    Args:
        folder: to be made.
        edit: changes the small parameters.
    """
    folder.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", ".snakemake")
    for name in SHIPPED:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=left_out)
        else:
            shutil.copy(source, folder / name)
    tree = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    shrink(tree)
    edit(tree)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return folder


SLOW = '''
"""A method for the tests of faults: the stand-in for ImageNet, with pauses where a file says so."""

import time
from pathlib import Path

from cxrmim.pretrain.contract import Batch
from cxrmim.pretrain.methods.imagenet import ImageNet
from cxrmim.pretrain.methods.imagenet import Options as StandIn

PAUSE = Path("faults/pause")  # seconds a step


class Options(StandIn):
    """Those of the stand-in."""


class Slow(ImageNet):
    """The same numbers, later."""

    def losses(self, batch: Batch):
        """Wait, then the stand-in's."""
        if PAUSE.exists():
            time.sleep(float(PAUSE.read_text()))
        return super().losses(batch)


METHOD = Slow
'''
FAULTS = '''
"""Read by every Python of a checkout as it starts: what faults/<unit> says happens to the unit."""

import os
import sys
import time
from pathlib import Path

words, folder = sys.orig_argv, Path("faults")
module = next((word for word in words if word.startswith("cxrmim.")), "")
if folder.is_dir() and module and len(words) > words.index(module) + 2:
    unit = words[words.index(module) + 2]
    what, starts = folder / unit, folder / f"{unit}.starts"
    with starts.open("a") as handle:
        handle.write("x")
    first, told = starts.stat().st_size == 1, what.read_text() if what.exists() else ""
    while told == "hold" and what.exists() or told == "hang" and first:
        time.sleep(0.2)
    if told == "fail" and first:
        os._exit(1)
'''
TARGET = "results/demo/records/pretrain/slow-s0.json"


def faulty(folder: Path, **faults: str) -> Path:
    """A checkout in which things happen to jobs.

    Args:
        folder: to be made.
        **faults: by unit: ``fail`` ends its first start with status 1, ``hang`` keeps that one from
            doing anything until it is killed, ``hold`` every one until the file is removed.
    """
    out = checkout(folder)
    (out / "src/sitecustomize.py").write_text(FAULTS, encoding="utf-8")
    (out / "faults").mkdir()
    for unit, what in faults.items():
        (out / "faults" / unit).write_text(what, encoding="utf-8")
    return out


def starts(folder: Path, unit: str) -> int:
    """How often a unit's job has been started in a faulty checkout."""
    return (folder / f"faults/{unit}.starts").stat().st_size


def slow(
    folder: Path, steps: int, pause: float, *, init: str = "none", gpus: bool = False, **shared: Any
) -> Path:
    """A checkout whose pretraining `slow-s0` reads no data.

    Args:
        folder: to be made.
        steps: of the training.
        pause: of each step, in seconds; it changes no byte of the results.
        init: the weights that it starts from.
        gpus: whether it asks for a GPU a process.
        **shared: settings of `pretrain` at scale demo.
    """

    def edit(tree: dict[str, Any]) -> None:
        demo = tree["scales"]["demo"]
        method = tree["pretrain"]["methods"]["imagenet"] | demo["pretrain"]["methods"]["imagenet"]
        tree["pretrain"]["methods"]["slow"] = {
            **{key: value for key, value in method.items() if key != "papers"},
            "init": init,
            "batch": 8,
            "epochs": steps // 2,
            "options": {"stand_in": method["options"]["stand_in"] | {"images": 16}},
        }
        demo["grid"]["medim_table1"]["rows"] = ["slow"]
        demo["pretrain"] |= {"device": "cpu", "save": {"minutes": 60, "keep": 2}} | shared
        if gpus:
            with_gpus(tree)

    out = checkout(folder, edit)
    (out / "src/cxrmim/pretrain/methods/slow.py").write_text(SLOW, encoding="utf-8")
    (out / "faults").mkdir()
    (out / "faults/pause").write_text(str(pause), encoding="utf-8")
    return out


def profile(folder: Path) -> dict[str, Any]:
    """The committed profile, as a checkout has it."""
    tree: dict[str, Any] = yaml.safe_load((folder / "slurm/config.yaml").read_text("utf-8"))
    return tree


def with_gpus(tree: dict[str, Any]) -> None:
    """Ask for a GPU a process, and compute on the CPU."""
    tree["scales"]["demo"]["gpus"] = {"pretrain": 1, "downstream": 1}
    tree["scales"]["demo"]["pretrain"]["device"] = "cpu"
