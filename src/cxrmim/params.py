"""Frozen, typed parameters; the sole reader of params.yaml.

The file's top level holds the papers' values. `load` lays over them what the chosen scale changes
and, under ``protocol: released``, what the official code does differently, and validates it all.
Options of a method, a dataset or a task are validated by the class that its own file states.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from cxrmim import explain, plugins
from cxrmim.errors import ParamsError
from cxrmim.plugins import Strict

Tree = dict[str, Any]
T = TypeVar("T", bound=Strict)
Scale = Literal["demo", "trend", "phantom", "paper"]
Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
Grey = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Seeds(Strict):
    """Seeds of pretraining and of downstream runs."""

    pretrain: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    downstream: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Threads(Strict):
    """CPU threads of a job, by stop."""

    phantom: Positive
    manifest: Positive
    shards: Positive
    pretrain: Positive
    downstream: Positive
    report: Positive


class PhantomParams(Strict):
    """Generated data: `raster` is the long side in px, `patients` counts per dataset."""

    seed: Annotated[int, Field(ge=0)]
    raster: Annotated[int, Field(ge=32, le=2048)]
    difficulty: Literal["easy", "mid", "hard"]
    patients: dict[Name, Positive]


class Subset(Strict):
    """How the 1 % and 10 % label subsets are drawn."""

    nested: bool
    reseed: Literal[False]
    seed: Annotated[int, Field(ge=0)]
    min_positives: Annotated[int, Field(ge=0)]


class ManifestParams(Strict):
    """Raw data: whose it is, where it lies, and each dataset's own options."""

    source: Literal["real", "phantom"]
    max_unreadable: Unit
    roots: dict[Name, str | None]
    subset: Subset
    datasets: dict[Name, Tree]


class ShardText(Strict):
    """Tokenised reports: WordPiece vocabulary, tokens a caption, MeSH list."""

    tokenizer: Literal["bioclinicalbert", "phantom"]
    vocab: Annotated[int, Field(ge=100)]
    length: Annotated[int, Field(ge=8, le=512)]
    mesh: Literal["radiology"]


class ShardsParams(Strict):
    """Stored arrays: `side` is the side of the square uint8 images in px."""

    side: Annotated[int, Field(ge=16)]
    text: ShardText


class Vit(Strict):
    """Vision transformer dimensions (timm), and how untrained weights are drawn."""

    patch: Positive
    width: Positive
    depth: Positive
    heads: Positive
    mlp: Annotated[float, Field(gt=0)]
    init: Literal["normal", "xavier"] = "normal"


class TextModel(Strict):
    """BERT dimensions (transformers) and the ledger's switches of the text encoder."""

    layers: Positive
    width: Positive
    heads: Positive
    mlp: Positive
    dropout: Unit
    positions: Literal["normal", "zero"]
    attn_shift: Literal["none", "released"]


class Optim(Strict):
    """Optimiser; `clip` limits the gradient norm (0: none), `decay_1d` decays 1-D weights too."""

    name: Literal["adamw", "adam"]
    lr: Annotated[float, Field(gt=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    decay_1d: bool
    clip: Annotated[float, Field(ge=0)]


class Schedule(Strict):
    """Learning rate: linear warm-up over a share of all steps, then cosine to `end`."""

    name: Literal["cosine", "plateau"] = "cosine"
    warmup: Unit
    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]
    factor: Unit = 0.5
    patience: Positive = 5


class Augment(Strict):
    """Image augmentation of a pretraining; sizes in px at the input scale."""

    resize: Positive
    crop: Literal["random", "resized", "centre"]
    area: tuple[Unit, Unit] = (1.0, 1.0)
    flip: Unit = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: Unit = 0.0
    grey_p: Unit = 0.0
    blur: tuple[float, float] = (0.1, 2.0)
    blur_p: Unit = 0.0
    mean: Grey
    std: Grey


class Method(Strict):
    """A pretraining method as resolved for one entry."""

    papers: list[Literal["medim", "cmitm"]] = ["medim", "cmitm"]
    base: Name | None = None
    trains: bool = True
    init: str = "none"
    shuffle_pairs: bool = False
    batch: Positive = 1
    epochs: Positive = 1
    optim: Optim | None = None
    schedule: Schedule | None = None
    augment: Augment | None = None
    options: Tree = {}


class Entry(Strict):
    """A variant of a method, or another name for an entry that is already there."""

    method: Name | None = None
    alias: Name | None = None
    set: Tree = {}


class PretrainParams(Strict):
    """The pretraining stop: shared encoder dimensions, methods and their variants."""

    corpus: Name
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    image: Annotated[int, Field(ge=16)]
    vit: Vit
    text: TextModel
    methods: dict[Name, Tree]
    entries: dict[Name, Entry]


class DownstreamParams(Strict):
    """The downstream stop: how the grid is cut into jobs, and each task's options."""

    cut: Literal["fraction", "checkpoint"]
    bootstrap: Positive
    baselines: dict[Name, list[Name]]
    probe: Tree
    segment: Tree
    retrieve: Tree
    finetune: Tree
    attend: Tree


FRAME = {"cut", "bootstrap", "baselines"}  # what of `downstream` is not a task


class ReportParams(Strict):
    """The report stop."""

    site_images: bool


class Cells(Strict):
    """Table columns that share a dataset and a task.

    `percents` are shares of the training labels; `seeded` says that a run draws random numbers, so
    that it is repeated over the downstream seeds.
    """

    dataset: Name
    task: Name
    percents: list[Literal[1, 10, 100]]
    seeded: bool = True


class Block(Strict):
    """What one table or figure needs: its rows are entries, or all methods of a paper."""

    paper: Literal["medim", "cmitm"] | None = None
    rows: list[Name] | Literal["methods"]
    cells: list[Cells]


class Params(Strict):
    """The whole of params.yaml, resolved for one scale and protocol."""

    scale: Scale
    protocol: Literal["paper", "released"]
    seeds: Seeds
    threads: Threads
    phantom: PhantomParams
    manifest: ManifestParams
    shards: ShardsParams
    pretrain: PretrainParams
    downstream: DownstreamParams
    report: ReportParams
    grid: dict[Name, Block]

    def pretraining(self, entry: str) -> tuple[str, Method]:
        """Resolve an entry (aliases followed) to its method's name and parameters.

        Raises:
            ParamsError: the entry, or a method that it builds on, does not exist.
        """
        tree = self.pretrain.model_dump(mode="json")
        name, block = _resolve(tree, entry)
        return name, _validated(Method, block, f"pretrain.entries.{entry}")


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
    if merged.get("protocol") == "released":
        merged = merge(merged, released)
    try:
        params = Params.model_validate(merged)
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
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
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
        method, block = params.pretraining(entry)
        where = f"pretrain.methods.{method}.options"
        plugin_options("method", method, block.options, where)
        if (
            block.augment
            and block.augment.resize > params.shards.side
            and plugins.source("method", method)
        ):
            raise ParamsError(
                f"pretrain.methods.{method}.augment.resize = {block.augment.resize}: larger than "
                f"shards.side = {params.shards.side}; nothing is ever upsampled, raise shards.side"
            )
    for dataset, tree in params.manifest.datasets.items():
        plugin_options("dataset", dataset, tree, f"manifest.datasets.{dataset}")
    for task in set(DownstreamParams.model_fields) - FRAME:
        plugin_options("task", task, getattr(params.downstream, task), f"downstream.{task}")
    for name, table in params.grid.items():
        for row in [] if table.rows == "methods" else table.rows:
            if row not in pretrain.methods and row not in pretrain.entries:
                known = [*pretrain.methods, *pretrain.entries]
                raise ParamsError(
                    f"grid.{name}.rows: {explain.unknown('pretrain entry', row, known)}"
                )
        for cells in table.cells:
            if cells.dataset not in params.manifest.datasets:
                known = list(params.manifest.datasets)
                raise ParamsError(
                    f"grid.{name}: {explain.unknown('dataset', cells.dataset, known)}"
                )
            tasks = [t for t in DownstreamParams.model_fields if t not in FRAME]
            if cells.task not in tasks:
                raise ParamsError(f"grid.{name}: {explain.unknown('task', cells.task, tasks)}")


def _validated(model: type[T], tree: Tree, where: str) -> T:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ParamsError(explain.fault(error, model, where)) from None
