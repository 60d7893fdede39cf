"""How fast one core generates radiographs: `python benchmarks/phantom.py`.

Two figures, both of CPU time and with everything that a data set's layout does (drawing, encoding,
writing, reports, tables): images a second of the mimic layout at 224 px, and what each data set of
scale demo takes. Writes `benchmarks/results/phantom.json`.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from machine import describe

from cxrmim import plugins
from cxrmim.params import load

TARGET = 60
RASTER, PATIENTS, REPEATS = 224, 150, 3
IMAGES = {".jpg", ".jpeg", ".png", ".dcm"}


def generate(name: str, spec: object) -> tuple[int, float]:
    """Images written and CPU seconds of one data set on one core."""
    layout = plugins.load("layout", name)
    with TemporaryDirectory() as folder:
        start = time.process_time()
        layout.write(Path(folder), spec, 1)
        seconds = time.process_time() - start
        count = sum(path.suffix.lower() in IMAGES for path in Path(folder).rglob("*"))
    return count, seconds


def main() -> None:
    """Measure, print and write."""
    phantom = load(scale="demo").phantom
    spec = SimpleNamespace(
        seed=phantom.seed,
        raster=RASTER,
        difficulty=phantom.difficulty,
        patients={"mimic": PATIENTS},
    )
    rates = []
    for _ in range(REPEATS):
        count, seconds = generate("mimic", spec)
        rates.append(count / seconds)
    result: dict[str, object] = {
        "machine": describe("numpy", "pillow"),
        "mimic at 224 px": {
            "images": count,
            "images per CPU second, best": round(max(rates), 1),
            "images per CPU second, all": [round(rate, 1) for rate in rates],
            "target": TARGET,
        },
    }
    sys.stdout.write(f"mimic at {RASTER} px: {max(rates):.1f} images/s a core (target {TARGET})\n")
    demo: dict[str, dict[str, float]] = {}
    for name in phantom.patients:
        count, seconds = generate(name, phantom)
        demo[name] = {"images": count, "CPU seconds": round(seconds, 1)}
        sys.stdout.write(f"demo, {name:8}: {count:5} images, {seconds:5.1f} s\n")
    total = sum(row["CPU seconds"] for row in demo.values())
    sys.stdout.write(f"demo, all     : {total:.1f} CPU seconds\n")
    result[f"demo at {phantom.raster} px"] = demo
    result["demo, CPU seconds"] = round(total, 1)
    path = Path(__file__).parent / "results" / "phantom.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
