"""What the workflow costs where nothing is to be done: dry run, no-op build, no-op attestation.

    python -m benchmarks.workflow

Wall seconds of whole processes, medians of `REPEATS` after a warm-up; CPU seconds, of children too,
stand in the details. The dry run is of scale paper in a folder of its own, with empty folders for
data roots and no results. The other two run in a copy of this checkout's last commit and of the
demo's artifacts, so that nothing here changes; they need a finished demo. What `dvc repro` costs
beside the report is

    wall(dvc repro) - sum over tables, figures, page of wall(cxrmim report --part <part>),

each difference of one round, in which one follows the other.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from benchmarks import runner
from benchmarks.rows import Row, measured, not_measured
from cxrmim.report.outputs import PARTS

REPO = Path(__file__).resolve().parents[1]
REPEATS = 3
DRY, NOOP, REPRO = (
    "`snakemake -n` at scale paper",
    "`snakemake` after a finished demo",
    "`dvc repro` with nothing changed, less the report's build",
)
TARGETS = {DRY: 6.0, NOOP: 8.0, REPRO: 4.0}  # wall seconds
IDLE = "Nothing to be done"
COMMAND = "`make demo`, then `python -m benchmarks --only workflow`"
CARRIED = ("artifacts", "phantom")  # folders of a scale that git does not hold
PYTHON = Path(sys.executable).parent


@dataclass(frozen=True)
class Cost:
    """Seconds of one process and its children."""

    wall: float
    cpu: float
    status: int
    said: str


def measure(toy: bool = False) -> list[Row]:
    """The three rows; a toy makes one dry run alone."""
    with TemporaryDirectory() as temporary:
        rows = [dry(Path(temporary) / "paper", 1 if toy else REPEATS, warm=not toy)]
        reason = "a toy copies no demo" if toy else copied(Path(temporary) / "demo")
        if reason:
            why = f"{reason}; {COMMAND}"
            return rows + [
                not_measured(what, "s", why, target=TARGETS[what]) for what in (NOOP, REPRO)
            ]
        return [*rows, idle(Path(temporary) / "demo"), attestation(Path(temporary) / "demo")]


def dry(folder: Path, repeats: int, *, warm: bool = True) -> Row:
    """A dry run of scale paper."""
    tree = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    raw = folder / "raw"
    for name in tree["manifest"]["roots"]:
        (raw / name).mkdir(parents=True)
        tree["manifest"]["roots"][name] = str(raw / name)
    (raw / "lists").mkdir()
    tree["manifest"]["lists"] = str(raw / "lists")
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    words = ["--snakefile", str(REPO / "Snakefile"), "--directory", str(folder)]
    words = ["snakemake", *words, "--config", "scale=paper", "--cores", "2", "-n"]
    return timed(DRY, folder, words, repeats, warm=warm)


def copied(folder: Path) -> str:
    """Copy the last commit and the demo's artifacts; why that cannot be measured, "" if it can."""
    results = Path("results/demo")
    if not any((REPO / results / "artifacts" / "checkpoints").glob("*.safetensors")):
        return "no finished demo here"
    subprocess.run(["git", "clone", "-q", str(REPO), str(folder)], check=True)
    for name in CARRIED:
        source = REPO / results / name
        shutil.copytree(source, folder / results / name, dirs_exist_ok=True)
    looked = call(folder, ["snakemake", "--config", "scale=demo", "--cores", "2", "-n"])
    if IDLE not in looked.said:
        return "the demo here is not finished, or of other code than the last commit"
    return ""


def idle(folder: Path) -> Row:
    """A build with nothing to build."""
    words = ["snakemake", "--config", "scale=demo", "--cores", "2"]
    return timed(NOOP, folder, words, REPEATS)


def attestation(folder: Path) -> Row:
    """An attestation of what is attested already, in rounds with the report's own build."""
    repro = ["dvc", "repro"]
    builds = [["cxrmim", "report", "--scale", "demo", "--part", part] for part in PARTS]
    first = call(folder, repro)
    if first.status:
        why = f"`dvc repro` stops at the demo here; {COMMAND}"
        return not_measured(REPRO, "s", why, target=TARGETS[REPRO])
    rounds = [
        (call(folder, repro), [call(folder, build) for build in builds]) for _ in range(REPEATS)
    ]
    return measured(
        REPRO,
        "s",
        [beside(whole, parts) for whole, parts in rounds],
        target=TARGETS[REPRO],
        details={
            "dvc repro, wall s": median(whole.wall for whole, _ in rounds),
            "dvc repro, CPU s": median(whole.cpu for whole, _ in rounds),
            "report, wall s": median(sum(part.wall for part in parts) for _, parts in rounds),
            "report, CPU s": median(sum(part.cpu for part in parts) for _, parts in rounds),
        },
    )


def beside(whole: Cost, parts: list[Cost]) -> float:
    """Wall seconds of a process that are not those of its parts."""
    return whole.wall - sum(part.wall for part in parts)


def timed(what: str, folder: Path, words: list[str], repeats: int, *, warm: bool = True) -> Row:
    """A row of one command.

    Raises:
        RuntimeError: the command fails.
    """
    costs = [call(folder, words) for _ in range(repeats + warm)][warm:]
    failed = [cost for cost in costs if cost.status]
    if failed:
        raise RuntimeError(f"{' '.join(words)}: {failed[0].said[-300:]}")
    return measured(
        what,
        "s",
        [cost.wall for cost in costs],
        target=TARGETS[what],
        details={"CPU s": median(cost.cpu for cost in costs)},
    )


def call(folder: Path, words: list[str]) -> Cost:
    """Run a program of this environment in a folder, with this checkout's code."""
    environment = os.environ | {
        "PATH": f"{PYTHON}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO / "src"),
    }
    before, started = children(), time.perf_counter()
    out = subprocess.run(
        [str(PYTHON / words[0]), *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    return Cost(wall, children() - before, out.returncode, out.stdout + out.stderr)


def children() -> float:
    """CPU seconds, user and system, of all children that have ended."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


if __name__ == "__main__":
    raise SystemExit(runner.main(measure))
