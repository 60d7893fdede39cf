"""Frozen, typed parameters; the sole reader of params.yaml.

The file's top level holds the papers' values. `load` lays over them what the chosen scale changes
and, under ``protocol: released``, what the official code does differently, and validates it all.
Options of a method, a dataset or a task are validated by the class that its own file states.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import PrivateAttr, ValidationError

from cxrmim import explain, plugins
from cxrmim.errors import ParamsError
from cxrmim.plugins import Strict
from cxrmim.schema import (
    FRAME,
    Block,
    DownstreamParams,
    Entry,
    Gpus,
    ManifestParams,
    Method,
    Name,
    PhantomParams,
    PretrainParams,
    ReportParams,
    Scale,
    Seeds,
    ShardsParams,
    Threads,
)

Tree = dict[str, Any]
T = TypeVar("T", bound=Strict)
# Either is a safe loader; libyaml's is six times as fast, where PyYAML was built with it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Params(Strict):
    """The whole of params.yaml, resolved for one scale and protocol."""

    scale: Scale
    protocol: Literal["paper", "released"]
    seeds: Seeds
    threads: Threads
    gpus: Gpus
    phantom: PhantomParams
    manifest: ManifestParams
    shards: ShardsParams
    pretrain: PretrainParams
    downstream: DownstreamParams
    report: ReportParams
    grid: dict[Name, Block]
    _released: "Params | None" = PrivateAttr(default=None)

    @property
    def released(self) -> "Params":
        """The same scale under ``protocol: released``."""
        return self._released or self

    @property
    def corpora(self) -> list[str]:
        """Dataset entries whose reports are learnt from: the methods' first."""
        others = [entry.corpus for entry in self.pretrain.entries.values() if entry.corpus]
        return list(dict.fromkeys([self.pretrain.corpus, *others]))

    def training(self, entry: str) -> "Params":
        """The parameters under which an entry is trained.

        They differ from `self` where the entry, or one that it is a variant of, is `released` or
        has its own corpus.
        """
        chain = _chain(self.pretrain, entry)
        side = self._side(chain)
        corpus = next((link.corpus for link in chain if link.corpus), self.pretrain.corpus)
        if side is self and corpus == self.pretrain.corpus:
            return self
        pretrain = side.pretrain.model_copy(update={"corpus": corpus})
        return self.model_copy(update={"pretrain": pretrain})

    def _side(self, chain: list[Entry]) -> "Params":
        return self.released if any(link.released for link in chain) else self

    def testing(self, dataset: str) -> "Params":
        """The parameters under which runs on a dataset entry are made: see `DatasetEntry`."""
        entry = self.manifest.entries.get(dataset)
        if entry is None or not entry.released:
            return self
        return self.model_copy(update={"downstream": self.released.downstream})

    def storing(self, dataset: str) -> "Params":
        """The parameters under which a dataset's shards are made: a corpus's hold its reports."""
        if dataset not in self.corpora or dataset == self.pretrain.corpus:
            return self
        pretrain = self.pretrain.model_copy(update={"corpus": dataset})
        return self.model_copy(update={"pretrain": pretrain})

    def reading(self, dataset: str) -> tuple[str, Tree]:
        """Resolve a dataset entry to its reader's name and options.

        Raises:
            ParamsError: the entry, or the dataset that it reads, does not exist.
        """
        manifest = self.manifest
        entry = manifest.entries.get(dataset)
        reader = dataset if entry is None else entry.dataset
        if reader not in manifest.datasets:
            known = [*manifest.datasets, *manifest.entries]
            raise ParamsError(explain.unknown("dataset", reader, known))
        side = self.released if entry is not None and entry.released else self
        options = side.manifest.datasets[reader]
        return reader, options if entry is None else merge(options, entry.set)

    def side(self, dataset: str) -> int:
        """Side of a dataset's stored images in px: what the scale's methods ask for."""
        if dataset not in self.corpora:
            return self.shards.side_downstream
        if self.shards.side != "auto":
            return self.shards.side
        named = {
            row for block in self.grid.values() for row in block.rows if block.rows != "methods"
        }
        if any(block.rows == "methods" for block in self.grid.values()):
            named |= set(self.pretrain.methods)
        found = [self.pretraining(entry)[1].augment for entry in named]
        return max([a.resize for a in found if a], default=self.shards.side_downstream)

    def pretraining(self, entry: str) -> tuple[str, Method]:
        """Resolve an entry (aliases followed) to its method's name and parameters.

        Raises:
            ParamsError: the entry, or a method that it builds on, does not exist.
        """
        side = self._side(_chain(self.pretrain, entry))  # a corpus of its own changes no method
        return _pretraining(_Same(side.pretrain), entry)


class _Same:
    """A key that is equal to itself alone, and keeps what it stands for alive."""

    def __init__(self, it: PretrainParams) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.it is self.it


# The grid asks for each entry many times over: of `cxrmim check` it was a quarter.
@lru_cache(maxsize=512)
def _pretraining(side: _Same, entry: str) -> tuple[str, Method]:
    name, block = _resolve(side.it.model_dump(mode="json"), entry)
    return name, _validated(Method, block, f"pretrain.entries.{entry}")


def _chain(pretrain: PretrainParams, entry: str) -> list[Entry]:
    """An entry and what it is a variant or another name of, as far as these are entries."""
    found: dict[str, Entry] = {}
    name: str | None = entry
    while name in pretrain.entries and name not in found:
        found[name] = pretrain.entries[name]
        name = found[name].alias or found[name].method
    return list(found.values())


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Deep merge: mappings merge key by key, anything else in `over` replaces."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return out


def fingerprint(tree: Any) -> str:
    """sha256 of a JSON-like tree in canonical form."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: str | Path = "params.yaml", scale: str | None = None) -> Params:
    """Read, resolve and validate params.yaml.

    Args:
        path: the file.
        scale: overrides the file's own `scale`.

    Raises:
        ParamsError: one line naming the key, the value and the place to set it.
    """
    file = Path(path)
    tree = _read(file)
    scales = tree.pop("scales", {})
    released = tree.pop("released", {})
    chosen = scale or tree.get("scale")
    if chosen not in scales:
        known = ", ".join(scales)
        raise ParamsError(f"{file}: scale = {chosen!r}: must be one of {known}; set it at `scale`")
    over = scales[chosen] or {}
    merged = merge(tree, over) | {"scale": chosen}
    if "grid" in over:
        merged["grid"] = over["grid"]
    other = merge(merged, released) | {"protocol": "released"}
    try:
        params = Params.model_validate(other if merged.get("protocol") == "released" else merged)
        if params.protocol != "released":
            params._released = Params.model_validate(other)
        _validate_plugins(params)
    except ValidationError as error:
        raise ParamsError(
            f"{file}: {explain.fault(error, Params, over=over, scale=str(chosen))}"
        ) from None
    except ParamsError as error:
        raise ParamsError(f"{file}: {error}") from None
    return params


def plugin_options(kind: str, name: str, tree: Tree, where: str) -> Strict | None:
    """Validate a plug-in's options; None if it has no code yet.

    Raises:
        ParamsError: naming the key below `where`.
    """
    model = plugins.options(kind, name)
    return None if model is None else _validated(model, tree, where)


def _read(file: Path) -> Tree:
    if not file.is_file():
        raise ParamsError(f"{file}: no such file; run from the repository root or give --params")
    try:
        text = file.read_text(encoding="utf-8")
        tree = yaml.load(text, Loader=LOADER)  # noqa: S506
    except yaml.YAMLError as error:
        raise ParamsError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{file}: must be a mapping of blocks")
    return tree


def _resolve(pretrain: Tree, entry: str, seen: tuple[str, ...] = ()) -> tuple[str, Tree]:
    """(method, merged block) of an entry in the dumped pretrain tree."""
    if entry in seen:
        raise ParamsError(f"pretrain.entries: {' -> '.join((*seen, entry))} goes in a circle")
    methods, entries = pretrain["methods"], pretrain["entries"]
    if entry in entries:
        variant = entries[entry]
        if (variant["alias"] is None) == (variant["method"] is None):
            raise ParamsError(f"pretrain.entries.{entry}: give either `method` or `alias`")
        if variant["alias"] is not None:
            return _resolve(pretrain, variant["alias"], (*seen, entry))
        method, block = _resolve(pretrain, variant["method"], (*seen, entry))
        return method, merge(block, variant["set"])
    if entry not in methods:
        raise ParamsError(explain.unknown("pretrain entry", entry, [*methods, *entries]))
    block = methods[entry]
    if block.get("base") is not None:
        block = merge(_resolve(pretrain, block["base"], (*seen, entry))[1], block)
    return entry, block


def _validate_plugins(params: Params) -> None:
    """Validate what the typed frame leaves open: entries, options, grid rows."""
    pretrain = params.pretrain
    for entry in [*pretrain.methods, *pretrain.entries]:
        _follow_init(params, entry)
        method, block = params.pretraining(entry)
        where = f"pretrain.methods.{method}.options"
        plugin_options("method", method, block.options, where)
        side = params.shards.side
        coded = plugins.source("method", method)
        if coded and block.augment and side != "auto" and block.augment.resize > side:
            raise ParamsError(
                f"pretrain.methods.{method}.augment.resize = {block.augment.resize}: larger than "
                f"shards.side = {side}; nothing is ever upsampled, raise shards.side"
            )
    for dataset, tree in params.manifest.datasets.items():
        plugin_options("dataset", dataset, tree, f"manifest.datasets.{dataset}")
    for dataset in params.manifest.entries:
        reader, tree = params.reading(dataset)
        plugin_options("dataset", reader, tree, f"manifest.entries.{dataset}.set")
    tasks = [t for t in DownstreamParams.model_fields if t not in FRAME]
    cut = params.downstream.cut
    for task in [] if isinstance(cut, str) else cut:
        if task not in tasks:
            raise ParamsError(f"downstream.cut: {explain.unknown('task', task, tasks)}")
    for task in tasks:
        for which in (params, params.released):
            plugin_options("task", task, getattr(which.downstream, task), f"downstream.{task}")
    if pretrain.processes % pretrain.nodes:
        raise ParamsError(
            f"pretrain.nodes = {pretrain.nodes}: must divide pretrain.processes = "
            f"{pretrain.processes}; every node starts as many"
        )
    for name, variant in pretrain.entries.items():
        corpus = params.manifest.entries.get(variant.corpus or "")
        if variant.corpus is not None and (corpus is None or corpus.audit):
            known = [n for n, e in params.manifest.entries.items() if not e.audit]
            said = explain.unknown("dataset", variant.corpus, known)
            raise ParamsError(f"pretrain.entries.{name}.corpus: {said}")
    for name, table in params.grid.items():
        for row in [] if table.rows == "methods" else table.rows:
            if row not in pretrain.methods and row not in pretrain.entries:
                known = [*pretrain.methods, *pretrain.entries]
                raise ParamsError(
                    f"grid.{name}.rows: {explain.unknown('pretrain entry', row, known)}"
                )
        for cells in table.cells:
            known = [*params.manifest.datasets, *params.manifest.entries]
            other = params.manifest.entries.get(cells.dataset)
            if cells.dataset not in known or (other and other.audit):
                raise ParamsError(
                    f"grid.{name}: {explain.unknown('dataset', cells.dataset, known)}"
                )
            if cells.task not in tasks:
                raise ParamsError(f"grid.{name}: {explain.unknown('task', cells.task, tasks)}")


def _follow_init(params: Params, entry: str) -> None:
    """Refuse an entry that starts, directly or not, from itself."""
    seen = [entry]
    while True:
        init = params.pretraining(seen[-1])[1].init
        if init not in params.pretrain.methods and init not in params.pretrain.entries:
            return
        if init in seen:
            chain = " -> ".join([*seen, init])
            raise ParamsError(
                f"pretrain.entries.{entry}: init goes in a circle: {chain}; name an entry that "
                f"does not start from it, or a folder below weights/"
            )
        seen.append(init)


def _validated(model: type[T], tree: Tree, where: str) -> T:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ParamsError(explain.fault(error, model, where)) from None
