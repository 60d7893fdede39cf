"""Do records, params.yaml, artifacts and the report agree?

`faults` needs the git-tracked records alone, `artifact_faults` looks at what DVC has pulled,
`recomputed_faults` measures the predictions again; `stale` compares the report with the records.
docs/provenance.md tells which forgery each finds, and which none can.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cxrmim import git, grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params, fingerprint
from cxrmim.paths import Paths, is_temporary

Tree = dict[str, Any]
State = Literal["ok", "not pulled", "BAD"]
KINDS = ("phantom", "manifest", "shards", "pretrain", "downstream")
BLOCKS = ("config", "details", "inputs", "metrics", "outputs", "parents")  # mappings of a record
KEYS = {*BLOCKS, "code", "config_hash", "digest", "id", "kind", "scale", "schema", "seed", "source"}
FILE_KEYS = {"bytes", "path", "sha256"}
HOW = ".circumstances.json"
TOLD = {"commit", "cost", "dirty", "environment", "finished"}  # what circumstances must tell


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
            yield from record_faults(params, kind, unit)
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
        except (CheckError, KeyError, TypeError):  # told by `record_faults`
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
    found = {p for folder in folders for p in folder.rglob("*.json") if not is_temporary(p.name)}
    return sorted(found - known)


def record_faults(params: Params, kind: str, unit: str) -> Iterator[str]:
    """What contradicts one record: its own seal, its place, params.yaml, the code, its parents."""
    path = Paths(params.scale).record(kind, unit)
    try:
        tree = record.read(path)
    except CheckError as error:
        yield str(error)
        return
    misshapen = _misshapen(path, tree)
    if misshapen:
        yield f"{path}: {misshapen}; restore it with git or run it again"
        return
    yield from _against_params(params, kind, unit, tree)
    yield from _against_parents(params, kind, unit, tree)
    yield from _circumstances(params, kind, unit)


def _misshapen(path: Path, tree: Tree) -> str:
    """Why a file cannot be what `record.write` left there; nothing if it can."""
    try:
        body = record.canonical({key: value for key, value in tree.items() if key != "digest"})
    except ValueError:
        return "holds a number that is not finite"
    told = str(tree.get("digest"))
    if hashlib.sha256(body).hexdigest() != told:
        return f"edited by hand: {_edited(path, tree)}"
    if path.read_bytes().replace(f' "digest": "{told}",\n'.encode(), b"", 1) != body:
        return "not written as `record.write` does (order of keys, spaces or a key given twice)"
    odd = sorted(KEYS ^ tree.keys())
    if odd:
        return f"{odd[0]}: {'unknown key' if odd[0] in tree else 'missing'}"
    for block in BLOCKS:
        if not isinstance(tree[block], dict):
            return f"{block}: not a mapping"
    for side in ("inputs", "outputs"):
        for name, entry in tree[side].items():
            if not isinstance(entry, dict) or not entry.keys() >= FILE_KEYS:
                return f"{side}.{name}: must hold {', '.join(sorted(FILE_KEYS))}"
            if not isinstance(entry["path"], str) or not isinstance(entry["sha256"], str):
                return f"{side}.{name}: path and sha256 must be texts"
    return ""


def _against_params(params: Params, kind: str, unit: str, tree: Tree) -> Iterator[str]:
    path = Paths(params.scale).record(kind, unit)
    wanted = grid.config(params, kind, unit)
    odd = list(differences(tree["config"], wanted))
    for key, have, want in odd:
        yield (
            f"{path}: config.{key} = {have!r}, but params.yaml gives {want!r}; "
            f"run `snakemake --cores all`, or restore params.yaml"
        )
    facts = {
        "kind": kind,
        "id": unit,
        "scale": params.scale,
        "source": params.manifest.source,
        "seed": _seed(params, kind, unit),
        "config_hash": fingerprint(tree["config"] if odd else wanted),
    }
    for key, want in facts.items():
        if tree[key] != want:
            yield f"{path}: {key} = {tree[key]!r}, but it must be {want!r}; run it again"
    if tree["code"] != record.code_hash(params, kind, unit):
        yield f"{path}: made by other code than this checkout's; run `snakemake --cores all`"
    places = {name: entry["path"] for name, entry in tree["outputs"].items()}
    for name, have, want in differences(places, _places(params, kind, unit, places)):
        yield f"{path}: outputs.{name}.path = {have!r}, but its place is {want!r}; run it again"


def _seed(params: Params, kind: str, unit: str) -> int | None:
    """The seed that a unit's record must tell."""
    if kind == "phantom":
        return params.phantom.seed
    if kind == "pretrain":
        return grid.entry_of(unit).seed
    return grid.Run.parse(unit).seed if kind == "downstream" else None


def _places(params: Params, kind: str, unit: str, given: dict[str, str]) -> dict[str, str]:
    """Where a unit's outputs lie, so that no two units claim one file."""
    paths = Paths(params.scale)
    if kind == "shards":
        if unit in grid.audited(params):
            return {}
        folder = paths.shards(unit)
        names = {name: Path(path).suffix for name, path in given.items()} or {"table": ".parquet"}
        return {name: (folder / f"{name}{suffix}").as_posix() for name, suffix in names.items()}
    name, place = {
        "phantom": ("folder", paths.phantom),
        "manifest": ("manifest", paths.manifest),
        "pretrain": ("weights", paths.checkpoint),
        "downstream": ("predictions", paths.prediction),
    }[kind]
    return {name: place(unit).as_posix()}


def _against_parents(params: Params, kind: str, unit: str, tree: Tree) -> Iterator[str]:
    """Faults of what a record says that it was made from."""
    paths = Paths(params.scale)
    path = paths.record(kind, unit)
    wanted = {f"{k}/{u}": paths.record(k, u) for k, u in grid.parents(params, kind, unit)}
    for name in sorted(tree["parents"].keys() - wanted.keys()):
        yield f"{path}: parents.{name}: it is not made from that; run it again"
    made: dict[str, str] = {}
    for name, parent in wanted.items():
        if not parent.is_file():
            yield f"{path}: its parent record {parent} is missing; restore it with git"
            continue
        if tree["parents"].get(name) != record.sha256(parent):
            yield f"{path}: parents.{name} is not the sha256 of {parent}; run it again"
        try:
            outputs = record.read(parent)["outputs"].values()
            made |= {entry["path"]: entry["sha256"] for entry in outputs}
        except (CheckError, KeyError, TypeError, AttributeError):  # told of the parent itself
            continue
    inside = f"{paths.results.as_posix()}/"
    for name, entry in tree["inputs"].items():
        if entry["path"].startswith(inside) and made.get(entry["path"]) != entry["sha256"]:
            yield f"{path}: inputs.{name} is no output of its parents' records; run it again"


def _circumstances(params: Params, kind: str, unit: str) -> Iterator[str]:
    path = Paths(params.scale).circumstances(kind, unit)
    try:
        missing = sorted(TOLD - record.read(path).keys())
    except CheckError:
        missing = ["the file"]
    if missing:
        yield (
            f"{path}: {missing[0]} is missing or no JSON, so nothing tells which commit and "
            f"environment made {kind}/{unit}; restore it with git"
        )


def _edited(path: Path, tree: Tree) -> str:
    """Which values of a record were edited, found against its newest sealed version in git."""
    for revision in git.lines("log", "--format=%H", "-n", "20", "--", path.as_posix()):
        shown = git.ask("show", f"{revision}:./{path.as_posix()}")
        if shown is None:
            continue
        old = json.loads(shown)
        if record.seal(old) == old.get("digest"):
            changed = [
                f"{key} = {brief(have)} (was {brief(was)})"
                for key, have, was in differences(tree, old)
            ]
            return ", ".join(changed[:3]) or "its digest"
    return "its digest does not match its content"


def brief(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}..."


def uncommitted(params: Params) -> list[str]:
    """Records that differ from the last commit, where there is one; a forger's are among them."""
    folder = Paths(params.scale).record("x", "x").parents[1].as_posix()
    told = git.ask("diff", "--name-only", "--relative", "-z", "HEAD", "--", folder) or b""
    return [name for name in told.decode().split("\0") if name and not name.endswith(HOW)]


def differences(left: Any, right: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, left value, right value) of every leaf in which two JSON-like trees differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted({*left, *right}):
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(left.get(name), right.get(name), inner)
    elif left != right and json.loads(json.dumps(left)) != json.loads(json.dumps(right)):
        yield key, left, right


def artifact_faults(params: Params) -> Iterator[str]:
    """Artifacts on disk whose bytes are not those in their record; absent ones are no fault."""
    for kind, unit in grid.units(params):
        path = Paths(params.scale).record(kind, unit)
        if not path.is_file():
            continue
        tree, states = record.read(path), {}
        for side in ("inputs", "outputs"):
            for name, entry in tree[side].items():
                states[side, name] = state(params, entry)
                if states[side, name] == "BAD":
                    yield f"{entry['path']}: its bytes are not the {side}.{name} of {path}"
        if states.get(("outputs", "weights")) == "ok":
            weights = tree["outputs"]["weights"]
            named = _identity(Path(weights["path"]))
            if named != record.identity(tree):
                yield (
                    f"{weights['path']}: its header names another record than {path}: other "
                    f"code, seed, inputs or parents; run `snakemake --cores all`"
                )


def state(params: Params, entry: Tree) -> State:
    """Whether the file that a record's input or output names is here, with the bytes it tells."""
    file = record.locate(params, entry["path"])
    if file is None or not file.exists():
        return "not pulled"
    if file.is_dir():
        made = record.digest(file)["sha256"]
    else:
        with file.open("rb") as handle:  # without the md5, which takes longer than the sha256
            made = hashlib.file_digest(handle, "sha256").hexdigest()
    return "ok" if made == entry["sha256"] else "BAD"


def _identity(weights: Path) -> str | None:
    """`record_identity` in the header of a safetensors file, read without torch."""
    with weights.open("rb") as handle:
        try:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(size, 1 << 24)))
            told: str = json.loads(header["__metadata__"]["cxrmim"])["record_identity"]
        except (ValueError, KeyError, TypeError):
            return None
    return told


def recomputed_faults(params: Params) -> Iterator[str]:
    """Runs whose metrics, computed again from the predictions on disk, differ from the record."""
    from cxrmim.downstream import recompute

    paths = Paths(params.scale)
    for run in measurable(params):
        tree = record.read(paths.record("downstream", run.id))
        try:
            again = recompute.metrics(grid.view(params, run), run)
        except (ValueError, LookupError, TypeError, OSError) as error:
            told = f"cannot be measured ({type(error).__name__})"
            yield f"{paths.prediction(run.id)}: {told}; `dvc pull` it or run it again"
            continue
        for key, have, want in differences(tree["metrics"], again):
            yield (
                f"{paths.record('downstream', run.id)}: metrics.{key} = {brief(have)}, "
                f"but the predictions give {brief(want)}; restore it with git or run it again"
            )


def measurable(params: Params) -> list[grid.Run]:
    """Runs whose predictions are on disk."""
    paths = Paths(params.scale)
    return [run for run in grid.runs(params) if paths.prediction(run.id).is_file()]


def require(found: Iterator[str], say: Callable[[str], None]) -> None:
    """Print every fault if there are several; raise if there is one.

    Raises:
        CheckError: the first fault, and how many more there are.
    """
    lines = list(found)
    for line in lines if len(lines) > 1 else []:
        say(line)
    if lines:
        raise CheckError(lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""))
