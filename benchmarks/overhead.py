"""What a job costs beside its work and beside importing the libraries that it uses.

The overhead of a job is

    CPU seconds from the start of the process to the first useful work
    - CPU seconds of importing, in that process, the same modules of other people's libraries

and the first useful work is: the first file written (phantom), the reader of a dataset (manifest),
the first image (shards), the comparison of pixels (its audit), the first step, the first image of
its own to be drawn (the ImageNet stand-in), or the weights to be written where nothing is trained
(pretrain), the first image encoded, or the baseline's own
function (downstream), the part's own function (report). Everything before it counts: this
project's modules, params.yaml, the grid, records that are checked, shards that are opened and held
to their checksums, the method that is built. See `starting` for how a start is cut off there.

Jobs of the checkout's finished demo are started, in a folder of its own that links to it.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import runner
from benchmarks.rows import Row, measured, not_measured

REPO = Path(__file__).resolve().parents[1]
DEMO = REPO / "results" / "demo"
WHAT = "overhead of a job beyond importing its libraries, worst kind"
TARGET = 2.0
REPETITIONS, AT_ONCE = 3, 2
ENCODED = "timm.models.vision_transformer:VisionTransformer.forward_features"
DRAWN = "cxrmim.pretrain.methods.imagenet:ImageNet.own_images"
STEP, KEPT = "cxrmim.pretrain.loop:Training.step", "cxrmim.pretrain.weights:save_method"
PARTS = {"tables": "build_tables", "figures": "build_figures", "page": "build_page"}
# Kinds that need no data, then those of the demo: name -> stop, option, unit, first useful work.
BARE = {
    "phantom": ("phantom", "dataset", "nih", "cxrmim.phantom.layouts.nih:write"),
    "pretrain random": ("pretrain", "checkpoint", "random-s0", KEPT),
    **{f"report {p}": ("report", "part", p, f"cxrmim.report.build:{f}") for p, f in PARTS.items()},
}
TRAINED = ("mae", "mgca", "medim", "mrm", "cmitm", "gloria")
ON_DEMO = {
    "manifest": ("manifest", "dataset", "nih", "cxrmim.manifest.datasets.nih:read"),
    "shards": ("shards", "dataset", "nih", "cxrmim.shards.pool:chunks"),
    "shards audit": ("shards", "dataset", "siim-mgca", "cxrmim.shards.audit:work"),
    "pretrain imagenet": ("pretrain", "checkpoint", "imagenet-s0", DRAWN),
    **{f"pretrain {m}": ("pretrain", "checkpoint", f"{m}-s0", STEP) for m in TRAINED},
    **{f"downstream {m}": ("downstream", "job", f"{m}-s0", ENCODED) for m in ("random", "medim")},
    "downstream cmitm": ("downstream", "job", "cmitm-s0", ENCODED),
    **{
        f"downstream {name}": ("downstream", "job", f"baseline-{name}", f"cxrmim.downstream.{at}")
        for name, at in {
            "prior": "contract:Bench.shards",
            "pixels": "baselines:shrink",
            "empty": "features:block",
            "chance": "retrieval:chance",
        }.items()
    },
}
NEEDED = ("phantom", "records", "artifacts/manifests", "artifacts/shards", "artifacts/checkpoints")


def measure(toy: bool = False) -> list[Row]:
    """One row: the kind of job that costs most, all others in its details."""
    missing = [name for name in NEEDED if not (DEMO / name).is_dir()]
    if missing and not toy:
        why = f"needs a finished demo, {DEMO / missing[0]} is not there: `make demo`, then this"
        return [not_measured(WHAT, "CPU s", why, target=TARGET)]
    kinds = {"report tables": BARE["report tables"]} if toy else BARE | ON_DEMO
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "params.yaml").symlink_to(REPO / "params.yaml")
        for name in () if toy else NEEDED:
            own = here / "results" / "demo" / name  # a job may leave something beside its inputs
            own.mkdir(parents=True)
            for item in (DEMO / name).iterdir():
                (own / item.name).symlink_to(item)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            given = [(here, kind, 1 if toy else REPETITIONS) for kind in kinds.values()]
            found = dict(zip(kinds, pool.map(lambda one: _start(*one), given), strict=True))
    worst = max(found, key=lambda kind: median(found[kind]["over"]))
    details = {
        kind: {
            "overhead": round(median(told["over"]), 3),
            "start in all": round(told["total"], 3),
            "libraries": told["libraries"],
        }
        for kind, told in found.items()
    }
    told = {"worst": worst, "kinds": details}
    return [measured(WHAT, "CPU s", found[worst]["over"], target=TARGET, details=told)]


def _start(here: Path, kind: tuple[str, ...], repetitions: int) -> dict[str, Any]:
    """What `starting` tells of a kind of job; its own output is not shown."""
    paths = os.pathsep.join([str(REPO / "src"), str(REPO)])
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.starting", *kind, str(repetitions)],
        cwd=here,
        env=os.environ | threads | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(kind)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
