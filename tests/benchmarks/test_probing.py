"""Encoder passes are counted, and the formula is what a loop over runs and epochs gives."""

from __future__ import annotations

from benchmarks import probing


def test_the_formula_is_what_a_loop_adds_up():
    sizes, epochs, total = {"train": 300, "valid": 20, "test": 7}, 4, 0
    for percent in probing.PERCENTS:
        for _ in probing.SEEDS:
            for _ in range(epochs):
                total += len(range(sizes["train"] * percent // 100))
                total += sizes["valid"]
            total += sizes["test"]
    assert probing.recomputed(sizes, epochs) == total


def test_nine_runs_encode_each_image_once(demo):
    assert probing.encoded(demo) == sum(probing.SMALL.values())


def test_the_count_notices_another_pass(demo, monkeypatch):
    from cxrmim.downstream.contract import Bench

    whole = Bench.features

    def twice(self, *args):
        self._features.clear()
        return whole(self, *args)

    monkeypatch.setattr(Bench, "features", twice)
    assert probing.encoded(demo) > sum(probing.SMALL.values())


def test_the_rows_have_the_targets_of_the_issue():
    rows = probing.measure(toy=True)
    assert [(row.unit, row.target, row.bound) for row in rows] == [
        ("x", 150, ">="),
        ("s", 120, "<="),
        ("s", None, "<="),
    ]
    saved = rows[0]
    assert saved.met
    assert saved.value == saved.details["recomputed"] / saved.details["ours"]
    assert saved.details["ours"] == sum(probing.CHEXPERT.values())
