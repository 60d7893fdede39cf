"""Benchmarks of data, steps and retrieval run at toy size, with the targets of the project."""

from __future__ import annotations

import importlib
import math

import pytest
from benchmarks.pagecache import STAYS

TARGETS = {  # what begins a row's words: target and bound
    "nih_table": {"manifest of NIH's": [(20, "<="), (1000, "<=")] * 2},
    "phantom": {"phantom radiographs at 224 px": [(60, ">=")]},
    "shards_prepare": {
        "preparing JPEG 3056 x 2544 to 256 px, scaled": [(40, ">=")],
        "scaled against full": [(0.5, "<=")] * 2,
    },
    "shards_read": {"random 224 px crops": [(9200, ">=")]},
    "pretrain_steps": {
        name: [(0.85, ">="), (0, "<=")] for name in ("MedIM", "CMITM stage 2", "MRM")
    },
    "retrieval": {"retrieval, 500 pairs": [(20, "<="), (1000, "<=")]},
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_toy_gives_all_rows(name):
    rows = importlib.import_module(f"benchmarks.{name}").measure(toy=True)
    assert len({row.what for row in rows}) == len(rows)
    for row in rows:
        if row.why == STAYS:  # on a machine without a disk
            continue
        assert row.value is not None
        assert math.isfinite(row.value)
        assert row.value >= 0
        assert row.met is not False or row.why or name != "pretrain_steps"
    held = [row for row in rows if row.target is not None]
    wanted = TARGETS[name]
    for begin, pairs in wanted.items():
        assert [(r.target, r.bound) for r in held if r.what.startswith(begin)] == pairs
    assert len(held) == sum(len(pairs) for pairs in wanted.values())
