"""The published values are those of protocols §5, and stand where the grid looks for them."""

import csv
import re
from pathlib import Path

import pytest

from cxrmim import grid
from cxrmim.report import cells, published

ROOT = Path(__file__).parents[2]
PROTOCOLS = ROOT.parent / "shared" / "protocols.md"
SIZES = {
    "medim_table1": (56, 4429.11),
    "medim_table2": (12, 255.67),
    "medim_table3": (9, 722.31),
    "cmitm_table1": (84, 7096.5),
    "cmitm_table2": (8, 676.2),
}
T3_ROWS = {"1,0,0": "L_align", "1,1,0": "L_align + KWM", "1,1,1": "L_align + KWM + SDM"}


@pytest.mark.parametrize("table", SIZES)
def test_counts_and_sums(table: str) -> None:
    values = published.table(table).values
    assert (len(values), round(sum(values.values()), 2)) == SIZES[table]


def test_sums_that_the_paper_states() -> None:
    values = published.table("medim_table3").values
    totals = [
        sum(values[entry, column] for column in ("covidx", "chexpert", "siim"))
        for entry in ("mgca", "medim-kwm", "medim")
    ]
    assert round(totals[1] - totals[0], 2) == 3.28
    assert round(totals[2] - totals[0], 2) == 5.12


def test_every_cell_of_protocols() -> None:
    if not PROTOCOLS.is_file():
        pytest.skip(f"{PROTOCOLS} is not there: the values were not compared with it")
    block = PROTOCOLS.read_text().split("## 5 ")[1].split("```")[1]
    expected: dict[tuple[str, str, str], str] = {}
    table, head = "", []
    for line in block.strip().splitlines():
        if found := re.match(r"# (MedIM|CMITM) T(\d)", line):
            table, head = f"{found[1].lower()}_table{found[2]}", []
        elif not head:
            head = line.split(",")
        else:
            parts, stub = line.split(","), 3 if table == "medim_table3" else 1
            name = T3_ROWS[",".join(parts[:3])] if stub == 3 else parts[0]
            expected |= {
                (table, name, column): value
                for column, value in zip(head[stub:], parts[stub:], strict=True)
            }
    found_cells = {}
    for table in SIZES:
        with (published.FOLDER / f"{table}.csv").open(newline="") as handle:
            for line in csv.DictReader(handle):
                name = line["row"].replace("- ", "-").removesuffix(" (ours)")
                found_cells[table, name, line["column"]] = line["value"]
    assert len(expected) == 169
    assert found_cells == expected


@pytest.mark.parametrize("table", SIZES)
def test_every_value_finds_its_cell(table: str, make) -> None:
    params = make(fill=False).params
    layout = cells.layout_of(table)
    readers = {c.dataset: grid.reader(params, c.dataset) for c in params.grid[table].cells}
    columns = layout.columns(table, params.grid[table], readers)
    keys = {column.key for column in columns}
    entries = set(grid.rows(params, params.grid[table]))
    assert {c for _, c in published.table(table).values} == keys
    assert {e for e, _ in published.table(table).values} == entries
