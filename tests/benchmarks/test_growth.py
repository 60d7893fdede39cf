"""benchmarks/growth.py grows what it says, and its arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.growth import Cost
from benchmarks.process import process

from benchmarks import growth
from cxrmim import grid


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, growth.Built]:
    here = tmp_path_factory.mktemp("growth")
    edits = {"base": lambda tree: None, **growth.GROWN}
    return {name: growth.Built(here / name, edit, True) for name, edit in edits.items()}


def test_each_folder_has_four_times_of_one_thing(built: dict[str, growth.Built]) -> None:
    params = {name: folder.params for name, folder in built.items()}
    base = params["base"]
    for name, count in params["images"].phantom.patients.items():
        assert name not in growth.PATIENTS or count == 4 * base.phantom.patients[name]
    trained = {n: len([r for r in grid.runs(p) if not r.baseline]) for n, p in params.items()}
    seeded = [r for r in grid.runs(base) if not r.baseline and r.task != "retrieve"]
    assert trained["images"] == trained["base"] and trained["runs"] == 4 * trained["base"]
    assert trained["seeds"] == trained["base"] + 3 * len(seeded)
    assert len(grid.pretrainings(params["runs"])) == 4 * len(grid.pretrainings(base))


def test_what_did_not_grow_is_not_run_again(built: dict[str, growth.Built]) -> None:
    tasks = {name: set(growth.tasks(folder.params)) for name, folder in built.items()}
    kept = tasks["base"] & tasks["runs"]
    assert {t.stop for t in tasks["base"] - kept} == set(growth.REPORT)
    changed = {t.stop for t in tasks["base"] - tasks["seeds"]}
    assert changed == {"probe", "segment", "finetune", *growth.REPORT}


def test_growth_is_told_with_and_without_the_start() -> None:
    base = {"tables": Cost(3.0, 100.0, 2.0), "same": Cost(1.0, 1.0, 1.0)}
    grown = {"tables": Cost(8.0, 105.0, 2.0), "same": Cost(1.0, 1.0, 1.0)}
    cost, memory = growth.compared("runs", base, grown)
    assert cost.value == pytest.approx(8 / 3) and cost.met
    assert cost.details["growth above start"] == 6.0
    assert memory.value == pytest.approx(1.05) and memory.met
    worst = growth.summary("runs", [cost, memory])
    assert worst.value == 6.0 and worst.met is False


def test_a_process_tells_its_cost_and_its_failure(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    python = growth.sys.executable
    small = process(folder, [python, "-c", "pass"])
    large = process(folder, [python, "-c", "x = b'1' * (1 << 28); sum(range(10**7))"])
    assert large[0] > small[0] and large[1] > small[1] + 200
    with pytest.raises(RuntimeError, match="broken on purpose"):
        process(folder, [python, "-c", "raise SystemExit('broken on purpose')"])


def test_a_toy_has_rows_of_every_kind() -> None:
    rows = growth.measure(toy=True)
    said = [row.what for row in rows]
    for start in ("fastest growth", "phantom, 4 x images", "manifest, 4 x images", "snakemake -n"):
        assert any(what.startswith(start) for what in said), start
    assert all(row.value is not None and row.unit in ("x", "KiB") for row in rows)
    held = [row for row in rows if row.target is not None]
    assert {row.target for row in held} == {growth.TARGET, growth.CONSTANT}
