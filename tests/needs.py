"""What some tests need of the machine: Debian packages, and what is done where something lacks."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

LOCK = Path(tempfile.gettempdir()) / "cxrmim-apt.lock"  # one at a time: the tests have workers
QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def declined(reason: str) -> NoReturn:
    """Skip a test; in CI, where everything is promised, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class PackageError(RuntimeError):
    """Packages cannot be installed; in one line."""


def refusal() -> str | None:
    """Why nothing can be installed here, None where it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("apt-get") is None:
        return "apt-get is not here"
    return None


def install(*packages: str) -> None:
    """Install packages.

    Raises:
        PackageError: not root, no apt-get, or it failed; with its last words.
    """
    if reason := refusal():
        raise PackageError(f"{' '.join(packages)} cannot be installed: {reason}")
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            result = subprocess.run(
                ["apt-get", "-q", *command],
                env=os.environ | QUIET,
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode:
                words = (result.stderr or result.stdout).strip().splitlines()[-1:]
                raise PackageError(f"apt-get {command[0]} failed: {' '.join(words)}")
