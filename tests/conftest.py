"""Shared fixtures: the repository's parameters, and small copies of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml

from cxrmim import params as params_module
from cxrmim.params import Params

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def paper() -> Params:
    return params_module.load(REPO / "params.yaml", "paper")


@pytest.fixture(scope="session")
def demo() -> Params:
    return params_module.load(REPO / "params.yaml", "demo")


@pytest.fixture(scope="session")
def published() -> set[str]:
    """Entries of the papers: those of methods that say which paper compares them.

    A method of somebody else's says nothing and so is in every comparison; the papers' counts do
    not change with it.
    """
    pretrain = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))["pretrain"]
    methods = {name for name, block in pretrain["methods"].items() if "papers" in block}
    variants = {
        name
        for name, block in pretrain["entries"].items()
        if block.get("method", block.get("alias")) in methods
    }
    return methods | variants


@pytest.fixture
def tree() -> dict[str, Any]:
    """params.yaml as a plain tree that a test may edit."""
    return copy.deepcopy(yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8")))


@pytest.fixture
def write_params(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write a tree as params.yaml in the test's folder."""

    def write(edited: dict[str, Any]) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(edited, sort_keys=False), encoding="utf-8")
        return path

    return write
