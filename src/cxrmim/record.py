"""Provenance records: what a unit of work is, and how it came about.

Two canonical JSON files per unit. The record depends only on inputs, parameters, code and results:
an identical rerun writes identical bytes, and later steps read it alone. The circumstances hold
commit, environment and times.
"""

import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cxrmim import git, grid, plugins
from cxrmim.errors import CheckError, ParamsError
from cxrmim.grid import code, config
from cxrmim.params import Params, fingerprint
from cxrmim.paths import Paths, atomic, lists_root, raw_root

Tree = dict[str, Any]
SCHEMA = 1
# Over 64 numbers, each on a line of its own; within a string a newline is always escaped.
LONG = re.compile(r"\[\n(?: *-?[0-9][^\n]*,\n){64,} *-?[0-9][^\n]*\n *\]")
TIMESTAMP = ".snakemake_timestamp"  # Snakemake leaves it in folders that are a rule's output
STARTED = time.time()
# Plumbing holds no maths: what it hands on is in the record as config, inputs and outputs.
PLUMBING = {
    "cxrmim",
    *(f"cxrmim.{m}" for m in ("cli", "errors", "explain", "grid", "job", "params", "paths")),
    *(f"cxrmim.{m}" for m in ("plugins", "progress", "record", "schema")),
}


def canonical(tree: Tree) -> bytes:
    """JSON bytes of a tree: sorted keys, one space a level, a final newline.

    A long list of numbers is one line: bootstrap replicates would take twice the room.
    """
    text = json.dumps(tree, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    text = LONG.sub(lambda found: "".join(found[0].split()), text)
    return (text + "\n").encode()


def digest(path: Path) -> Tree:
    """{bytes, md5, sha256} of a file; of a folder, those of its sorted listing.

    md5 is what names the object in a DVC remote.
    """
    if path.is_dir():
        return _digest_folder(path)
    sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            sha.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return {"bytes": size, "md5": md5.hexdigest(), "sha256": sha.hexdigest()}


def _digest_folder(path: Path) -> Tree:
    sha, size, count, start = hashlib.sha256(), 0, 0, len(path.as_posix()) + 1
    # Texts, not paths: ten thousand small files are sorted by their parts.
    found = (f"{at}/{name}" for at, _, names in os.walk(path) for name in names)
    for name in sorted((text[start:] for text in found), key=lambda name: name.split("/")):
        file = path / name
        if file.name == TIMESTAMP or not file.is_file():
            continue
        with file.open("rb", buffering=0) as handle:
            one = hashlib.file_digest(handle, "sha256").hexdigest()
            size += os.fstat(handle.fileno()).st_size
        sha.update(f"{one}  {name}\n".encode())
        count += 1
    return {"bytes": size, "files": count, "sha256": sha.hexdigest()}


@cache
def closure(modules: tuple[str, ...]) -> str:
    """Hash of the syntax trees of modules and all of this package that they import.

    A comment or a docstring changes nothing; a change of maths does.
    """
    found: dict[str, str] = {}
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name not in found and name not in PLUMBING and (read := _read(name)) is not None:
            found[name], imported = read
            queue += imported
    return fingerprint(found)


@cache
def _read(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Hash of a module's syntax tree and what it imports of this package; None if it has no file.

    Closures overlap, so each module is parsed once a process.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    imported = tuple(_imports(tree))
    return hashlib.sha256(ast.dump(_strip(tree)).encode()).hexdigest(), imported


def _imports(tree: ast.Module) -> Iterable[str]:
    """Modules of this package that a syntax tree imports, inside functions too (absolute names)."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("cxrmim"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cxrmim"):
            yield node.module or ""
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if _is_module(name):
                    yield name


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """A tree and all statements in it; an expression holds no import and no docstring."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            queue += inner if isinstance(inner, list) else []


def _is_module(name: str) -> bool:
    path = plugins.PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _strip(tree: ast.Module) -> ast.Module:
    for node in _statements(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]
    return tree


def code_hash(params: Params, kind: str, unit: str) -> str:
    """Hash of the code that makes a unit of work."""
    return closure(tuple(code(params, kind, unit)))


def write(
    params: Params,
    kind: str,
    unit: str,
    *,
    inputs: Mapping[str, Path] | None = None,
    outputs: Mapping[str, Path] | None = None,
    parents: Iterable[tuple[str, str]] = (),
    metrics: Tree | None = None,
    details: Tree | None = None,
    seed: int | None = None,
    cost: Tree | None = None,
) -> None:
    """Write the record and the circumstances of a finished unit of work.

    Args:
        params: all parameters; the unit's own share is taken with `grid.config`.
        kind: the stop.
        unit: the unit's id in its stop.
        inputs: raw files and folders read; hashed here.
        outputs: artifacts written; hashed here.
        parents: (kind, unit) of the records this one builds on.
        metrics: shares in [0, 1], counts, replicates; nothing that names a patient.
        details: other facts of the result that an identical rerun reproduces.
        seed: the unit's own seed.
        cost: seconds and the like for the circumstances; by default the process's.
    """
    paths = Paths(params.scale)
    tree = begin(params, kind, unit, inputs=inputs, parents=parents, seed=seed)
    tree |= {
        "outputs": {k: {"path": p.as_posix(), **digest(p)} for k, p in (outputs or {}).items()},
        "metrics": metrics or {},
        "details": details or {},
    }
    tree["digest"] = seal(tree)
    with atomic(paths.circumstances(kind, unit)) as temporary:
        temporary.write_bytes(canonical(_circumstances(params, kind, cost or process_cost())))
    with atomic(paths.record(kind, unit)) as temporary:
        temporary.write_bytes(canonical(tree))


def begin(
    params: Params,
    kind: str,
    unit: str,
    *,
    inputs: Mapping[str, Path] | None = None,
    parents: Iterable[tuple[str, str]] = (),
    seed: int | None = None,
) -> Tree:
    """The part of a record that is known before the work's outputs exist; arguments as `write`."""
    settings = config(params, kind, unit)
    places = Paths(params.scale)
    return {
        "schema": SCHEMA,
        "kind": kind,
        "id": unit,
        "scale": params.scale,
        "source": params.manifest.source,
        "config": settings,
        "config_hash": fingerprint(settings),
        "code": code_hash(params, kind, unit),
        "seed": seed,
        "inputs": {k: _input(params, unit, p) for k, p in (inputs or {}).items()},
        "parents": {f"{k}/{u}": sha256(places.record(k, u)) for k, u in parents},
    }


def identity(tree: Tree) -> str:
    """Hash of what `begin` knows: parameters, code, seed, bytes of the inputs, parents' records.

    An output can carry it inside, and its record later carries the output's sha256: each names the
    other.
    """
    told = {k: tree[k] for k in ("schema", "kind", "id", "scale", "source", "config_hash", "code")}
    inputs = {name: entry["sha256"] for name, entry in tree["inputs"].items()}
    return fingerprint(told | {"seed": tree["seed"], "inputs": inputs, "parents": tree["parents"]})


RAW = "raw:"
LISTS = "lists"  # the MRM lists, which lie beside the roots


def _input(params: Params, unit: str, path: Path) -> Tree:
    """An input's entry; a raw file is named below its root, which differs between machines."""
    name = path.as_posix()
    known = {**params.manifest.datasets, **params.manifest.entries}
    if unit in known:
        reader = params.reading(unit)[0]
        for place, root in (
            (reader, raw_root(params, reader)),
            (LISTS, lists_root(params, reader)),
        ):
            if root is not None and path.is_relative_to(root):
                name = f"{RAW}{place}/{path.relative_to(root).as_posix()}"
                break
    return {"path": name, **digest(path)}


def locate(params: Params, name: str) -> Path | None:
    """The file that a record's path names here; None for raw data whose root is not set."""
    if not name.startswith(RAW):
        return Path(name)
    dataset, _, rest = name.removeprefix(RAW).partition("/")
    if dataset == LISTS:
        return None if params.manifest.lists is None else Path(params.manifest.lists) / rest
    try:
        return raw_root(params, dataset) / rest
    except ParamsError:
        return None


def seal(tree: Tree) -> str:
    """sha256 of a record's own content, so that an edit by hand shows without any other file."""
    return hashlib.sha256(canonical({k: v for k, v in tree.items() if k != "digest"})).hexdigest()


def sha256(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read(path: Path) -> Tree:
    """Parse a record.

    Raises:
        CheckError: it is missing, or no record.
    """
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckError(f"{path}: no such record; run `snakemake --cores all`") from None
    except ValueError as error:
        raise CheckError(f"{path}: not valid JSON ({error}); restore it with git") from None
    except RecursionError:
        raise CheckError(f"{path}: not valid JSON (too deep); restore it with git") from None
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        raise CheckError(f"{path}: not a record of schema {SCHEMA}; restore it with git")
    return tree


def verify(tree: Tree, name: str) -> None:
    """Assert that an output named in a record is the file on disk.

    Raises:
        CheckError: the file is missing or has other bytes.
    """
    entry = tree["outputs"][name]
    path = Path(entry["path"])
    if not path.exists():
        raise CheckError(f"{path}: not there; `dvc pull` it or run `snakemake --cores all`")
    if digest(path)["sha256"] != entry["sha256"]:
        raise CheckError(f"{path}: its sha256 is not the one in {tree['kind']}/{tree['id']}")


def current(params: Params, kind: str, unit: str) -> bool:
    """Whether a unit's record and outputs are what doing its work now would give."""
    paths = Paths(params.scale)
    try:
        tree = read(paths.record(kind, unit))
        if tree.get("digest") != seal(tree):
            return False
        for name in tree["outputs"]:
            verify(tree, name)
        over = {f"{k}/{u}": sha256(paths.record(k, u)) for k, u in grid.parents(params, kind, unit)}
    except (CheckError, FileNotFoundError, KeyError):
        return False
    return bool(
        tree["config_hash"] == fingerprint(config(params, kind, unit))
        and tree["code"] == code_hash(params, kind, unit)
        and tree["parents"] == over
    )


def process_cost() -> Tree:
    """Wall and CPU seconds and peak memory of this process so far."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(time.time() - STARTED, 2),
        "cpu_seconds": round(
            use.ru_utime + use.ru_stime + children.ru_utime + children.ru_stime, 2
        ),
        "peak_mb": round(max(use.ru_maxrss, children.ru_maxrss) / 1024),
    }


def _circumstances(params: Params, kind: str, cost: Tree) -> Tree:
    lock = Path("requirements.lock")
    return {
        "schema": SCHEMA,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", "src", "params.yaml")
        ),
        "environment": {
            "python": platform.python_version(),
            "lock": sha256(lock) if lock.is_file() else None,
            "packages": {
                name: _version(name) for name in ("torch", "timm", "transformers", "numpy")
            },
            "cuda": _cuda(),
            "threads": getattr(params.threads, kind),
            "machine": platform.machine(),
            "system": platform.system(),
        },
        "roots": {k: v for k, v in params.manifest.roots.items() if v is not None},
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cost": cost,
    }


@cache
def _git(*args: str) -> str | None:
    told = git.ask(*args)
    return None if told is None else told.decode(errors="replace").strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> Tree | None:
    """The GPU, if this process has used torch with one (torch is not imported for it)."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return {"version": torch.version.cuda, "device": torch.cuda.get_device_name()}
