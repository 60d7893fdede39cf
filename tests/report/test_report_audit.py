"""The data audit is made of the records of manifests and shards, of used and replayed entries."""

from __future__ import annotations

import csv
import io
import json

import pytest
from chained import complete

from cxrmim import grid
from cxrmim.errors import CheckError
from cxrmim.report import audit, build


def test_every_entry_has_a_line_and_those_of_a_dataset_stand_together(make) -> None:
    world = make()
    found = audit.lines(world.params)
    names = [line.entry for line in found]
    assert sorted(names) == sorted([*grid.datasets(world.params), *grid.audited(world.params)])
    datasets = [line.dataset for line in found]
    assert datasets == sorted(datasets, key=datasets.index)
    assert {line.entry for line in found if not line.used} == set(grid.audited(world.params))


def test_a_line_by_hand(make) -> None:
    world = make()
    by_name = {line.entry: line for line in audit.lines(world.params)}
    leaky = by_name["chexpert-mgca"]
    assert (leaky.rule, leaky.unit, leaky.used) == ("mgca", "", False)
    assert leaky.texts() == [
        *("CheXpert", "chexpert-mgca", "mgca", "not held", "60", "5", "15"),
        *("7 / 14 / 0", "–", "7 / 14 / 0"),
        *("7 / 14 / 0 (of 50)",) * 2,
        *("", ""),
    ]
    clean = by_name["chexpert"]
    assert (clean.unit, clean.cell("images"), clean.cell("reports")) == ("patient", "0 / 0 / 0", "")
    assert clean.flow == (("rows", 100), ("view is lateral", 20), ("kept", 80))


def test_a_pair_of_splits_that_is_not_there_is_no_zero(make) -> None:
    world = make()
    pairs = {"train-test": 4}
    world.write_data("shards", "mimic", {"audit": {"pixels": pairs}, "kept": 80})
    line = next(line for line in audit.lines(world.params) if line.entry == "mimic")
    assert line.cell("pixels") == "– / 4 / –"
    assert line.cell("similar") == ""


def test_the_pool_of_a_corpus_is_shown(make) -> None:
    world = make()
    path = world.paths.record("manifest", "mimic")
    tree = json.loads(path.read_text())
    tree["metrics"]["audit"]["reports"] = {"train-test": 4, "pool": 6, "siblings": 2, "rows": 454}
    path.write_text(json.dumps(tree))
    line = next(line for line in audit.lines(world.params) if line.entry == "mimic")
    assert line.texts()[-2:] == ["– / 4 / –", "6 of 454"]
    assert "mimic,true,fractions,patient,reports,siblings,2" in audit.to_csv([line])


def test_csv_has_every_count_once(make) -> None:
    world = make()
    found = audit.lines(world.params)
    rows = list(csv.DictReader(io.StringIO(audit.to_csv(found))))
    keys = [(row["entry"], row["measure"], row["where"]) for row in rows]
    assert len(set(keys)) == len(keys) == len(found) * (3 + 5 * 3 + 1 + 3)
    assert sum(row["where"] == "train" and row["measure"] == "pixels" for row in rows) == len(found)
    assert (
        next(
            row["count"]
            for row in rows
            if (row["entry"], row["measure"], row["where"]) == ("siim-mgca", "images", "train-test")
        )
        == "14"
    )


def test_markdown_and_page_show_it_and_say_what_data_it_is(make) -> None:
    world = make()
    complete(world)
    build.build_tables(world.params)
    build.build_figures(world.params)
    build.build_page(world.params)
    text = world.paths.table("data_audit", "md").read_text()
    assert "PHANTOM DATA" in text
    assert "| *CheXpert* | *chexpert-mgca* |" in text
    assert "chexpert: rows 100, view is lateral 20, kept 80" in text
    page = (world.paths.report / "index.html").read_text()
    assert 'id="data"' in page and "chexpert-mgca" in page and "7 / 14 / 0" in page


def test_a_record_without_audit_or_of_something_else_is_named(make) -> None:
    world = make()
    world.write_data("shards", "mimic", {})
    with pytest.raises(CheckError, match=r"mimic\.json: holds no audit"):
        audit.lines(world.params)
    path = world.paths.record("shards", "mimic")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "real"}))
    with pytest.raises(CheckError, match=r"mimic\.json: source is 'real'"):
        audit.lines(world.params)
