"""Formatters, linters and types are clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
