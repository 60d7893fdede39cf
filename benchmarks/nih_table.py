"""NIH ChestX-ray14's real table (112,120 rows) to manifest, splits and audit: seconds and memory.

    python benchmarks/nih_table.py

The label table is the real one, from torchxrayvision's package; the images are empty files of the
real names in the real folders, since the manifest stop opens none. Measured is the whole stop as a
process of its own: start, reading, splits, subsets, schema, audit, parquet and record. Once with
fractions by patient, once with lists of the sizes of MRM's. Targets: 20 s and 1 GB.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml
from machine import describe

from cxrmim import public_tables
from cxrmim.manifest import lists, splits
from cxrmim.manifest.datasets import nih

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks" / "results" / "nih_table.json"
TARGET_SECONDS, TARGET_MB = 20, 1000
FOLDERS = 12
MRM = (78468, 11219, 22433)  # images of MRM's lists


def main() -> int:
    """Measure both splits, print and write the figures."""
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        started = time.perf_counter()
        table = lay_out(here)
        say(f"laid out {len(table):,} images in {time.perf_counter() - started:.1f} s")
        cases = {
            "fractions, by patient": {"split": "fractions", "labels": "v2020"},
            "lists of the format and sizes of MRM's": {"split": "mrm", "labels": "list"},
        }
        found = {name: measure(here, options) for name, options in cases.items()}
    result = {
        "what": "NIH table to manifest, splits and audit: one process of the manifest stop",
        "rows": len(table),
        "targets": {"seconds": TARGET_SECONDS, "peak_mb": TARGET_MB},
        "cases": found,
        "machine": describe("numpy", "pandas", "pandera", "pyarrow", public_tables.PACKAGE),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, case in found.items():
        say(f"{name}: {case['seconds']} s (CPU {case['cpu_seconds']}), {case['peak_mb']} MB")
    slow = [c for c in found.values() if c["seconds"] > TARGET_SECONDS or c["peak_mb"] > TARGET_MB]
    return 1 if slow else 0


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def lay_out(here: Path) -> pd.DataFrame:
    """The raw layout, MRM-like lists and parameters below a folder; returns the table."""
    place = public_tables.folder()
    table = public_tables.load("nih", place)
    root = here / "nih"
    root.mkdir()
    shutil.copy(place / public_tables.FILES["nih"], root)
    share = -(-len(table) // FOLDERS)
    for number in range(FOLDERS):
        folder = root / f"images_{number + 1:03d}" / "images"
        folder.mkdir(parents=True)
        for name in table["Image Index"][number * share : (number + 1) * share]:
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
    write_lists(table, place, here / "lists" / lists.FOLDERS["nih"])
    tree = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    tree["manifest"] |= {"roots": {"nih": str(root)}, "lists": str(here / "lists")}
    (here / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return table


def write_lists(table: pd.DataFrame, place: Path, folder: Path) -> None:
    """Lists in the format and of the sizes of MRM's, with the table's own labels."""
    full = pd.read_csv(
        place / public_tables.FILES["nih"], usecols=["Image Index", "Finding Labels"]
    )
    found = full.set_index("Image Index")["Finding Labels"].str.split("|")
    bits = {n: " ".join(str(int(label in f)) for label in nih.LABELS) for n, f in found.items()}
    names = ["train", "valid", "test"]
    split = splits.by_unit(table["Patient ID"], MRM, names, 0)
    folder.mkdir(parents=True)
    for part, file in lists.FILES.items():
        images = table["Image Index"][split == part].tolist()
        contents = {file: images}
        if part == "train":
            contents |= {"train_1.txt": images[:785], "train_10.txt": images[785 : 785 + 7847]}
        for name, chosen in contents.items():
            (folder / name).write_text("".join(f"{i} {bits[i]}\n" for i in chosen))


def measure(here: Path, options: dict[str, str]) -> dict[str, Any]:
    """Run the manifest stop in a process of its own, which tells its own peak."""
    tree = yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))
    tree["manifest"]["datasets"]["nih"] |= options
    (here / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    arguments = ["--dataset", "nih", "--scale", "paper", "--debug"]
    subprocess.run(
        [sys.executable, "-m", "cxrmim.manifest", *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
        check=True,
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = here / "results/paper/records/manifest"
    record = json.loads((folder / "nih.json").read_text(encoding="utf-8"))
    cost = json.loads((folder / "nih.circumstances.json").read_text(encoding="utf-8"))["cost"]
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(after[:2]) - sum(before[:2]), 1),
        "peak_mb": cost["peak_mb"],
        "kept": record["metrics"]["flow"]["kept"],
        "images": {s: record["metrics"]["splits"][s]["images"] for s in ("train", "valid", "test")},
        "shared": {k: record["metrics"]["audit"][k] for k in ("images", "patients")},
    }


if __name__ == "__main__":
    raise SystemExit(main())
