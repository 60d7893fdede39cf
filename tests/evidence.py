"""A small grid whose records, circumstances and artifacts are made up but agree with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxrmim import grid, params, record
from cxrmim.params import Params
from cxrmim.paths import Paths


class Evidence:
    """The records of two methods on one dataset, in a folder of their own."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, tree: dict[str, Any], **over: Any
    ) -> None:
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        cells = [{"dataset": "chexpert", "task": "probe", "percents": [10, 100]}]
        rows = {"paper": "medim", "rows": ["mae", "medim"], "cells": cells}
        tree["scales"]["demo"] = params.merge(
            tree["scales"]["demo"] | {"grid": {"medim_table1": rows}}, over
        )
        tree["manifest"]["entries"] = {
            name: e for name, e in tree["manifest"]["entries"].items() if not e.get("audit")
        }
        Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        self.params: Params = params.load(scale="demo")
        self.paths = Paths("demo")
        for kind, unit in grid.units(self.params):
            self.make(kind, unit)

    def make(self, kind: str, unit: str) -> None:
        """Write a unit's artifact, record and circumstances."""
        parents = grid.parents(self.params, kind, unit)
        outputs = self.outputs(kind, unit)
        seeds = {"phantom": self.params.phantom.seed, "pretrain": 0}
        record.write(
            self.params,
            kind,
            unit,
            outputs=outputs,
            parents=parents,
            metrics={"value": 0.5, "metric": "made up"} if kind == "downstream" else {},
            seed=grid.Run.parse(unit).seed if kind == "downstream" else seeds.get(kind),
        )

    def outputs(self, kind: str, unit: str) -> dict[str, Path]:
        """Make the files that a unit leaves behind."""
        places = {
            "phantom": ("folder", self.paths.phantom(unit) / "x.csv"),
            "manifest": ("manifest", self.paths.manifest(unit)),
            "shards": ("table", self.paths.shards(unit) / "table.parquet"),
            "pretrain": ("weights", self.paths.checkpoint(unit)),
            "downstream": ("predictions", self.paths.prediction(unit)),
        }
        name, path = places[kind]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{kind} {unit}".encode())
        if kind == "pretrain":
            path.write_bytes(self.weights(unit))
        return {name: path.parent if kind == "phantom" else path}

    def weights(self, unit: str) -> bytes:
        """A safetensors file without tensors whose header names the unit's record."""
        parents = grid.parents(self.params, "pretrain", unit)
        begun = record.begin(self.params, "pretrain", unit, parents=parents, seed=0)
        told = json.dumps({"record_identity": record.identity(begun)})
        header = json.dumps({"__metadata__": {"cxrmim": told}}).encode()
        return len(header).to_bytes(8, "little") + header
