"""Where published weights lie, and the lock that says which bytes they are; no torch here."""

import json
from pathlib import Path
from typing import Any

from cxrmim import record
from cxrmim.errors import CheckError, CxrmimError
from cxrmim.paths import atomic

Tree = dict[str, Any]
FOLDER = Path("weights")  # below the working directory
FILE = "model.safetensors"
LOCK = FOLDER / "weights.lock.json"


def place(name: str, file: str = FILE) -> Path:
    """The file of published weights, or of one of their vocabularies."""
    return FOLDER / name / file


def read_lock() -> dict[str, Tree]:
    """What was fetched or imported here: path below the working directory -> sha256 and source.

    Raises:
        CxrmimError: the lock is no JSON.
    """
    if not LOCK.is_file():
        return {}
    try:
        tree: dict[str, Tree] = json.loads(LOCK.read_text(encoding="utf-8"))
    except ValueError:
        raise CxrmimError(
            f"{LOCK}: not valid JSON; restore it, or delete it and import the files again"
        ) from None
    return tree


def write_lock(path: Path, source: Tree) -> None:
    """Note a file's bytes and where they come from."""
    tree = read_lock() | {path.as_posix(): {**record.digest(path), "source": source}}
    with atomic(LOCK) as temporary:
        temporary.write_bytes(record.canonical(tree))


def check(path: Path) -> None:
    """Assert that a file is the one that was fetched or imported; one placed by hand is not known.

    Raises:
        CheckError: the lock names other bytes.
    """
    known = read_lock().get(path.as_posix())
    if known is not None and record.digest(path)["sha256"] != known["sha256"]:
        raise CheckError(
            f"{path}: its sha256 is not the one in {LOCK}; delete it and run `cxrmim weights "
            f"fetch`, or import what you mean to use with `cxrmim weights import`"
        )
