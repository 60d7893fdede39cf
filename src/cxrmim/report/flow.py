"""Dataset flow: from the rows of a raw table to the images of each split and label subset.

Made from the records of the manifest and shards stops alone. Nothing is lost on the way without a
reason: the numbers are held against each other, and a record whose steps do not add up is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import audit

Tree = dict[str, Any]
Counts = Mapping[str, int | None]
SPLITS = ("train", "valid", "test")
UNITS = ("images", "studies", "patients")
SUBSET = re.compile(r"in_(1|10)(?:_s(\d+))?")
ROWS, KEPT, STORED = "rows", "kept", "stored as arrays"
SHORT = "report is too short"
MEND = "restore it with git or run `snakemake --cores all`"


class Step(NamedTuple):
    """One step of a flow.

    `rows` is how many there are, or how many this step takes away (`dropped`) or adds (`added`: a
    rule of a released code lets rows stand in two splits).
    """

    label: str
    rows: int
    dropped: bool = False
    added: bool = False

    @property
    def text(self) -> str:
        """The count with its sign."""
        sign = "−" if self.dropped else "+" if self.added else ""
        return f"{sign}{self.rows:,}"


@dataclass(frozen=True)
class Flow:
    """One dataset entry.

    Attributes:
        entry: its name in params.yaml.
        reader: the dataset that it reads.
        used: whether runs use it; the others replay a rule of the official code.
        unit: what no two splits may share, "" for a released rule.
        steps: rows of the raw table; what each rule excludes, in order; rows of the manifest; for
            entries in use also what the arrays leave out, and what they hold. Rules that exclude
            nothing are left out.
        idle: rules that exclude nothing, in order.
        faults: the rules of `steps` by which rows were dropped as broken, and how many.
        splits: train, valid, test -> images, studies, patients of the manifest; None for a unit
            that the tables do not name. Images add up to the manifest's rows.
        subsets: label subset in words -> the same.
        unstored: manifest rows without an array: the sum of the steps after the manifest; of an
            entry that replays a rule, the rows whose image no entry in use has.
    """

    entry: str
    reader: str
    used: bool
    unit: str
    steps: tuple[Step, ...]
    idle: tuple[str, ...]
    faults: Mapping[str, int]
    splits: Mapping[str, Counts]
    subsets: Mapping[str, Counts]
    unstored: int


def datasets(params: Params) -> list[Flow]:
    """The flow of every entry that the scale reads, those of one dataset together.

    Args:
        params: all parameters.

    Raises:
        CheckError: a record is missing, holds no flow, or its numbers do not add up.
    """
    return [_flow(params, name, used) for name, used in audit.entries(params)]


def _flow(params: Params, name: str, used: bool) -> Flow:
    manifest, shards = (_Source(params, kind, name) for kind in ("manifest", "shards"))
    steps, kept = _excluded(manifest)
    splits = {split: _counts(manifest, split) for split in SPLITS}
    total = sum(manifest.count("metrics", "splits", split, "images") for split in SPLITS)
    if total != kept:
        raise manifest.fault(f"the splits hold {total} images, the flow keeps {kept}")
    if shards.count("metrics", ROWS) != kept:
        found = shards.count("metrics", ROWS)
        raise shards.fault(f"metrics.rows is {found}, the manifest has {kept} rows")
    later = _stored(shards) if used else []
    told = [step for step in [*steps, *later] if step.rows or not step.dropped]
    return Flow(
        entry=name,
        reader=grid.reader(params, name),
        used=used,
        unit=manifest.text("details", "unit"),
        steps=tuple(told),
        idle=tuple(s.label for s in [*steps, *later] if s.dropped and not s.rows),
        faults=_faults(manifest, {step.label: step.rows for step in told if step.dropped}),
        splits=splits,
        subsets=_subsets(manifest),
        unstored=kept - later[-1].rows if used else shards.count("metrics", "not_stored"),
    )


class _Source:
    """A record of which only numbers of the right kind are taken."""

    def __init__(self, params: Params, kind: str, name: str) -> None:
        self.path = Paths(params.scale).record(kind, name)
        self.tree = record.read(self.path)
        wanted = {"kind": kind, "id": name, "source": params.manifest.source}
        for key, value in wanted.items():
            if self.tree.get(key) != value:
                raise self.fault(f"{key} is {self.tree.get(key)!r}, not {value!r}")

    def fault(self, what: str) -> CheckError:
        return CheckError(f"{self.path}: {what}; {MEND}")

    def value(self, *keys: str) -> Any:
        found: Any = self.tree
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                raise self.fault(f"holds no {'.'.join(keys)}")
            found = found[key]
        return found

    def count(self, *keys: str, least: int | None = 0) -> int:
        """A whole number, at least `least` unless that is None."""
        found = self.value(*keys)
        if type(found) is not int or (least is not None and found < least):
            raise self.fault(f"{'.'.join(keys)} is {found!r}, not a count")
        return found

    def table(self, *keys: str) -> Tree:
        found = self.value(*keys)
        if not isinstance(found, dict):
            raise self.fault(f"{'.'.join(keys)} is no table of counts")
        return found

    def text(self, *keys: str) -> str:
        """A text; "" for null."""
        found = self.value(*keys)
        if found is not None and not isinstance(found, str):
            raise self.fault(f"{'.'.join(keys)} is {found!r}, not a text")
        return found or ""

    def texts(self, *keys: str) -> list[str]:
        found = self.value(*keys)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.fault(f"{'.'.join(keys)} is no list of names")
        return found


def _excluded(manifest: _Source) -> tuple[list[Step], int]:
    """Steps of the manifest stop, and the rows that it keeps; the steps add up to them."""
    order, named = manifest.texts("details", "flow"), manifest.table("metrics", "flow")
    if sorted(order) != sorted(named) or order[:1] != [ROWS] or order[-1:] != [KEPT]:
        raise manifest.fault("details.flow does not name the steps of metrics.flow")
    rows, kept = (manifest.count("metrics", "flow", key) for key in (ROWS, KEPT))
    steps = [Step("rows of the raw table", rows)]
    left = rows
    for label in order[1:-1]:
        change = manifest.count("metrics", "flow", label, least=None)
        left -= change
        steps.append(Step(label, abs(change), dropped=change >= 0, added=change < 0))
    if left != kept:
        raise manifest.fault(f"{rows} rows less what is excluded are {left}, not {kept}")
    return [*steps, Step("rows of the manifest", kept)], kept


def _stored(shards: _Source) -> list[Step]:
    """Steps of the shards stop; they add up."""
    rows, kept = (shards.count("metrics", key) for key in (ROWS, KEPT))
    lost = {SHORT: shards.count("metrics", "short_reports")}
    for reason in sorted(shards.table("metrics", "unreadable")):
        lost[reason] = lost.get(reason, 0) + shards.count("metrics", "unreadable", reason)
    if rows - sum(lost.values()) != kept:
        raise shards.fault(
            f"{rows} rows less what is excluded are {rows - sum(lost.values())}, not {kept}"
        )
    return [*(Step(label, n, dropped=True) for label, n in lost.items()), Step(STORED, kept)]


def _faults(manifest: _Source, dropped: Mapping[str, int]) -> dict[str, int]:
    """Rows that were dropped as broken, by step; no more than the step drops."""
    out = {}
    for reason in manifest.table("metrics", "faults"):
        count = manifest.count("metrics", "faults", reason)
        if count > dropped.get(reason, 0):
            raise manifest.fault(f"metrics.faults.{reason} is {count}, more than the flow drops")
        out[reason] = count
    return {label: out[label] for label in dropped if out.get(label)}


def _counts(manifest: _Source, part: str) -> dict[str, int | None]:
    """Images, studies and patients of a split or subset; the images are the most."""
    named = manifest.texts("details", "named")
    found = {unit: manifest.count("metrics", "splits", part, unit) for unit in UNITS}
    if found["images"] < max(found.values()):
        raise manifest.fault(f"metrics.splits.{part} has more studies or patients than images")
    return {unit: count if unit in named else None for unit, count in found.items()}


def _subsets(manifest: _Source) -> dict[str, Counts]:
    """Label subsets in words, the scarcer first, then by seed."""
    found = {}
    for name in manifest.table("metrics", "splits"):
        if name in SPLITS:
            continue
        match = SUBSET.fullmatch(name)
        if match is None:
            raise manifest.fault(f"metrics.splits.{name} is no split and no label subset")
        percent, seed = int(match[1]), -1 if match[2] is None else int(match[2])
        found[percent, seed] = name
    words = {
        key: f"{key[0]} % of the labels" + (f", seed {key[1]}" if key[1] >= 0 else "")
        for key in found
    }
    return {words[key]: _counts(manifest, found[key]) for key in sorted(found)}
