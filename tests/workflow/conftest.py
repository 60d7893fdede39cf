"""A tiny grid in a folder of its own, built once by the real workflow and shared by the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def shrink(tree: dict[str, Any]) -> dict[str, Any]:
    """The demo's parameters at a size that a test can pay, and a method that has no code yet."""
    demo = tree["scales"]["demo"]
    demo["seeds"] = {"downstream": [0, 1]}
    demo["phantom"]["patients"] = {"mimic": 60, "covidx": 60}
    demo["phantom"]["patients"] |= {"chexpert": 120, "siim": 100}  # fewer show no leak
    demo["shards"]["text"]["vocab"] = 300
    methods, downstream = demo["pretrain"]["methods"], demo["downstream"]
    for block in methods.values():
        block["epochs"] = 1
    for name in ("mae", "mgca"):
        methods[name]["batch"] = 16
    methods["imagenet"]["options"]["stand_in"]["images"] = 256
    tree["pretrain"]["methods"]["invented"] = {"papers": ["medim"], "batch": 8, "epochs": 1}
    downstream["probe"]["epochs"] = 3
    downstream["segment"] |= {"epochs": 1, "epoch_steps": 1}
    downstream.setdefault("finetune", {}).update(
        batch=8, validate_every=2, schedule={"covidx": {"100": [1, 3, 1.0e-2]}}
    )
    downstream["bootstrap"] = 20
    probe = {"dataset": "chexpert", "task": "probe", "percents": [10, 100]}
    segment = {"dataset": "siim", "task": "segment", "percents": [100]}
    classes = {"dataset": "covidx", "task": "probe", "percents": [100]}
    finetune = {"dataset": "covidx", "task": "finetune", "percents": [100]}
    replayed = ("chexpert-mgca", "siim-mgca")
    entries = tree["manifest"]["entries"]
    for name in [n for n, e in entries.items() if e.get("audit") and n not in replayed]:
        del entries[name]
    demo["grid"] = {
        "medim_table1": {
            "paper": "medim",
            "rows": ["random", "imagenet", "mae", "medim", "invented"],
            "cells": [probe, segment, classes],
        },
        "cmitm_table1": {"paper": "cmitm", "rows": ["mae", "medim"], "cells": [finetune]},
        "medim_table2": tree["grid"]["medim_table2"] | {"rows": ["medim"]},
        "medim_figure2": tree["grid"]["medim_figure2"],
    }
    return tree


def one_row(tree: dict[str, Any]) -> None:
    """One row of the tiny grid, a process for each of its cells."""
    demo = tree["scales"]["demo"]
    demo["grid"]["medim_table1"]["rows"] = ["medim"]
    demo["downstream"]["cut"] = "fraction"


@dataclass(frozen=True)
class Place:
    """A working directory of the workflow."""

    folder: Path

    def call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment here, this checkout's code first on the path."""
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO / "src"),
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }
        return subprocess.run(
            [shutil.which(program, path=environment["PATH"]) or program, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, program: str, *arguments: str) -> str:
        """Run a program that has to succeed; its output."""
        result = self.call(program, *arguments)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the workflow on this folder, as `snakemake --directory` does."""
        return self.call(
            "snakemake",
            "--snakefile",
            str(REPO / "Snakefile"),
            "--directory",
            str(self.folder),
            "--cores",
            "2",
            *arguments,
        )

    def files(self, *patterns: str) -> dict[str, bytes]:
        """Bytes of files below results, circumstances left out (they hold times)."""
        found = {}
        for pattern in patterns:
            for path in sorted(self.folder.glob(f"results/demo/{pattern}")):
                if path.is_file() and "circumstances" not in path.name:
                    found[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        return found


def place(folder: Path, edit: Callable[[dict[str, Any]], Any] = lambda tree: None) -> Place:
    """A folder with a tiny params.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = shrink(yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8")))
    edit(tree)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return Place(folder)


def copied(source: Place, folder: Path) -> Place:
    """A copy of a built folder, times kept, that a test may spoil."""
    subprocess.run(["cp", "-a", str(source.folder), str(folder)], check=True)
    return Place(folder)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny grid, built from nothing by Snakemake; by one worker alone, as it costs minutes."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # fails where another builds it too
        (tmp_path_factory.getbasetemp().parent / "built").touch(exist_ok=False)
    here = place(tmp_path_factory.mktemp("tiny") / "work")
    result = here.snakemake()
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return here


@pytest.fixture(scope="session")
def attested(built: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The built grid as a git and DVC repository with its state recorded and committed."""
    here = copied(built, tmp_path_factory.mktemp("attested") / "work")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPO / name, here.folder / name)
    here.must("git", "init", "-q")
    here.must("dvc", "init", "-q")
    shutil.copy(REPO / ".dvc/config", here.folder / ".dvc/config")
    here.must("cxrmim", "attest")
    here.must("git", "add", "-A")
    here.must("git", "commit", "-qm", "state")
    return here
