"""The chain behind a cell as data: runs, predictions, weights, shards, manifests, raw files, code.

Everything is read from the git-tracked records and circumstances, so that a bare clone tells the
same chain. `cxrmim check` compares the chain with what is on disk; here only its joints are
compared: a record must name the bytes of the records that it builds on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrmim import check, grid, record
from cxrmim import params as params_module
from cxrmim.errors import CheckError, ParamsError
from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import environment
from cxrmim.report.environment import Setting
from cxrmim.report.records import Records

Tree = dict[str, Any]
UPSTREAM = ("pretrain", "shards", "manifest", "phantom")  # nearest to the runs first
LARGEST = "paper"  # the scale that holds the papers' values


@dataclass(frozen=True)
class File:
    """A file or folder that a record names.

    Attributes:
        name: what it is to the unit of work.
        path: where it lies; ``raw:`` starts the path of a raw file below its dataset's root.
        size: bytes.
        sha256: of its bytes, or of a folder's sorted listing.
        md5: names it in the DVC remote; "" for a folder.
        files: number of files of a folder, 0 for a file.
    """

    name: str
    path: str
    size: int
    sha256: str
    md5: str
    files: int


@dataclass(frozen=True)
class Unit:
    """One unit of work as its record and circumstances tell it.

    Attributes:
        kind: the stop.
        id: its name in the stop.
        record: path of its record.
        sha256: of the record's bytes.
        config: the parameters that it was made with.
        config_hash: their sha256.
        code: hash of the syntax trees of the code that made it.
        seed: its own seed.
        value: its main metric, in [0, 1]; None for what is no run.
        inputs: files that it read, raw ones among them.
        outputs: files that it wrote.
        parents: (kind, id) of the units that it builds on.
        made: by which code and machine, whatever the stop; None where git has no circumstances.
        finished: when, in UTC.
        cpu_seconds: what it cost, None where that was not noted.
    """

    kind: str
    id: str
    record: str
    sha256: str
    config: Tree
    config_hash: str
    code: str
    seed: int | None
    value: float | None
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    parents: tuple[tuple[str, str], ...]
    made: Setting | None
    finished: str
    cpu_seconds: float | None


class Lineage:
    """Looks up units of work and what they were made of; reads each record once.

    Args:
        params: all parameters.
        records: the downstream records that have been read already.
    """

    def __init__(self, params: Params, records: Records) -> None:
        self.params = params
        self._paths = Paths(params.scale)
        self._records = records
        self._units: dict[tuple[str, str], Unit] = {}
        self._hashes: dict[tuple[str, str], str] = {}
        self._paper: Params | None = None
        self._compared = False

    def unit(self, kind: str, name: str) -> Unit:
        """A unit of work.

        Raises:
            CheckError: its record is missing, lacks a link of the chain, or names other bytes of a
                parent's record than are there.
        """
        key = (kind, name)
        if key not in self._units:
            path = self._paths.record(kind, name)
            run = kind == "downstream"
            tree = self._records.tree(Run.parse(name)) if run else record.read(path)
            try:
                self._units[key] = self._unit(tree, path)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CheckError(
                    f"{path}: no chain can be told from it ({type(error).__name__}: {error}); "
                    f"restore it with git or run `snakemake --cores all`"
                ) from None
        return self._units[key]

    def upstream(self, runs: Iterable[Run]) -> list[Unit]:
        """All that runs were made of, each once: weights first, raw data last."""
        found: dict[tuple[str, str], Unit] = {}
        queue = [parent for run in runs for parent in self.unit("downstream", run.id).parents]
        while queue:
            key = queue.pop(0)
            if key not in found:
                found[key] = self.unit(*key)
                queue += found[key].parents
        order = {kind: place for place, kind in enumerate(UPSTREAM)}
        return sorted(found.values(), key=lambda unit: (order[unit.kind], unit.id))

    def pointer(self, file: File) -> str:
        """The .dvc file that names an artifact's folder; "" for what DVC does not keep."""
        path = Path(file.path)
        if not path.is_relative_to(self._paths.artifacts):
            return ""
        folder = path.relative_to(self._paths.artifacts).parts[0]
        return (self._paths.artifacts / f"{folder}.dvc").as_posix()

    def differing(self, kind: str, name: str) -> list[tuple[str, Any, Any]] | None:
        """(dotted key, value here, value at the papers' scale) of a unit's parameters.

        None where there is nothing to compare with: no such scale, or no such unit at it.
        """
        if self._paper is None and not self._compared:
            self._paper, self._compared = at_paper_scale(self.params), True
        if self._paper is None:
            return None
        try:
            wanted = grid.config(self._paper, kind, name)
        except ParamsError:
            return None
        return list(check.differences(self.unit(kind, name).config, wanted))

    def _unit(self, tree: Tree, path: Path) -> Unit:
        kind, name = tree["kind"], tree["id"]
        parents = tuple((key.partition("/")[0], key.partition("/")[2]) for key in tree["parents"])
        for parent in parents:
            if tree["parents"]["/".join(parent)] != self._hash(*parent):
                raise CheckError(
                    f"{path}: parents.{'/'.join(parent)} is not the sha256 of "
                    f"{self._paths.record(*parent)}; run `snakemake --cores all`"
                )
        how = environment.told(self.params, kind, name)
        raw = tree["details"].get("raw") if kind == "shards" else None
        place = grid.reader(self.params, name) if raw else ""
        inputs = [_file(key, entry) for key, entry in tree["inputs"].items()]
        if raw is not None:
            inputs.append(_file("raw images", raw | {"path": f"{record.RAW}{place}"}))
        return Unit(
            kind=kind,
            id=name,
            record=path.as_posix(),
            sha256=self._hash(kind, name),
            config=tree["config"],
            config_hash=tree["config_hash"],
            code=tree["code"],
            seed=tree["seed"],
            value=tree["metrics"].get("value"),
            inputs=tuple(inputs),
            outputs=tuple(_file(key, entry) for key, entry in tree["outputs"].items()),
            parents=parents,
            made=replace(how[0], kind="") if how else None,
            finished=how[1].finished if how else "",
            cpu_seconds=how[1].cpu_seconds if how else None,
        )

    def _hash(self, kind: str, name: str) -> str:
        if (kind, name) not in self._hashes:
            path = self._paths.record(kind, name)
            if not path.is_file():
                raise CheckError(f"{path}: no such record; run `snakemake --cores all`")
            self._hashes[kind, name] = record.sha256(path)
        return self._hashes[kind, name]


def at_paper_scale(params: Params) -> Params | None:
    """The parameters of the scale that holds the papers' values, None if there is none."""
    if params.scale == LARGEST:
        return params
    try:
        return params_module.load(scale=LARGEST)
    except ParamsError:
        return None


def _file(name: str, entry: Tree) -> File:
    """A record's entry of an input or output."""
    return File(
        name=name,
        path=entry["path"],
        size=int(entry["bytes"]),
        sha256=entry["sha256"],
        md5=entry.get("md5", ""),
        files=int(entry.get("files", 0)),
    )
