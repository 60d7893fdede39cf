"""Asking git, which need not be there: a blind-review zip has no repository."""

import subprocess


def ask(*args: str) -> bytes | None:
    """What a git command prints; None if it fails or this machine has no git."""
    try:
        result = subprocess.run(["git", *args], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None


def lines(*args: str) -> list[str]:
    """The lines that a git command prints; none if it fails or this machine has no git."""
    return (ask(*args) or b"").decode(errors="replace").splitlines()
