"""Memory of what reads manifests and shards, on NIH's real table and on a quarter of it.

The manifest stop and a reader of shards are processes of their own. The store has the table that
the stop has made, and an empty image of 64 px for each of its rows; the reader opens it, takes the
rows of each split and all labels, as a downstream run does, and reads all images in random order.
Memory of the process alone is RssAnon: mapped pages are the kernel's to take back. A row's memory
is the difference of both sizes over that of their rows.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.process import process
from benchmarks.rows import Row, explained, measured

FACTOR, TARGET, CONSTANT = 4, 4.4, 1.1
SIDE, BATCH = 64, 256
TABLE = (
    "a run holds its splits' rows and its labels, so many KiB a row as the row on memory "
    "says; pixels and other columns are not held"
)


def measure(toy: bool = False) -> list[Row]:
    """Memory of the manifest stop and of a reader of shards, on NIH's table and a quarter of it."""
    from benchmarks import nih_table  # not above: the reader imports this module, and not that one

    found = []
    for share in (100 * FACTOR, 100) if toy else (FACTOR, 1):
        with TemporaryDirectory() as temporary:
            here = Path(temporary)
            rows = len(nih_table.lay_out(here, share))
            _, cpu, peak, _ = nih_table.stop(here, nih_table.CASES["fractions by patient"])
            store = here / "store"
            code = "import sys; from benchmarks import growth_readers as g; g.{}(*sys.argv[1:])"
            table = here / "results" / "paper" / "artifacts" / "manifests" / "nih.parquet"
            arguments = [sys.executable, "-c", code.format("write_store"), str(table), str(store)]
            process(here, arguments)
            out = here / "memory.json"
            process(here, [sys.executable, "-c", code.format("read_store"), str(store), str(out)])
            found.append((rows, cpu, peak, json.loads(out.read_text(encoding="utf-8"))))
    (n, cpu, peak, few), (m, cpu_4, peak_4, many) = found
    kib = [(many[key] - few[key]) / (m - n) for key in ("table", "crops")]
    sizes = {"rows": [n, m]}
    return [
        measured(f"manifest of NIH, {FACTOR} x rows: CPU s", "x", [cpu_4 / cpu], target=TARGET,
                 details=sizes | {"CPU s": [round(cpu, 2), round(cpu_4, 2)]}),
        measured("manifest of NIH: memory a row", "KiB", [(peak_4 - peak) * 1024 / (m - n)],
                 details=sizes | {"peak MB": [peak, peak_4]}),
        measured("reader of shards: memory a row of its table", "KiB", [kib[0]],
                 details=sizes | {"KiB": [few["table"], many["table"]]}),
        explained(measured(f"reader of shards, {FACTOR} x images: memory of the process", "x",
                           [many["after"] / few["after"]], target=CONSTANT,
                           details=sizes | {"KiB": [few["after"], many["after"]]}), TABLE),
        measured("reader of shards: memory an image read", "KiB", [kib[1]],
                 details=sizes | {"KiB": [few["crops"], many["crops"]]}),
    ]  # fmt: skip


def write_store(table: str, folder: str) -> None:
    """A store of empty images with a manifest's table; in a process of its own."""
    import numpy as np
    import pandas as pd

    from cxrmim.shards.build import TEXT
    from cxrmim.shards.journal import Growing
    from cxrmim.shards.store import seal

    rows = pd.read_parquet(table)
    place = Path(folder)
    place.mkdir()
    images = Growing(place / "images.npy", (SIDE, SIDE))
    images.append(np.zeros((len(rows), SIDE, SIDE), dtype=np.uint8))
    images.finish(len(rows))
    images.close()
    stored = rows.drop(columns=[name for name in TEXT if name in rows.columns])
    stored.to_parquet(place / "table.parquet")
    seal(place)


def read_store(folder: str, out: str) -> None:
    """Do as a run does: open a store, take each split's rows and all labels, read all images.

    Tells the process's KiB at each step. Images are read in random order.
    """
    import numpy as np

    from cxrmim.shards.store import LABEL, open_shards

    before = own_memory()
    shards = open_shards(Path(folder))
    marks = [name for name in shards.table.columns if name.startswith(LABEL)]
    held = [shards.rows(split) for split in ("train", "valid", "test")]
    held.append(shards.labels([name.removeprefix(LABEL) for name in marks]))
    opened = own_memory()
    order = np.random.default_rng(0).permutation(len(shards.images))
    for first in range(0, len(order), BATCH):
        shards.images[np.sort(order[first : first + BATCH])].sum()
    after = own_memory()
    assert sum(map(len, held)) == 2 * len(order)
    found = {"table": opened - before, "crops": after - opened, "after": after}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def own_memory() -> int:
    """KiB of this process alone, mapped files left out."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split("RssAnon:")[1].split()[0])
