"""What a trace page shows: the cells of a block, and once each what several of them share."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cxrmim import grid
from cxrmim.report.cells import Cell, Table
from cxrmim.report.environment import Setting
from cxrmim.report.lineage import File, Lineage, Unit

Change = tuple[str, Any, Any]  # dotted key, value here, value at the papers' scale
Changes = tuple[Change, ...] | None  # None: the papers' scale has nothing to compare with


@dataclass(frozen=True)
class Settings:
    """Parameters and code that runs of a page share.

    Attributes:
        name: how the page refers to them.
        what: task, dataset and share of the labels.
        config_hash: sha256 of the parameters.
        code: hash of the code.
        changes: parameters whose value is another at the papers' scale.
    """

    name: str
    what: str
    config_hash: str
    code: str
    changes: Changes


@dataclass(frozen=True)
class Traced:
    """A block's trace page.

    Attributes:
        table: the filled block.
        runs: the runs of each cell, by its address.
        settings: those of each run, by (config hash, code hash).
        weights: pretrainings behind the block, what they start from included.
        data: shards, manifests and phantom data behind it.
        made: code and machines, with the name that the page gives them.
        shared: changes that all weights have which the papers' scale trains too.
        changes: further changes of each pretraining, by id.
    """

    table: Table
    runs: dict[str, tuple[Unit, ...]]
    settings: dict[tuple[str, str], Settings]
    weights: tuple[Unit, ...]
    data: tuple[Unit, ...]
    made: dict[Setting, str]
    shared: tuple[Change, ...]
    changes: dict[str, Changes]

    def of(self, run: Unit) -> Settings:
        """The settings of a run."""
        return self.settings[run.config_hash, run.code]

    def shared_by(self, cell: Cell) -> list[Settings]:
        """The settings of a cell's runs, each once."""
        found = [self.of(run) for run in self.runs[cell.address]]
        return list({settings.name: settings for settings in found}.values())

    def label(self, unit: Unit) -> str:
        """Checkpoint and seed of a run."""
        return f"{grid.Run.parse(unit.id).checkpoint}, seed {unit.seed}"

    def makers(self, cell: Cell) -> list[Setting | None]:
        """Code and machines of a cell's runs, each once."""
        return list(dict.fromkeys(run.made for run in self.runs[cell.address]))

    def parents(self, cell: Cell) -> list[tuple[str, str]]:
        """What a cell's runs build on, each once, weights first."""
        return list(dict.fromkeys(p for run in self.runs[cell.address] for p in run.parents))


def traced(table: Table, lineage: Lineage) -> Traced:
    """Follow every cell of a block to its raw data.

    Raises:
        CheckError: a record is missing or contradicts another.
    """
    cells = [c for row in table.rows for c in row.cells if c.state == "measured"]
    runs = {c.address: tuple(lineage.unit("downstream", r.id) for r in c.runs) for c in cells}
    found = lineage.upstream(dict.fromkeys(run for c in cells for run in c.runs))
    weights = tuple(unit for unit in found if unit.kind == "pretrain")
    settings: dict[tuple[str, str], Settings] = {}
    for unit in (unit for group in runs.values() for unit in group):
        key = (unit.config_hash, unit.code)
        if key not in settings:
            name = f"settings {len(settings) + 1}"
            settings[key] = Settings(name, _what(unit), *key, _changes(lineage, unit))
    every = [*(unit for group in runs.values() for unit in group), *found]
    made = dict.fromkeys(unit.made for unit in every if unit.made is not None)
    names = {each: f"code {number}" for number, each in enumerate(made, start=1)}
    each = {unit.id: _changes(lineage, unit) for unit in weights}
    shared = _common([mine for mine in each.values() if mine is not None])
    own = {
        key: None if mine is None else tuple(c for c in mine if c not in shared)
        for key, mine in each.items()
    }
    data = tuple(unit for unit in found if unit.kind != "pretrain")
    return Traced(table, runs, settings, weights, data, names, shared, own)


def _what(unit: Unit) -> str:
    run = grid.Run.parse(unit.id)
    return f"{run.task} on {run.dataset}, {run.percent}% of the labels"


def _changes(lineage: Lineage, unit: Unit) -> Changes:
    found = lineage.differing(unit.kind, unit.id)
    return None if found is None else tuple(found)


def _common(found: list[tuple[Change, ...]]) -> tuple[Change, ...]:
    """Changes that all have, if there are several."""
    first, *others = found or [()]
    return tuple(c for c in first if others and all(c in other for other in others))


def sums(units: Iterable[Unit]) -> str:
    """Records and outputs of units as `sha256sum --check` reads them, a file a line."""
    lines = []
    for unit in units:
        lines.append(f"{unit.sha256}  {unit.record}")
        lines += [f"{file.sha256}  {file.path}" for file in unit.outputs if not file.files]
    return "\n".join(dict.fromkeys(lines))


def pull(lineage: Lineage, units: Iterable[Unit]) -> str:
    """The command that fetches what units wrote, "" where DVC keeps none of it.

    A folder of their own is fetched whole: DVC takes any file or folder below a pointer's.
    """
    kept = [(file, lineage.pointer(file)) for unit in units for file in unit.outputs]
    found = []
    for file, pointer in kept:
        own = PurePosixPath(file.path).parent
        if pointer:
            found.append(file.path if own == PurePosixPath(pointer).with_suffix("") else str(own))
    return " ".join(["dvc pull", *dict.fromkeys(found)]) if found else ""


def pointers(lineage: Lineage, units: Iterable[Unit]) -> list[str]:
    """The .dvc files that name what units wrote."""
    found = (lineage.pointer(file) for unit in units for file in unit.outputs)
    return list(dict.fromkeys(name for name in found if name))


def size(file: File) -> str:
    """Bytes, and the number of files of a folder."""
    return f"{file.size:,} bytes" + (f" in {file.files:,} files" if file.files else "")


def setting(value: Any) -> str:
    """A parameter's value as printed."""
    return "none" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)
