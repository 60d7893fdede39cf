"""DVC's pointers to the artifacts, and the step that writes them after a build.

DVC names a folder by the md5 of its sorted listing of file md5s. The records hold those md5s, so a
pointer can be recomputed, and so checked, in a clone that has none of the files.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cxrmim import check, grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic

# Folder below artifacts -> the stop whose records name all its files. Logs and Snakemake's own
# metadata hold times, so no record can name their bytes.
RECORDED = {
    "manifests": "manifest",
    "shards": "shards",
    "checkpoints": "pretrain",
    "predictions": "downstream",
}
UNRECORDED = ("logs", "snakemake")


def listing(params: Params, folder: str) -> dict[str, str]:
    """{path below the artifact folder: md5} of everything that the records say lies in it."""
    paths = Paths(params.scale)
    base = paths.artifacts / folder
    found: dict[str, str] = {}
    for kind, unit in grid.units(params):
        if kind == RECORDED[folder]:
            for entry in record.read(paths.record(kind, unit))["outputs"].values():
                found[Path(entry["path"]).relative_to(base).as_posix()] = entry["md5"]
    return found


def folder_md5(files: dict[str, str]) -> str:
    """DVC's name of a folder, from its files' md5s."""
    rows = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def faults(params: Params) -> Iterator[str]:
    """Pointers that are missing or name other bytes than the records do."""
    for folder in RECORDED:
        pointer = Paths(params.scale).artifacts / f"{folder}.dvc"
        if not pointer.is_file():
            yield f"{pointer}: no such pointer; `cxrmim attest` writes it"
            continue
        named = _named(pointer)
        wanted = folder_md5(listing(params, folder)) + ".dir"
        if named != wanted:
            yield (
                f"{pointer}: outs.md5 = {named!r}, but the records give {wanted!r}; "
                f"run `cxrmim attest` where the artifacts are"
            )


def _named(pointer: Path) -> Any:
    try:
        return yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


def attest(params: Params, say: Callable[[str], None], *, prune: bool = False) -> None:
    """Check everything, point DVC at the artifacts and let it remake the reports.

    The only step that writes DVC state; no job may run beside it.

    Args:
        params: all parameters.
        say: prints one line.
        prune: remove records and artifacts that the present grid does not know.

    Raises:
        CheckError: a contradiction, or files that no record names.
    """
    paths = Paths(params.scale)
    _strays(params, prune)
    check.require(check.faults(params), say)
    check.require(check.artifact_faults(params), say)
    archive(Path(".snakemake/metadata"), paths.artifacts / "snakemake" / "metadata.tar")
    folders = [paths.artifacts / name for name in (*RECORDED, *UNRECORDED)]
    dvc("add", *(f.as_posix() for f in folders if f.is_dir()))
    dvc("repro")


def _strays(params: Params, prune: bool) -> None:
    paths = Paths(params.scale)
    found = check.strays(params)
    for folder in RECORDED:
        base = paths.artifacts / folder
        known = {base / name for name in listing(params, folder)}
        files = (p for p in base.rglob("*") if p.is_file() and p.name != record.TIMESTAMP)
        found += sorted(p for p in files if p not in known)
    for path in found if prune else []:
        path.unlink()
    if found and not prune:
        raise CheckError(
            f"{found[0]}: no record of the present grid names it ({len(found)} such files); "
            f"`cxrmim attest --prune` removes them"
        )


def archive(folder: Path, target: Path) -> None:
    """Tar a folder so that equal files give equal bytes: sorted, without owners and times.

    With it a second machine knows, after `dvc pull`, what Snakemake has already done.
    """
    with atomic(target) as temporary, tarfile.open(temporary, "w") as tar:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = tarfile.TarInfo(file.relative_to(folder.parent).as_posix())
            data = file.read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def dvc(*args: str) -> None:
    """Run a DVC command of this environment.

    Raises:
        CheckError: it failed; DVC has said why on stderr.
    """
    result = subprocess.run([sys.executable, "-m", "dvc", *args], check=False)
    if result.returncode != 0:
        raise CheckError(f"`dvc {' '.join(args[:2])}` failed, see above")
