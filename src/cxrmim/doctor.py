"""`cxrmim doctor`: is this machine ready for a scale, and if not, what is missing and where from?

Looks, never changes anything, and neither asks for nor stores credentials.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxrmim import grid, paths, plugins
from cxrmim.errors import DataError, ParamsError
from cxrmim.manifest.about import About, Part
from cxrmim.params import Params, plugin_options
from cxrmim.paths import Paths
from cxrmim.pretrain import published

State = Literal["ok", "note", "MISSING"]
# Images that a core prepares a second at 256 px: docs/speed.md (shards_prepare), rounded
# down. Above 320 px a JPEG can no longer be decoded at a quarter of its size.
RATES = {"jpeg": 40.0, "png": 80.0, "dicom": 60.0, "phantom": 200.0}
LARGE, SLOWER = 320, 0.5
SPARE = 1.1  # free disk wanted over what the arrays need
GIB = 2**30
MRM = "https://github.com/RL4M/MRM-pytorch (folder DatasetsSplits)"
WEIGHTS: dict[published.State, State] = {
    "verified": "ok",
    "unpinned": "note",
    "missing": "MISSING",
    "CHANGED": "MISSING",
}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    topic: str
    state: State
    text: str


def diagnose(params: Params) -> Iterator[Finding]:
    """Everything that the scale needs, one finding each, missing things with their source."""
    yield from _data(params)
    yield from _lists(params)
    yield from _room(params)
    yield from _weights(params)
    yield _gpu(params)


def _data(params: Params) -> Iterator[Finding]:
    if params.manifest.source == "phantom":
        names = ", ".join(grid.roots(params))
        yield Finding("data", "ok", f"phantom data ({names}) are generated; no root is needed")
        return
    for dataset in grid.roots(params):
        about = about_of(dataset)
        try:
            root = paths.raw_root(params, dataset)
        except ParamsError as error:
            source = f"; get it from {about.source}" if about else ""
            yield Finding("data", "MISSING", f"{str(error).removeprefix('params.yaml: ')}{source}")
            continue
        if about is None:
            yield Finding("data", "note", f"{dataset}: {root} is there; its reader states no more")
            continue
        yield from _root(dataset, root, about, needed(params, dataset))
        share = params.manifest.max_unreadable
        yield _images(dataset, root, about, wanted_images(params, dataset), share)


def needed(params: Params, dataset: str) -> tuple[Part, ...]:
    """What the entries that read a dataset need at its root, each thing once."""
    reader = plugins.load("dataset", dataset)
    found: dict[Part, None] = {}
    for entry in [*grid.datasets(params), *grid.audited(params)]:
        name, tree = params.reading(entry)
        if name != dataset:
            continue
        options = plugin_options("dataset", name, tree, f"manifest.datasets.{name}")
        needs = getattr(reader, "needs", None)
        found |= dict.fromkeys(reader.ABOUT.parts if needs is None else needs(options))
    return tuple(found)


def wanted_images(params: Params, dataset: str) -> int:
    """About how many of a dataset's images the entries in use need."""
    about: About = plugins.load("dataset", dataset).ABOUT
    readings = [params.reading(entry) for entry in grid.datasets(params)]
    every = any(name == dataset and tree.get("views") == "all" for name, tree in readings)
    return about.images if every else about.labelled or about.used


def about_of(dataset: str) -> About | None:
    """What the dataset's reader says of it."""
    if plugins.source("dataset", dataset) is None:
        return None
    found: About | None = getattr(plugins.load("dataset", dataset), "ABOUT", None)
    return found


def _root(dataset: str, root: Path, about: About, parts: tuple[Part, ...]) -> Iterator[Finding]:
    for part in parts:
        yield _part(dataset, root, part, about)
    reader = plugins.source("dataset", dataset) and plugins.load("dataset", dataset)
    probe = getattr(reader, "probe", None)
    if probe is not None:
        lacking = probe(root)
        if lacking is None:
            yield Finding("data", "ok", f"{dataset}: a first look finds what else it reads")
        else:
            text = f"{dataset}: {lacking}; get it from {about.source}"
            yield Finding("data", "MISSING", text)


def _images(dataset: str, root: Path, about: About, wanted: int, share: float) -> Finding:
    """How many image files are there; `share` of the `wanted` ones may be missing."""
    count = sum(_count(root / folder, about.suffixes) for folder in about.folders)
    said = f"{dataset}: {count:,} image files below {root}, published {about.images:,}"
    limit = f"shards stops where more than {100 * share:g} % cannot be read"
    if count < (1 - share) * wanted or not count:
        text = f"{said}, about {wanted:,} are read, and {limit}; get them from {about.source}"
        return Finding("data", "MISSING", text)
    if count < about.images:
        return Finding("data", "note", f"{said}, about {wanted:,} are read; {limit}")
    return Finding("data", "ok", said)


def _part(dataset: str, root: Path, part: Part, about: About) -> Finding:
    places = [root / name for name in part.names]
    if part.folder:
        found = next((p for p in places if p.is_dir()), None)
    else:
        files = (file for p in places for file in (p, p.with_name(f"{p.name}.gz")))
        found = next((file for file in files if file.is_file()), None)
    if found is None:
        wanted = " or ".join(part.names)
        text = f"{dataset}: {part.what} ({wanted}) is not in {root}; get it from {about.source}"
        return Finding("data", "MISSING", text)
    if part.rows is None:
        return Finding("data", "ok", f"{dataset}: {part.what}: {found.name}")
    try:
        rows = _rows(found)
    except (OSError, EOFError, ValueError) as error:
        text = f"{dataset}: {found}: cannot be read ({type(error).__name__}); download it again"
        return Finding("data", "MISSING", text)
    said = f"{dataset}: {part.what}: {found.name}, {rows:,} rows, published {part.rows:,}"
    return Finding("data", "ok" if rows == part.rows else "note", said)


def _rows(file: Path) -> int:
    """Rows of a csv or csv.gz below its header."""
    import pandas as pd

    table: Any = pd.read_csv(file, usecols=[0], dtype=str, header=0, index_col=False)
    return len(table)


def _count(folder: Path, suffixes: tuple[str, ...]) -> int:
    """Files below a folder that have one of the suffixes, without a look at each."""
    if not folder.is_dir():
        return 0
    return sum(name.lower().endswith(suffixes) for _, _, names in os.walk(folder) for name in names)


def _lists(params: Params) -> Iterator[Finding]:
    from cxrmim.manifest import lists

    entries = [*grid.datasets(params), *grid.audited(params)]
    wanting = [d for d in entries if params.reading(d)[1].get("split") == "mrm"]
    if params.manifest.source == "phantom" or not wanting:
        return
    names = ", ".join(wanting)
    try:
        root = paths.lists_root(params, wanting[0])
    except ParamsError as error:
        yield Finding("lists", "MISSING", str(error).removeprefix("params.yaml: "))
        return
    if root is None:
        yield Finding(
            "lists",
            "MISSING",
            f"manifest.lists is not set, and the splits of {names} are those of the MRM lists; set "
            f"it to a copy of {MRM}, or choose another `split` for them",
        )
        return
    for entry in wanting:
        dataset = grid.reader(params, entry)
        files = lists.names(dataset) if dataset in lists.FOLDERS else ()
        absent = next((name for name in files if not (root / name).is_file()), None)
        if absent is None:
            yield Finding("lists", "ok", f"{root}: for {entry}")
        else:
            text = f"{entry}: {absent} is not in {root}; set manifest.lists to a copy of {MRM}"
            yield Finding("lists", "MISSING", text)


def expected_bytes(params: Params, dataset: str) -> int | None:
    """About how large a dataset's arrays become, None where nobody knows how many images it has."""
    if params.manifest.source == "phantom":
        images = 3 * params.phantom.patients.get(grid.reader(params, dataset), 0)
    else:
        about = about_of(grid.reader(params, dataset))
        if about is None:
            return None
        every = params.reading(dataset)[1].get("views") == "all"
        images = about.images if every else about.used
    return images * int(params.side(dataset)) ** 2


def _room(params: Params) -> Iterator[Finding]:
    where = Paths(params.scale)
    total, left, seconds = 0, 0, 0.0
    for dataset in grid.datasets(params):
        size = expected_bytes(params, dataset)
        if size is None:
            yield Finding("disk", "note", f"{dataset}: size unknown; its reader states none")
            continue
        total += size
        left += max(0, size - _held(where.shards(dataset)) - _held(where.building(dataset)))
        seconds += size / params.side(dataset) ** 2 / _rate(params, dataset)
    results = where.results
    place = next(p for p in (results, *results.parents, Path()) if p.is_dir())
    free = shutil.disk_usage(place).free
    said = (
        f"arrays of {len(grid.datasets(params))} datasets take about {total / GIB:,.1f} GiB below "
        f"{results}, {left / GIB:,.1f} GiB of it still to come, {free / GIB:,.1f} GiB are free"
    )
    enough = free >= SPARE * left
    more = "" if enough else "; free some, or move the checkout to a larger disk"
    yield Finding("disk", "ok" if enough else "MISSING", said + more)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wall = seconds / max(1, min(cores or 1, params.threads.shards))
    yield Finding(
        "time",
        "ok",
        f"one-time preparation of the images: about {_duration(seconds)} of one core, "
        f"{_duration(wall)} a dataset after the other with threads.shards = "
        f"{params.threads.shards} on {cores} cores",
    )


def _held(folder: Path) -> int:
    """Bytes of the files below a folder, none if there is no such folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _rate(params: Params, dataset: str) -> float:
    """Images a second and core."""
    about = about_of(grid.reader(params, dataset))
    if params.manifest.source == "phantom":
        return RATES["phantom"]
    slower = SLOWER if params.side(dataset) > LARGE else 1.0
    return slower * (RATES[about.format] if about else min(RATES.values()))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _weights(params: Params) -> Iterator[Finding]:
    found = published.needed(params)
    for need in found:
        state, note = published.state(need.item)
        said = f"{need.item.path} is there: {need.why}; {note}"
        if state == "missing":
            said = _missing(need)
        elif state == "CHANGED":
            said = f"{need.item.path}: {note}; delete it and run `cxrmim weights fetch`"
        yield Finding("weights", WEIGHTS[state], said)
    mesh = params.shards.text.mesh.file
    if mesh is not None:
        there = Path(mesh).is_file()
        said = f"{mesh} is {'' if there else 'not '}there: shards.text.mesh.file names it"
        yield Finding("weights", "ok" if there else "MISSING", said)
    if not found and mesh is None:
        yield Finding("weights", "ok", "none needed: everything starts from random weights")


def require_weights(params: Params, checkpoints: Sequence[str]) -> None:
    """Assert that the published files which pretrainings start from are there; looks into none.

    Args:
        params: all parameters.
        checkpoints: what is going to be trained.

    Raises:
        DataError: the first that is not, and how to get it.
    """
    inits = {params.pretraining(grid.entry_of(c).entry)[1].init for c in checkpoints}
    for need in published.needed(params) if checkpoints else []:
        item = need.item
        if not item.path.is_file() and (item.layout != "vit" or item.name in inits):
            raise DataError(_missing(need))


def _missing(need: published.Need) -> str:
    fetch = "run `cxrmim weights fetch`, or " if need.item.repo else ""
    by_hand = published.by_hand(need.item)
    return f"{need.item.path} is not there, and {need.why}; {fetch}{by_hand}"


def _gpu(params: Params) -> Finding:
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        memory = card.total_memory / GIB
        return Finding("gpu", "ok", f"{card.name}, {memory:.0f} GiB, torch {torch.__version__}")
    if params.scale in ("paper", "phantom"):
        return Finding(
            "gpu",
            "MISSING",
            f"torch {torch.__version__} sees none; pretraining at scale {params.scale} on a CPU "
            f"takes weeks; run on a machine or a cluster that has one",
        )
    return Finding("gpu", "ok", f"none, and scale {params.scale} needs none")


def report(findings: list[Finding]) -> list[str]:
    """The diagnosis as lines of text, topics in the order found."""
    return [f"{item.state:<8} {item.topic:<8} {item.text}" for item in findings]


def require(findings: list[Finding], scale: str) -> None:
    """Assert that nothing is missing.

    Raises:
        DataError: something is; says how much.
    """
    missing = sum(item.state == "MISSING" for item in findings)
    if missing:
        raise DataError(
            f"not ready for scale {scale}: {missing} of {len(findings)} things are missing, "
            f"marked MISSING above"
        )
