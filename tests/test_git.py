"""What asks git goes on on a machine without it, as a blind-review zip's may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrmim import check, cli, git, params, record


@pytest.fixture
def without_git(repo, tmp_path, monkeypatch) -> None:
    """A folder with the parameters, and no program of git's."""
    (tmp_path / "params.yaml").write_bytes((repo / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    record._git.cache_clear()


def test_a_machine_without_git_is_told_from_an_empty_answer(without_git):
    assert git.ask("rev-parse") is None
    assert git.lines("rev-parse") == []


def test_a_job_writes_its_record(without_git):
    loaded = params.load("params.yaml", "demo")
    record.write(loaded, "phantom", "siim")
    path = Path("results/demo/records/phantom/siim.circumstances.json")
    assert json.loads(path.read_text())["commit"] is None


def test_an_edited_record_is_told(without_git):
    loaded = params.load("params.yaml", "demo")
    record.write(loaded, "phantom", "siim")
    path = Path("results/demo/records/phantom/siim.json")
    path.write_text(path.read_text().replace('"seed": null', '"seed": 1'))
    (told,) = check.record_faults(loaded, "phantom", "siim")
    assert "edited by hand" in told
    assert check.uncommitted(loaded) == []


@pytest.mark.parametrize(
    ("arguments", "status"), [(["compare"], 0), (["diff", "HEAD~1", "HEAD"], 2)]
)
def test_commands_say_so_in_one_line(without_git, capsys, arguments, status):
    assert cli.main(arguments) == status
    out, error = capsys.readouterr()
    assert (out + error).count("\n") == 1
