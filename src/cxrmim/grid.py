"""The sole enumerator: params -> pretrainings, downstream runs and the jobs that group them.

Nothing here looks at the disk; `paths` says where a unit lies, `pending` which have no code yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.schema import Block, Cells, Method

Tree = dict[str, Any]
BASELINE = "baseline-"
UNTAUGHT = ("empty", "chance")  # trivial predictors that read no training labels


@dataclass(frozen=True, order=True)
class Pretraining:
    """One training of an entry: its weights are `checkpoint`."""

    entry: str
    seed: int

    @property
    def checkpoint(self) -> str:
        """Name of the weights, unique in a scale."""
        return f"{self.entry}-s{self.seed}"


@dataclass(frozen=True, order=True)
class Run:
    """One downstream run: weights x dataset x task x percent of labels x seed.

    `checkpoint` is that of a `Pretraining`, or ``baseline-<name>`` for a trivial predictor.
    """

    checkpoint: str
    dataset: str
    task: str
    percent: int
    seed: int

    @property
    def id(self) -> str:
        """Name of the run, unique in a scale; also its path below records and predictions."""
        return f"{self.checkpoint}/{self.dataset}-{self.task}-{self.percent}-s{self.seed}"

    @classmethod
    def parse(cls, run_id: str) -> "Run":
        """The run of an id."""
        checkpoint, _, rest = run_id.rpartition("/")
        dataset, task, percent, seed = rest.rsplit("-", 3)
        return cls(checkpoint, dataset, task, int(percent), int(seed.removeprefix("s")))

    @property
    def baseline(self) -> str | None:
        """Name of the trivial predictor, None for a run on weights."""
        return (
            self.checkpoint.removeprefix(BASELINE) if self.checkpoint.startswith(BASELINE) else None
        )


@dataclass(frozen=True)
class Job:
    """Runs that one process does: they share a checkpoint."""

    id: str
    runs: tuple[Run, ...]

    @property
    def checkpoint(self) -> str:
        """The shared checkpoint."""
        return self.runs[0].checkpoint

    @property
    def datasets(self) -> list[str]:
        """Datasets whose shards the job reads."""
        return sorted({run.dataset for run in self.runs})


def entries(params: Params) -> list[str]:
    """Every pretraining entry by name: methods, variants and aliases, in the order of params."""
    return [*params.pretrain.methods, *params.pretrain.entries]


def target(params: Params, entry: str) -> str:
    """The entry that an alias stands for (itself if it is none)."""
    while entry in params.pretrain.entries and params.pretrain.entries[entry].alias:
        entry = params.pretrain.entries[entry].alias or entry
    return entry


def trained(params: Params) -> list[str]:
    """Entries that are trained: no aliases, no untrained initialisations."""
    return [
        e for e in entries(params) if target(params, e) == e and params.pretraining(e)[1].trains
    ]


def rows(params: Params, block: Block) -> list[str]:
    """Entries of a table's rows; ``methods`` stands for all methods that its paper compares."""
    if block.rows != "methods":
        return list(block.rows)
    return [
        m
        for m in params.pretrain.methods
        if block.paper is None or block.paper in params.pretraining(m)[1].papers
    ]


def runs_of_cell(params: Params, entry: str, cells: Cells, percent: int) -> list[Run]:
    """The runs whose mean one table cell prints.

    A trivial predictor has one run. One that reads no training labels (`UNTAUGHT`) predicts the
    same at every percent of them, so its run at 100 percent backs the cells of all percents.
    """
    seeds = params.seeds.downstream if cells.seeded else params.seeds.downstream[:1]
    if entry.startswith(BASELINE):
        share = 100 if entry.removeprefix(BASELINE) in UNTAUGHT else percent
        return [Run(entry, cells.dataset, cells.task, share, params.seeds.downstream[0])]
    checkpoints = [Pretraining(target(params, entry), s).checkpoint for s in params.seeds.pretrain]
    return [Run(c, cells.dataset, cells.task, percent, s) for c in checkpoints for s in seeds]


def runs_of_block(params: Params, name: str) -> list[Run]:
    """All runs of one table or figure, baselines left out, each once."""
    block = params.grid[name]
    found = [
        run
        for entry in rows(params, block)
        for cells in block.cells
        for percent in cells.percents
        for run in runs_of_cell(params, entry, cells, percent)
    ]
    return list(dict.fromkeys(found))


def baseline_runs(params: Params, name: str) -> list[Run]:
    """The trivial predictors of one table or figure, each once."""
    found = [
        run
        for cells in params.grid[name].cells
        for percent in cells.percents
        for baseline in params.downstream.baselines.get(cells.task, [])
        for run in runs_of_cell(params, BASELINE + baseline, cells, percent)
    ]
    return list(dict.fromkeys(found))


def all_runs(params: Params) -> list[Run]:
    """Every distinct run of the grid, pending ones and baselines included."""
    found = [run for name in params.grid for run in runs_of_block(params, name)]
    found += [run for name in params.grid for run in baseline_runs(params, name)]
    return list(dict.fromkeys(found))


def entry_of(checkpoint: str) -> Pretraining:
    """The pretraining that a checkpoint's name stands for."""
    entry, _, seed = checkpoint.rpartition("-s")
    return Pretraining(entry, int(seed))


def pending(params: Params, run: Run) -> str | None:
    """Why a run cannot be made yet, or None if it can."""
    if plugins.source("task", run.task) is None:
        return f"task {run.task} has no code yet"
    if plugins.source("dataset", reader(params, run.dataset)) is None:
        return f"dataset {reader(params, run.dataset)} has no reader yet"
    return None if run.baseline else pending_entry(params, entry_of(run.checkpoint).entry)


def reads_corpus(block: Method) -> bool:
    """Whether a pretraining learns from the corpus: an untrained one and a stand-in do not."""
    return block.trains and block.stand_in is None


def pending_entry(params: Params, entry: str) -> str | None:
    """Why an entry cannot be trained yet, or None if it can."""
    method, block = params.pretraining(entry)
    if plugins.source("method", method) is None:
        return f"method {method} has no code yet"
    return pending_entry(params, block.init) if block.init in entries(params) else None


def runs(params: Params) -> list[Run]:
    """The runs that can be made now."""
    return [run for run in all_runs(params) if pending(params, run) is None]


def pretrainings(params: Params) -> list[Pretraining]:
    """The pretrainings of the grid's rows that have code, those they start from included.

    A row whose tasks are still pending is trained all the same.
    """
    found: dict[Pretraining, None] = {}

    def add(item: Pretraining) -> None:
        init = params.pretraining(item.entry)[1].init
        if init in entries(params):
            add(Pretraining(target(params, init), item.seed))
        found[item] = None

    for block in params.grid.values():
        for entry in rows(params, block):
            if pending_entry(params, target(params, entry)) is None:
                for seed in params.seeds.pretrain:
                    add(Pretraining(target(params, entry), seed))
    return list(found)


def view(params: Params, run: Run) -> Params:
    """The parameters under which a run is made: those of its weights and of its dataset entry."""
    seen = params if run.baseline is not None else params.training(entry_of(run.checkpoint).entry)
    return seen.testing(run.dataset)


def jobs(params: Params) -> list[Job]:
    """The runs cut into processes as ``downstream.cut`` says; a baseline's are always one."""
    groups: dict[str, list[Run]] = {}
    cut = params.downstream.cut
    for run in runs(params):
        key, how = run.checkpoint, cut if isinstance(cut, str) else cut.get(run.task, "fraction")
        if how == "checkpoint" or run.baseline is not None:
            key += ".released" if params.testing(run.dataset) is not params else ""
        else:
            key += f".{run.dataset}-{run.task}" + (f"-{run.percent}" if how == "fraction" else "")
        groups.setdefault(key, []).append(run)
    return [Job(key, tuple(group)) for key, group in groups.items()]


def reader(params: Params, dataset: str) -> str:
    """The dataset that an entry reads: its own name, or the one that it is another reading of."""
    return params.reading(dataset)[0]


def datasets(params: Params) -> list[str]:
    """Dataset entries that the grid names and that have a reader, the pretraining corpus first.

    One whose task is still pending is prepared and audited all the same.
    """
    found = dict.fromkeys(params.training(p.entry).pretrain.corpus for p in pretrainings(params))
    for block in params.grid.values():
        found |= dict.fromkeys(cells.dataset for cells in block.cells)
    return [name for name in found if plugins.source("dataset", reader(params, name))]


def roots(params: Params) -> list[str]:
    """Datasets whose raw files are read, each once however many entries read it."""
    return list(dict.fromkeys(reader(params, name) for name in datasets(params)))


def audited(params: Params) -> list[str]:
    """Entries that are read for the audit alone: split rules of the official code."""
    available = params.manifest.source == "phantom" or params.manifest.lists is not None
    used = datasets(params)
    return [
        name
        for name, entry in params.manifest.entries.items()
        if entry.audit and entry.dataset in used and (available or not entry.lists)
    ]


def config(params: Params, kind: str, unit: str) -> Tree:
    """The parameters that decide what a unit of work is; its record carries them.

    Args:
        params: all parameters.
        kind: the stop: phantom, manifest, shards, pretrain or downstream.
        unit: a dataset, a checkpoint or a run's id, as the stop has it.
    """
    if kind == "phantom":
        phantom = params.phantom
        return {
            "seed": phantom.seed,
            "raster": phantom.raster,
            "difficulty": phantom.difficulty,
            "patients": phantom.patients[unit],
        }
    if kind == "manifest":
        manifest = params.manifest
        dataset, options = params.reading(unit)
        return {
            "source": manifest.source,
            "dataset": dataset,
            "max_unreadable": manifest.max_unreadable,
            "subset": manifest.subset.model_dump(mode="json"),
            "seeds": params.seeds.downstream if manifest.subset.reseed else [],
            "options": options,
        }
    if kind == "shards":
        if unit in audited(params):
            return {"audit": True}
        tree: Tree = {
            "side": params.side(unit),
            "decode": params.shards.decode,
            "max_unreadable": params.manifest.max_unreadable,
        }
        if unit in params.corpora:
            tree["text"] = params.shards.text.model_dump(mode="json")
        return tree
    if kind == "pretrain":
        item = entry_of(unit)
        method, block = params.pretraining(item.entry)
        shared = params.training(item.entry).pretrain
        return {
            "method": method,
            "corpus": shared.corpus,
            "precision": shared.precision,
            "processes": shared.processes,
            "accumulate": shared.accumulate,
            "negatives": shared.negatives,
            "loader": shared.loader.model_dump(mode="json"),
            "image": shared.image,
            "vit": shared.vit.model_dump(mode="json"),
            "text": shared.text.model_dump(mode="json"),
            **block.model_dump(mode="json", exclude={"papers", "base", "stand_in"}),
        }
    if kind == "downstream":
        run = Run.parse(unit)
        options = getattr(params.testing(run.dataset).downstream, run.task)
        return {
            **{key: getattr(run, key) for key in ("dataset", "task", "percent")},
            "image": params.pretrain.image,
            "bootstrap": params.downstream.bootstrap,
            "options": _own(params, run, options),
        }
    raise ValueError(f"no such kind of work: {kind}")


def _own(params: Params, run: Run, options: Tree) -> Tree:
    """A task's options; of what they state by dataset, and by percent, the run's own alone."""
    name, share, out = reader(params, run.dataset), str(run.percent), dict(options)
    for key, value in options.items():
        if isinstance(value, dict) and value.keys() <= params.manifest.datasets.keys():
            mine = value.get(name)
            if isinstance(mine, dict) and share in mine:
                mine = {share: mine[share]}
            out[key] = {} if mine is None else {name: mine}
    return out


def code(params: Params, kind: str, unit: str) -> list[str]:
    """Modules whose import closure makes a unit of work."""
    if kind == "phantom":
        return [f"cxrmim.phantom.layouts.{unit}"]
    if kind == "manifest":
        return ["cxrmim.manifest.build", f"cxrmim.manifest.datasets.{reader(params, unit)}"]
    if kind == "shards":
        if unit in audited(params):
            return ["cxrmim.shards.audit"]
        return ["cxrmim.shards.build"]
    if kind == "pretrain":
        method = params.pretraining(entry_of(unit).entry)[0]
        return ["cxrmim.pretrain.loop", f"cxrmim.pretrain.methods.{method}"]
    if kind == "downstream":
        run = Run.parse(unit)
        return ["cxrmim.downstream.runs", f"cxrmim.downstream.tasks.{run.task}"]
    raise ValueError(f"no such kind of work: {kind}")


def parents(params: Params, kind: str, unit: str) -> list[tuple[str, str]]:
    """(kind, unit) of the records that a unit of work builds on."""
    if kind == "manifest":
        return [("phantom", reader(params, unit))] if params.manifest.source == "phantom" else []
    if kind == "shards":
        found = [("manifest", unit)]
        if unit in audited(params):  # on the pixels that the readings in use have stored
            name = reader(params, unit)
            found += [("shards", d) for d in datasets(params) if reader(params, d) == name]
        return found
    if kind == "pretrain":
        item = entry_of(unit)
        block = params.pretraining(item.entry)[1]
        corpus = params.training(item.entry).pretrain.corpus
        found = [("shards", corpus)] if reads_corpus(block) else []
        if block.init in entries(params):
            start = Pretraining(target(params, block.init), item.seed)
            found.append(("pretrain", start.checkpoint))
        return found
    if kind == "downstream":
        run = Run.parse(unit)
        found = [("shards", run.dataset)]
        return found if run.baseline is not None else [*found, ("pretrain", run.checkpoint)]
    return []


def units(params: Params) -> Iterator[tuple[str, str]]:
    """(kind, unit) of everything that has a record, upstream first."""
    if params.manifest.source == "phantom":
        for dataset in roots(params):
            yield "phantom", dataset
    for kind in ("manifest", "shards"):
        for dataset in [*datasets(params), *audited(params)]:
            yield kind, dataset
    for item in pretrainings(params):
        yield "pretrain", item.checkpoint
    for run in runs(params):
        yield "downstream", run.id
