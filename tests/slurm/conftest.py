"""The cluster, a build without it to compare with, and the run that takes longest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.needs import declined
from tests.slurm import checkout as checkouts
from tests.slurm.cluster import Cluster, ClusterError
from tests.slurm.cluster import cluster as started
from tests.slurm.runs import Run, Watched, call

MINUTES, WARNED = 2, 5  # limit of the pretraining that is to hit it, and seconds before it
STEPS, PAUSE = 360, 0.5  # more than the limit, which Slurm looks after every half minute


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running Slurm; where there can be none the tests are skipped, or fail if this is CI."""
    try:
        with started() as out:
            yield out
    except ClusterError as error:
        declined(str(error))


@pytest.fixture(scope="session")
def start(cluster: Cluster) -> Iterator[Callable[..., Run]]:
    """Start a run in the background; what still runs at the end is killed."""
    runs: list[Run] = []

    def begin(folder: Path, *targets: str, kind: type[Run] = Run) -> Run:
        runs.append(kind(folder, *targets))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.kill()


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small grid, built on this machine without a cluster."""
    folder = checkouts.checkout(tmp_path_factory.mktemp("local") / "work", checkouts.with_gpus)
    out = call(folder, "snakemake", "--cores", "2")
    assert out.returncode == 0, out.stdout[-3000:] + out.stderr[-6000:]
    return folder


@pytest.fixture(scope="session")
def timed(start: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A pretraining that needs more time than it asks for; begun early, as it takes minutes."""
    folder = checkouts.slow(tmp_path_factory.mktemp("timed") / "work", STEPS, PAUSE)
    profile = checkouts.profile(folder)
    asked = profile["set-resources"]["pretrain"]
    assert asked["runtime"] == "5760 * attempt"
    assert asked["slurm_extra"] == "'--signal=USR1@300'"
    asked |= {"runtime": f"{MINUTES} * attempt", "slurm_extra": f"'--signal=USR1@{WARNED}'"}
    (folder / "slurm/config.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    return start(folder, checkouts.TARGET, kind=Watched)
