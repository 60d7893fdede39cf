"""Cells: means, spreads, counts, states, and finding one by its address."""

from dataclasses import replace

import pytest

from cxrmim import grid
from cxrmim.errors import CheckError, ParamsError
from cxrmim.report import build, cells

TOY = {"pretrain": {"methods": {"toy": {"trains": True}}}}


def table_of(world, name):
    return cells.build(world.params, name, cells.layout_of(name))


def cell_of(world, address):
    table, row, key = address.split(":")
    rows = {r.entry: r for r in table_of(world, table).rows}
    return next(c for c in rows[row].cells if c.column.key == key)


def test_mean_sd_and_n_by_hand(make) -> None:
    world = make()
    runs = world.cell_runs("medim_table1", "mgca", "chexpert", 10)
    for run, value in zip(runs, (0.80, 0.82, 0.87), strict=True):
        world.write(run, {"value": value})
    cell = cell_of(world, "medim_table1:mgca:chexpert_10")
    assert cell.n == 3
    assert cell.mean == pytest.approx(0.83)
    assert cell.sd == pytest.approx((0.0026 / 2) ** 0.5)  # (0.03² + 0.01² + 0.04²) / (3 - 1)
    assert cell.published == 88.29
    assert cell.difference == pytest.approx(83.00 - 88.29)
    assert cell.runs == tuple(runs)


def test_retrieval_reads_its_own_metrics_and_has_no_spread(make) -> None:
    world = make()
    (run,) = world.cell_runs("medim_table2", "medim", "mimic", 100)
    sides = {f"{s}_r{k}": k / 100 for s in ("t2i", "i2t") for k in (1, 5, 10)}
    world.write(run, {"value": 0.9, **sides, "i2t_r5": 0.25})
    cell = cell_of(world, "medim_table2:medim:i2t_r5")
    assert (cell.n, cell.mean, cell.sd) == (1, 0.25, None)


def test_pending_cells_say_why(make) -> None:
    world = make()
    assert cell_of(world, "medim_table1:mgca:covidx_1").reason == "dataset covidx has no reader yet"
    cell = cell_of(world, "medim_table1:mrm:chexpert_1")
    assert (cell.state, cell.reason) == ("pending", "method mrm has no code yet")
    assert cell.mean is None and cell.n == 0 and cell.published == 88.50


def test_missing_record_is_an_error_that_names_it(make) -> None:
    world = make()
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[1]
    world.path(run).unlink()
    for part in (build.build_tables, build.build_page):
        with pytest.raises(CheckError, match=rf"{run.id}\.json: no such record"):
            part(world.params)
    assert not world.paths.summary.exists()


@pytest.mark.parametrize("value", [None, "0.5", True, 1.2, -0.1, float("nan")])
def test_value_that_is_no_share_is_an_error(make, value) -> None:
    world = make()
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[0]
    world.write(run, {"value": value})
    with pytest.raises(CheckError, match=rf"{run.id}\.json: metrics.value is"):
        table_of(world, "medim_table1")


@pytest.mark.parametrize(("key", "value"), [("source", "real"), ("scale", "paper"), ("id", "x")])
def test_record_of_something_else_is_an_error(make, key, value) -> None:
    world = make()
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[0]
    world.write(run, {"value": 0.5}, **{key: value})
    with pytest.raises(CheckError, match=f"{key} is '{value}', not"):
        table_of(world, "medim_table1")


def test_baselines_stand_where_they_apply(make) -> None:
    rows = {r.name: r for r in table_of(make(), "medim_table1").rows if r.baseline}
    assert list(rows) == ["Class prior", "Pixel regression", "Empty mask"]
    states = {name: {c.column.key: c.state for c in row.cells} for name, row in rows.items()}
    assert states["Pixel regression"]["chexpert_1"] == "measured"
    assert states["Pixel regression"]["siim_10"] == "blank"
    assert states["Empty mask"]["siim_10"] == "measured"
    assert states["Empty mask"]["chexpert_1"] == "blank"
    assert [r.name for r in table_of(make(), "medim_table2").rows][-1] == "Chance retrieval"


TRIVIAL = {
    "medim_table1": ["Class prior", "Pixel regression", "Empty mask"],
    "medim_table2": ["Chance retrieval"],
    "medim_table3": ["Class prior", "Pixel regression", "Empty mask"],
    "cmitm_table1": ["Class prior", "Pixel regression"],
    "cmitm_table2": ["Class prior", "Pixel regression"],
}


@pytest.mark.parametrize("name", TRIVIAL)
def test_every_table_of_the_papers_shows_its_trivial_baselines(make, monkeypatch, name) -> None:
    monkeypatch.setattr(grid, "pending", lambda params, run: None)
    world = make()
    table = table_of(world, name)
    assert [row.name for row in table.rows if row.baseline] == TRIVIAL[name]
    for at, column in enumerate(table.columns):
        shown = {row.name for row in table.rows if row.baseline and row.cells[at].mean is not None}
        assert shown == {
            cells.BASELINES[b] for b in world.params.downstream.baselines[column.cells.task]
        }


def test_the_empty_mask_is_one_run_in_every_column_of_its_dataset(make) -> None:
    for address in ("medim_table1:empty:siim_10", "medim_table1:empty:siim_100"):
        (run,) = cells.find(make().params, address).runs
        assert run.id == "baseline-empty/siim-segment-100-s0"
    (run,) = cells.find(make().params, "medim_table3:empty:siim").runs
    assert run.id == "baseline-empty/siim-segment-100-s0"


@pytest.mark.parametrize("name", ["medim_table1", "cmitm_table1"])
def test_new_method_gets_a_row_without_published_values(make, name) -> None:
    rows = [r for r in table_of(make(over=TOY), name).rows if r.entry == "toy"]
    assert [r.name for r in rows] == ["toy"]
    assert all(c.published is None for c in rows[0].cells)


def test_new_method_gets_a_row_in_every_table_that_names_it(make) -> None:
    original = make(fill=False).params
    named = {
        name: {"rows": [*grid.rows(original, block), "toy"]}
        for name, block in original.grid.items()
        if name != "medim_figure2"
    }
    world = make(over=TOY | {"grid": named})
    build.build_tables(world.params)
    build.build_figures(world.params)
    for name in named:
        assert "toy" in [r.entry for r in table_of(world, name).rows]


def test_rows_follow_the_paper(make) -> None:
    names = [r.name for r in table_of(make(), "cmitm_table1").rows if not r.baseline]
    stand_in = "ImageNet init (stand-in: generated shapes)"
    assert names == ["Random init", stand_in, "MAE", "MRM", "GLoRIA", "MGCA", "CMITM (ours)"]


@pytest.mark.parametrize(("scale", "full"), [("demo", "60%"), ("paper", "75%")])
def test_a_ratio_is_that_of_the_scale(make, scale, full) -> None:
    params = make(scale, fill=False).params
    table = cells.laid_out(params, "cmitm_figure3", cells.layout_of("cmitm_figure3"))
    names = {row.entry: row.name for row in table.rows if not row.baseline}
    assert names == {
        "cmitm-nomask": "0%", "cmitm-r25": "25%", "cmitm-r50": "50%", "cmitm": full
    }  # fmt: skip


def test_best_is_marked_by_printed_value_and_never_a_baseline(make) -> None:
    world = make()
    best = table_of(world, "medim_table1").best()
    assert best
    assert not any("baseline" in address for address in best)


def test_values_that_print_alike_are_both_best(make) -> None:
    table = table_of(make(), "medim_table1")
    at = next(i for i, c in enumerate(table.columns) if c.key == "chexpert_10")
    two = [row for row in table.rows if row.cells[at].n and not row.baseline][:2]
    values = {two[0].entry: 0.900004, two[1].entry: 0.900001}
    rows = tuple(
        replace(
            row,
            cells=tuple(
                replace(cell, values=(values.get(row.entry, 0.5),) if cell.n else ())
                for cell in row.cells
            ),
        )
        for row in table.rows
    )
    best = {a for a in replace(table, rows=rows).best() if a.endswith(":chexpert_10")}
    assert best == {row.cells[at].address for row in two}


def test_trend_retrieval_gives_multiples_of_chance(make) -> None:
    table = table_of(make("trend"), "trend_retrieval")
    cell = next(row for row in table.rows if row.entry == "mgca").cells[0]
    assert cell.n == 3
    assert table.multiple(cell) == pytest.approx(5.0)


@pytest.mark.parametrize(
    "address",
    [
        "medim_table1:mgca:chexpert_10",
        "medim_table1:MGCA*:CheXpert 10%",
        "MEDIM_TABLE1:mgca:CHEXPERT_10",
        " medim_table1 : mgca : chexpert 10% ",
    ],
)
def test_find_by_any_printed_name(make, address) -> None:
    world = make()
    cell = cells.find(world.params, address)
    assert cell.address == "medim_table1:mgca:chexpert_10"
    assert cell.runs == tuple(world.cell_runs("medim_table1", "mgca", "chexpert", 10))
    assert cell == cell_of(world, cell.address)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("medim_table3:L_align + KWM:CheXpert", "medim_table3:medim-kwm:chexpert"),
        ("medim_table1:Pixel regression:chexpert_1", "medim_table1:baseline-pixels:chexpert_1"),
        ("medim_table1:pixels:chexpert_1", "medim_table1:baseline-pixels:chexpert_1"),
        ("medim_table2:medim:t2i r@5", "medim_table2:medim:t2i_r5"),
        ("cmitm_table1:CMITM (ours):NIH X-ray (AUC) 1%", "cmitm_table1:cmitm:nih_1"),
        ("medim_figure3_left:High-activated:siim", "medim_figure3_left:medim:siim"),
        ("medim_figure2:MedIM:masked_attention", "medim_figure2:medim:masked_attention"),
    ],
)
def test_find_in_every_kind_of_block(make, address, found) -> None:
    assert cells.find(make().params, address).address == found


@pytest.mark.parametrize("row", ["imagenet", "ImageNet", "ImageNet (stand-in: generated shapes)"])
def test_a_stand_in_is_found_by_entry_name_and_full_name(make, row) -> None:
    cell = cells.find(make().params, f"medim_table1:{row}:chexpert_10")
    assert cell.address == "medim_table1:imagenet:chexpert_10"
    assert cell.name == "ImageNet (stand-in: generated shapes)"


def test_published_weights_are_no_stand_in(paper) -> None:
    assert [e for e in grid.entries(paper) if cells.stand_in(paper, e)] == []


@pytest.mark.parametrize("scale", ["demo", "trend", "phantom"])
def test_only_imagenet_has_a_stand_in(make, scale) -> None:
    params = make(scale, fill=False).params
    found = {e: cells.stand_in(params, e) for e in grid.entries(params)}
    assert {e: said for e, said in found.items() if said} == {"imagenet": "generated shapes"}


def test_every_row_of_the_trend_has_a_name(make) -> None:
    world = make("trend", fill=False)
    for name in ("trend", "trend_retrieval", "trend_cost"):
        plan = cells.laid_out(world.params, name, cells.layout_of(name))
        assert all(row.name != row.entry for row in plan.rows)
        assert len({row.name for row in plan.rows}) == len(plan.rows)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("medim_tabel1:mgca:chexpert_10", "no table 'medim_tabel1'; did you mean .*medim_table1"),
        ("medim_table1:mcga:chexpert_10", "no row 'mcga'; did you mean mgca"),
        ("medim_table1:mgca:chexpert_1O", "no column 'chexpert_1O'; did you mean .*chexpert_10"),
        ("medim_table1:mgca:10%", "no column '10%'"),
        ("medim_table1:mgca", "write TABLE:ROW:COLUMN"),
    ],
)
def test_find_names_near_misses(make, address, message) -> None:
    with pytest.raises(ParamsError, match=message):
        cells.find(make(fill=False).params, address)


def test_find_returns_a_missing_cell_for_tracing(make) -> None:
    cell = cells.find(make(fill=False).params, "medim_table1:mgca:chexpert_10")
    assert cell.state == "missing" and "no such record" in cell.reason and len(cell.runs) == 3


def test_two_columns_of_one_key_are_refused(make) -> None:
    over = {
        "grid": {
            "medim_table3": {"cells": [{"dataset": "siim", "task": "segment", "percents": [1, 10]}]}
        }
    }
    with pytest.raises(ParamsError, match=r"grid.medim_table3.cells: two columns .*'siim'"):
        table_of(make(over=over), "medim_table3")
