"""Formatters, linters and types are clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

BIN = Path(sys.executable).parent
COMMANDS = {
    "ruff-lint": ["ruff", "check", "src", "tests", "benchmarks"],
    "ruff-format": ["ruff", "format", "--check", "src", "tests", "benchmarks"],
    "mypy": ["mypy"],
    "snakefmt": ["snakefmt", "--check", "Snakefile", "workflow"],
    "snakemake-lint": ["snakemake", "--lint"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_clean(repo, name):
    program, *arguments = COMMANDS[name]
    command = [str(BIN / program), *arguments]
    out = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stdout + out.stderr


def test_no_example_fails_because_a_machine_is_slow():
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check
