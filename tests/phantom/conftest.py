"""Small generated data sets, written once a session."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxrmim import plugins

SIZES = {"mimic": 120, "chexpert": 90, "siim": 120, "covidx": 90, "nih": 120, "rsna": 150}


def _spec(seed: int = 0, raster: int = 64, difficulty: str = "easy", **patients: int):
    counts = {**SIZES, **patients}
    return SimpleNamespace(seed=seed, raster=raster, difficulty=difficulty, patients=counts)


@pytest.fixture(scope="session")
def spec():
    """A function: parameters of a small population."""
    return _spec


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function: layout name -> folder with that data set."""
    roots: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp(name)
            plugins.load("layout", name).write(roots[name], _spec(), 1)
        return roots[name]

    return get


@pytest.fixture(scope="session")
def sizes() -> dict[str, int]:
    """Patients of the written data sets."""
    return SIZES
