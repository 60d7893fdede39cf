"""What happens on shared machines, and that one clear line and the same command put it right.

A "node" here is a mount and host-name space of its own: every job of a run is started in it, by a
bash that is first on the path, while Snakemake stays outside, on the head.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.needs import declined
from tests.workflow.conftest import BIN, REPO, Place, copied, place

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]
RAW = "results/demo/phantom/covidx"
MANIFEST = "results/demo/artifacts/manifests/covidx.parquet"
MADE = ("phantom/covidx/**/*", "records/phantom/*", "records/manifest/*", "artifacts/manifests/*")
MAE = "results/demo/records/pretrain/mae-s0.json"
TRAINED = ("records/pretrain/mae-s0.json", "artifacts/checkpoints/mae-s0.safetensors")
BEGUN: list[subprocess.Popen[str]] = []
LIMIT = 300.0  # seconds: ample for anything waited for here
NODE = """#!/bin/sh
here={here}
case "$*" in *"-m cxrmim."*) ;; *) exec {bash} "$@" ;; esac
echo "$*" | grep -o "cxrmim\\.[a-z]* --[a-z]* [^ ]*" >> "$here/attempts"
{before}
exec {space} {bash} "$@"
"""
SPACE = "unshare --mount --uts sh -c {inside} node"


@pytest.fixture
def here(tmp_path) -> Place:
    return place(tmp_path / "work")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """What `MANIFEST` and all before it are when nothing happens."""
    calm = place(tmp_path_factory.mktemp("calm") / "work")
    assert calm.snakemake(MANIFEST).returncode == 0
    return calm.files(*MADE)


@pytest.fixture
def jobs(here, monkeypatch) -> Callable[..., Callable[[], list[str]]]:
    """Have every job of a run begin with some shell, or on a node; tells the jobs started."""

    def through(before: str = ":", inside: str | None = None) -> Callable[[], list[str]]:
        folder = here.folder.parent / "bin"
        folder.mkdir(exist_ok=True)
        space = ""
        if inside is not None:
            script = f'hostname node07; export SLURM_JOB_ID=7; {inside}; exec "$@"'
            space = SPACE.format(inside=shlex.quote(script))
        bash = folder / "bash"
        bash.write_text(
            NODE.format(
                here=shlex.quote(str(here.folder)),
                bash=shutil.which("bash", path="/bin:/usr/bin"),
                before=before,
                space=space,
            )
        )
        bash.chmod(0o755)
        if str(folder) not in os.environ["PATH"]:
            monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return lambda: _lines(here.folder / "attempts")

    return through


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def root() -> None:
    """Mounts and name spaces, which need root; in CI their lack is a failure."""
    words = ["unshare", "--mount", "--uts", "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        why = f"no mount in a name space of its own: {tried.stderr.strip()}"
        declined(why)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk of its own at a folder; yields what changes its options."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words, str(folder)], check=True)

    mount("-t", "tmpfs", "-o", options, "none")
    try:
        yield lambda changed: mount("-o", f"remount,{changed}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def begun(here: Place, *words: str) -> subprocess.Popen[str]:
    """A program in the folder, in a session of its own, that the test goes on beside."""
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO / "src"),
    }
    process = subprocess.Popen(
        words,
        cwd=here.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    BEGUN.append(process)
    return process


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """End what a test that has failed leaves behind."""
    yield
    while BEGUN:
        with suppress(ProcessLookupError):
            os.killpg(BEGUN.pop().pid, signal.SIGKILL)


def begun_snakemake(here: Place, *words: str) -> subprocess.Popen[str]:
    """A Snakemake that the test goes on beside."""
    common = ("--snakefile", str(REPO / "Snakefile"), "--directory", str(here.folder))
    return begun(here, str(BIN / "snakemake"), *common, "--cores", "2", *words)


def until(true: Callable[[], Any], *alive: subprocess.Popen[str]) -> Any:
    """Wait for something; the processes that are to bring it about must live."""
    limit = time.monotonic() + LIMIT
    while not (found := true()):
        assert time.monotonic() < limit
        for process in alive:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return found


def job_of(folder: Path, module: str) -> psutil.Process | None:
    """The process of a job in a folder, once it holds the lock of its unit."""
    if not any(file.stat().st_size for file in folder.glob("results/demo/journal/*/*.lock")):
        return None
    for process in psutil.process_iter():
        try:
            if module in process.cmdline()[1:3] and process.cwd() == str(folder.resolve()):
                return process
        except psutil.Error:
            continue
    return None


def said(result: subprocess.CompletedProcess[str], start: str) -> list[str]:
    """Different lines of the output that begin so; fails where a traceback is shown."""
    text = result.stdout + result.stderr
    assert "Traceback" not in text, text[-4000:]
    assert "unexpected" not in text, text[-4000:]
    lines = (line.strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line.startswith(start)))


def restarts() -> int:
    """`restart-times` of the cluster's profile."""
    profile = yaml.safe_load((REPO / "slurm/config.yaml").read_text(encoding="utf-8"))
    assert profile["restart-times"] > 0
    return int(profile["restart-times"])


def real(tree: dict[str, Any]) -> None:
    """The demo reads real data below data/, where covidx is."""
    roots = dict.fromkeys(tree["manifest"]["roots"], "data/covidx")
    tree["manifest"]["roots"] = roots
    tree["scales"]["demo"]["manifest"] = {"source": "real"}


def test_a_job_that_fails_once_is_done_again_once(here, jobs, undisturbed):
    once = '[ -e "$here/failed" ] || { touch "$here/failed"; exit 1; }'
    attempts = jobs(before=f'case "$*" in *cxrmim.manifest*) {once} ;; esac')
    out = here.snakemake("--retries", str(restarts()), MANIFEST)
    assert out.returncode == 0, out.stderr[-3000:]
    assert sum("manifest" in job for job in attempts()) == 2
    assert here.files(*MADE) == undisturbed


def test_a_job_that_always_fails_is_not_tried_for_ever(here, jobs):
    """As often as the profile says, not more: a `retries` of the rule's own would multiply."""
    attempts = jobs(before='case "$*" in *cxrmim.manifest*) exit 1 ;; esac')
    out = here.snakemake("--retries", str(restarts()), "results/demo/records/shards/covidx.json")
    assert out.returncode != 0
    stops = [job.split()[0] for job in attempts()]
    assert stops == ["cxrmim.phantom", *["cxrmim.manifest"] * (restarts() + 1)]


def test_a_failure_on_this_machine_keeps_what_is_done(here, jobs, undisturbed):
    """No retries here; the same command goes on where it stopped."""
    attempts = jobs(before='case "$*" in *cxrmim.manifest*) exit 1 ;; esac')
    out = here.snakemake(MANIFEST)
    assert out.returncode != 0
    assert [job.split()[0] for job in attempts()] == ["cxrmim.phantom", "cxrmim.manifest"]
    (here.folder / "attempts").unlink()
    jobs()
    assert here.snakemake(MANIFEST).returncode == 0
    assert [job.split()[0] for job in attempts()] == ["cxrmim.manifest"]
    assert here.files(*MADE) == undisturbed


def test_a_node_without_the_data(root, here, jobs):
    """The head has the folder: only the job can tell, and its line says where it was."""
    place(here.folder, real)
    (here.folder / "data/covidx").mkdir(parents=True)
    attempts = jobs(inside='mount -t tmpfs none "$PWD/data"')
    goal = "results/demo/records/shards/covidx.json"
    out = here.snakemake("--retries", str(restarts()), goal)
    assert out.returncode != 0
    lines = said(out, "cxrmim manifest")
    assert len(lines) == 1
    for part in ("manifest.roots.covidx", "no such folder on node07", "every machine"):
        assert part in lines[0]
    assert attempts() == ["cxrmim.manifest --dataset covidx"] * (restarts() + 1)


def test_missing_weights_stop_a_run_before_it_starts(here, jobs):
    place(here.folder, from_published)
    attempts = jobs()
    out = here.snakemake(MAE)
    assert out.returncode != 0
    lines = said(out, "weights/")
    assert len(lines) == 1
    for part in ("deit", "is not there", "`cxrmim weights fetch`", "nothing was started"):
        assert part in lines[0]
    assert attempts() == []
    assert here.snakemake(MANIFEST).returncode == 0  # which needs no weights


def from_published(tree: dict[str, Any]) -> None:
    """MAE starts from published weights."""
    tree["scales"]["demo"]["pretrain"]["methods"]["mae"]["init"] = "deit"


def test_a_node_without_the_weights(root, built, here, jobs):
    """They lie in the checkout of the head; the node has another one's, or none."""
    shutil.rmtree(here.folder)
    copied(built, here.folder)
    place(here.folder, from_published)
    weights = here.folder / "weights/deit/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"not looked at")
    attempts = jobs(inside='mount -t tmpfs none "$PWD/weights"')
    out = here.snakemake("--retries", str(restarts()), MAE)
    assert out.returncode != 0
    lines = said(out, "cxrmim pretrain on node07: ")
    assert len(lines) == 1
    for part in ("weights/deit/model.safetensors", "no such file", "`cxrmim weights list`"):
        assert part in lines[0]
    assert attempts() == ["cxrmim.pretrain --checkpoint mae-s0"] * (restarts() + 1)


def test_a_full_disk(root, here, undisturbed):
    with mounted(here.folder / "results", "size=400k") as remount:
        out = here.snakemake(MANIFEST)
        assert out.returncode != 0
        lines = said(out, "cxrmim phantom: ")
        assert len(lines) == 1
        for part in ("no room left", "results/demo", socket.gethostname(), "MB in", "doctor"):
            assert part in lines[0]
        assert not list(here.folder.glob("results/demo/records/phantom/*"))
        assert not list((here.folder / "results/demo/phantom").glob("*"))
        remount("size=100m")
        out = here.snakemake(MANIFEST)
        assert out.returncode == 0, out.stderr[-3000:]
        assert here.files(*MADE) == undisturbed


def test_a_read_only_results_folder_stops_a_run_before_it_starts(root, here, jobs, undisturbed):
    attempts = jobs()
    with mounted(here.folder / "results", "size=100m,ro") as remount:
        out = here.snakemake(MANIFEST)
        assert out.returncode != 0
        lines = said(out, "results/demo cannot be written to")
        assert len(lines) == 1
        assert socket.gethostname() in lines[0]
        assert attempts() == []
        remount("rw")
        assert here.snakemake(MANIFEST).returncode == 0
        assert here.files(*MADE) == undisturbed


def test_a_read_only_checkout_is_told_in_one_line(root, tmp_path):
    with mounted(tmp_path / "disk", "size=10m") as remount:
        here = place(tmp_path / "disk/work")
        remount("ro")
        out = here.snakemake("-n", MANIFEST)
        assert out.returncode != 0
        assert len(said(out, f"{here.folder} cannot be written to on")) == 1


def test_a_node_that_may_not_write(root, here, jobs):
    (here.folder / "results").mkdir()
    bind = 'mount --bind "$PWD/results" "$PWD/results"'
    attempts = jobs(inside=f'{bind}; mount -o remount,bind,ro "$PWD/results"; cd "$PWD"')
    out = here.snakemake("--retries", str(restarts()), MANIFEST)
    assert out.returncode != 0
    lines = said(out, "cxrmim phantom")
    assert len(lines) == 1
    assert "results/demo cannot be written to on node07" in lines[0]
    assert attempts() == ["cxrmim.phantom --dataset covidx"] * (restarts() + 1)


def test_of_two_runs_started_at_once_the_second_stops(here, jobs, undisturbed):
    jobs(before='while [ ! -e "$here/go" ]; do sleep 0.1; done')
    first = begun_snakemake(here, MANIFEST)
    until((here.folder / "attempts").exists, first)
    second = here.snakemake(MANIFEST)
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout + second.stderr
    assert "`cxrmim recover` mends" in second.stdout + second.stderr
    assert first.poll() is None
    asked = here.call("cxrmim", "recover")
    assert asked.returncode == 1
    assert f"a Snakemake of this folder is alive: process {first.pid} on" in asked.stderr
    (here.folder / "go").touch()
    assert first.wait(LIMIT) == 0, first.communicate()[0][-3000:]
    assert _lines(here.folder / "attempts") == [
        "cxrmim.phantom --dataset covidx",
        "cxrmim.manifest --dataset covidx",
    ]
    assert here.files(*MADE) == undisturbed


def test_two_processes_of_one_unit(built, tmp_path):
    """As an orphan and its replacement: the second gives way, the first is not spoilt."""
    here = copied(built, tmp_path / "work")
    for name in TRAINED:
        (here.folder / "results/demo" / name).unlink()
    command = [sys.executable, "-m", "cxrmim.pretrain", "--checkpoint", "mae-s0"]
    first = begun(here, *command)
    job = until(lambda: job_of(here.folder, "cxrmim.pretrain"), first)
    job.suspend()
    second = here.call(*command)
    assert second.returncode == 1
    line = second.stderr.strip()
    assert line.startswith("cxrmim pretrain: pretrain mae-s0: another process works on it")
    assert f"process {first.pid} on {socket.gethostname()}" in line and "\n" not in line
    job.resume()
    assert first.wait(LIMIT) == 0, first.communicate()[0]
    assert here.files(*TRAINED) == built.files(*TRAINED)
    assert not list(here.folder.glob("results/demo/journal/*/*"))


def test_a_killed_snakemake_whose_job_lives_on(built, tmp_path):
    """Neither unlocking nor a new start lets orphan and replacement meet; `recover` ends it."""
    here = copied(built, tmp_path / "work")
    for name in TRAINED:
        (here.folder / "results/demo" / name).unlink()
    killed = begun_snakemake(here, MAE)
    job = until(lambda: job_of(here.folder, "cxrmim.pretrain"), killed)
    job.suspend()
    killed.send_signal(signal.SIGKILL)
    killed.wait(LIMIT)
    assert here.snakemake("--unlock").returncode == 0
    again = here.snakemake(MAE)
    assert again.returncode != 0
    lines = said(again, "1 jobs of another run of this folder are still on this machine")
    assert len(lines) == 1
    assert f"{job.pid} pretrain mae-s0" in lines[0] and "`cxrmim recover`" in lines[0]
    text = here.must("cxrmim", "recover")
    assert f"ending process {job.pid}, RUNNING: pretrain mae-s0" in text
    assert "0 Slurm jobs and 1 processes ended" in text
    assert not psutil.pid_exists(job.pid) or job.status() == psutil.STATUS_ZOMBIE
    out = here.snakemake(MAE)
    assert out.returncode == 0, out.stderr[-3000:]
    assert here.files(*TRAINED) == built.files(*TRAINED)


def test_a_killed_snakemake_leaves_a_lock_that_recover_removes(here, jobs, undisturbed):
    jobs(before='while [ ! -e "$here/go" ]; do sleep 0.1; done')
    killed = begun_snakemake(here, MANIFEST)
    until((here.folder / "attempts").exists, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(LIMIT)
    (here.folder / "go").touch()
    assert here.snakemake(MANIFEST).returncode != 0
    text = here.must("cxrmim", "recover")
    assert "Snakemake's lock removed" in text
    assert here.snakemake(MANIFEST).returncode == 0
    assert here.files(*MADE) == undisturbed
