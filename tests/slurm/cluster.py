"""A small Slurm for the tests: ``python -m tests.slurm.cluster start|stop|status``.

Two daemons for two nodes, one controller, a munge of its own; the nodes' 64 CPUs, 500 GB and GPUs
are claimed, not there, so that the committed profile's requests fit. Needs root, and apt where the
packages are missing. A cluster that is already configured on this machine is never touched.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tests import needs

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")
MARK = "# written by cxrmim's tests/slurm/cluster.py, which removes it"
BASE = Path("/run/cxrmim-slurm")
ETC = Path("/etc/slurm")  # no other place: job steps drop SLURM_CONF
NODES = ("cx1", "cx2")
GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # device files, as Slurm insists
WAIT = 60.0  # seconds that a daemon gets to come or go
SETTINGS = {
    "ClusterName": "cxrmim",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "AuthInfo": f"socket={BASE}/munge/socket",
    "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
    "SlurmctldPort": "16817",
    "SlurmctldPidFile": f"{BASE}/slurmctld.pid",
    "SlurmdPidFile": f"{BASE}/slurmd-%n.pid",
    "StateSaveLocation": f"{BASE}/state",
    "SlurmdSpoolDir": f"{BASE}/spool-%n",
    "SlurmctldLogFile": f"{BASE}/slurmctld.log",
    "SlurmdLogFile": f"{BASE}/slurmd-%n.log",
    "ProctrackType": "proctrack/pgid",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "AccountingStorageType": "accounting_storage/none",
    "MpiDefault": "none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU_Memory",
    "SchedulerType": "sched/builtin",
    "SlurmdParameters": "config_overrides",
    "GresTypes": "gpu",
    "ReturnToService": "2",
    "JobRequeue": "0",
    "MinJobAge": "3600",  # ended jobs are asked for too
    "KillWait": "10",
}


class ClusterError(RuntimeError):
    """No cluster can be had, or a daemon does not do what it is told."""


def missing() -> str | None:
    """Why there can be no cluster here, None where there can."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    if not all(map(shutil.which, PROGRAMS)) and shutil.which("apt-get") is None:
        return f"a Slurm cluster needs the packages {' '.join(PACKAGES)}, and apt-get is not here"
    config = ETC / "slurm.conf"
    if config.exists() and not config.read_text(encoding="utf-8").startswith(MARK):
        return f"{config} is of another cluster, which these tests leave alone"
    return None


def install() -> None:
    """Install the packages where one is missing.

    Raises:
        ClusterError: apt-get failed; with its last words.
    """
    if all(map(shutil.which, PROGRAMS)):
        return
    try:
        needs.install(*PACKAGES)
    except needs.PackageError as error:
        raise ClusterError(str(error)) from error


def configuration(host: str) -> dict[str, str]:
    """Texts of slurm.conf and gres.conf by name.

    Debian's slurmd refuses two nodes of one host name, but takes the name that it is told for its
    host's; each node listens on a port of its own.
    """
    lines = [MARK, f"SlurmctldHost={host}(127.0.0.1)"]
    lines += [f"{key}={value}" for key, value in SETTINGS.items()]
    lines += [
        f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 "
        f"Port={16818 + number} CPUs=64 RealMemory=500000 Gres=gpu:{len(GPUS)}"
        for number, node in enumerate(NODES, start=1)
    ]
    lines.append(f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE")
    gres = [MARK, "AutoDetect=off"]
    gres += [f"NodeName={','.join(NODES)} Name=gpu File={device}" for device in GPUS]
    return {"slurm.conf": "\n".join(lines) + "\n", "gres.conf": "\n".join(gres) + "\n"}


class Cluster:
    """The one cluster of these tests on this machine."""

    def start(self) -> None:
        """Install what is missing, start everything and wait until the nodes are idle.

        Raises:
            ClusterError: there can be none here, one runs already, or a daemon does not come up.
        """
        reason = missing()
        if reason:
            raise ClusterError(reason)
        if running("slurmctld") or any(running(f"slurmd-{node}") for node in NODES):
            raise ClusterError("a cluster of these tests is running; stop it first")
        install()
        self.stop()  # what is left of one that was killed
        (BASE / "state").mkdir(parents=True)
        for node in NODES:
            (BASE / f"spool-{node}").mkdir()
        ETC.mkdir(exist_ok=True)
        for name, text in configuration(socket.gethostname()).items():
            (ETC / name).write_text(text, encoding="utf-8")
        self._start_munge()
        self.start_controller(clean=True)
        for node in NODES:
            _must(["slurmd", "-c", "-N", node])
        _wait(lambda: self.states() == {"idle"}, "the nodes did not become idle")

    def stop(self) -> None:
        """Cancel all jobs, end the daemons, remove everything that `start` wrote."""
        if any(running(f"slurmd-{node}") for node in NODES):
            if not running("slurmctld"):
                self.start_controller()  # it alone can end the jobs
            subprocess.run(["scancel", "--quiet", "--user=root"], check=False)
            _wait(lambda: not self.queue(), "jobs did not end", fatal=False)
        for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munge/munged"):
            _end(name, signal.SIGTERM)
        for name in ("slurm.conf", "gres.conf"):
            path = ETC / name
            if path.exists() and path.read_text(encoding="utf-8").startswith(MARK):
                path.unlink()
        shutil.rmtree(BASE, ignore_errors=True)

    def start_controller(self, *, clean: bool = False) -> None:
        """Start slurmctld, with the state of before unless `clean`, and wait until it answers."""
        _must(["slurmctld", *(["-c"] if clean else [])])
        _wait(lambda: bool(_say("scontrol", "ping").count("UP")), "slurmctld does not answer")

    def kill_controller(self) -> None:
        """SIGKILL slurmctld, as a machine that is switched off does; the jobs run on.

        Not before it has written down that they run, which it does within five seconds of a start:
        one that it remembers as pending is ended on its node once it is back.

        Raises:
            ClusterError: it does not write.
        """
        begun = [job["StartTime"] for job in self._told() if job.get("JobState") == "RUNNING"]
        last = max((datetime.fromisoformat(each).timestamp() for each in begun), default=0.0)
        state = BASE / "state/job_state"  # the start is told in whole seconds
        _wait(
            lambda: state.exists() and state.stat().st_mtime >= last + 1,
            "slurmctld does not save its state",
        )
        _end("slurmctld", signal.SIGKILL)

    def hold(self) -> None:
        """Let no job start; those that run go on."""
        _must(["scontrol", "update", "partition=main", "state=down"])

    def release(self) -> None:
        """Let jobs start again."""
        _must(["scontrol", "update", "partition=main", "state=up"])

    @staticmethod
    def states() -> set[str]:
        """States of the nodes."""
        return set(_say("sinfo", "-h", "-N", "-o", "%T").split())

    @staticmethod
    def queue() -> list[str]:
        """Ids of the jobs that wait or run."""
        return _say("squeue", "-h", "-o", "%i").split()

    @classmethod
    def jobs(cls, folder: Path) -> list[dict[str, str]]:
        """What the controller tells of every job of a working directory, ended ones too."""
        return [job for job in cls._told() if job.get("WorkDir") == str(folder)]

    @staticmethod
    def _told() -> list[dict[str, str]]:
        lines = _say("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]

    @staticmethod
    def cancel(number: str) -> None:
        """Cancel a job, as its owner does."""
        _must(["scancel", number])

    @staticmethod
    def environment() -> dict[str, str]:
        """This process's environment with no `sacct` on the path.

        Without accounting it fails, and the executor plugin falls back to it where it is.
        """
        kept = []
        for number, folder in enumerate(map(Path, os.environ["PATH"].split(os.pathsep))):
            if (folder / "sacct").exists():
                folder = _without(folder, "sacct", BASE / f"path{number}")
            kept.append(str(folder))
        return os.environ | {"PATH": os.pathsep.join(kept)}

    def _start_munge(self) -> None:
        folder = BASE / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        shutil.chown(folder, "munge", "munge")
        shutil.chown(key, "munge", "munge")
        places = {"key-file": "key", "socket": "socket", "pid-file": "munged.pid"}
        places |= {"log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in places.items()]
        _must(["runuser", "-u", "munge", "--", "munged", "--num-threads=2", *options])


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster, stopped on the way out."""
    out = Cluster()
    try:
        out.start()
        yield out
    finally:
        out.stop()


def running(name: str) -> int | None:
    """Process id of a daemon, by the name of its pid file, if it lives."""
    try:
        pid = int((BASE / f"{name}.pid").read_text(encoding="utf-8"))
        program = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return pid if name.rpartition("/")[2].startswith(program) else None


def _end(name: str, number: signal.Signals) -> None:
    pid = running(name)
    if pid is None:
        return
    os.kill(pid, number)
    _wait(lambda: running(name) is None, f"{name} does not end", fatal=False)
    if running(name):
        os.kill(pid, signal.SIGKILL)


def _without(folder: Path, program: str, links: Path) -> Path:
    """A folder of links to all programs of another but one."""
    if not links.is_dir():
        links.mkdir()
        for path in folder.iterdir():
            if path.name != program:
                (links / path.name).symlink_to(path)
    return links


def _must(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError(f"{command[0]}: {(result.stderr or result.stdout).strip()}")


def _say(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _wait(true: Callable[[], bool], words: str, *, fatal: bool = True) -> None:
    limit = time.monotonic() + WAIT
    while not true():
        if time.monotonic() > limit:
            if fatal:
                raise ClusterError(words)
            return
        time.sleep(0.1)


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=__doc__)
    parser.add_argument("what", choices=("start", "stop", "status"))
    what = parser.parse_args().what
    here = Cluster()
    try:
        if what == "start":
            here.start()
        elif what == "stop":
            here.stop()
    except ClusterError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    state = "runs" if running("slurmctld") else "does not run"
    sys.stdout.write(f"the cluster {state}\n{_say('sinfo') if running('slurmctld') else ''}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
