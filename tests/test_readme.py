"""The README's measured numbers are those of the committed tables."""

from __future__ import annotations

import csv

import pytest

NAMES = {"random": "random weights", "mae": "MAE", "mgca": "MGCA", "medim": "MedIM"}


def rows(repo, table):
    with (repo / f"results/trend/tables/{table}.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("entry", NAMES)
def test_the_probe_numbers_are_those_of_the_trend(repo, entry):
    text = (repo / "README.md").read_text(encoding="utf-8")
    line = next(ln for ln in text.splitlines() if ln.startswith(f"| {NAMES[entry]} |"))
    cells = [row for row in rows(repo, "trend") if row["row"] == entry]
    assert len(cells) == 3
    for cell in cells:
        assert f"{float(cell['ours_mean']):.2f} ± {float(cell['ours_sd']):.2f}" in line
