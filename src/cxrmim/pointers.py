"""DVC's pointers to the artifacts, and the step that writes them after a build.

DVC names a folder by the md5 of its sorted listing of file md5s. The records hold those md5s, so a
pointer can be recomputed, and so checked, in a clone that has none of the files. A pointer also
says where DVC may push its files: what is made of real data goes to the one remote that params.yaml
allows, or to none.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cxrmim import check, grid, metadata, record
from cxrmim.errors import CheckError, CxrmimError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.recover import LOCKS

# Folder below artifacts -> the stop whose records name all its files. Logs and Snakemake's own
# metadata hold times, so no record can name their bytes.
RECORDED = {
    "manifests": "manifest",
    "shards": "shards",
    "checkpoints": "pretrain",
    "predictions": "downstream",
}
UNRECORDED = ("logs", "snakemake")
PUSHED = ("push", "remote")  # fields of a pointer that DVC reads before it pushes


def listings(params: Params, wanted: Iterable[str] = RECORDED) -> dict[str, dict[str, str]]:
    """For each artifact folder: {path below it: md5} of all that the records say lies in it."""
    paths = Paths(params.scale)
    found: dict[str, dict[str, str]] = {folder: {} for folder in wanted}
    folders = {RECORDED[folder]: folder for folder in found}
    for kind, unit in grid.units(params):
        if folder := folders.get(kind):
            base = paths.artifacts / folder
            for entry in record.read(paths.record(kind, unit))["outputs"].values():
                found[folder][Path(entry["path"]).relative_to(base).as_posix()] = entry["md5"]
    return found


def folder_md5(files: dict[str, str]) -> str:
    """DVC's name of a folder, from its files' md5s."""
    rows = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def faults(params: Params) -> Iterator[str]:
    """Pointers that are missing or name other bytes than the records do."""
    made = listings(params)
    for folder in RECORDED:
        pointer = Paths(params.scale).artifacts / f"{folder}.dvc"
        if not pointer.is_file():
            yield f"{pointer}: no such pointer; `cxrmim attest` writes it"
            continue
        named = _out(pointer).get("md5")
        wanted = folder_md5(made[folder]) + ".dir"
        if named != wanted:
            yield (
                f"{pointer}: outs.md5 = {named!r}, but the records give {wanted!r}; "
                f"run `cxrmim attest` where the artifacts are"
            )
    yield from unguarded(params)


def unguarded(params: Params) -> Iterator[str]:
    """Pointers that let DVC push what is made of real data where params.yaml does not allow it."""
    wanted = pushed(params)
    for pointer in sorted(Paths(params.scale).artifacts.glob("*.dvc")) if wanted else []:
        told = {key: value for key, value in _out(pointer).items() if key in PUSHED}
        if told != wanted:
            yield (
                f"{pointer}: {_words(told)}, but what is made of real data needs {_words(wanted)} "
                f"(manifest.remote in params.yaml); run `cxrmim attest` before you push"
            )


def _words(fields: dict[str, Any]) -> str:
    return ", ".join(f"outs.{key} = {value!r}" for key, value in fields.items()) or "any remote"


def pushed(params: Params) -> dict[str, Any]:
    """The fields of a pointer that tell DVC where its files may be pushed; none: anywhere."""
    if params.manifest.source == "phantom":
        return {}
    remote = params.manifest.remote
    return {"push": False} if remote is None else {"remote": remote}


def guard(params: Params) -> None:
    """Write `pushed` into the pointers; DVC keeps to it, `dvc push --remote` too.

    Raises:
        ParamsError: params.yaml names a remote that DVC does not know here.
    """
    wanted = pushed(params)
    if not wanted:
        return
    remote = params.manifest.remote
    if remote is not None and remote not in _remotes():
        raise ParamsError(
            f"params.yaml: manifest.remote = {remote!r}: DVC knows no remote of that name here; "
            f"`dvc remote add {remote} URL`"
        )
    for pointer in sorted(Paths(params.scale).artifacts.glob("*.dvc")):
        tree = yaml.safe_load(pointer.read_text(encoding="utf-8"))
        for out in tree["outs"]:
            for key in PUSHED:
                out.pop(key, None)
            out.update(wanted)
        with atomic(pointer) as temporary:
            temporary.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def _remotes() -> set[str]:
    """Names of the remotes that DVC is configured with."""
    told = subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "list"], capture_output=True, text=True, check=False
    )
    return {line.split()[0] for line in told.stdout.splitlines() if line.split()}


def _out(pointer: Path) -> dict[str, Any]:
    """What a pointer points at; nothing if it is none."""
    try:
        found = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def attest(params: Params, say: Callable[[str], None], *, prune: bool = False) -> None:
    """Check everything, point DVC at the artifacts and let it remake the reports.

    The only step that writes DVC state; no job may run beside it.

    Args:
        params: all parameters.
        say: prints one line.
        prune: remove records and artifacts that the present grid does not know.

    Raises:
        CheckError: a contradiction, or files that no record names.
        CxrmimError: a Snakemake runs here, or one that was killed has left its lock.
    """
    if any(LOCKS.glob("*.lock")):
        raise CxrmimError(
            "Snakemake works in this folder, or was killed as it did; wait for it, or run "
            "`cxrmim recover`, then attest"
        )
    paths = Paths(params.scale)
    paths.sweep()
    _strays(params, prune)
    check.require(check.faults(params), say)
    check.require(check.artifact_faults(params), say)
    metadata.pack(params.scale)
    folders = [paths.artifacts / name for name in (*RECORDED, *UNRECORDED)]
    guard(params)  # before anything is added: the remote may be unknown
    try:
        dvc("add", *(f.as_posix() for f in folders if f.is_dir()))
    finally:
        guard(params)  # what it has added before it failed could be pushed, too
    dvc("repro")


def _strays(params: Params, prune: bool) -> None:
    paths = Paths(params.scale)
    found = check.strays(params)
    for folder, made in listings(params).items():
        base = paths.artifacts / folder
        known = {base / name for name in made}
        files = (p for p in base.rglob("*") if p.is_file() and p.name != record.TIMESTAMP)
        found += sorted(p for p in files if p not in known)
    for path in found if prune else []:
        path.unlink()
    if found and not prune:
        raise CheckError(
            f"{found[0]}: no record of the present grid names it ({len(found)} such files); "
            f"`cxrmim attest --prune` removes them"
        )


def dvc(*args: str) -> None:
    """Run a DVC command of this environment.

    Raises:
        CheckError: it failed; DVC has said why on stderr.
    """
    result = subprocess.run([sys.executable, "-m", "dvc", *args], check=False)
    if result.returncode != 0:
        raise CheckError(f"`dvc {' '.join(args[:2])}` failed, see above")
