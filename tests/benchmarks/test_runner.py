"""The harness: a shared form, nothing is lost, the document says what was measured."""

from __future__ import annotations

import ast
import json
import sys

import pytest
from benchmarks.rows import explained, measured, not_measured

from benchmarks import __main__ as harness
from benchmarks import document, machine, runner

NAMES = [name for names in harness.GROUPS.values() for name in names]
ROW = measured("a b", "s", [3.0, 1.0, 2.0], target=2.5)


def result(value, failed=""):
    rows = [measured("a", "s", [value]).tree()]
    return {
        "date": "2026-01-01",
        "commit": "0123456789abcdef",
        "uncommitted changes": False,
        "load before": 0.5,
        "python": "3",
        "packages": {"numpy": "2"},
        "threads": {"OMP_NUM_THREADS": "1"},
        "seconds": 1.0,
        "failed": failed,
        "rows": rows,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_the_shared_form(repo, name):
    text = (repo / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    measure = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "measure")
    assert ast.unparse(measure.args) == "toy: bool=False"
    assert text.rstrip().endswith("raise SystemExit(runner.main(measure))")


def test_a_row_has_its_median_spread_and_judgement():
    tree = ROW.tree()
    assert (tree["value"], tree["least"], tree["most"], tree["met"]) == (2.0, 1.0, 3.0, True)
    assert measured("a", "s", [3.0], target=2.5).met is False
    assert measured("a", "s", [3.0], target=2.5, bound=">=").met is True
    assert not_measured("a", "s", "no GPU", target=1).met is None


def test_only_a_miss_is_explained():
    assert explained(ROW, "slow").why == ""
    assert explained(measured("a", "s", [3.0], target=2.5), "slow").why == "slow"


def test_the_printed_table_has_figures_targets_and_reasons():
    missed = explained(measured("c", "%", [0.1234], target=0), "because")
    absent = not_measured("d", "", "no GPU here")
    lines = runner.table([("x", row.tree()) for row in (ROW, missed, absent)]).splitlines()
    assert lines[0].split() == " ".join(runner.HEADS).split()
    assert lines[1].split() == ["x", "a", "b", "2", "s", "1", "to", "3", "≤", "2.50", "s", "yes"]
    assert lines[2].split() == ["x", "c", "0.123", "%", "≤", "0", "%", "no"]
    assert lines[3] == "    because"
    assert "not measured" in lines[4]
    assert lines[5] == "    no GPU here"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (1234.5, "1,234"),
        (99.96, "100.0"),
        (3.14159, "3.14"),
        (0.8512, "0.851"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert runner.number(value) == text


def test_a_slug_is_a_file_name_with_model_and_cores(monkeypatch):
    monkeypatch.setattr(machine, "cpu", lambda: "Example(R) CPU 9000 @ 2.0GHz")
    monkeypatch.setattr(machine, "gpu", lambda: "NVIDIA X100 80GB")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    assert machine.slug("cpu") == machine.slug("growth") == "example-r-cpu-9000-2-0ghz-4-cores"
    assert machine.slug("gpu") == "nvidia-x100-80gb-4-cores"


def test_a_machine_without_a_gpu_keeps_that_group_beside_its_own(monkeypatch):
    monkeypatch.setattr(machine, "gpu", lambda: "")
    assert machine.slug("gpu") == machine.slug("cpu")


def test_groups_stand_side_by_side():
    tree = harness.merge({}, "cpu", {"phantom": result(1.0)}, keep=False)
    tree = harness.merge(tree, "gpu", {"gpu": result(2.0)}, keep=False)
    tree = harness.merge(tree, "cpu", {"demo": result(3.0)}, keep=False)
    assert list(tree["groups"]) == ["cpu", "gpu"]
    assert list(tree["groups"]["cpu"]) == ["demo"]
    assert tree["groups"]["gpu"]["gpu"]["rows"][0]["value"] == 2.0


def test_one_benchmark_leaves_the_others_of_its_group():
    tree = harness.merge({}, "cpu", {"demo": result(1.0)}, keep=False)
    tree = harness.merge(tree, "cpu", {"phantom": result(2.0)}, keep=True)
    assert list(tree["groups"]["cpu"]) == ["phantom", "demo"]


def test_what_fails_keeps_its_last_good_rows():
    tree = harness.merge({}, "cpu", {"demo": result(1.0)}, keep=False)
    for _ in range(2):
        tree = harness.merge(tree, "cpu", {"demo": result(0.0, "failed: x")}, keep=False)
    found = tree["groups"]["cpu"]["demo"]
    assert found["failed"] == "failed: x"
    assert found["last"]["rows"][0]["value"] == 1.0
    assert "last" not in found["last"]
    mended = harness.merge(tree, "cpu", {"demo": result(4.0)}, keep=False)
    assert "last" not in mended["groups"]["cpu"]["demo"]


def test_a_benchmark_that_fails_says_so_and_the_others_still_run(tmp_path, monkeypatch, capsys):
    file = tmp_path / "out.json"
    monkeypatch.setitem(harness.GROUPS, "cpu", ("nosuch", "retrieval"))
    arguments = ["benchmarks", "--toy", "--only", "nosuch", "retrieval", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert harness.main() == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "failed: nosuch"
    found = json.loads(file.read_text(encoding="utf-8"))["groups"]["cpu"]
    assert "No module named benchmarks.nosuch" in found["nosuch"]["failed"]
    assert found["nosuch"]["rows"][0]["value"] is None
    assert "not measured" in out
    assert found["retrieval"]["rows"][0]["value"] > 0
    assert set(found["retrieval"]["threads"].values()) == {"1"}


def test_a_toy_writes_nothing_unasked(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "REPO", tmp_path)
    monkeypatch.setattr(harness, "run", lambda name, toy: result(1.0))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--toy"])
    assert harness.main() == 0
    assert not list(tmp_path.iterdir())


def test_the_document_says_what_the_files_say():
    text = document.DOCUMENT.read_text(encoding="utf-8")
    assert document.replaced(text, document.tables(document.FOLDER)) == text, (
        "python -m benchmarks --document"
    )


def test_a_table_has_each_row_its_reason_and_the_circumstances(tmp_path):
    tree = harness.merge({}, "cpu", {"demo": result(1.0)}, keep=False)
    missed = explained(measured("c", "%", [1.0], target=0), "because").tree()
    again = explained(measured("d", "%", [1.0], target=0), "because").tree()
    tree["groups"]["cpu"]["demo"]["rows"] += [missed, again]
    (tmp_path / "x.json").write_text(json.dumps(tree), encoding="utf-8")
    text = document.tables(tmp_path)
    assert "| demo | a | 1 s |  |  |  |" in text
    assert "| demo | c | 1 % (1) |  | ≤ 0 % | no |" in text
    assert "| demo | d | 1 % (1) |  | ≤ 0 % | no |" in text
    assert text.count("because") == 1
    assert "\n1. because\n" in text
    assert "commit 012345678;" in text
    tree["groups"]["cpu"]["demo"]["uncommitted changes"] = True
    (tmp_path / "x.json").write_text(json.dumps(tree), encoding="utf-8")
    assert "commit 012345678, with uncommitted changes;" in document.tables(tmp_path)


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="is missing"):
        document.replaced("text", "new")
