"""A world of fabricated records in a folder of its own."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fabricated import World, pending

from cxrmim import grid
from cxrmim import params as params_module
from cxrmim.params import Params

ROOT = Path(__file__).parents[2]
ORIGINAL = yaml.safe_load((ROOT / "params.yaml").read_text())
ORIGINAL["downstream"]["bootstrap"] = 40  # replicates of every made-up record
LOADED: dict[str, tuple[str, Params]] = {}  # reading YAML is most of the cost of a world
Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a world: a scale of the project's params.yaml, changed by `over`, with records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "pending", pending)

    def maker(scale: str = "demo", over: dict[str, Any] | None = None, fill: bool = True) -> World:
        key = json.dumps([scale, over])
        if key not in LOADED:
            tree = params_module.merge(copy.deepcopy(ORIGINAL), over or {})
            text = yaml.safe_dump(tree | {"scale": scale}, sort_keys=False)
            Path("params.yaml").write_text(text)
            LOADED[key] = text, params_module.load("params.yaml")
        text, params = LOADED[key]
        Path("params.yaml").write_text(text)
        world = World(params)
        if fill:
            world.fill()
        return world

    return maker
