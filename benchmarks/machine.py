"""The machine that a benchmark ran on, in words; imported by the scripts beside it."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def describe(*packages: str, cores: int = 1) -> dict[str, Any]:
    """CPU, versions and load.

    Args:
        packages: distributions whose versions matter.
        cores: how many the benchmark uses.
    """
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "cores used": cores,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "load_before": round(os.getloadavg()[0], 1),
    }
