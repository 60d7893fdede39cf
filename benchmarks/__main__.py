"""Run benchmarks one after another, print one table and write `results/bench/<machine>.json`.

    python -m benchmarks [--gpu | --growth] [--toy] [--only NAME ...] [--json FILE] [--document]

Each benchmark is a process of its own with one thread in every library. The file keeps the groups
cpu, growth and gpu side by side: a run of one leaves the others as they were. A benchmark that
fails keeps its former rows below `last`. `--toy` and `--only` write nothing but to `--json`, into
which `--only` merges. `--document` rewrites the tables of docs/speed.md from the files, and runs
nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import document, machine, runner
from benchmarks.rows import not_measured

GROUPS = {
    "cpu": (
        "nih_table", "phantom", "shards_prepare", "shards_read", "pretrain_steps", "probing",
        "retrieval", "overhead", "workflow", "demo",
    ),
    "growth": ("growth",),
    "gpu": ("gpu",),
}  # fmt: skip
LIMIT = 1800  # seconds, after which a benchmark counts as hung


def main() -> int:
    """Run what the arguments say; status 1 if a benchmark failed."""
    args = arguments()
    if args.document:
        document.write()
        return 0
    group = "gpu" if args.gpu else "growth" if args.growth else "cpu"
    found = {}
    for name in args.only or GROUPS[group]:
        found[name] = run(name, args.toy)
        sys.stderr.write(f"{name}: {found[name]['seconds']} s {found[name]['failed']}\n")
    sys.stdout.write(runner.table([(n, row) for n, tree in found.items() for row in tree["rows"]]))
    path = args.json
    if path is None and not (args.toy or args.only):
        path = runner.REPO / "results" / "bench" / f"{machine.slug(group)}.json"
    if path is not None:
        whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for each, names in GROUPS.items():
            if part := {name: tree for name, tree in found.items() if name in names}:
                whole = merge(whole, each, part, keep=bool(args.only))
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"written: {path}\n")
    failed = [name for name, tree in found.items() if tree["failed"]]
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    known = [name for names in GROUPS.values() for name in names]
    out = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    which = out.add_mutually_exclusive_group()
    which.add_argument("--gpu", action="store_true", help="what needs a GPU")
    which.add_argument("--growth", action="store_true", help="how costs grow with size")
    which.add_argument("--only", nargs="+", choices=known, metavar="NAME", help="these alone")
    out.add_argument("--toy", action="store_true", help="small and quick; figures worthless")
    out.add_argument("--json", type=Path, metavar="FILE", help="write there")
    out.add_argument("--document", action="store_true", help="rewrite the tables of docs/speed.md")
    return out.parse_args()


def run(name: str, toy: bool) -> dict[str, Any]:
    """One benchmark in a process of its own: circumstances, seconds and rows.

    Of one that fails `failed` says why, in a line, and so does its only row.
    """
    about = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **machine.circumstances(runner.THREADS),
    }
    path = os.pathsep.join([str(runner.REPO / "src"), str(runner.REPO)])
    started = time.perf_counter()
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file)]
        try:
            out = subprocess.run(
                command + ["--toy"] * toy,
                cwd=runner.REPO,
                env=os.environ | runner.THREADS | {"PYTHONPATH": path},
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT,
            )
            said = out.stderr.strip().splitlines() or [f"exit status {out.returncode}"]
            failed = said[-1] if out.returncode or not file.is_file() else ""
        except subprocess.TimeoutExpired:
            failed = f"not done after {LIMIT} s"
        seconds = round(time.perf_counter() - started, 1)
        if not failed:
            rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
            return about | {"seconds": seconds, "failed": "", "rows": rows}
    failed = f"failed: {failed} (see python -m benchmarks.{name})"
    rows = [not_measured(name, "", failed).tree()]
    return about | {"seconds": seconds, "failed": failed, "rows": rows}


def merge(
    tree: dict[str, Any], group: str, found: dict[str, dict[str, Any]], keep: bool
) -> dict[str, Any]:
    """A file of results with new ones put in.

    Args:
        tree: the file as it was, empty if there was none.
        group: cpu, growth or gpu.
        found: results by benchmark, of this group.
        keep: whether benchmarks of the group that are not among them stay.
    """
    groups = dict(tree.get("groups", {}))
    before = groups.get(group, {})
    after = dict(before) if keep else {}
    for name, new in found.items():
        last = before.get(name)
        if new["failed"] and last:
            new = new | {"last": last.get("last", last) if last["failed"] else last}
        after[name] = new
    order = [name for name in GROUPS[group] if name in after]
    groups[group] = {name: after[name] for name in order}
    ordered = {name: groups[name] for name in GROUPS if name in groups}
    return {"machine": tree.get("machine") or machine.name(group), "groups": ordered}


if __name__ == "__main__":
    raise SystemExit(main())
