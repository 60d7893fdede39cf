"""What the Snakefile needs to know, so that rule files hold rules and nothing else.

Everything comes from `grid` and `paths`; this module arranges it as lists of inputs and outputs.
"""

import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cxrmim import disk, grid, metadata, params, paths, plugins, record
from cxrmim.errors import CheckError, CxrmimError
from cxrmim.grid import Job
from cxrmim.params import Params, fingerprint
from cxrmim.paths import Paths
from cxrmim.report import outputs


@dataclass(frozen=True)
class JobPlan:
    """A downstream job as a Snakemake rule sees it."""

    id: str
    rule: str
    inputs: list[Path]
    artifacts: list[Path]
    outputs: list[Path]
    resources: dict[str, int | str]
    state: str


@dataclass(frozen=True)
class Plan:
    """Inputs, outputs and states of every rule of one scale."""

    params: Params
    paths: Paths
    _states: dict[tuple[str, str], str] = field(default_factory=dict, init=False, repr=False)

    @property
    def options(self) -> str:
        """Command-line options that every job gets."""
        return f"--scale {self.params.scale}"

    def state(self, kind: str, unit: str) -> str:
        """Hash of a unit's parameters and code: the job is done again when it changes."""
        if (kind, unit) not in self._states:
            settings = fingerprint(grid.config(self.params, kind, unit))
            made_by = record.code_hash(self.params, kind, unit)
            self._states[kind, unit] = fingerprint([settings, made_by])
        return self._states[kind, unit]

    def outdated(self) -> Iterator[Path]:
        """Records on disk that are of other parameters or code than the present."""
        for kind, unit in grid.units(self.params):
            path = self.paths.record(kind, unit)
            try:
                tree = record.read(path)
                made = fingerprint([tree["config_hash"], tree["code"]])
            except (CheckError, KeyError):  # missing, or `cxrmim check` tells of it
                continue
            if made != self.state(kind, unit):
                yield path

    @property
    def roots(self) -> list[str]:
        """Datasets whose raw files the scale reads."""
        return grid.roots(self.params)

    @cached_property
    def datasets(self) -> list[str]:
        """Dataset entries that the scale prepares."""
        return grid.datasets(self.params)

    @cached_property
    def audited(self) -> list[str]:
        """Dataset entries that are read for the audit alone."""
        return grid.audited(self.params)

    def raw(self, dataset: str) -> list[Any]:
        """Inputs of a manifest: the generated files, or none (real data is no rule's output)."""
        from snakemake.io import ancient

        if self.params.manifest.source == "real":
            return []
        reader = grid.reader(self.params, dataset)
        return [self.paths.record("phantom", reader), ancient(self.paths.phantom(reader))]

    def stored(self, dataset: str) -> list[Any]:
        """Records and folders of the shards that hold an audited entry's images."""
        from snakemake.io import ancient

        parents = grid.parents(self.params, "shards", dataset)
        names = [name for kind, name in parents if kind == "shards"]
        records = [self.paths.record("shards", name) for name in names]
        return [*records, *(ancient(self.paths.shards(name)) for name in names)]

    @cached_property
    def data_records(self) -> list[Path]:
        """Records of all manifests and shards: what the audit table is made of."""
        names = [*self.datasets, *self.audited]
        return [self.paths.record(kind, name) for kind in ("manifest", "shards") for name in names]

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints that the scale trains."""
        return [item.checkpoint for item in grid.pretrainings(self.params)]

    @cached_property
    def train_records(self) -> list[Path]:
        """Records of all pretrainings: what training curves and costs are made of."""
        return [self.paths.record("pretrain", c) for c in self.checkpoints]

    def pretrain_records(self, checkpoint: str) -> list[Path]:
        """Records that a pretraining builds on: its shards, and the weights it starts from."""
        return [
            self.paths.record(k, u) for k, u in grid.parents(self.params, "pretrain", checkpoint)
        ]

    def pretrain_artifacts(self, checkpoint: str) -> list[Path]:
        """Artifacts that a pretraining reads: shards, and the weights it starts from."""
        folders = {"shards": self.paths.shards, "pretrain": self.paths.checkpoint}
        return [folders[k](u) for k, u in grid.parents(self.params, "pretrain", checkpoint)]

    @property
    def pretrain_launcher(self) -> str:
        """How a shell starts a pretraining: under torchrun where several processes share it.

        Over several nodes srun starts a torchrun on each. Snakemake runs on the first of them, so
        its host name is where they meet; the port differs between jobs that share a node.
        """
        train, shared = "-m cxrmim.pretrain", self.params.pretrain
        if shared.processes == 1:
            return f"$PYTHON {train}"
        torchrun = "$PYTHON -m torch.distributed.run"
        each = f"--nproc-per-node {self.processes_per_node}"
        if shared.nodes == 1:
            return f"{torchrun} --standalone {each} {train}"
        cpus = self.resources("pretrain")["cpus_per_task"]
        return (
            f"srun --nodes {shared.nodes} --ntasks {shared.nodes} --ntasks-per-node 1"
            f' --cpus-per-task {cpus} bash -c \'trap "" USR1; exec "$@"\' -'
            f" {torchrun} --nnodes {shared.nodes} {each} --rdzv-backend c10d"
            f' --rdzv-id "$SLURM_JOB_ID"'
            f' --rdzv-endpoint "$(hostname):$((29400 + SLURM_JOB_ID % 1000))" {train}'
        )

    @property
    def processes_per_node(self) -> int:
        """Processes of a pretraining on each of its nodes."""
        return self.params.pretrain.processes // self.params.pretrain.nodes

    def resources(self, stop: str, *, gpu: bool = True) -> dict[str, int | str]:
        """What a job of a stop asks a cluster for, beside the profile's memory and time.

        ``cpus_per_task`` is stated because Snakemake caps ``threads`` at the cores of the machine
        that submits.

        Args:
            stop: the stop.
            gpu: whether the job computes on a GPU where its stop does.
        """
        threads: int = getattr(self.params.threads, stop)
        gpus: int = getattr(self.params.gpus, stop, 0) if gpu else 0
        shared = self.params.pretrain
        wanted: dict[str, int | str] = {"cpus_per_task": threads}
        if stop == "pretrain":
            wanted = {"cpus_per_task": threads * self.processes_per_node, "nodes": shared.nodes}
            gpus *= shared.processes
        if gpus:
            wanted["gpu"] = gpus
        if stop == "pretrain" and shared.nodes > 1:  # the job's own srun starts a task a node
            wanted |= {"mpi": "srun", "tasks": shared.nodes, "tasks_per_gpu": 0}
        return wanted

    @property
    def submitted(self) -> dict[str, int]:
        """Jobs by stop that a cluster is given for the whole scale; the others run where Snakemake
        does.
        """
        data = len(self.datasets) + len(self.audited)
        generated = len(self.roots) if self.params.manifest.source == "phantom" else 0
        counts = {
            "phantom": generated,
            "manifest": data,
            "shards": data,
            "pretrain": len(self.checkpoints),
            "downstream": len(self.jobs),
        }
        return {stop: count for stop, count in counts.items() if count}

    @property
    def announcement(self) -> str:
        """One line for every call of Snakemake: the scale, and its size on a cluster."""
        jobs = self.submitted
        parts = ", ".join(f"{stop} {count}" for stop, count in jobs.items())
        return f"scale {self.params.scale}: {sum(jobs.values())} jobs on a cluster ({parts})"

    @cached_property
    def jobs(self) -> list[JobPlan]:
        """The downstream jobs."""
        return [self._job(job) for job in grid.jobs(self.params)]

    def _job(self, job: Job) -> JobPlan:
        inputs = {
            p: None for run in job.runs for p in grid.parents(self.params, "downstream", run.id)
        }
        artifacts = [self.paths.shards(dataset) for dataset in job.datasets]
        if job.runs[0].baseline is None:
            artifacts.append(self.paths.checkpoint(job.checkpoint))
        return JobPlan(
            id=job.id,
            rule="".join(c if c.isalnum() else "_" for c in job.id),
            inputs=[self.paths.record(*parent) for parent in inputs],
            artifacts=artifacts,
            outputs=[
                path
                for run in job.runs
                for path in (
                    self.paths.record("downstream", run.id),
                    self.paths.prediction(run.id),
                )
            ],
            resources=self.resources("downstream", gpu=job.runs[0].baseline is None),
            state=fingerprint([self.state("downstream", run.id) for run in job.runs]),
        )

    @cached_property
    def run_records(self) -> list[Path]:
        """Records of all runs: what the report reads."""
        return [self.paths.record("downstream", run.id) for run in grid.runs(self.params)]

    @cached_property
    def report_outputs(self) -> dict[str, list[Path]]:
        """Files of the report by part: tables, figures, page."""
        return outputs.outputs(self.params)

    @cached_property
    def targets(self) -> list[Path]:
        """Everything that `rule all` asks for."""
        report = [path for part in self.report_outputs.values() for path in part]
        sheet = [self.paths.figure("phantom_sheet", "png")]
        # Runs are named too: Snakemake does not miss a lost file between others that are there.
        runs = [path for job in self.jobs for path in job.outputs]
        # So are checkpoints: a row is trained although a task of its runs is still pending.
        trained = [
            path
            for c in self.checkpoints
            for path in (self.paths.record("pretrain", c), self.paths.checkpoint(c))
        ]
        drawn = sheet if self.params.manifest.source == "phantom" else []
        return [*report, *runs, *trained, *self.data_records, *drawn]

    @cached_property
    def report_state(self) -> str:
        """Hash of what the report depends on beside records: parameters, code, data files."""
        modules = ["cxrmim.report.build"]
        for kind in ("table", "figure"):
            modules += [f"cxrmim.report.{kind}s.{name}" for name in plugins.names(kind)]
        room = plugins.PACKAGE / "report"
        files = (p for p in sorted(room.rglob("*")) if p.is_file())
        data = [p for p in files if p.suffix not in (".py", ".pyc")]
        public = record.sha256(paths.LEAKAGE) if paths.LEAKAGE.is_file() else None
        return fingerprint(
            [
                [side.model_dump(mode="json") for side in (self.params, self.params.released)],
                record.closure(tuple(modules)),
                [(p.relative_to(room).as_posix(), record.sha256(p)) for p in data],
                public,
            ]
        )

    @cached_property
    def sheet_state(self) -> str:
        """Hash of what the phantom's contact sheet shows."""
        tree = self.params.phantom.model_dump(mode="json", exclude={"patients"})
        return fingerprint([tree, record.closure(("cxrmim.phantom.sheet",))])


def _shield() -> None:
    """Let SIGUSR1 pass: a cluster sends it to every process of a job whose time is almost up.

    It asks a training to save, which sets a handler of its own; Snakemake, the shell and torchrun,
    which inherit this, would die of it and leave the training to itself.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def lay_out(config: Mapping[str, Any], *, head: bool = True) -> Plan:
    """Validate params.yaml and the data roots, and lay out the scale's workflow.

    Args:
        config: Snakemake's ``--config``; only the key ``scale`` is known.
        head: whether this is the Snakemake that the user has started. One that does a job, maybe
            on a node, leaves it to the job to say what that machine lacks.

    Raises:
        WorkflowError: one line naming key, value and place, before any job starts.
    """
    from snakemake.exceptions import WorkflowError

    _shield()
    try:
        if head:
            disk.require_writable(Path.cwd())  # Snakemake would tell it in 30 lines
        odd = sorted(set(config) - {"scale"})
        if odd:
            raise CxrmimError(
                f"--config {odd[0]}={config[odd[0]]}: only `scale` can be set there; "
                f"everything else has its place in params.yaml"
            )
        loaded = params.load(scale=config.get("scale"))
        out = Plan(loaded, Paths(loaded.scale))
        if head and loaded.manifest.source == "real":
            for dataset in out.roots:
                paths.raw_root(loaded, dataset)
                paths.lists_root(loaded, dataset)
        if head:
            metadata.restore(loaded.scale)
            metadata.distrust(out.outdated())
    except CxrmimError as error:
        raise WorkflowError(str(error)) from None
    return out
