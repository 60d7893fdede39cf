"""What differs between two results, two units of work or two cells, in five groups.

A result is a folder `results/<scale>` of any clone, or a revision of this one's git history. A unit
or a cell stands for its records and all that they were made from. Everything is read from records
and circumstances, so that a bare clone tells it too.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cxrmim import check, git
from cxrmim.errors import CheckError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths

Tree = dict[str, Any]
Unit = tuple[str, str]
GROUPS = ("params", "code", "data", "environment", "cells")
SHOWN = 12  # lines of a group
VARIANTS = 3  # different changes of one key that are printed each on its own
WIDTH = 48
MANY = object()  # stands for several values below one key
DATA = ("phantom", "manifest", "shards")
SKIPPED = ("cost", "finished", "schema", "slurm_job")  # of circumstances: they always differ
CELL_KEYS = ("value", "sd", "ci_low", "ci_high", "n")


@dataclass
class Side:
    """One of the two that are compared.

    Attributes:
        name: as the user gave it.
        records: by (kind, unit).
        circumstances: likewise.
        params: params.yaml as a plain tree; empty for a unit or a cell.
        cells: summary.json's cells by address; empty for a unit.
        whole: whether it is a whole result.
    """

    name: str
    records: dict[Unit, Tree] = field(default_factory=dict)
    circumstances: dict[Unit, Tree] = field(default_factory=dict)
    params: Tree = field(default_factory=dict)
    cells: dict[str, Tree] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True)
class Change:
    """One value that differs between two units; the second is "" if both are called the same."""

    group: str
    what: str
    key: str
    unit: str
    left: Any
    right: Any


def compare(params: Params, a: str, b: str, limit: int | None = SHOWN) -> Iterator[str]:
    """Lines that tell what differs, by group with counts.

    Args:
        params: all parameters of this checkout.
        a: a cell, a unit, a folder or a revision.
        b: likewise.
        limit: lines printed of a group, None for all.

    Raises:
        ParamsError: there is nothing of that name.
        CheckError: it has records that cannot be read.
    """
    left, right = side(params, a), side(params, b)
    yield f"A {left.name}: {len(left.records)} records"
    yield f"B {right.name}: {len(right.records)} records"
    found = list(changes(left, right))
    if not found:
        yield "no difference in params, code, data, environment or cells"
        return
    for group in GROUPS:
        mine = [change for change in found if change.group == group]
        lines = list(_lines(mine))
        count = f"{len(mine)} difference{'s' if len(mine) > 1 else ''}"
        yield f"{group}: {count if mine else 'the same'}"
        yield from (f"  {line}" for line in lines[:limit])
        if limit is not None and len(lines) > limit:
            yield f"  ... {len(lines) - limit} more lines (--all)"


def side(params: Params, name: str) -> Side:
    """Read what a name stands for: a folder, a unit, a cell or a revision.

    Raises:
        ParamsError: none of these.
    """
    if Path(name).is_dir():
        return _folder(name)
    here = Paths(params.scale)
    kind, _, unit = name.partition("/")
    if kind in check.KINDS:
        result = _folder(here.results.as_posix())
        if (kind, unit) not in result.records:
            raise ParamsError(f"{name}: no such unit; there is no {here.record(kind, unit)}")
        return _chain(result, name, [(kind, unit)])
    if name.count(":") > 1:
        from cxrmim import trace

        cell, _ = trace.find(params, name)
        out = _chain(
            _folder(here.results.as_posix()),
            cell.address,
            [("downstream", r.id) for r in cell.runs],
        )
        if not out.records:
            why = cell.reason or "no run makes it"
            raise ParamsError(f"{cell.address}: {cell.state}, nothing to compare: {why}")
        spread = {"sd": cell.sd, "ci_low": None, "ci_high": None, "n": cell.n}
        if cell.interval is not None:
            spread |= dict(zip(("ci_low", "ci_high"), cell.interval, strict=True))
        if cell.mean is not None:
            out.cells = {"": {"value": cell.mean} | spread}
        return out
    return _revision(params, name)


def _folder(name: str) -> Side:
    """A result on disk; its params.yaml is that of the clone that it lies in."""
    root = Path(name)
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in ("records", "tables")
        for path in sorted((root / folder).rglob("*.json"))
    }
    params = root.resolve().parent.parent / "params.yaml"
    return _side(name, files, params.read_bytes() if params.is_file() else b"")


def _revision(params: Params, name: str) -> Side:
    """A result as a revision of git holds it."""
    root = Paths(params.scale).results
    commit = "".join(git.lines("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"))
    if not commit:
        raise ParamsError(
            f"{name}: neither a folder, nor a unit (pretrain/medim-s0), nor a cell "
            f"(TABLE:ROW:COLUMN), nor a revision of git"
        )
    wanted = ["params.yaml", (root / "records").as_posix(), Paths(params.scale).summary.as_posix()]
    there = [path for path in wanted if git.ask("ls-tree", commit, "--", path)]
    if wanted[1] not in there:
        raise ParamsError(f"{name}: that revision has no {wanted[1]}; --scale picks another scale")
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(git.ask("archive", commit, "--", *there) or b"")) as tar:
        for member in tar:
            handle = tar.extractfile(member)
            if handle is not None:
                files[member.name] = handle.read()
    text = files.pop("params.yaml", b"")
    below = {PurePosixPath(k).relative_to(root).as_posix(): v for k, v in files.items()}
    return _side(f"{name} ({commit[:12]})", below, text)


def _side(name: str, files: dict[str, bytes], params: bytes) -> Side:
    """Sort a result's files (paths below its folder) into records, circumstances and cells."""
    out = Side(name, whole=True)
    for path, content in files.items():
        try:
            tree = json.loads(content)
        except ValueError:
            raise CheckError(f"{name}: {path} is not valid JSON; restore it with git") from None
        folder, _, rest = path.partition("/")
        if folder == "records":
            kind, _, unit = rest.partition("/")
            if unit.endswith(check.HOW):
                out.circumstances[kind, unit.removesuffix(check.HOW)] = tree
            else:
                out.records[kind, unit.removesuffix(".json")] = tree
        elif rest == "summary.json":
            out.cells = tree.get("cells", {})
    if not out.records:
        raise ParamsError(f"{name}: holds no records; name a folder like {Paths('demo').results}")
    try:
        out.params = yaml.safe_load(params) or {}
    except yaml.YAMLError as error:
        raise ParamsError(f"{name}: params.yaml: {' '.join(str(error).split())}") from None
    return out


def _chain(result: Side, name: str, units: list[Unit]) -> Side:
    """Units and all that their records say they were made from."""
    out, queue = Side(name), list(units)
    while queue:
        key = queue.pop(0)
        if key in out.records or key not in result.records:
            continue
        out.records[key] = result.records[key]
        if key in result.circumstances:
            out.circumstances[key] = result.circumstances[key]
        for parent in result.records[key].get("parents", {}):
            kind, _, unit = parent.partition("/")
            queue.append((kind, unit))
    return out


def changes(left: Side, right: Side) -> Iterator[Change]:
    """Every value that differs between two sides."""
    for key, one, other in check.differences(left.params, right.params):
        yield Change("params", "params.yaml", key, "", one, other)
    for address in sorted({*left.cells, *right.cells}):
        one, other = left.cells.get(address, {}), right.cells.get(address, {})
        for key in CELL_KEYS:
            if one.get(key) != other.get(key):
                yield Change("cells", "cells", key, address, one.get(key), other.get(key))
    for kind in check.KINDS:
        mine, others = ([unit for k, unit in s.records if k == kind] for s in (left, right))
        group = "data" if kind in DATA else "params"
        for first, second in _paired(mine, others, by_order=not (left.whole and right.whole)):
            if first is None or second is None:
                one, other = ("none" if u is None else "there" for u in (first, second))
                yield Change(group, f"{kind} records", "record", first or second or "", one, other)
                continue
            unit = first if first == second else f"{first} | {second}"
            yield from _of_records(
                kind, unit, left.records[kind, first], right.records[kind, second]
            )
            yield from _of_circumstances(
                kind,
                unit,
                left.circumstances.get((kind, first), {}),
                right.circumstances.get((kind, second), {}),
            )


def _paired(
    mine: list[str], others: list[str], *, by_order: bool
) -> Iterator[tuple[str | None, str | None]]:
    """Units of the same name, then (of chains) the others in their order, then what is alone."""
    both = [unit for unit in mine if unit in others]
    yield from ((unit, unit) for unit in both)
    rest, others = ([u for u in units if u not in both] for units in (mine, others))
    while by_order and rest and others:
        yield rest.pop(0), others.pop(0)
    yield from ((unit, None) for unit in rest)
    yield from ((None, unit) for unit in others)


def _of_records(kind: str, unit: str, one: Tree, other: Tree) -> Iterator[Change]:
    """What differs between two records; hashes that follow from other values are left out."""
    what = f"{kind} records"
    made = "data" if kind in DATA else "cells"
    for key, group in (
        ("config", "params"),
        ("seed", "params"),
        ("source", "data"),
        ("code", "code"),
        ("inputs", "data"),
        ("outputs", made),
        ("metrics", made),
        ("details", made),
    ):
        seen = set()
        for inner, left, right in check.differences(one.get(key), other.get(key), key):
            parts = inner.split(".")
            if key in ("inputs", "outputs"):
                if parts[-1] != "sha256":
                    continue
            elif key in ("metrics", "details"):
                inner = ".".join(parts[:2])
                left, right = (MANY, MANY) if len(parts) > 2 else (left, right)
            if inner not in seen:
                seen.add(inner)
                yield Change(group, what, inner, unit, left, right)


def _of_circumstances(kind: str, unit: str, one: Tree, other: Tree) -> Iterator[Change]:
    for key in sorted({*one, *other} - {*SKIPPED}):
        group = "code" if key in ("commit", "dirty") else "environment"
        for inner, left, right in check.differences(one.get(key), other.get(key), key):
            yield Change(group, f"{kind} records", inner, unit, left, right)


def _lines(found: Iterable[Change]) -> Iterator[str]:
    """One line for what is changed alike in many places."""
    grouped: dict[tuple[str, str], list[Change]] = {}
    for change in found:
        grouped.setdefault((change.what, change.key), []).append(change)
    for (what, key), same in grouped.items():
        if what == "params.yaml":
            yield f"{what}: {key} {_arrow(same[0])}"
            continue
        if what == "cells":
            if key == "value":
                yield from _cell_lines(same)
            continue
        alike: dict[str, list[Change]] = {}
        for change in same:
            alike.setdefault(_arrow(change), []).append(change)
        if len(alike) <= VARIANTS:
            for arrow, group in alike.items():
                yield f"{key} {arrow} in {_count(group, what)}"
        else:
            first = same[0]
            example = "" if MANY in (first.left, first.right) else f", as {_arrow(first)}"
            yield f"{key} differs in {_count(same, what)}{example}"


def _cell_lines(found: list[Change]) -> Iterator[str]:
    """Cells whose value moved, the furthest first, and how many stand on one side alone."""
    moved = [c for c in found if c.left is not None and c.right is not None]
    for change in sorted(moved, key=lambda c: (-abs(c.right - c.left), c.unit)):
        values = " -> ".join(f"{100 * v:.2f}" for v in (change.left, change.right))
        yield f"{change.unit or 'value'} {values} ({100 * (change.right - change.left):+.2f})"
    one, other = ([c for c in found if getattr(c, s) is None] for s in ("right", "left"))
    for name, alone in (("A", one), ("B", other)):
        if alone:
            yield f"only in {name}: {len(alone)} cells ({alone[0].unit} ...)"


def _arrow(change: Change) -> str:
    if MANY in (change.left, change.right):
        return "differs"
    return f"{_shown(change.left)} -> {_shown(change.right)}"


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > SHOWN:
        return f"{len(value)} values"
    if (
        isinstance(value, str)
        and len(value) in (40, 64)
        and not set(value) - set("0123456789abcdef")
    ):
        return value[:12]
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _count(found: list[Change], what: str) -> str:
    units = list(dict.fromkeys(change.unit for change in found))
    if len(units) == 1:
        return f"{what.removesuffix(' records')}/{units[0]}"
    return f"{len(units)} {what} ({units[0]} ...)"
