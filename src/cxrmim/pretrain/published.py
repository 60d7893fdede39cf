"""Published weights and vocabularies that a scale needs: where from, where to, which bytes.

The pins are `published.json`. A pin without a sha256 is held to what the hub told at the first
fetch, or to the file that was imported, as the lock has it. No torch here.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from cxrmim import grid, record
from cxrmim.errors import CheckError, ParamsError
from cxrmim.explain import unknown
from cxrmim.params import Params
from cxrmim.pretrain import places

State = Literal["verified", "unpinned", "missing", "CHANGED"]
Layout = Literal["vit", "bert", "vocab", "wordpiece"]
PINS = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        name: what `cxrmim weights` calls it.
        file: its name here.
        layout: what is in it.
        what: in words.
        source: its name where it is published.
        licence: under which it is published.
        folder: below ``weights/``; the name if empty.
        repo: the Hugging Face repository, None if it is not there.
        origin: where else it is from.
        revision: the commit that is meant.
        sha256: of the published file; None where no reference was found.
        known: other publications of the same weights, by file name: leading digits of a digest.
    """

    name: str
    file: str
    layout: Layout
    what: str
    source: str
    licence: str
    folder: str = ""
    repo: str | None = None
    origin: str = ""
    revision: str | None = None
    sha256: str | None = None
    known: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it lies, below the working directory."""
        return places.place(self.folder or self.name, self.file)

    @property
    def pin(self) -> str:
        """How firmly it is pinned, in words."""
        at = f"revision {self.revision[:12]}" if self.revision else "no revision pinned"
        return f"{at}, {f'sha256 {self.sha256[:12]}' if self.sha256 else 'sha256 unpinned'}"


@dataclass(frozen=True)
class Need:
    """A published file that a scale needs, and what for."""

    item: Published
    why: str


@cache
def pins() -> dict[str, Published]:
    """Every published file that the project knows, by name."""
    return {e["name"]: Published(**e) for e in json.loads(PINS.read_text(encoding="utf-8"))}


def find(name: str) -> Published:
    """A published file by name.

    Raises:
        ParamsError: there is none.
    """
    if name not in pins():
        raise ParamsError(unknown("published file", name, list(pins())))
    return pins()[name]


def needed(params: Params) -> list[Need]:
    """What the pretrainings and the text of a scale need, each file once."""
    found: dict[str, Need] = {}
    for item in grid.pretrainings(params):
        init = params.pretraining(item.entry)[1].init
        if init != "none" and init not in grid.entries(params):
            found.setdefault(init, Need(_start(init), f"entry {item.entry} starts from it"))
    text = params.shards.text
    if text.tokenizer != "phantom":
        why = {"vocab": "it tokenises the reports", "bert": "the text encoder starts from it"}
        for one in (pins()[f"{text.tokenizer}-vocab"], pins()[text.tokenizer]):
            found[one.name] = Need(one, why[one.layout])
    if text.raw is not None and text.raw.tokenizer != "phantom":
        one = pins()[f"{text.raw.tokenizer}-wordpiece"]
        found[one.name] = Need(one, "it tokenises whole reports")
    return list(found.values())


def _start(init: str) -> Published:
    """The file of an `init`; one that is not pinned is somebody's own or an official checkpoint."""
    own = Published(
        name=init,
        file=places.FILE,
        layout="vit",
        what="a ViT in timm's keys",
        source="a checkpoint",
        licence="its own",
        origin="the place that you have it from",
    )
    return pins().get(init, own)


def state(item: Published) -> tuple[State, str]:
    """Whether a file is there and is the one that is meant, and what that rests on."""
    if not item.path.is_file():
        return "missing", "not there"
    sha256 = record.digest(item.path)["sha256"]
    known = places.read_lock().get(item.path.as_posix())
    if known is not None:
        if sha256 == known["sha256"]:
            return "verified", f"sha256 {sha256[:12]} as in {places.LOCK}"
        return "CHANGED", f"sha256 {sha256[:12]}, but {places.LOCK} has {known['sha256'][:12]}"
    if item.sha256 is None or Path(item.source).suffix != item.path.suffix:
        return "unpinned", f"sha256 {sha256[:12]}, and nothing says which it must be"
    if sha256 == item.sha256:
        return "verified", f"sha256 {sha256[:12]} as pinned"
    return "CHANGED", f"sha256 {sha256[:12]}, but {item.sha256[:12]} is pinned"


def listed(params: Params) -> Iterator[str]:
    """What a scale needs: state, name, place, source, pin, licence, why; how to get what is not
    there."""
    found = needed(params)
    for need in found:
        item = need.item
        status, note = state(item)
        origin = f"{item.repo or item.origin}, {item.pin}, {item.licence}"
        yield f"{status:<9} {item.name:<22} {item.path}: {need.why}"
        yield f"{'':<9} {item.what}; {origin}"
        yield f"{'':<9} {note}"
        if status == "missing":
            yield f"{'':<9} no network here? {by_hand(item)}"
    if not found:
        yield "none: everything starts from random weights"


def verify(params: Params, say: Callable[[str], None]) -> None:
    """Hash what a scale needs and whatever else the lock names.

    Raises:
        CheckError: a file is missing or has other bytes.
    """
    bad = 0
    items = {need.item.path: need.item for need in needed(params)}
    pinned = {item.path: item for item in pins().values()}
    for path in map(Path, places.read_lock()):
        items.setdefault(path, pinned.get(path) or _start(path.parent.name))
    for item in items.values():
        status, note = state(item)
        say(f"{status:<9} {item.path}: {note}")
        bad += status in ("missing", "CHANGED")
    if bad:
        raise CheckError(
            f"{bad} of {len(items)} files are missing or changed; `cxrmim weights fetch` gets what "
            f"is missing, after a changed one is deleted"
        )
    if not items:
        say("none: everything starts from random weights")


def by_hand(item: Published) -> str:
    """How to place a file where there is no network, in one line."""
    origin = f"the Hugging Face repository {item.repo}" if item.repo else item.origin
    at = f" at revision {item.revision}" if item.revision else ""
    other = "".join(f" (or {name})" for name in item.known)
    name = item.name if item.name in pins() else f"KIND FILE --as {item.name}"
    file = " FILE" if item.name in pins() else ""
    return (
        f"on a machine with network take {item.source} of {origin}{at}{other}, bring it here and "
        f"run `cxrmim weights import {name}{file}`"
    )


def matches(item: Published, file: Path) -> Literal["pinned", "known", "other", "unpinned"]:
    """How a file that somebody brings relates to the pins.

    ``other`` is a file that cannot be the published one: the pin names other bytes, or it bears the
    name of a known publication without its digest.
    """
    sha256 = record.digest(file)["sha256"]
    if sha256 == item.sha256:
        return "pinned"
    with file.open("rb") as handle:
        md5 = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    digests = {"sha256": sha256, "md5": md5}
    for tells in item.known.values():
        if all(digests[kind].startswith(start) for kind, start in tells.items()):
            return "known"
    return "other" if item.sha256 is not None or file.name in item.known else "unpinned"
