"""The controller is away for a minute while jobs run. Named to come first: the rest needs it."""

from __future__ import annotations

from threading import Timer

import pytest

from tests.slurm import checkout as checkouts
from tests.slurm.runs import files, until

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1200)]
RECORD = "results/demo/records/phantom/covidx.json"
LOG = "artifacts/logs/pretrain/slow-s0.log"
AWAY = 60.0  # seconds


def test_a_controller_away_for_a_minute_costs_nothing(cluster, start, timed, tmp_path, request):
    """The job that runs meanwhile, and the one that ends meanwhile, are not lost."""
    folder = checkouts.faulty(tmp_path / "work", covidx="hold", mimic="hold")
    run = start(folder, RECORD, RECORD.replace("covidx", "mimic"))
    for unit in ("covidx", "mimic"):
        until((folder / f"faults/{unit}.starts").exists, "both have begun")
    until(lambda: files(timed.folder, LOG).get(LOG), "so has the pretraining")
    cluster.kill_controller()
    back = Timer(AWAY, cluster.start_controller)
    back.start()
    (folder / "faults/mimic").unlink()
    local = request.getfixturevalue("local")  # built meanwhile: the wait is not lost
    back.join()
    assert run.process.poll() is None
    (folder / "faults/covidx").unlink()
    run.must()
    assert len(run.jobs()) == 2
    assert timed.states("slow-s0")[0] != "FAILED", timed.slurm_logs
    assert [checkouts.starts(folder, name) for name in ("covidx", "mimic")] == [1, 1]
    made = files(folder, "records/phantom/*", "phantom/**/*")
    assert made == files(local, "records/phantom/*", "phantom/**/*")
