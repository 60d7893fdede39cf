"""`cxrmim diff`: the group of each change, one line for many alike, folders, units, revisions."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cxrmim import cli, diff, grid, params, record, trace
from cxrmim.errors import ParamsError
from tests.evidence import Evidence

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]


@pytest.fixture
def evidence(tmp_path, monkeypatch, tree) -> Evidence:
    return Evidence(tmp_path / "work", monkeypatch, tree)


@pytest.fixture
def other(evidence, tmp_path) -> Path:
    """Another clone with the same result."""
    folder = tmp_path / "other"
    shutil.copytree(".", folder)
    return folder / "results/demo"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_bytes(record.canonical(tree))


def groups(a: str, b: str) -> dict[str, list[str]]:
    """Lines of each group; the heading goes with them."""
    out: dict[str, list[str]] = {}
    for line in diff.compare(params.load(), a, b, limit=None):
        if not line.startswith("  "):
            out[line.partition(":")[0]] = [line]
        else:
            out[list(out)[-1]].append(line.strip())
    return out


def changed(found: dict[str, list[str]]) -> set[str]:
    return {name for name in diff.GROUPS if name in found and len(found[name]) > 1}


def test_nothing_differs_between_equal_clones(other, capsys):
    assert cli.main(["diff", "results/demo", other.as_posix()]) == 0
    assert "no difference" in capsys.readouterr().out


def runs(root: Path) -> list[Path]:
    found = sorted((root / "records/downstream").rglob("*.json"))
    return [path for path in found if "circumstances" not in path.name]


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "params": (
        "config.image 96 -> 64 in {n} downstream records",
        lambda root: [edit(p, lambda t: t["config"].update(image=64)) for p in runs(root)],
    ),
    "code": (
        "in {n} downstream records",
        lambda root: [edit(p, lambda t: t.update(code="0" * 64)) for p in runs(root)],
    ),
    "data": (
        "outputs.table.sha256",
        lambda root: edit(
            root / "records/shards/chexpert.json",
            lambda t: t["outputs"]["table"].update(sha256="0" * 64),
        ),
    ),
    "environment": (
        "environment.packages.torch",
        lambda root: edit(
            root / "records/pretrain/mae-s0.circumstances.json",
            lambda t: t["environment"]["packages"].update(torch="0.1"),
        ),
    ),
    "cells": (
        "metrics.value 0.5 -> 0.75 in {n} downstream records",
        lambda root: [edit(p, lambda t: t["metrics"].update(value=0.75)) for p in runs(root)],
    ),
}


@pytest.mark.parametrize("group", CHANGES)
def test_a_change_is_told_once_in_its_group(other, group):
    words, change = CHANGES[group]
    change(other)
    found = groups("results/demo", other.as_posix())
    assert changed(found) == {group}
    assert len(found[group]) == 2
    assert words.format(n=len(runs(other))) in found[group][1]


def test_times_and_costs_are_no_difference(other):
    for path in (other / "records").rglob("*.circumstances.json"):
        edit(path, lambda t: t.update(finished="2001-01-01T00:00:00Z", cost={}))
    assert changed(groups("results/demo", other.as_posix())) == set()


def test_a_parameter_of_the_other_clone_is_named(other):
    path = other.parents[1] / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["seeds"]["pretrain"] = [5]
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    found = groups("results/demo", other.as_posix())
    assert found["params"][1] == "params.yaml: seeds.pretrain [0] -> [5]"


def test_cells_are_told_by_how_far_they_moved(other):
    one, two = ({"a:b:c": {"value": v}, "a:b:d": {"value": w}} for v, w in ((0.5, 0.5), (0.6, 0.3)))
    for root, cells in ((Path("results/demo"), one), (other, two | {"a:b:e": {"value": 0.1}})):
        (root / "tables").mkdir()
        (root / "tables/summary.json").write_text(json.dumps({"cells": cells}))
    assert groups("results/demo", other.as_posix())["cells"][1:] == [
        "a:b:d 50.00 -> 30.00 (-20.00)",
        "a:b:c 50.00 -> 60.00 (+10.00)",
        "only in B: 1 cells (a:b:e ...)",
    ]


def test_a_record_on_one_side_alone_is_counted(other):
    gone = runs(other)[:2]
    for path in gone:
        path.unlink()
    found = groups("results/demo", other.as_posix())
    assert "record there -> none in 2 downstream records" in found["params"][1]


def test_units_and_cells_are_compared_along_their_chains(evidence):
    found = groups("pretrain/mae-s0", "pretrain/medim-s0")
    assert "config.method mae -> medim in pretrain/mae-s0 | medim-s0" in found["params"]
    assert changed(found) >= {"params", "code"} and "data" not in changed(found)
    left, right = (diff.side(evidence.params, f"pretrain/{name}-s0") for name in ("mae", "medim"))
    assert {kind for kind, _ in left.records} == {"phantom", "manifest", "shards", "pretrain"}
    assert left.records.keys() - right.records.keys() == {("pretrain", "mae-s0")}


def test_a_revision_of_git_is_compared_with_the_working_tree(evidence):
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*GIT, *command], check=True)
    assert changed(groups("HEAD", "results/demo")) == set()
    edit(runs(Path("results/demo"))[0], lambda t: t["metrics"].update(value=0.1))
    assert changed(groups("HEAD", "results/demo")) == {"cells"}
    assert changed(groups("HEAD", "HEAD")) == set()


@pytest.mark.parametrize("name", ["nothing", "pretrain/nothing-s0", "src", "a:b:c"])
def test_what_cannot_be_compared_is_one_line_and_status_2(evidence, name, capsys):
    Path("src").mkdir()
    assert cli.main(["diff", name, "results/demo"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1


def test_a_unit_is_no_way_through_the_folders(evidence):
    with pytest.raises(ParamsError, match="no such unit"):
        diff.side(evidence.params, "pretrain/../manifest/chexpert")


def test_a_cell_that_no_run_makes_is_refused(evidence, monkeypatch):
    cell, _ = trace.find(evidence.params, "medim_table1:medim:chexpert_10")
    blank = replace(cell, runs=(), state="blank")
    monkeypatch.setattr(trace, "find", lambda params, name: (blank, ""))
    with pytest.raises(ParamsError, match="blank, nothing to compare"):
        diff.side(evidence.params, "medim_table1:medim:chexpert_10")


def test_long_groups_are_cut_unless_all_is_asked_for(other, capsys):
    for number in range(diff.SHOWN + 3):
        edit(runs(other)[0], lambda t, n=number: t["config"].update({f"key{n}": n}))
    cli.main(["diff", "results/demo", other.as_posix()])
    assert "... 3 more lines (--all)" in capsys.readouterr().out
    cli.main(["diff", "--all", "results/demo", other.as_posix()])
    assert "more lines" not in capsys.readouterr().out


def test_every_unit_of_the_grid_can_be_named(evidence):
    for kind, unit in grid.units(evidence.params):
        assert (kind, unit) in diff.side(evidence.params, f"{kind}/{unit}").records
