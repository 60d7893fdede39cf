"""From a printed number back to runs, weights, data, code, and what DVC attests of them."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from cxrmim import check, grid, pointers, record
from cxrmim.errors import CheckError, ParamsError
from cxrmim.explain import unknown
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import cells
from cxrmim.report.cells import Cell
from cxrmim.report.outputs import blocks

State = Literal["ok", "not pulled", "not attested", "BAD"]
STATES: tuple[State, ...] = get_args(State)
LOCK = Path("dvc.lock")
CLOSE, CLEAR = 0.75, 0.05  # similarity of a misspelt name, and its lead over the next one
HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,52}\b")


@dataclass(frozen=True)
class Link:
    """One link of a chain of evidence; hashes in `note` are complete."""

    depth: int
    what: str
    state: State
    note: str = ""

    def text(self, *, long: bool = False) -> str:
        """One line; hashes are cut to twelve digits unless `long`."""
        note = self.note if long else HASH.sub(r"\1", self.note)
        return f"{'  ' * self.depth}[{self.state}] {self.what}{f' - {note}' if note else ''}"


def find(params: Params, address: str) -> tuple[Cell, str]:
    """The cell at TABLE:ROW:COLUMN, a near miss completed.

    Each part that names nothing stands for the one name that begins with it or, if none does, is
    spelt almost like it.

    Args:
        params: all parameters.
        address: see `cells.find`.

    Returns:
        The cell, and what was completed in words ("" if nothing was).

    Raises:
        ParamsError: a part stands for no name or for several; names the nearest.
    """
    first, _, rest = address.partition(":")
    middle, _, last = rest.rpartition(":")
    if not (first and middle and last):
        return cells.find(params, address), ""
    said: list[str] = []

    def meant(what: str, text: str, known: dict[str, list[str]]) -> str:
        key, exact = complete(what, text, known)
        if not exact:
            said.append(f"{what} {text.strip()!r} read as {key!r}")
        return key

    names = [*blocks(params, "table"), *blocks(params, "figure")]
    block = meant("table", first, {name: [name] for name in names})
    plan = cells.laid_out(params, block, cells.layout_of(block))
    row = meant("row", middle, {r.entry: cells.row_names(r) for r in plan.rows})
    column = meant("column", last, cells.column_names(plan.columns))
    return cells.find(params, f"{block}:{row}:{column}"), ", ".join(said)


def complete(what: str, text: str, known: dict[str, list[str]]) -> tuple[str, bool]:
    """The key that a text stands for, and whether it is one of the key's names (case aside).

    Args:
        what: what the keys are, for the error.
        text: what was typed.
        known: names of each key, the key among them.

    Raises:
        ParamsError: it stands for none, or for several.
    """
    wanted = text.strip().casefold()
    for key, names in known.items():
        if wanted in (name.casefold() for name in names):
            return key, True
    bare = _bare(wanted)
    same = [key for key, names in known.items() if bare in map(_bare, names)]
    begun = [key for key, names in known.items() if any(_bare(n).startswith(bare) for n in names)]
    for found in (same, begun if bare else [], _alike(wanted, known)):
        if len(found) == 1:
            return found[0], False
        if found:
            raise ParamsError(f"no {what} {text.strip()!r}; it may stand for {', '.join(found)}")
    shown = list(dict.fromkeys(name for names in known.values() for name in names[:2]))
    raise ParamsError(unknown(what, text.strip(), shown))


def _alike(wanted: str, known: dict[str, list[str]]) -> list[str]:
    """Keys with a name spelt almost like a text: the clearly closest, or all that are as close."""
    close = {
        key: max(difflib.SequenceMatcher(None, wanted, n.casefold()).ratio() for n in names)
        for key, names in known.items()
    }
    best = max(close.values(), default=0)
    return [key for key, ratio in close.items() if ratio >= max(CLOSE, best - CLEAR)]


def _bare(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def follow(params: Params, runs: Iterable[grid.Run]) -> list[Link]:
    """The chain from runs back to raw data, and what DVC says of its artifacts and records.

    Args:
        params: all parameters.
        runs: the runs behind a cell.
    """
    links: list[Link] = []
    seen: dict[tuple[str, str], None] = {}

    def visit(kind: str, unit: str, depth: int) -> None:
        if (kind, unit) in seen:
            return
        seen[kind, unit] = None
        links.extend(_links(params, kind, unit, depth))
        for parent in grid.parents(params, kind, unit):
            visit(*parent, depth + 1)

    for run in runs:
        visit("downstream", run.id, 0)
    kinds = [kind for kind in reversed(check.KINDS) if any(kind == k for k, _ in seen)]
    return [*links, *_pointers(params, kinds), *_attested(params, kinds)]


def _links(params: Params, kind: str, unit: str, depth: int) -> Iterator[Link]:
    paths = Paths(params.scale)
    path = paths.record(kind, unit)
    bad = list(check.record_faults(params, kind, unit))
    if bad:
        yield Link(depth, f"record {kind}/{unit}", "BAD", bad[0])
        return
    tree = record.read(path)
    note = f"sha256 {record.sha256(path)}, config {tree['config_hash']}, code {tree['code']}"
    value = tree["metrics"].get("value")
    if value is not None:
        note = f"{tree['metrics'].get('metric', 'value')} {value:.6f}, {note}"
    yield Link(depth, f"record {kind}/{unit}", "ok", note)
    for side in ("inputs", "outputs"):
        for name, entry in tree[side].items():
            what = f"{side.removesuffix('s')} {name} {entry['path']}"
            state = check.state(params, entry)
            note = "its bytes are not the record's, " if state == "BAD" else ""
            yield Link(depth + 1, what, state, f"{note}sha256 {entry['sha256']}")
    how = record.read(paths.circumstances(kind, unit))
    packages = how["environment"]["packages"]
    note = (
        f"commit {how['commit'] or 'none'}{' (dirty)' if how['dirty'] else ''}, "
        f"python {how['environment']['python']}, torch {packages.get('torch')}, "
        f"lock {how['environment'].get('lock') or 'none'}, {how['finished']}, "
        f"{how['cost'].get('cpu_seconds', '?')} CPU s"
    )
    yield Link(depth + 1, "circumstances", "ok", note)


def _pointers(params: Params, kinds: list[str]) -> Iterator[Link]:
    """The .dvc files that name the chain's artifacts."""
    for folder, kind in pointers.RECORDED.items():
        if kind not in kinds:
            continue
        pointer = Paths(params.scale).artifacts / f"{folder}.dvc"
        what = f"pointer {pointer} to all {kind} artifacts"
        if not pointer.is_file():
            yield Link(0, what, "not attested", "`cxrmim attest` writes it")
            continue
        try:
            wanted = f"{pointers.folder_md5(pointers.listings(params, [folder])[folder])}.dir"
            told = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]
        except (CheckError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
            yield Link(0, what, "BAD", f"cannot be compared ({type(error).__name__}: {error})")
            continue
        if told == wanted:
            yield Link(0, what, "ok", f"md5 {told}")
        else:
            yield Link(0, what, "BAD", f"md5 {told}, but the records give {wanted}")


def _attested(params: Params, kinds: list[str]) -> Iterator[Link]:
    """What dvc.lock says of the folders of records; the phantom's are named by their children."""
    held: dict[str, Any] = {}
    if LOCK.is_file():
        stages = (yaml.safe_load(LOCK.read_text(encoding="utf-8")) or {}).get("stages") or {}
        held = {out["path"]: out["md5"] for s in stages.values() for out in s.get("outs", [])}
    for kind in (kind for kind in kinds if kind != "phantom"):
        folder = Paths(params.scale).record(kind, "x").parent
        what = f"{LOCK} on {folder}"
        if folder.as_posix() not in held:
            yield Link(0, what, "not attested", "no stage of it names that folder")
            continue
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        found = {p.relative_to(folder).as_posix(): _md5(p) for p in files}
        have, told = f"{pointers.folder_md5(found)}.dir", held[folder.as_posix()]
        if have == told:
            yield Link(0, what, "ok", f"md5 {told}")
        else:
            note = f"md5 {told}, but the folder's is {have}; `cxrmim attest` writes it"
            yield Link(0, what, "not attested", note)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
