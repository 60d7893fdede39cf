"""Do records, params.yaml and artifacts agree? And the trace behind one printed number."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths

Tree = dict[str, Any]
State = Literal["ok", "not pulled", "BAD"]
KINDS = ("phantom", "manifest", "shards", "pretrain", "downstream")


@dataclass(frozen=True)
class Link:
    """One link of a chain of evidence."""

    depth: int
    what: str
    state: State
    note: str = ""


def faults(params: Params, kinds: tuple[str, ...] = KINDS) -> Iterator[str]:
    """Contradictions between the git-tracked records, params.yaml and each other.

    Args:
        params: all parameters.
        kinds: the stops whose records are looked at.

    Yields:
        One line per fault: file, key, the two values.
    """
    for kind, unit in grid.units(params):
        if kind in kinds:
            yield from _record_faults(params, kind, unit)
    if "downstream" in kinds:
        yield from _copies(params)
    for path in strays(params, kinds):
        yield f"{path}: no unit of the present grid; `cxrmim attest --prune` removes it"


def _copies(params: Params) -> Iterator[str]:
    """Runs whose predictions are another's, byte for byte.

    Aliases are one run and seeds may be equal (a solver that draws no numbers); trivial predictors
    may say the same of two tasks. Else equal predictions mean that one was made of the other.
    """
    first: dict[str, grid.Run] = {}
    for run in grid.runs(params):
        path = Paths(params.scale).record("downstream", run.id)
        if run.baseline is not None or not path.is_file():
            continue
        try:
            made = record.read(path)["outputs"]["predictions"]["sha256"]
        except (CheckError, KeyError):  # told by `_record_faults`
            continue
        other = first.setdefault(made, run)
        if replace(other, seed=run.seed) != run:
            yield f"{path}: its predictions are those of {other.id}; run both again"


def strays(params: Params, kinds: tuple[str, ...] = KINDS) -> list[Path]:
    """Records on disk that the present grid does not know."""
    paths = Paths(params.scale)
    known = {
        path
        for kind, unit in grid.units(params)
        for path in (paths.record(kind, unit), paths.circumstances(kind, unit))
    }
    folders = [paths.record(kind, "x").parent for kind in kinds]
    return sorted(p for folder in folders for p in folder.rglob("*.json") if p not in known)


def _record_faults(params: Params, kind: str, unit: str) -> Iterator[str]:
    paths = Paths(params.scale)
    path = paths.record(kind, unit)
    try:
        tree = record.read(path)
    except CheckError as error:
        yield str(error)
        return
    if record.seal(tree) != tree.get("digest"):
        yield f"{path}: edited by hand: {_edited(path, tree)}; restore it with git or run it again"
        return
    wanted = grid.config(params, kind, unit)
    for key, have, want in differences(tree["config"], wanted):
        yield (
            f"{path}: config.{key} = {have!r}, but params.yaml gives {want!r}; "
            f"run `snakemake --cores all`, or restore params.yaml"
        )
    for key, have, want in (("kind", tree["kind"], kind), ("id", tree["id"], unit)):
        if have != want:
            yield f"{path}: {key} = {have!r}, but the file's place says {want!r}"
    if tree["code"] != record.code_hash(params, kind, unit):
        yield f"{path}: made by other code than this checkout's; run `snakemake --cores all`"
    wanted_parents = {f"{k}/{u}": paths.record(k, u) for k, u in grid.parents(params, kind, unit)}
    for name, parent in wanted_parents.items():
        if not parent.is_file():
            yield f"{path}: its parent record {parent} is missing; restore it with git"
        elif tree["parents"].get(name) != record.sha256(parent):
            yield f"{path}: parents.{name} is not the sha256 of {parent}; run it again"


def _edited(path: Path, tree: Tree) -> str:
    """Which values of a record were edited, found against its newest sealed version in git."""
    for revision in _revisions(path):
        shown = _git("show", f"{revision}:./{path.as_posix()}")
        if shown is None:
            continue
        old = json.loads(shown)
        if record.seal(old) == old.get("digest"):
            changed = [
                f"{key} = {have!r} (was {was!r})" for key, have, was in differences(tree, old)
            ]
            return ", ".join(changed[:3]) or "its digest"
    return "its digest does not match its content"


def _revisions(path: Path) -> list[str]:
    return (_git("log", "--format=%H", "-n", "20", "--", path.as_posix()) or "").split()


def _git(*args: str) -> str | None:
    result = subprocess.run(["git", *args], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


def differences(left: Any, right: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, left value, right value) of every leaf in which two JSON-like trees differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted({*left, *right}):
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(left.get(name), right.get(name), inner)
    elif json.loads(json.dumps(left)) != json.loads(json.dumps(right)):
        yield key, left, right


def artifact_faults(params: Params) -> Iterator[str]:
    """Artifacts on disk whose bytes are not those in their record; absent ones are no fault."""
    for kind, unit in grid.units(params):
        for link in _artifacts(params, kind, unit, 0):
            if link.state == "BAD":
                yield f"{link.what}: {link.note}"


def recomputed_faults(params: Params) -> Iterator[str]:
    """Runs whose metrics, computed again from the predictions on disk, differ from the record."""
    from cxrmim.downstream import recompute

    paths = Paths(params.scale)
    for run in grid.runs(params):
        tree = record.read(paths.record("downstream", run.id))
        if not paths.prediction(run.id).is_file():
            continue
        for key, have, want in differences(tree["metrics"], recompute.metrics(params, run)):
            yield (
                f"{paths.record('downstream', run.id)}: metrics.{key} = {have!r}, "
                f"but the predictions give {want!r}"
            )


def trace(params: Params, runs: list[grid.Run]) -> list[Link]:
    """The chain from runs back to raw data: every record and artifact with its state.

    Args:
        params: all parameters.
        runs: the runs behind a cell.
    """
    links: list[Link] = []
    seen: set[tuple[str, str]] = set()

    def visit(kind: str, unit: str, depth: int) -> None:
        if (kind, unit) in seen:
            return
        seen.add((kind, unit))
        links.extend(_links(params, kind, unit, depth))
        for parent in grid.parents(params, kind, unit):
            visit(*parent, depth + 1)

    for run in runs:
        visit("downstream", run.id, 0)
    return links


def _links(params: Params, kind: str, unit: str, depth: int) -> Iterator[Link]:
    paths = Paths(params.scale)
    path = paths.record(kind, unit)
    bad = list(_record_faults(params, kind, unit))
    if bad:
        yield Link(depth, f"record {kind}/{unit}", "BAD", bad[0])
        return
    tree = record.read(path)
    note = f"sha256 {record.sha256(path)[:12]}, config {tree['config_hash'][:12]}"
    value = tree["metrics"].get("value")
    if value is not None:
        note = f"{tree['metrics'].get('metric', 'value')} {value:.6f}, {note}"
    yield Link(depth, f"record {kind}/{unit}", "ok", note)
    yield from _artifacts(params, kind, unit, depth + 1)
    where = paths.circumstances(kind, unit)
    if where.is_file():
        how = record.read(where)
        packages = how["environment"]["packages"]
        note = (
            f"commit {str(how['commit'])[:12]}{' (dirty)' if how['dirty'] else ''}, "
            f"python {how['environment']['python']}, torch {packages.get('torch')}, "
            f"{how['cost'].get('cpu_seconds', '?')} CPU s"
        )
        yield Link(depth + 1, "circumstances", "ok", note)


def _artifacts(params: Params, kind: str, unit: str, depth: int) -> Iterator[Link]:
    path = Paths(params.scale).record(kind, unit)
    if not path.is_file():
        return
    tree = record.read(path)
    for side in ("inputs", "outputs"):
        for name, entry in tree[side].items():
            what = f"{side.removesuffix('s')} {name} {entry['path']}"
            file = record.locate(params, entry["path"])
            if file is None or not file.exists():
                yield Link(depth, what, "not pulled", f"sha256 {entry['sha256'][:12]}")
            elif record.digest(file)["sha256"] != entry["sha256"]:
                yield Link(depth, what, "BAD", "its bytes are not those in the record")
            else:
                yield Link(depth, what, "ok", f"sha256 {entry['sha256'][:12]}")


def require(found: Iterator[str], say: Callable[[str], None]) -> None:
    """Print every fault and raise if there was one."""
    lines = list(found)
    for line in lines[1:]:
        say(line)
    if lines:
        raise CheckError(lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""))
