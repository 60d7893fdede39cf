"""What lies in a results folder after a kill, and whether two complete ones are the same."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrmim import record
from cxrmim.errors import CheckError
from cxrmim.paths import Paths
from tests.workflow.conftest import Place

PATHS = Paths("demo")
# What `paths.atomic` names a file that it has not finished, and a training a state.
TEMPORARY = re.compile(r"\.(\d+)(?:-[0-9a-f]{8}\..+|\.pt)")
# Folders of a build that a rerun must give byte for byte. The pages tell how and when it came about
# too, so they are held to what the undisturbed records give under the build's circumstances.
ARTIFACTS = [f"artifacts/{name}" for name in ("manifests", "shards", "checkpoints", "predictions")]
SAME = ["phantom", "records", *ARTIFACTS, "tables", "figures"]
PAGES = "report"


def results_of(here: Place) -> Path:
    """A place's results folder."""
    return here.folder / PATHS.results


def half_written(folder: Path, *skip: str) -> set[Path]:
    """What is being written below a folder, or was left there by a process that died.

    Args:
        folder: where; it need not exist.
        skip: names of its own folders that are not looked into.
    """
    found = set()
    for here, folders, files in os.walk(folder):
        if Path(here) == folder:
            folders[:] = [name for name in folders if name not in skip]
        found |= {Path(here, n) for n in (*folders, *files) if TEMPORARY.fullmatch(n)}
        folders[:] = [name for name in folders if not TEMPORARY.fullmatch(name)]
    return found


def writer(path: Path) -> int:
    """The process that writes what is half written."""
    named = TEMPORARY.fullmatch(path.name)
    assert named is not None
    return int(named[1])


class Inspector:
    """Holds records to what lies on disk; what was sound and has not changed is not read again.

    Args:
        folder: of a build in which nothing runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: set[tuple[Any, ...]] = set()

    def faults(self) -> list[str]:
        """One line for each record that is not whole, or that tells of another output than there
        is and that Snakemake would not make again, and for each temporary within an output."""
        found: list[str] = []
        redone = _marked(self.folder)
        with contextlib.chdir(self.folder):
            for path in sorted((PATHS.results / "records").rglob("[!.]*.json")):
                try:
                    tree = record.read(path)
                    if "outputs" in tree:  # else they are circumstances
                        found += self._faults(path, tree, redone)
                except (CheckError, KeyError) as error:
                    found.append(f"{path}: {error}")
        return found

    def _faults(self, path: Path, tree: dict[str, Any], redone: set[str]) -> Iterator[str]:
        if tree["digest"] != record.seal(tree):
            yield f"{path}: not the bytes that were written"
        for name, entry in tree["outputs"].items():
            output = Path(entry["path"])
            if half_written(output):
                yield f"{output}: holds a temporary"
            known = (entry["sha256"], *_stamps(output))
            # What is not there is made again. Snakemake's mark may be the record's or the folder's.
            names = {p.as_posix() for p in (path, output, output.parent)}
            if known in self._sound or not output.exists() or redone & names:
                continue
            try:
                record.verify(tree, name)
                self._sound.add(known)
            except CheckError as error:
                yield str(error)


def _marked(folder: Path) -> set[str]:
    """Outputs that Snakemake will make again, by its own marks."""
    top = folder / ".snakemake/incomplete"
    names = (p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file())
    return {urlsafe_b64decode(n.replace("/", "").replace("@", "")).decode() for n in names}


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(p.as_posix(), (s := p.stat()).st_mtime_ns, s.st_size) for p in files]


def contents(here: Place, folder: str) -> dict[str, bytes]:
    """Bytes of a results folder's files by path, circumstances and temporaries left out."""
    left = tuple(f"{p.relative_to(here.folder).as_posix()}" for p in half_written(results_of(here)))
    found = here.files(f"{folder}/**/*").items()
    return {k: v for k, v in found if not k.endswith(record.TIMESTAMP) and not k.startswith(left)}


def differences(wanted: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Files that are missing, too many, or of other bytes."""
    lines = [f"{name}: missing" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name}: in no undisturbed run" for name in sorted(found.keys() - wanted.keys())]
    both = sorted(wanted.keys() & found.keys())
    return lines + [f"{name}: other bytes" for name in both if wanted[name] != found[name]]


def compare(reference: Place, build: Place, scratch: Path) -> list[str]:
    """Files in which a complete build differs from the undisturbed one.

    Args:
        reference: the undisturbed one.
        build: the other.
        scratch: folder that is written.
    """
    found = []
    for folder in SAME:
        found += differences(contents(reference, folder), contents(build, folder))
    pages = _pages(reference, build, scratch)
    return found + differences(pages, contents(build, PAGES))


def _pages(reference: Place, build: Place, scratch: Path) -> dict[str, bytes]:
    """The pages of the undisturbed records under a build's circumstances."""
    shutil.rmtree(scratch, ignore_errors=True)
    here = Place(scratch)
    for name in ("records", "tables", "figures"):
        shutil.copytree(results_of(reference) / name, results_of(here) / name)
    shutil.copy(build.folder / "params.yaml", scratch)
    target, source = (results_of(one) / "records" for one in (here, build))
    for path in source.rglob("[!.]*.circumstances.json"):
        shutil.copy(path, target / path.relative_to(source))
    here.must("cxrmim", "report", "--part", "page")
    return contents(here, PAGES)
