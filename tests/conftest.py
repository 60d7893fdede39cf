"""Shared fixtures: the repository's parameters, and small copies of them."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from hypothesis import HealthCheck, settings

from cxrmim import params as params_module
from cxrmim.params import Params

REPO = Path(__file__).resolve().parent.parent

# Time is measured in benchmarks/: no example fails because a machine is busy. In CI hypothesis
# has a profile of its own by now, which draws the same examples each time; that stays.
settings.register_profile(
    "untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests, which may share a fixture, go to one worker.

    So do all of tests/workflow, which share a build, and all of tests/slurm: one cluster a machine.

    xdist's own `--dist loadgroup` groups nothing under pytest 9.2 (pytest-xdist issue 1386).
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            shared = ("tests/workflow/", "tests/slurm/")
            return next((folder for folder in shared if file.startswith(folder)), file)

    config.option.loadscopereorder = False  # in the order of `pytest_collection_modifyitems`
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker's longest unit begins, lest it end alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "workflow" not in item.keywords)


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
def released(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """Scale paper under `protocol: released`."""
    path = tmp_path_factory.mktemp("released") / "params.yaml"
    text = (REPO / "params.yaml").read_text(encoding="utf-8")
    path.write_text(re.sub(r"^protocol: paper\b", "protocol: released", text, flags=re.M))
    loaded = params_module.load(path, "paper")
    assert loaded.protocol == "released"
    return loaded


@pytest.fixture(scope="session")
def published() -> set[str]:
    """Entries of the papers: those of methods that say which paper compares them.

    A method of somebody else's says nothing and so is in every comparison; the papers' counts do
    not change with it, nor with the entries that show what the released code does.
    """
    pretrain = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))["pretrain"]
    methods = {name for name, block in pretrain["methods"].items() if "papers" in block}
    variants = {
        name
        for name, block in pretrain["entries"].items()
        if block.get("method", block.get("alias")) in methods and not block.get("released")
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
