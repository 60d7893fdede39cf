"""NIH ChestX-ray14's real table (112,120 rows) to manifest, splits and audit: seconds and memory.

The label table is the real one, from torchxrayvision's package; the images are empty files of the
real names in the real folders, since the manifest stop opens none. Measured is the whole stop as a
process of its own: start, reading, splits, subsets, schema, audit, parquet and record. Once with
fractions by patient, once with lists of the format and sizes of MRM's. A toy takes the first
hundredth of the table.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import yaml

from benchmarks import runner
from benchmarks.rows import Row, measured
from cxrmim import public_tables
from cxrmim.manifest import lists, splits
from cxrmim.manifest.datasets import nih

TARGET_SECONDS, TARGET_MB = 20, 1000
FOLDERS, REPEATS, SHARE = 12, 3, 100  # SHARE: of a toy
MRM = (78468, 11219, 22433)  # images of MRM's lists
CASES = {
    "fractions by patient": {"split": "fractions", "labels": "v2020"},
    "lists of MRM's sizes": {"split": "mrm", "labels": "list"},
}


def measure(toy: bool = False) -> list[Row]:
    """Seconds and memory of the manifest stop on NIH's table, for both splits."""
    out = []
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        table = lay_out(here, SHARE if toy else 1)
        for case, options in CASES.items():
            found = [stop(here, options) for _ in range(1 if toy else REPEATS)]
            wall, cpu, memory, kept = zip(*found, strict=True)
            what = f"manifest of NIH's {len(table):,} rows, {case}"
            details = {"kept": kept[0]}
            out += [
                measured(f"{what}: wall", "s", wall, target=TARGET_SECONDS, details=details),
                measured(f"{what}: CPU", "s", cpu),
                measured(f"{what}: peak memory", "MB", memory, target=TARGET_MB),
            ]
    return out


def lay_out(here: Path, share: int) -> pd.DataFrame:
    """The raw layout, MRM-like lists and parameters below a folder; returns the table.

    Args:
        here: the folder.
        share: one row of so many is taken, the first ones.
    """
    place = public_tables.folder()
    raw = pd.read_csv(place / public_tables.FILES["nih"])
    raw = raw.head(len(raw) // share)
    root = here / "nih"
    root.mkdir()
    raw.to_csv(root / public_tables.FILES["nih"], index=False)
    size = -(-len(raw) // FOLDERS)
    for number in range(FOLDERS):
        folder = root / f"images_{number + 1:03d}" / "images"
        folder.mkdir(parents=True)
        for name in raw["Image Index"][number * size : (number + 1) * size]:
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
    write_lists(raw, here / "lists" / lists.FOLDERS["nih"], share)
    tree = yaml.safe_load((runner.REPO / "params.yaml").read_text(encoding="utf-8"))
    tree["manifest"] |= {"roots": {"nih": str(root)}, "lists": str(here / "lists")}
    (here / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return raw


def write_lists(table: pd.DataFrame, folder: Path, share: int) -> None:
    """Lists in the format and of the sizes of MRM's, with the table's own labels."""
    found = table.set_index("Image Index")["Finding Labels"].str.split("|")
    bits = {n: " ".join(str(int(label in f)) for label in nih.LABELS) for n, f in found.items()}
    names = ["train", "valid", "test"]
    sizes = [size // share for size in MRM[1:]]
    split = splits.by_unit(table["Patient ID"], (len(table) - sum(sizes), *sizes), names, 0)
    folder.mkdir(parents=True)
    for part, file in lists.FILES.items():
        images = table["Image Index"][split == part].tolist()
        contents = {file: images}
        if part == "train":
            one, ten = 785 // share, 7847 // share
            contents |= {"train_1.txt": images[:one], "train_10.txt": images[one : one + ten]}
        for name, chosen in contents.items():
            (folder / name).write_text("".join(f"{i} {bits[i]}\n" for i in chosen))


def stop(here: Path, options: dict[str, str]) -> tuple[float, float, float, int]:
    """One process of the manifest stop: wall and CPU seconds, MB at most, images kept."""
    tree = yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))
    tree["manifest"]["datasets"]["nih"] |= options
    (here / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    arguments = ["--dataset", "nih", "--scale", "paper", "--debug"]
    subprocess.run(
        [sys.executable, "-m", "cxrmim.manifest", *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(runner.REPO / "src")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = here / "results/paper/records/manifest"
    record = json.loads((folder / "nih.json").read_text(encoding="utf-8"))
    cost = json.loads((folder / "nih.circumstances.json").read_text(encoding="utf-8"))["cost"]
    cpu = sum(after[:2]) - sum(before[:2])
    return wall, cpu, cost["peak_mb"], record["metrics"]["flow"]["kept"]


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
