"""The benchmark of what the workflow costs where nothing is to be done."""

from __future__ import annotations

import subprocess

import pytest
from benchmarks.workflow import DRY, NOOP, REPRO, Cost

from benchmarks import workflow


def test_a_toy_makes_the_dry_run_and_says_how_the_others_are_measured():
    dry, noop, repro = workflow.measure(toy=True)
    assert [row.what for row in (dry, noop, repro)] == [DRY, NOOP, REPRO]
    assert [row.target for row in (dry, noop, repro)] == [6, 8, 4]
    assert {row.unit for row in (dry, noop, repro)} == {"s"}
    assert dry.value is not None
    assert dry.details["CPU s"] > 0, "the children's seconds are counted"
    for row in (noop, repro):
        assert row.value is None
        assert "make demo" in row.why
        assert row.met is None


def test_a_checkout_without_a_demo_is_told_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "REPO", tmp_path / "none")
    assert workflow.copied(tmp_path / "copy") == "no finished demo here"
    assert not (tmp_path / "copy").exists()


def test_what_repro_costs_is_less_the_reports_parts_by_round(monkeypatch, tmp_path):
    told = {"dvc": iter([99.0, 20.0, 30.0, 25.0]), "cxrmim": iter([3.0, 7.0, 5.0] * 3)}
    monkeypatch.setattr(
        workflow, "call", lambda folder, words: Cost(next(told[words[0]]), 1.0, 0, "")
    )
    row = workflow.attestation(tmp_path)
    assert row.values == (5.0, 15.0, 10.0), "the warm-up is none of them"
    assert row.value == 10.0
    assert row.details["report, wall s"] == 15.0


def test_a_repro_that_stops_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(workflow, "call", lambda folder, words: Cost(1.0, 1.0, 4, "BAD"))
    assert workflow.attestation(tmp_path).value is None


def test_a_command_that_fails_gives_no_figure(tmp_path):
    with pytest.raises(RuntimeError, match="no-such-option"):
        workflow.timed(DRY, tmp_path, ["snakemake", "--no-such-option"], 1)


def test_the_copy_is_of_the_commit_and_the_artifacts(monkeypatch, tmp_path):
    here = tmp_path / "repo"
    for name in ("artifacts/checkpoints", "phantom"):
        (here / "results/demo" / name).mkdir(parents=True)
    (here / "results/demo/artifacts/checkpoints/mae-s0.safetensors").write_bytes(b"w")
    (here / "kept").write_text("x")
    git = ["git", "-C", str(here), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "kept"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    (here / "loose").write_text("x")
    monkeypatch.setattr(workflow, "REPO", here)
    said = iter(["1 of 3 steps", workflow.IDLE])
    monkeypatch.setattr(workflow, "call", lambda folder, words: Cost(1.0, 1.0, 0, next(said)))
    assert "not finished" in workflow.copied(tmp_path / "first")
    assert workflow.copied(tmp_path / "second") == ""
    copy = tmp_path / "second"
    assert (copy / "kept").is_file()
    assert not (copy / "loose").exists()
    assert (copy / "results/demo/artifacts/checkpoints/mae-s0.safetensors").read_bytes() == b"w"
