"""What a job's start costs: the kinds are all there, and a start is cut off where it should be."""

from __future__ import annotations

from benchmarks import overhead
from cxrmim import plugins


def test_a_toy_start_is_measured():
    (row,) = overhead.measure(toy=True)
    assert (row.unit, row.target, row.bound) == ("CPU s", 2.0, "<=")
    told = row.details["kinds"]["report tables"]
    assert 0 < told["overhead"] < told["start in all"]
    assert {"numpy", "pydantic"} <= set(told["libraries"])
    assert "torch" not in told["libraries"]


def test_without_a_demo_nothing_is_invented(monkeypatch, tmp_path):
    monkeypatch.setattr(overhead, "DEMO", tmp_path)
    (row,) = overhead.measure()
    assert row.value is None
    assert "make demo" in row.why


def test_every_method_and_baseline_is_started():
    kinds = overhead.BARE | overhead.ON_DEMO
    assert {f"pretrain {name}" for name in plugins.names("method")} <= set(kinds)
    from cxrmim.downstream import baselines

    assert {f"downstream {name}" for name in baselines.PREDICTORS} <= set(kinds)
