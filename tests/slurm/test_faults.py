"""What happens on shared machines: failures, cancelled jobs, time limits, nodes that lack data."""

from __future__ import annotations

import re
import shutil
import socket

import pytest

from tests.slurm import checkout as checkouts
from tests.slurm.runs import COMMAND, HASTE, Run, call, files, until

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1200)]
PHANTOM = "results/demo/records/phantom/{}.json"
MIMIC, COVIDX = PHANTOM.format("mimic"), PHANTOM.format("covidx")
MADE = ("records/phantom/*", "phantom/**/*")
ATTEMPTS = 2  # that a job gets
NODE = socket.gethostname()  # all nodes of the test are this machine
TRAINED = ("records/pretrain/*", "artifacts/checkpoints/*")


@pytest.fixture(scope="module")
def lacking(timed, cluster, start, tmp_path_factory) -> dict[str, Run]:
    """Jobs that do not find on their node what was there when they were submitted.

    A manifest that shards wait for lacks its data, a pretraining the weights that it starts from.
    """
    base = tmp_path_factory.mktemp("lacking")
    roots = {name: base / "raw" / name for name in ("mimic", "covidx")}
    for folder in (*roots.values(), base / "weights/deit"):
        folder.mkdir(parents=True)
    (base / "weights/deit/model.safetensors").touch()

    def real(tree):
        tree["scales"]["demo"]["manifest"]["source"] = "real"
        tree["manifest"]["roots"] |= {name: str(root) for name, root in roots.items()}

    reading = checkouts.checkout(base / "reading", real)
    training = checkouts.slow(base / "training", 4, 0.0, init="deit")
    (training / "weights").symlink_to(base / "weights")
    cluster.hold()
    try:
        runs = {
            "data": start(reading, "results/demo/records/shards/covidx.json"),
            "weights": start(training, checkouts.TARGET),
        }
        for run in runs.values():
            until(run.jobs, "its job waits")
        for folder in ("raw", "weights"):
            (base / folder).rename(base / f"no {folder}")
    finally:
        cluster.release()
    return runs


@pytest.fixture(scope="module")
def stumbling(timed, start, tmp_path_factory) -> Run:
    """Two jobs: one fails at its first start, one is cancelled while it runs."""
    folder = tmp_path_factory.mktemp("stumbling") / "work"
    return start(checkouts.faulty(folder, mimic="fail", covidx="hang"), MIMIC, COVIDX)


@pytest.fixture(scope="module")
def shared(timed, start, tmp_path_factory) -> dict[int, Run]:
    """A pretraining of two processes, on one node and on two."""
    out = {}
    for nodes in (1, 2):
        folder = tmp_path_factory.mktemp(f"nodes{nodes}") / "work"
        checkouts.slow(folder, 4, 0.0, gpus=True, processes=2, nodes=nodes)
        out[nodes] = start(folder, checkouts.TARGET)
    return out


def test_a_cancelled_job_is_tried_again(cluster, lacking, stumbling, shared, local):
    """The other fixtures are asked for here so that their runs overlap."""
    until(lambda: stumbling.states("covidx") == ["RUNNING"], "it runs")
    until((stumbling.folder / "faults/covidx.starts").exists, "it has begun")
    cluster.cancel(stumbling.jobs("covidx")[0]["JobId"])
    stumbling.must()
    assert stumbling.states("covidx") == ["CANCELLED", "COMPLETED"]
    assert files(stumbling.folder, *MADE) == files(local, *MADE)


def test_a_job_that_fails_once_is_tried_once_more(stumbling):
    stumbling.must()
    assert checkouts.starts(stumbling.folder, "mimic") == 2
    assert stumbling.states("mimic") == ["FAILED", "COMPLETED"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_several_processes_train_in_one_job(shared, nodes):
    shared[nodes].must()
    (job,) = shared[nodes].jobs()
    assert job["TresPerJob"] == "gres:gpu:2"
    assert job["NumNodes"] == str(nodes)
    log = shared[nodes].folder / "results/demo/artifacts/logs/pretrain/slow-s0.1.log"
    assert "pretrain slow-s0" in log.read_text(encoding="utf-8")  # of the second process
    assert files(shared[nodes].folder, *TRAINED)


def test_one_node_and_two_train_the_same_weights(shared):
    one, two = (files(shared[n].folder, "artifacts/checkpoints/*") for n in (1, 2))
    assert one == two != {}


def test_orphans_of_a_killed_snakemake_are_found_and_ended(cluster, start, tmp_path, local):
    folder = checkouts.faulty(tmp_path / "work", mimic="hold", covidx="hold")
    run = start(folder, MIMIC, COVIDX)
    for unit in ("mimic", "covidx"):
        until((folder / f"faults/{unit}.starts").exists, "both have begun")
    run.kill()
    orphans = {job["JobId"] for job in run.jobs()}
    assert len(orphans) == 2
    assert orphans <= set(cluster.queue())
    locked = call(folder, *COMMAND, *HASTE, "--", MIMIC, COVIDX)
    assert locked.returncode != 0
    assert "LockException" in locked.stderr
    assert call(folder, "snakemake", "--unlock").returncode == 0  # as Snakemake advises
    refused = call(folder, *COMMAND, *HASTE, "--", MIMIC, COVIDX)
    assert refused.returncode != 0
    assert "2 jobs of another run of this folder are still on the cluster" in refused.stderr
    assert "run `cxrmim recover`" in refused.stderr
    assert {job["JobId"] for job in run.jobs()} == orphans  # nothing was submitted beside them
    recovered = call(folder, "cxrmim", "recover", "--scale", "demo")
    assert recovered.returncode == 0, recovered.stderr
    assert "2 Slurm jobs and 0 processes ended" in recovered.stdout
    assert not orphans & set(cluster.queue())
    for unit in ("mimic", "covidx"):
        (folder / f"faults/{unit}").unlink()
    again = start(folder, MIMIC, COVIDX)
    again.must()
    assert files(folder, *MADE) == files(local, *MADE)


def told(run: Run, stop: str) -> str:
    """The line of a failed job, in what the user sees."""
    found = re.search(rf"^cxrmim {stop} on {NODE}: (.+)$", run.text, flags=re.M)
    assert found, run.text
    return found[1]


def test_a_node_without_the_data_says_so_and_is_not_stormed(lacking):
    run = lacking["data"]
    assert run.wait() != 0
    assert re.search(
        rf"manifest\.roots\.covidx = .*: no such folder on {NODE}", told(run, "manifest")
    )
    assert [job["Comment"] for job in run.jobs()] == ["rule_manifest_wildcards_covidx"] * ATTEMPTS


def test_a_node_without_the_weights_says_so_and_is_not_stormed(lacking):
    run = lacking["weights"]
    assert run.wait() != 0
    assert told(run, "pretrain").startswith("weights/deit/model.safetensors: no such file")
    assert [job["Comment"] for job in run.jobs()] == ["rule_pretrain_wildcards_slow-s0"] * ATTEMPTS


def test_a_pretraining_over_its_time_goes_on_from_its_state(timed, tmp_path):
    """The warning made it save while it ran, the limit again; the next attempt lost nothing."""
    timed.must()
    states = timed.states("slow-s0")
    assert states == ["TIMEOUT", "COMPLETED"], timed.slurm_logs
    log = timed.folder / "results/demo/artifacts/logs/pretrain/slow-s0.log"
    gone_on = re.search(r"going on from the state of step (\d+)", log.read_text("utf-8"))
    assert gone_on
    warned, ended = sorted(timed.saved)  # the second by SIGTERM, when its time was up
    assert 0 < warned < ended == int(gone_on[1])
    folder = shutil.copytree(
        timed.folder,
        tmp_path / "undisturbed",
        ignore=shutil.ignore_patterns("results", ".snakemake", "pause"),
    )
    out = call(folder, "snakemake", "--cores", "1", "--", checkouts.TARGET)
    assert out.returncode == 0, out.stderr
    assert files(timed.folder, *TRAINED) == files(folder, *TRAINED) != {}
