"""Values printed in the papers: one csv a table (protocols §5), x100 as printed.

Columns: `entry` (of params.yaml), `row` (its name in the paper's table), `column` (key of the
column in our table), `value`. Rows stand in the paper's order.

The papers print no numbers in their figures. Where a figure's point is a row of a table (protocols
§5 names them), figure_points.csv says which row, and at which value of an option the paper trained
it; the numbers stay in the table's csv.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Published:
    """One table of a paper.

    `names` maps entries to the names of their rows, in the paper's order; `values` maps (entry,
    column key) to the printed number.
    """

    names: dict[str, str]
    values: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Point:
    """An entry of a figure whose published values are a row of a table: `values` by column key.

    The paper trained it with `option` at `value`, whatever a scale trains.
    """

    option: str
    value: float
    values: dict[str, float]


@cache
def table(name: str) -> Published:
    """Published values of a table or figure; empty if no paper printed any."""
    file = FOLDER / f"{name}.csv"
    out = Published({}, {})
    if not file.is_file():
        known = points(name).items()
        return Published({}, {(e, c): v for e, p in known for c, v in p.values.items()})
    for line in _lines(file):
        out.names.setdefault(line["entry"], line["row"])
        out.values[line["entry"], line["column"]] = float(line["value"])
    return out


@cache
def points(figure: str) -> dict[str, Point]:
    """Published points of a figure by entry; none if no table holds them."""
    out: dict[str, Point] = {}
    for line in _lines(FOLDER / "figure_points.csv"):
        if line["figure"] == figure:
            held = table(line["table"]).values.items()
            values = {column: value for (row, column), value in held if row == line["row"]}
            out[line["entry"]] = Point(line["option"], float(line["value"]), values)
    return out


def _lines(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
