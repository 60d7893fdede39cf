"""The machine that a benchmark ran on: its name in file names, and its circumstances in words.

Stands alone: the kill test runs this file by its path.
"""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "dvc", "numpy", "pandas", "pillow", "pyarrow", "scikit-learn", "snakemake", "timm", "torch",
    "transformers",
)  # fmt: skip
REPO = Path(__file__).resolve().parents[1]


def describe(*packages: str, cores: int = 1) -> dict[str, Any]:
    """CPU, versions and load.

    Args:
        packages: distributions whose versions matter.
        cores: how many the benchmark uses.
    """
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "cores used": cores,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "load_before": load(),
    }


def cpu() -> str:
    """The CPU's model, as the kernel or the platform names it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def gpu() -> str:
    """The first GPU's model, as the driver names it; "" without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    out = subprocess.run(query, capture_output=True, text=True, check=False)
    return out.stdout.splitlines()[0].strip() if out.returncode == 0 and out.stdout else ""


def load() -> float:
    """Processes that were running or waiting, over the last minute."""
    return round(os.getloadavg()[0], 1)


def name(group: str) -> dict[str, Any]:
    """What names a file of results: the GPU's model for its group, else the CPU's; and cores."""
    model = gpu() if group == "gpu" else ""
    kind = "gpu" if model else "cpu"
    return {kind: model or cpu(), "cores": os.cpu_count()}


def slug(group: str) -> str:
    """The same as a file name, such as `amd-epyc-2-cores`."""
    kind, cores = name(group).values()
    return re.sub(r"[^a-z0-9]+", "-", f"{kind} {cores} cores".lower()).strip("-")


def circumstances(threads: dict[str, str]) -> dict[str, Any]:
    """Commit, versions, thread counts and load of this moment.

    Args:
        threads: environment variables that the benchmark's process is started with.
    """
    commit = git("rev-parse", "HEAD").strip()
    changed = git("status", "--porcelain", "--", "src", "workflow", "benchmarks", "params.yaml")
    return {
        "commit": commit,
        "uncommitted changes": bool(changed.strip()),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "threads": threads,
        "load before": load(),
    }


def git(*args: str) -> str:
    """What git says of this repository; "" where it is none."""
    out = subprocess.run(
        ["git", "-C", str(REPO), *args], capture_output=True, text=True, check=False
    )
    return out.stdout if out.returncode == 0 else ""
