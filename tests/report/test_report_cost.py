"""The cost of pretraining beside what a probe gains, by hand."""

import csv
import io

import fabricated
import pytest
from chained import complete

from cxrmim.errors import CheckError, ParamsError
from cxrmim.report import build, cells, cost
from cxrmim.report.records import Records

BLOCK = "trend_cost"


@pytest.fixture
def world(make, monkeypatch):
    """All methods have code; Random scores 60 in every seed, MAE 59, 62 and 65."""
    monkeypatch.setattr(fabricated, "UNTRAINABLE", set())
    world = make("trend")
    for entry, values in (("random", (0.6, 0.6, 0.6)), ("mae", (0.59, 0.62, 0.65))):
        for run, value in zip(runs(world, entry), values, strict=True):
            world.write(
                run,
                {"value": value},
                details={"train_value": value + 0.3, "other_value": value + 0.1, "rank": 4.5},
            )
    return world


def runs(world, entry):
    return world.cell_runs(BLOCK, entry, "chexpert", 1)


def lines(world):
    return {line.entry: line for line in cost.lines(world.params, BLOCK, Records(world.params))}


def test_gains_are_taken_seed_by_seed(world) -> None:
    mae = lines(world)["mae"]
    assert mae.gains == pytest.approx((-0.01, 0.02, 0.05))
    assert (mae.above, mae.fails) == (2, True)
    # mean 2, deviations -3, 0, 3: sd 3
    assert mae.texts()[2:5] == ["62.00", "+2.00 ± 3.00", "2 of 3"]
    assert mae.texts()[5:] == ["92.00", "72.00", "4.5"]


def test_a_row_that_always_wins_is_not_marked_and_the_reference_is_not_compared(world) -> None:
    for run in runs(world, "mgca"):
        world.write(run, {"value": 0.7}, details={"train_value": None, "rank": 1})
    found = lines(world)
    assert (found["mgca"].above, found["mgca"].fails) == (3, False)
    assert found["mgca"].texts()[5] == ""  # no class had both kinds of image
    assert (found["random"].gains, found["random"].fails) == ((), False)
    assert found["random"].texts()[3:5] == ["", ""]


def test_equal_to_random_does_not_beat_it(world) -> None:
    for run in runs(world, "mgca"):
        world.write(run, {"value": 0.6}, details={"train_value": 0.9, "rank": 1})
    assert lines(world)["mgca"].above == 0


def test_the_cost_is_that_of_the_whole_chain(world) -> None:
    for seed, (first, second) in enumerate(((100, 50), (110, 60), (150, 30))):
        world.write_cost(f"cmitm-s1-s{seed}", first, 7000)
        world.write_cost(f"cmitm-s{seed}", second, 3000)
    line = lines(world)["cmitm"]
    assert line.seconds == (150, 170, 180)
    assert line.images == (10000, 10000, 10000)
    assert line.texts()[:2] == ["167 (150–180)", "10,000"]


def test_files_agree_and_mark_what_fails(world) -> None:
    complete(world)
    build.build_tables(world.params)
    build.build_figures(world.params)
    build.build_page(world.params)
    text = world.paths.table(BLOCK, "csv").read_text()
    rows = {line["row"]: line for line in csv.DictReader(io.StringIO(text))}
    assert tuple(next(iter(rows.values()))) == cost.HEADER
    assert list(rows) == ["random", "imagenet", "mae", "gloria", "mrm", "mgca", "medim", "cmitm"]
    mae = rows["mae"]
    assert (mae["cpu_seconds"], mae["cpu_seconds_min"], mae["cpu_seconds_max"]) == (
        "101.00",
        "100.00",
        "102.00",
    )
    assert (mae["auc"], mae["gain"], mae["gain_sd"]) == ("62.00", "2.00", "3.00")
    assert (mae["seeds_above"], mae["seeds"], mae["train_auc"]) == ("2", "3", "92.00")
    assert rows["imagenet"]["stand_in"] == "generated shapes"
    shown = world.paths.table(BLOCK, "md").read_text()
    assert (
        "| MAE | 101 (100–102) | 5,000 | 62.00 | **+2.00 ± 3.00** | **2 of 3** | 92.00 |" in shown
    )
    assert "| ImageNet (stand-in: generated shapes) |" in shown
    assert r"\textbf{2 of 3}" in world.paths.table(BLOCK, "tex").read_text()
    page = (world.paths.report / "index.html").read_text()
    assert f'<h3 id="{BLOCK}">' in page
    assert "<strong>2 of 3</strong>" in page
    assert ">ImageNet (stand-in: generated shapes)</th>" in page


def test_the_summary_holds_results_and_no_seconds(world) -> None:
    build.build_tables(world.params)
    before = world.paths.summary.read_bytes()
    assert BLOCK.encode() not in before
    world.write_cost("mae-s0", 999, 5000)
    build.build_tables(world.params)
    assert world.paths.summary.read_bytes() == before
    assert "999.00" in world.paths.table(BLOCK, "csv").read_text()


def test_a_row_without_code_is_pending_and_counts_nothing(make) -> None:
    world = make("trend")
    found = lines(world)
    assert found["mrm"].reason == "method mrm has no code yet"
    assert found["mrm"].texts() == ["pending", *[""] * 7]
    build.build_tables(world.params)
    assert (
        "Pending (MRM): method mrm has no code yet." in world.paths.table(BLOCK, "md").read_text()
    )


@pytest.mark.parametrize("seconds", [None, "12", True])
def test_circumstances_without_seconds_are_an_error(world, seconds) -> None:
    world.write_cost("mae-s1", seconds, 5000)
    with pytest.raises(CheckError, match=r"mae-s1.circumstances.json: cpu_seconds is"):
        lines(world)


def test_missing_circumstances_are_an_error(world) -> None:
    world.paths.circumstances("pretrain", "mae-s1").unlink()
    with pytest.raises(CheckError, match=r"mae-s1.circumstances.json: no such record"):
        build.build_tables(world.params)
    assert not world.paths.summary.exists()


def test_a_record_without_a_rank_is_an_error(world) -> None:
    world.write(runs(world, "mae")[0], {"value": 0.5}, details={"train_value": 0.5})
    with pytest.raises(CheckError, match=r"record of mae: rank is None"):
        lines(world)


def test_the_block_needs_its_reference(make) -> None:
    world = make("trend", over={"scales": {"trend": {"grid": {BLOCK: {"rows": ["mae"]}}}}})
    with pytest.raises(ParamsError, match=r"grid.trend_cost.rows: lacks random"):
        lines(world)


def test_its_auc_can_be_traced(world) -> None:
    cell = cells.find(world.params, "trend_cost:MAE:chexpert_1")
    assert cell.runs == tuple(runs(world, "mae"))
