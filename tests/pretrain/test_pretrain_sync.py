"""A step never asks the device for a number, and runs as many operations for any batch."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

import pytest
import torch
from batches import KINDS, PARAMS, make_batch
from torch.utils._python_dispatch import TorchDispatchMode

from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Stored

# Operations whose result, or its shape, the host waits for on a GPU.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
STORED = Stored(700, 80, 1, 50, 30, 3)


class Spy(TorchDispatchMode):
    """Counts operations, and those that a GPU's host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).removeprefix("aten.").split(".")[0]
        self.calls[name] += 1
        picked = args[1] if name.startswith("index") and len(args) > 1 else None
        kinds = [getattr(i, "dtype", None) for i in picked] if isinstance(picked, list) else []
        if name in WAITS or torch.bool in kinds:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def spied(entry, make, raw, rows):
    """A training step's forward and backward pass under a spy."""
    torch.manual_seed(0)
    method = weights.build_method(PARAMS, entry, STORED).train()
    batch = make_batch(method, make(8, length=80), raw, rows)
    with Spy() as spy:
        method(batch)[0].backward()
    return spy


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.max()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: bool(x.any()),
    ],
)
def test_the_spy_sees_what_waits(wait):
    with Spy() as spy:
        wait(torch.arange(3.0))
    assert spy.waits


@pytest.mark.parametrize("entry", KINDS)
def test_no_step_waits_for_the_device_or_loops_over_samples(make, raw, entry):
    """Other reports, twice as many: the same operations."""
    few, many = spied(entry, make, raw, (1, 2, 3)), spied(entry, make, raw, (0, 4, 5, 6, 7, 2))
    assert sum(few.calls.values()) > 100
    assert not few.waits and not many.waits
    assert few.calls == many.calls


@pytest.mark.parametrize("folder", ["methods", "parts"])
def test_no_tensor_is_copied_to_the_host(repo, folder):
    """What the spy cannot see on a CPU, where a copy is none."""
    files = sorted((repo / "src/cxrmim/pretrain" / folder).glob("*.py"))
    assert len(files) > 8
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("tolist", "numpy", "cpu", "item"), f"{path}:{node.lineno}"
