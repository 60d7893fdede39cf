"""docs/methods.md names what is there: every loss of every method, and functions that exist."""

from __future__ import annotations

import importlib
import re

import pytest
import torch

from cxrmim import grid, plugins
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Stored


@pytest.fixture(scope="module")
def sections(repo) -> dict[str, str]:
    """Text below each heading, by the method's file that the heading names."""
    text = (repo / "docs/methods.md").read_text(encoding="utf-8")
    found = {}
    for part in text.split("\n## ")[1:]:
        for name in re.findall(r"`(\w+)\.py`", part.splitlines()[0]):
            found[name] = part
    return found


def test_every_method_has_a_section(sections, published):
    ours = {name for name in plugins.names("method") if name in published}
    assert set(sections) == ours


def test_every_loss_is_named_in_its_methods_section(sections, demo):
    seen = set()
    for entry in grid.trained(demo):
        if grid.pending_entry(demo, entry) is not None:
            continue
        with torch.device("meta"):
            method = weights.build_method(demo, entry, Stored(60, 24, 1, 50, 30, 3))
        name = demo.pretraining(entry)[0]
        for term in method.weights:
            assert f"`{term}`" in sections[name], f"{name}: {term}"
            seen.add(term)
    assert len(seen) > 8


def test_every_function_that_is_named_exists(sections):
    """`module.name` of a part, or of a method's class."""
    known = 0
    modules = ("augment", "decoders", "encoders", "heads", "losses", "masked", "masking", "regions")
    for module in (*modules, "reports", "restoration", "words"):
        loaded = importlib.import_module(f"cxrmim.pretrain.parts.{module}")
        for text in sections.values():
            for name in re.findall(rf"`{module}\.(\w+)`", text):
                assert hasattr(loaded, name), f"{module}.{name}"
                known += 1
    assert known > 30
