"""Records: canonical, sealed, blind to comments."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cxrmim import check, params, record
from cxrmim.errors import CheckError
from cxrmim.grid import Run
from cxrmim.paths import Paths, atomic, atomic_folder


@pytest.fixture
def here(tmp_path, monkeypatch, tree, write_params):
    write_params(tree)
    monkeypatch.chdir(tmp_path)
    return params.load(scale="demo")


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_long_lists_of_numbers_take_one_line_and_nothing_is_lost(count):
    numbers = [round(i / 7 - 3, 5) for i in range(count)]
    odd = "[\n 1,\n 2\n]" * 70
    tree = {"a": numbers, "b": {"c": [odd] * 70, "d": numbers}, "e": [[0.5] * count] * 2}
    text = record.canonical(tree)
    assert json.loads(text) == tree
    assert record.canonical(json.loads(text)) == text
    plain = (json.dumps(tree, sort_keys=True, indent=1) + "\n").encode()
    assert (text == plain) == (count <= 64)
    assert text.count(b"\n") < 250 or count == 64


def write_phantom(loaded):
    folder = Paths("demo").phantom("mimic")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.csv").write_text("x\n1\n")
    record.write(
        loaded, "phantom", "mimic", outputs={"table": folder / "a.csv"}, metrics={"images": 3}
    )
    return Paths("demo").record("phantom", "mimic")


def test_an_identical_rerun_gives_an_identical_record(here):
    path = write_phantom(here)
    first = path.read_bytes()
    write_phantom(here)
    assert path.read_bytes() == first
    assert record.canonical(json.loads(first)) == first


def test_the_record_holds_no_time_and_the_circumstances_do(here):
    path = write_phantom(here)
    how = json.loads(Paths("demo").circumstances("phantom", "mimic").read_bytes())
    assert {"commit", "dirty", "environment", "cost", "finished"} <= set(how)
    assert not {"commit", "cost", "finished"} & set(json.loads(path.read_bytes()))


def test_hashes_are_those_of_the_file(here):
    entry = record.read(write_phantom(here))["outputs"]["table"]
    data = b"x\n1\n"
    assert entry["bytes"] == len(data)
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert entry["md5"] == hashlib.md5(data).hexdigest()


def test_an_edit_by_hand_is_named_with_file_and_value(here):
    path = write_phantom(here)
    tree = json.loads(path.read_bytes())
    tree["metrics"]["images"] = 4
    path.write_bytes(record.canonical(tree))
    found = list(check.faults(here, ("phantom",)))
    assert any(str(path) in line and "edited by hand" in line for line in found)


def test_a_parameter_that_changed_is_named_with_both_values(here, tree, write_params):
    write_phantom(here)
    tree["phantom"]["seed"] = 7
    changed = params.load(write_params(tree), "demo")
    found = list(check.faults(changed, ("phantom",)))
    assert any("config.seed = 2023" in line and "gives 7" in line for line in found)


def test_verify_refuses_missing_and_swapped_files(here):
    path = write_phantom(here)
    tree = record.read(path)
    record.verify(tree, "table")
    file = Path(tree["outputs"]["table"]["path"])
    file.write_text("other")
    with pytest.raises(CheckError, match="sha256"):
        record.verify(tree, "table")
    file.unlink()
    with pytest.raises(CheckError, match="not there"):
        record.verify(tree, "table")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}'])
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CheckError) as caught:
        record.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_hash_ignores_comments_and_sees_maths(tmp_path, monkeypatch):
    def closure(source: str) -> str:
        folder = tmp_path / "closure"
        folder.mkdir(exist_ok=True)
        (folder / "toymaths.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        record.closure.cache_clear()
        record._read.cache_clear()
        return record.closure(("toymaths",))

    plain = closure("def f(x):\n    return x + 1\n")
    assert closure('"""Doc."""\n# why\ndef f(x):\n    """Doc."""\n    return x + 1\n') == plain
    assert closure("def f(x):\n    return x + 2\n") != plain
    record.closure.cache_clear()
    record._read.cache_clear()


def test_closure_follows_imports_but_not_plumbing():
    one = record.closure(("cxrmim.check",))
    assert one != record.closure(("cxrmim.errors",))
    assert record.closure(("cxrmim.params",)) == record.closure(())


def test_interrupted_writes_leave_nothing(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    folder = tmp_path / "f"
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.txt"]


def test_a_raw_file_is_named_below_its_root(here, tree, write_params, tmp_path):
    root = tmp_path / "somewhere"
    root.mkdir()
    (root / "t.csv").write_text("1")
    tree["manifest"]["roots"]["chexpert"] = str(root)
    loaded = params.load(write_params(tree), "paper")
    record.write(loaded, "manifest", "chexpert", inputs={"t": root / "t.csv"})
    entry = record.read(Paths("paper").record("manifest", "chexpert"))["inputs"]["t"]
    assert entry["path"] == "raw:chexpert/t.csv"
    assert record.locate(loaded, entry["path"]) == root / "t.csv"


def test_run_records_lie_under_their_checkpoint():
    run = Run("medim-s0", "chexpert", "probe", 1, 2)
    path = Paths("demo").record("downstream", run.id)
    assert path.as_posix() == ("results/demo/records/downstream/medim-s0/chexpert-probe-1-s2.json")
