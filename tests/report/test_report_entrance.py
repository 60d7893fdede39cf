"""The entrance of the site: leaks by whose code, clear differences, trivial rows."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cxrmim import grid, params
from cxrmim.report import render
from cxrmim.report.book import Book
from cxrmim.report.site import leads, leaks, start
from cxrmim.report.site.public import Rule


def leak(entry: str, used: bool = False, told: str = "images 9 / 8 / 1") -> SimpleNamespace:
    dataset, _, rule = entry.partition("-")
    return SimpleNamespace(
        entry=entry, used=used, told=told, line=SimpleNamespace(dataset=dataset, rule=rule)
    )


def rule(dataset: str, name: str, released: bool = True, leaking=("images",)) -> Rule:
    shared = {"images": "161 / 154 / 62", "patients": "– / – / –"}
    return Rule(dataset, name, "", released, ("8", "2", "3"), shared, leaking)


def test_real_tables_stand_beside_the_rule_that_was_replayed_on_them() -> None:
    real = [
        rule("SIIM", "mgca"),
        rule("SIIM", "mgca, frontal", leaking=()),
        rule("SIIM", "mrm"),
        rule("SIIM", "mgca, ours", released=False),
        rule("RSNA", "mgca"),
    ]
    (found,) = leaks.official([leak("siim-mgca"), leak("siim-released", used=True)], real)
    assert found.users == "MGCA, MedIM, GLoRIA"
    assert found.real == (
        ("mgca", "images 161 / 154 / 62 (train / valid / test: 8 / 2 / 3 images)"),
        ("mgca, frontal", "nothing (train / valid / test: 8 / 2 / 3 images)"),
    )
    (none,) = leaks.official([leak("covidx-mgca")], real)
    assert none.real == ()


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_replayed_rule_has_a_user(repo, scale) -> None:
    loaded = params.load(repo / "params.yaml", scale)
    replayed = {name for name, entry in loaded.manifest.entries.items() if entry.audit}
    assert replayed == set(leaks.USERS)
    assert set(grid.audited(loaded)) <= replayed


def test_clear_are_those_below_the_level() -> None:
    made = [SimpleNamespace(p=p) for p in (None, 0.2, leads.LEVEL, 0.049)]
    found = start.clear([SimpleNamespace(topic="t", measured=made)])
    assert found == [("t", made[3])]


def test_p_says_on_which_side_of_the_level_it_is() -> None:
    assert leads.chance(0.0496) == "0.0496"
    assert leads.chance(0.0504) == "0.0504"
    assert leads.chance(0.0561) == "0.056"
    assert leads.chance(0.31) == "0.31"


def test_what_is_not_above_a_trivial_row_is_marked_and_never_bold(make) -> None:
    world = make()
    table = Book(world.params).table("medim_table1")
    column = next(i for i, c in enumerate(table.columns) if c.key == "chexpert_10")
    level = max(r.cells[column].mean or 0.0 for r in table.rows if r.baseline)
    rows = []
    for row in table.rows:
        cells = list(row.cells)
        if row.entry in ("mgca", "medim"):
            value = level + (0.05 if row.entry == "mgca" else 0.0)
            cells[column] = replace(cells[column], values=(value,))
        rows.append(replace(row, cells=tuple(cells)))
    table = replace(table, rows=tuple(rows))
    ours = {
        r.cells[column].address: r.cells[column].mean
        for r in table.rows
        if not r.baseline and r.cells[column].mean is not None
    }
    below = {address for address, mean in ours.items() if round(100 * mean, 2) <= 100 * level}
    assert "medim_table1:medim:chexpert_10" in below
    assert "medim_table1:mgca:chexpert_10" not in below
    assert table.trivial() & set(ours) == below
    assert not table.best() & table.trivial()
    text = render.to_markdown(table, world.params)
    assert text.count(render.BELOW) == len(table.trivial()) + 1  # and in the legend
