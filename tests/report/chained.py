"""Completes a fabricated world's records to whole chains: parents, hashes, files, circumstances."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fabricated import SIZES, World, pending

from cxrmim import grid, record
from cxrmim import params as params_module
from cxrmim.report import outputs as report

ROOT = Path(__file__).parents[2]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENVIRONMENT = {
    "cuda": None,
    "lock": "e" * 64,
    "machine": "x86_64",
    "packages": {"numpy": "2.0", "torch": "2.11"},
    "python": "3.11.7",
    "system": "Linux",
    "threads": 1,
}
SUFFIX = {"manifest": "parquet", "pretrain": "safetensors", "downstream": "parquet"}
OUTPUT = {"manifest": "manifest", "pretrain": "weights", "downstream": "predictions"}


@contextmanager
def whole(folder: Path, scale: str = "demo", **top: Any) -> Iterator[World]:
    """A filled world with whole chains and stub drawings; the working directory is its folder.

    Args:
        folder: an empty folder.
        scale: of the project's params.yaml.
        top: keys of the scale that are changed.
    """
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["downstream"]["bootstrap"] = 40
    tree["scale"] = scale
    tree["scales"][scale] = params_module.merge(tree["scales"][scale], top)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(grid, "pending", pending)
        Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        world = World(params_module.load())
        world.fill()
        complete(world)
        for name in report.figures(world.params):
            path = world.paths.figure(name, "svg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><title>{name}</title></svg>')
        yield world


def complete(world: World, commit: str = COMMIT) -> None:
    """Write what every unit's record lacks of a real one, upstream first."""
    for kind, unit in grid.units(world.params):
        path = world.paths.record(kind, unit)
        tree = json.loads(path.read_text()) if path.is_file() else {}
        config = grid.config(world.params, kind, unit)
        parents = grid.parents(world.params, kind, unit)
        tree |= {
            "schema": 1,
            "kind": kind,
            "id": unit,
            "scale": world.params.scale,
            "source": world.params.manifest.source,
            "config": config,
            "config_hash": sha(json.dumps(config, sort_keys=True)),
            "code": sha(kind),
            "seed": grid.Run.parse(unit).seed if kind == "downstream" else None,
            "inputs": {},
            "outputs": written(world, kind, unit),
            "parents": {f"{k}/{u}": record.sha256(world.paths.record(k, u)) for k, u in parents},
        }
        tree.setdefault("metrics", {})
        tree.setdefault("details", {})
        if kind == "pretrain":
            curve = {"steps": 50, "curve": [1.0] * 50, "losses": {"total": 1.0}}
            tree["metrics"] = curve | tree["metrics"]
        if kind == "manifest":
            for counts in tree["metrics"]["splits"].values():
                counts.setdefault("studies", counts["images"])
                counts.setdefault("patients", counts["images"] - 1)
            tree["metrics"].setdefault("faults", {})
            name = f"{record.RAW}{grid.reader(world.params, unit)}/table.csv"
            tree["inputs"] = {"table.csv": entry(name)}
        if kind == "shards":
            kept = sum(SIZES.values())
            facts = {"rows": kept, "kept": kept, "short_reports": 0, "unreadable": {}}
            tree["metrics"] |= facts
            tree["details"]["raw"] = {"bytes": 9, "files": 3, "sha256": sha(unit)}
        write(path, tree)
        circumstances(world, kind, unit, commit)


def written(world: World, kind: str, unit: str) -> dict[str, Any]:
    """Files that a unit has written, none of which is there."""
    artifacts = world.paths.artifacts
    if kind == "phantom":
        folder = entry(world.paths.phantom(unit).as_posix())
        return {"folder": {key: folder[key] for key in ("path", "bytes", "sha256")} | {"files": 4}}
    if kind == "shards":
        return {"images": entry(f"{artifacts}/shards/{unit}/images.npy")}
    folder = {"manifest": "manifests", "pretrain": "checkpoints"}.get(kind, "predictions")
    return {OUTPUT[kind]: entry(f"{artifacts}/{folder}/{unit}.{SUFFIX[kind]}")}


def circumstances(world: World, kind: str, unit: str, commit: str) -> None:
    path = world.paths.circumstances(kind, unit)
    held = json.loads(path.read_text()) if path.is_file() else {}
    tree = {
        "schema": 1,
        "commit": commit,
        "dirty": False,
        "environment": ENVIRONMENT,
        "roots": {"mimic": "/home/somebody/mimic"},
        "slurm_job": "4711",
        "finished": "2026-01-02T03:04:05Z",
        "cost": {"cpu_seconds": 1.5, "peak_mb": 100, "seconds": 2.0} | held.get("cost", {}),
    }
    write(path, tree)


def entry(path: str) -> dict[str, Any]:
    return {"path": path, "bytes": len(path), "md5": sha(path)[:32], "sha256": sha(path)}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
