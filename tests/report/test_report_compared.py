"""Rows compared pair by pair: by hand, in every kind of table, as files, and what is refused."""

import csv
import itertools
import json

import numpy as np
import pytest
from chained import complete
from fabricated import added_p

from cxrmim import grid
from cxrmim.errors import CheckError
from cxrmim.report import build, cells, statistics
from cxrmim.report.outputs import compared, pairs


def table_of(world, name):
    return cells.build(world.params, name, cells.layout_of(name))


def pair_of(found, column, row, other):
    (one,) = [c for c in found if (c.column, c.row, c.other) == (column, row, other)]
    return one


def lines_of(world, name) -> list[dict[str, str]]:
    with pairs(world.paths, name).open(newline="") as handle:
        return list(csv.DictReader(handle))


# three seeds by hand

COLUMN = "chexpert_10"
LEFT = [[0.80, 0.82, 0.78, 0.80], [0.84, 0.86, 0.82, 0.84], [0.85, 0.87, 0.83, 0.85]]
# Not in the order of LEFT's replicates: a comparison that is not paired draw by draw differs.
RIGHT = [[0.79, 0.79, 0.78, 0.80], [0.80, 0.80, 0.79, 0.81], [0.78, 0.78, 0.77, 0.79]]
BY_HAND = {"scales": {"demo": {"downstream": {"bootstrap": 4}}}}


@pytest.fixture
def small(make):
    world = make(over=BY_HAND)
    for entry, rows in (("mgca", LEFT), ("medim", RIGHT)):
        runs = world.cell_runs("medim_table1", entry, "chexpert", 10)
        for run, row in zip(runs, rows, strict=True):
            world.write(run, {"value": row[0], "replicates": row})
    return world


def test_three_seeds_by_hand(small) -> None:
    table = table_of(small, "medim_table1")
    cell = next(r for r in table.rows if r.entry == "mgca").cells[1]
    assert cell.column.key == COLUMN
    # means over seeds of replicates: 0.83, 0.85, 0.81, 0.83; sorted 0.81 0.83 0.83 0.85
    assert cell.interval == pytest.approx((0.81 + 0.075 * 0.02, 0.85 - 0.075 * 0.02))
    one = pair_of(statistics.compare(table), COLUMN, "mgca", "medim")
    assert one.difference == pytest.approx(0.04)  # 0.83 - 0.79
    # paired replicates 0.04 0.06 0.03 0.03: sorted 0.03 0.03 0.04 0.06
    assert (one.low, one.high) == pytest.approx((0.03, 0.06 - 0.075 * 0.02))
    assert one.sd == pytest.approx(0.03)  # 0.01, 0.04, 0.07
    assert (one.n, one.family) == (3, "methods")
    images, share = 0.0006 / 3, 0.03**2 / 3  # (0.02² + 2 x 0.01²) / 3; over three seeds
    assert one.p == pytest.approx(added_p(0.04, images, share, 2), rel=1e-6)


def test_the_files_say_the_same(small) -> None:
    build.build_tables(small.params)
    (line,) = [
        x for x in lines_of(small, "medim_table1")
        if (x["column"], x["row"], x["other"]) == (COLUMN, "mgca", "medim")
    ]  # fmt: skip
    one = pair_of(statistics.compare(table_of(small, "medim_table1")), COLUMN, "mgca", "medim")
    assert (line.pop("p"), line.pop("p_holm")) == (f"{one.p:.3g}", f"{one.p_holm:.3g}")
    assert line == {
        "table": "medim_table1", "column": COLUMN, "row": "mgca", "other": "medim",
        "family": "methods", "difference": "+4.00", "ci_low": "+3.00", "ci_high": "+5.85",
        "sd_seeds": "3.00", "n": "3",
    }  # fmt: skip
    with small.paths.table("medim_table1", "csv").open(newline="") as handle:
        cell = next(
            x for x in csv.DictReader(handle) if (x["row"], x["column"]) == ("mgca", COLUMN)
        )
    assert (cell["ours_mean"], cell["ci_low"], cell["ci_high"]) == ("83.00", "81.15", "84.85")
    leaf = json.loads(small.paths.summary.read_text())["cells"][f"medim_table1:mgca:{COLUMN}"]
    assert (leaf["ci_low"], leaf["ci_high"]) == pytest.approx((0.8115, 0.8485))
    complete(small)
    build.build_figures(small.params)
    build.build_page(small.params)
    page = (small.paths.report / "index.html").read_text()
    assert f'<td id="medim_table1:mgca:{COLUMN}">' in page
    assert "<strong>83.00" in page and "95% interval over test images: 81.15 to 84.85" in page


# a table's pairs


def test_every_pair_of_measured_rows_once(make) -> None:
    table = table_of(make(), "medim_table1")
    found = statistics.compare(table)
    keys = [(c.column, frozenset((c.row, c.other))) for c in found]
    assert len(keys) == len(set(keys))
    expected = {
        (column.key, frozenset(pair))
        for at, column in enumerate(table.columns)
        for pair in itertools.combinations(
            [r.entry for r in table.rows if r.cells[at].state == "measured"], 2
        )
    }
    assert set(keys) == expected
    assert {c.column for c in found} == {c.key for c in table.columns if "covidx" not in c.key}


def test_holm_is_taken_within_each_family(make) -> None:
    found = statistics.compare(table_of(make(), "medim_table1"))
    for family in ("methods", "baselines"):
        mine = [c for c in found if c.family == family]
        held = statistics.holm(np.array([c.p for c in mine]))
        assert [c.p_holm for c in mine] == held.tolist()
    trivial = {c.family == "baselines": "baseline-" in c.row + c.other for c in found}
    assert trivial == {True: True, False: False}


def test_a_baseline_is_the_same_beside_every_seed(make) -> None:
    world = make()
    (prior,) = world.cell_runs("medim_table1", "baseline-prior", "chexpert", 10)
    half = [0.5] * world.params.downstream.bootstrap
    world.write(prior, {"value": 0.5, "replicates": half})
    runs = world.cell_runs("medim_table1", "mgca", "chexpert", 10)
    for run, value in zip(runs, (0.6, 0.7, 0.8), strict=True):
        world.write(run, {"value": value})
    table = table_of(world, "medim_table1")
    one = pair_of(statistics.compare(table), COLUMN, "mgca", "baseline-prior")
    assert (one.difference, one.sd, one.n) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    cell = next(r for r in table.rows if r.entry == "mgca").cells[1]
    assert (one.low, one.high) == pytest.approx([v - 0.5 for v in cell.interval])


def test_two_equal_constant_rows_are_equal(make) -> None:
    world = make()
    half = [0.5] * world.params.downstream.bootstrap
    for entry in ("baseline-prior", "baseline-pixels", "mgca"):
        for run in world.cell_runs("medim_table1", entry, "chexpert", 10):
            world.write(run, {"value": 0.5, "replicates": half})
    found = statistics.compare(table_of(world, "medim_table1"))
    for row, other in (("mgca", "baseline-prior"), ("baseline-prior", "baseline-pixels")):
        one = pair_of(found, COLUMN, row, other)
        assert (one.difference, one.low, one.high, one.p, one.p_holm) == (0, 0, 0, 1, 1)


def test_one_run_cells_have_no_spread(make) -> None:
    found = statistics.compare(table_of(make(), "medim_table2"))
    assert {(c.sd, c.n) for c in found} == {(None, 1)}
    assert len([c for c in found if c.family == "methods"]) == 6


def test_aliases_are_not_compared(make) -> None:
    rows = {"cmitm_table1": {"rows": ["mae", "cmitm-mae", "mgca"]}}
    found = statistics.compare(table_of(make(over={"grid": rows}), "cmitm_table1"))
    drawn = {frozenset((c.row, c.other)) for c in found if c.family == "methods"}
    assert drawn == {frozenset(("mae", "mgca")), frozenset(("cmitm-mae", "mgca"))}


def test_several_pretrainings_are_the_seeds(make) -> None:
    over = {"scales": {"trend": {"seeds": {"downstream": [0, 1]}}}}
    world = make("trend", over=over)
    values = {0: (0.6, 0.62), 1: (0.7, 0.72), 2: (0.8, 0.82)}
    for run in world.cell_runs("trend", "mgca", "chexpert", 1):
        world.write(run, {"value": values[grid.entry_of(run.checkpoint).seed][run.seed]})
    for run in world.cell_runs("trend", "mae", "chexpert", 1):
        world.write(run, {"value": 0.5})
    one = pair_of(statistics.compare(table_of(world, "trend")), "chexpert_1", "mae", "mgca")
    assert (one.n, one.sd) == (3, pytest.approx(0.1))  # of -0.11, -0.21, -0.31
    assert one.difference == pytest.approx(-0.21)


# files


@pytest.mark.parametrize("scale", ["demo", "trend"])
def test_pairs_are_files_of_deterministic_bytes(make, scale) -> None:
    world = make(scale)
    names = compared(world.params)
    build.build_tables(world.params)
    first = {name: pairs(world.paths, name).read_bytes() for name in names}
    make(scale)
    build.build_tables(world.params)
    assert {name: pairs(world.paths, name).read_bytes() for name in names} == first
    blocks = {
        "demo": set(world.params.grid) - {"medim_figure2"},
        "trend": {"trend", "trend_retrieval"},
    }
    assert set(names) == blocks[scale]
    for name in names:
        lines = lines_of(world, name)
        assert lines and {x["table"] for x in lines} == {name}
        assert tuple(lines[0]) == statistics.HEADER
        assert all(float(x["p"]) <= float(x["p_holm"]) <= 1 for x in lines)
        assert all(float(x["ci_low"]) <= float(x["ci_high"]) for x in lines)


def test_a_table_of_pending_cells_has_no_pairs(make, monkeypatch) -> None:
    world = make()
    monkeypatch.setattr(grid, "pending", lambda params, run: "invented: nothing has code")
    assert statistics.lines(table_of(world, "medim_table1")) == [statistics.HEADER]


def test_maps_have_no_interval(make) -> None:
    assert cells.find(make().params, "medim_figure2:medim:masked_attention").interval is None


# records that cannot be compared

FAULTS = [
    (None, "is None, not a list of 40 numbers"),
    ("0.5", "is '0.5', not a list"),
    ([], "has 0 values, but downstream.bootstrap is 40"),
    ([0.5] * 39, "has 39 values"),
    ([0.5] * 41, "has 41 values"),
    ([0.5] * 39 + ["x"], r"\[39\] is 'x', not a number in \[0, 1\]"),
    ([0.5, None] * 20, r"\[1\] is None"),
    ([0.5, True] * 20, r"\[1\] is True"),
    ([1.01] + [0.5] * 39, r"\[0\] is 1.01"),
    ([0.5, -0.1] * 20, r"\[1\] is -0.1"),
    ([0.5, float("nan")] * 20, r"\[1\] is nan"),
]


@pytest.mark.parametrize(("value", "said"), FAULTS)
def test_tampered_replicates_are_refused(make, value, said) -> None:
    world = make()
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[1]
    world.write(run, {"value": 0.5, "replicates": value})
    with pytest.raises(CheckError, match=rf"{run.id}\.json: metrics.replicates ?{said}"):
        build.build_tables(world.params)
    assert not any(pairs(world.paths, name).exists() for name in compared(world.params))


def test_replicates_of_another_metric_are_held_to_the_same(make) -> None:
    world = make()
    (run,) = world.cell_runs("medim_table2", "medim", "mimic", 100)
    tree = json.loads(world.path(run).read_text())
    tree["metrics"]["replicates_of"]["t2i_r5"] = [2] * 40
    world.path(run).write_text(json.dumps(tree))
    with pytest.raises(CheckError, match=r"metrics.replicates_of.t2i_r5\[0\] is 2, not"):
        table_of(world, "medim_table2")
    del tree["metrics"]["replicates_of"]
    world.path(run).write_text(json.dumps(tree))
    with pytest.raises(CheckError, match=r"metrics.replicates_of.t2i_r1 is None"):
        table_of(world, "medim_table2")


def test_the_main_metric_has_the_main_replicates(make) -> None:
    world = make()
    (run,) = world.cell_runs("medim_table2", "medim", "mimic", 100)
    table = table_of(world, "medim_table2")
    cell = next(c for c in table.rows[1].cells if c.column.key == "i2t_r10")
    held = json.loads(world.path(run).read_text())["metrics"]["replicates"]
    assert cell.replicates == (tuple(held),)


@pytest.mark.parametrize(
    ("over", "key"),
    [
        ({"n": 99}, "metrics.n is 99, but 100"),
        ({"n": None}, "metrics.n is None"),
        ({"positives": {"a": 4}}, r"metrics.positives is \{'a': 4\}, but 'not counted'"),
        ({"metric": "accuracy"}, "metrics.metric is 'accuracy', but 'made up'"),
    ],
)
def test_runs_of_other_images_are_not_paired(make, over, key) -> None:
    world = make()
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[2]
    world.write(run, {"value": 0.5} | over)
    with pytest.raises(CheckError, match=rf"{run.id}\.json: {key}.*random-s0.*same images"):
        table_of(world, "medim_table1")


@pytest.mark.parametrize("parents", [{"shards/chexpert": "other"}, {}, None])
def test_runs_on_other_shards_are_not_paired(make, parents) -> None:
    world = make()
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[2]
    world.write(run, {"value": 0.5}, parents=parents)
    with pytest.raises(CheckError, match=r"parents.shards/chexpert is .*not tested on the same"):
        table_of(world, "medim_table1")
