"""Checks of made-up evidence; real results are forged in tests/workflow/test_forged.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmim import check, cli, grid, params, record, stale, trace
from cxrmim.errors import ParamsError
from tests.evidence import Evidence


@pytest.fixture
def evidence(tmp_path, monkeypatch, tree) -> Evidence:
    return Evidence(tmp_path / "work", monkeypatch, tree)


def test_honest_evidence_has_no_fault(evidence, capsys):
    assert list(check.faults(evidence.params)) == []
    assert list(check.artifact_faults(evidence.params)) == []
    assert cli.main(["check"]) == 0
    assert "no contradiction" in capsys.readouterr().out


def test_no_two_units_may_name_one_place(evidence):
    places: dict[str, str] = {}
    for kind, unit in grid.units(evidence.params):
        for entry in record.read(evidence.paths.record(kind, unit))["outputs"].values():
            assert places.setdefault(entry["path"], f"{kind}/{unit}") == f"{kind}/{unit}"


def test_an_untrained_header_is_no_checkpoint(evidence):
    path = evidence.paths.checkpoint("mae-s0")
    unit = record.read(evidence.paths.record("pretrain", "mae-s0"))
    path.write_bytes(b"not safetensors at all")
    unit["outputs"]["weights"].update(record.digest(path))
    unit["digest"] = record.seal(unit)
    evidence.paths.record("pretrain", "mae-s0").write_bytes(record.canonical(unit))
    assert any(path.as_posix() in line for line in check.artifact_faults(evidence.params))


@pytest.mark.parametrize("value", [None, 1, [], {"a": 1}])
@pytest.mark.parametrize("key", ["path", "sha256"])
def test_an_output_of_another_kind_is_a_fault_of_its_record(evidence, capsys, key, value):
    path = evidence.paths.record("shards", "chexpert")
    unit = record.read(path)
    unit["outputs"]["table"][key] = value
    unit["digest"] = record.seal(unit)
    path.write_bytes(record.canonical(unit))
    assert cli.main(["check"]) == 4
    assert f"{path.as_posix()}: outputs.table: path and sha256" in capsys.readouterr().out


def test_a_record_that_nests_too_deep_is_named(evidence, capsys):
    path = evidence.paths.record("manifest", "chexpert")
    path.write_text("[" * 100_000)
    assert cli.main(["check"]) == 4
    assert path.as_posix() in capsys.readouterr().err


def test_predictions_that_cannot_be_measured_are_named(evidence):
    """What the made-up evidence holds is no parquet; its records seal it all the same."""
    told = list(check.recomputed_faults(evidence.params))
    runs = check.measurable(evidence.params)
    assert [line.partition(":")[0] for line in told] == [
        evidence.paths.prediction(run.id).as_posix() for run in runs
    ]


def test_all_faults_are_printed_and_counted(capsys):
    lines: list[str] = []
    with pytest.raises(Exception, match=r"^a \(and 2 more\)$"):
        check.require(iter(["a", "b", "c"]), lines.append)
    assert lines == ["a", "b", "c"]
    check.require(iter([]), lines.append)


@pytest.mark.parametrize(
    ("name", "have", "want", "told"),
    [
        ("a.csv", "x,y\n1,2\n", "x,y\n1,3\n", "line 2, y = '2', but the records give '3'"),
        ("a.csv", "x,y\n", "x,y\n1,3\n", "1 lines, but the records give 2"),
        ("a.csv", "x\n1\n", "x,y\n1,3\n", "line 1 has 'x', but the records give 'x,y'"),
        ("a.csv", "x\r\n1\r\n", "x\n1\n", "the same values in another form"),
        ("a.json", '{"a": 1}', '{"a": 2}', "a = 1, but the records give 2"),
        ("a.json", '{"a":1}', '{"a": 1}', "the same values in another form"),
        ("a.json", "{", "{}", "not what the records give"),
        ("a.json", "[" * 100_000, "{}", "not what the records give"),
        ("a.json", "[]", '{"a": 1}', "[], but the records give {'a': 1}"),
        ("a.csv", "x\n" + "1" * 200_000 + "\n", "x\n1\n", "not what the records give"),
        ("a.md", "one\ntwo\n", "one\nten\n", "line 2 has 'two', but the records give 'ten'"),
        ("a.md", "one\n", "one\ntwo\n", "line 2 has no line, but the records give 'two'"),
        ("a.md", "one", "one\n", "the same lines in another form"),
    ],
)
def test_the_first_difference_is_told(tmp_path, name, have, want, told):
    path = tmp_path / name
    path.write_bytes(have.encode())
    assert stale.difference(path, want.encode()).startswith(told)


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from([".csv", ".md", ".json"]))
def test_any_two_texts_can_be_compared(tmp_path_factory, have, want, suffix):
    path = tmp_path_factory.mktemp("texts") / f"a{suffix}"
    path.write_bytes(have.encode())
    told = stale.difference(path, want.encode())
    assert told
    assert "\n" not in told


KNOWN = {"mae": ["mae", "MAE"], "medim": ["medim", "MedIM"], "medim-low": ["medim-low"]}


@pytest.mark.parametrize(
    ("text", "key", "exact"),
    [
        ("mae", "mae", True),
        (" MedIM ", "medim", True),
        ("MEDIM LOW", "medim-low", False),
        ("ma", "mae", False),
        ("medmi", "medim", False),
        ("medim-lo", "medim-low", False),
    ],
)
def test_a_name_is_completed(text, key, exact):
    assert trace.complete("row", text, KNOWN) == (key, exact)


@pytest.mark.parametrize(("text", "told"), [("m", "mae, medim, medim-low"), ("xyz", "known: mae")])
def test_a_name_that_means_none_or_several_is_not_guessed(text, told):
    with pytest.raises(ParamsError, match=told):
        trace.complete("row", text, KNOWN)


@given(st.text(max_size=12))
def test_completion_gives_a_known_key_or_an_error(text):
    try:
        key, exact = trace.complete("row", text, KNOWN)
    except ParamsError as error:
        assert "\n" not in str(error)
        return
    assert key in KNOWN
    assert exact == (text.strip().casefold() in [n.casefold() for n in KNOWN[key]])


def test_hashes_are_cut_but_for_long():
    link = trace.Link(1, "record x", "ok", f"sha256 {'ab' * 32}, commit {'c' * 40}")
    assert link.text() == f"  [ok] record x - sha256 {'ab' * 6}, commit {'c' * 12}"
    assert link.text(long=True).endswith("c" * 40)


def test_a_bad_link_ends_the_trace_with_status_4(evidence, capsys):
    path = evidence.paths.prediction("medim-s0/chexpert-probe-10-s0")
    path.write_bytes(b"other")
    links = trace.follow(params.load(), grid.runs(evidence.params)[:20])
    bad = [link for link in links if link.state == "BAD"]
    assert [Path(link.what.split()[-1]) for link in bad] == [path]
    assert {link.state for link in links} <= set(trace.STATES)
