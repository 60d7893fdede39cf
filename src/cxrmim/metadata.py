"""Snakemake's notes of a scale, among the artifacts: a second machine has nothing to do again.

Snakemake notes of every output which parameters, inputs (with checksums) and code made it. The
notes lie in ``.snakemake``, on one machine; git and DVC give files any times, so without its notes
a clone would make everything again. `pack` writes those of a scale into one small file that DVC
carries, `restore` lays them back; both know outputs by name alone and look at none.
"""

import json
import lzma
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cxrmim.errors import CheckError
from cxrmim.paths import Paths, atomic

Notes = dict[str, dict[str, Any]]
STATE = Path(".snakemake")
FOLDER = STATE / "metadata"
LIMIT = 1 << 28  # bytes of a scale's notes, unpacked; the file may come from anywhere
# No parameters, in the format of a note from which on Snakemake compares them.
SPOILT: dict[str, Any] = {"params": [], "record_format_version": 6}
LONGEST = 1000  # characters of an output's path
SHORTEST = 255  # characters of a file's name, where the file system does not tell


def packed(scale: str) -> Path:
    """The file that DVC carries."""
    return Paths(scale).artifacts / "snakemake" / "metadata.json.xz"


def pack(scale: str) -> None:
    """Write the notes of a scale's outputs; equal notes give equal bytes.

    What a pull brought and Snakemake has not read yet is taken over first.
    """
    restore(scale)
    distrust([])  # all records have been checked; a dry run may have spoilt notes
    found = {}
    for file in (p for p in FOLDER.rglob("*") if p.is_file()):
        key = _key(file)
        if key.startswith(_inside(scale)) and (note := _read(file)) is not None:
            found[key] = note
    text = json.dumps(found, separators=(",", ":"), sort_keys=True)
    data = lzma.compress(text.encode(), preset=6)
    for target in (packed(scale), _known(scale)):
        with atomic(target) as temporary:
            temporary.write_bytes(data)


def restore(scale: str) -> None:
    """Lay back the notes that a pull has brought, once.

    A note of a job that ran here after the last pull or attestation stays if its job ended later.

    Args:
        scale: the scale; the notes of other scales stay as they are.

    Raises:
        CheckError: the file holds something else than notes of this scale.
    """
    source = packed(scale)
    if not source.is_file():
        return
    known, data = _known(scale), source.read_bytes()
    last = known.read_bytes() if known.is_file() else b""
    if data == last:
        return
    before = _load(scale, known, last) if last else {}
    for key, note in _load(scale, source, data).items():
        file = _place(key)
        here = _read(file)
        if here is not None and here != before.get(key) and _ended(here) > _ended(note):
            continue
        _write(file, note)
    # Without this folder Snakemake takes the notes for those of an old version.
    (STATE / "incomplete").mkdir(parents=True, exist_ok=True)
    with atomic(known) as copy:
        copy.write_bytes(data)


def distrust(records: Iterable[Path]) -> None:
    """Spoil the notes of these records alone, so that Snakemake makes them again.

    A note goes by its file's name: where git has put another version in the place of the one that a
    run here has made, Snakemake would take it for that. A note that was spoilt before is mended
    when its record is no longer among these, as after a dry run under other parameters.
    """
    spoilt = STATE / "cxrmim" / "spoilt.json"
    before, now = _read(spoilt) or {}, {path.as_posix() for path in records}
    for key in before.keys() - now:
        if not _is_spoilt(_read(_place(key))):  # a job has made the record, and a note, since
            continue
        if before[key]:
            _write(_place(key), before[key])
        else:
            _place(key).unlink()
    kept = {key: before[key] for key in before.keys() & now}
    for key in sorted(now):
        note = _read(_place(key)) or {}
        if not _is_spoilt(note):
            kept[key] = note
            _write(_place(key), note | SPOILT)
    if kept != before:
        _write(spoilt, kept)


def _is_spoilt(note: dict[str, Any] | None) -> bool:
    return note is not None and SPOILT.items() <= note.items()


def _known(scale: str) -> Path:
    """Copy of the packed notes that this folder has last written or laid back."""
    return STATE / "cxrmim" / f"{scale}.json.xz"


def _inside(scale: str) -> str:
    return f"{Paths(scale).results.as_posix()}/"


def _load(scale: str, path: Path, data: bytes) -> Notes:
    """The notes in a packed file, each checked for what it is."""
    unpacker = lzma.LZMADecompressor(memlimit=LIMIT)
    try:
        text = unpacker.decompress(data, max_length=LIMIT)
        notes: Any = json.loads(text) if unpacker.eof else None
    except (lzma.LZMAError, ValueError, RecursionError):
        notes = None
    good = isinstance(notes, dict) and all(
        key.startswith(_inside(scale))
        and key.isprintable()
        and len(key) < LONGEST
        and isinstance(note, dict)
        for key, note in notes.items()
    )
    if not good:
        raise CheckError(
            f"{path}: not Snakemake's notes of scale {scale!r} as `cxrmim attest` writes them; "
            f"remove it, and `dvc pull` it again"
        )
    out: Notes = notes
    return out


def _place(key: str) -> Path:
    """The file in which Snakemake keeps the note of an output (its `FilePersistence`)."""
    name = urlsafe_b64encode(key.encode()).decode()
    longest = (os.pathconf(".", "PC_NAME_MAX") or SHORTEST) - 1
    parts = [name[start : start + longest] for start in range(0, len(name), longest)]
    return FOLDER.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def _key(file: Path) -> str:
    """The output that a file in Snakemake's folder is the note of; nothing if it is none."""
    name = "".join(part.removeprefix("@") for part in file.relative_to(FOLDER).parts)
    try:
        return urlsafe_b64decode(name).decode()
    except ValueError:
        return ""


def _read(file: Path) -> dict[str, Any] | None:
    """A note; None where there is none, or it is damaged."""
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _write(file: Path, note: dict[str, Any]) -> None:
    """Leave a note where Snakemake reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not synced to disk one by one: Snakemake passes over a note that a power cut has damaged.
    temporary = file.with_name(f".{os.getpid()}.cxrmim")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    temporary.replace(file)


def _ended(note: dict[str, Any]) -> float:
    """When a note's job ended, in seconds since 1970."""
    end = note.get("endtime")
    return end if isinstance(end, float) else 0.0
