"""The command line: help, exit codes, one-line errors, threads, logs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxrmim import cli, grid, job
from cxrmim.errors import CheckError, DataError, ParamsError


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cxrmim", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_help_names_every_command(repo):
    out = call("--help", cwd=repo)
    assert out.returncode == 0
    for name in [*cli.STOPS, *cli.AUDITS]:
        assert name in out.stdout


@pytest.mark.parametrize("stop", cli.STOPS)
def test_every_stop_has_help(repo, stop):
    out = call(stop, "--help", cwd=repo)
    assert out.returncode == 0, out.stderr
    for option in ("--params", "--scale", "--threads", "--debug"):
        assert option in out.stdout


@pytest.mark.parametrize("audit", cli.AUDITS)
def test_every_audit_has_help_and_work(audit, capsys):
    """Every command that is listed does something, and every option says what."""
    assert audit in cli.COMMANDS
    with pytest.raises(SystemExit) as ended:
        cli.main([audit, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for option in ("--params", "--scale", "--debug"):
        assert option in text


def test_grid_lists_everything(repo, paper):
    out = call("grid", "--scale", "paper", cwd=repo)
    assert out.returncode == 0
    entries, trained = grid.entries(paper), grid.trained(paper)
    assert f"{len(entries)} initialisations, {len(trained)} of them trained" in out.stdout
    assert all(any(ln.split()[:1] == [e] for ln in out.stdout.splitlines()) for e in entries)
    assert "alias of mgca" in out.stdout
    assert "cmitm_table1: " in out.stdout


def test_no_parameters_here_is_one_line_and_status_2(tmp_path):
    out = call("grid", cwd=tmp_path)
    assert out.returncode == 2
    assert len(out.stderr.strip().splitlines()) == 1
    assert "params.yaml" in out.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [(ParamsError("a"), 2), (DataError("b"), 3), (CheckError("c"), 4), (KeyboardInterrupt(), 130)],
)
def test_an_error_is_one_line_with_its_status(capsys, error, status):
    def work() -> None:
        raise error

    assert job.guarded(work, debug=False, name="x") == status
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unexpected_error_goes_to_the_log_with_its_traceback(tmp_path, capsys, monkeypatch):
    handler = logging.FileHandler(tmp_path / "a.log")
    monkeypatch.setattr(job.log, "handlers", [handler])

    def work() -> None:
        raise PermissionError("files/p10/p10000032/s50414267.txt")

    assert job.guarded(work, debug=False, name="x") == 1
    shown, logged = capsys.readouterr().err, (tmp_path / "a.log").read_text()
    assert len(shown.strip().splitlines()) == 1
    assert "a.log" in shown and "--debug" in shown
    assert "PermissionError" in shown and "PermissionError" in logged
    assert "test_cli.py" in logged and "raise PermissionError" in logged
    for text in (shown, logged.replace('raise PermissionError("files/p10/p10000032', "")):
        assert "p10000032" not in text, "somebody else's message may name a patient"


def test_debug_shows_the_traceback():
    def work() -> None:
        raise DataError("a")

    with pytest.raises(DataError):
        job.guarded(work, debug=True, name="x")


@pytest.mark.parametrize("count", [1, 2])
def test_threads_hold_for_openmp_and_torch_alike(count):
    code = (
        "import sys; from cxrmim import job; job.set_threads(int(sys.argv[1]));"
        "import os, torch, threadpoolctl, numpy;"
        "print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k not in job.THREAD_VARIABLES}
    out = subprocess.run(
        [sys.executable, "-c", code, str(count)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert out.stdout.split() == [str(count), str(count)]


def test_weights_are_listed_with_place_and_source(repo):
    out = call("weights", "list", "--scale", "paper", cwd=repo)
    assert out.returncode == 0, out.stderr
    for words in ("weights/deit/model.safetensors", "timm/deit_base_patch16_224.fb_in1k", "MIT"):
        assert words in out.stdout
    assert "none: everything starts from random weights" in call("weights", cwd=repo).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("weights", "import", "mae"),
        ("weights", "import", "nobodys", "params.yaml"),
        ("weights", "fetch", "nobodys"),
        ("export", "nobodys-s0"),
    ],
)
def test_what_does_not_exist_is_one_line_and_status_2(repo, arguments):
    out = call(*arguments, cwd=repo)
    assert out.returncode == ParamsError.exit_code
    assert len(out.stderr.strip().splitlines()) == 1
