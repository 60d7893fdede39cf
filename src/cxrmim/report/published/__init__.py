"""Values printed in the papers: one csv a table (protocols §5), x100 as printed.

Columns: `entry` (of params.yaml), `row` (its name in the paper's table), `column` (key of the
column in our table), `value`. Rows stand in the paper's order.
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


@cache
def table(name: str) -> Published:
    """Published values of a table or figure; empty if no paper printed any."""
    file = FOLDER / f"{name}.csv"
    out = Published({}, {})
    if not file.is_file():
        return out
    with file.open(encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            out.names.setdefault(line["entry"], line["row"])
            out.values[line["entry"], line["column"]] = float(line["value"])
    return out
