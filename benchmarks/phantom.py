"""How fast one core generates radiographs.

CPU time with everything that a data set's layout does (drawing, encoding, writing, reports,
tables): images a second of the mimic layout at 224 px, and what all data sets of scale demo take.
A toy draws few patients.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from benchmarks import runner
from benchmarks.rows import Row, measured
from cxrmim import plugins
from cxrmim.params import load

TARGET = 60
RASTER, PATIENTS, REPEATS, TOY = 224, 150, 5, 2
IMAGES = {".jpg", ".jpeg", ".png", ".dcm"}


def measure(toy: bool = False) -> list[Row]:
    """Images a CPU second of one layout, and CPU seconds of the demo's data."""
    phantom = load(runner.REPO / "params.yaml", "demo").phantom
    patients = TOY if toy else PATIENTS
    spec = SimpleNamespace(
        seed=phantom.seed,
        raster=RASTER,
        difficulty=phantom.difficulty,
        patients={"mimic": patients},
    )
    found = [generate("mimic", spec) for _ in range(1 if toy else REPEATS)]
    rates = [count / seconds for count, seconds in found]
    names = ["mimic"] if toy else list(phantom.patients)
    each = {name: generate(name, spec if toy else phantom) for name in names}
    details = {name: {"images": n, "CPU s": round(s, 1)} for name, (n, s) in each.items()}
    total = sum(seconds for _, seconds in each.values())
    return [
        measured(
            f"phantom radiographs at {RASTER} px, MIMIC-CXR's layout",
            "images/CPU s",
            rates,
            target=TARGET,
            bound=">=",
            details={"images": found[0][0]},
        ),
        measured("phantom data of scale demo, CPU", "s", [total], details=details),
    ]


def generate(name: str, spec: object) -> tuple[int, float]:
    """Images written and CPU seconds of one data set on one core."""
    layout = plugins.load("layout", name)
    with TemporaryDirectory() as folder:
        seconds = runner.cpu_seconds(lambda: layout.write(Path(folder), spec, 1))
        count = sum(path.suffix.lower() in IMAGES for path in Path(folder).rglob("*"))
    return count, seconds


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
