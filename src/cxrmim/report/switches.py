"""What ledger.yaml states, docs/switches.md made of it, and whether both hold.

`python -m cxrmim.report.switches` writes docs/switches.md. `faults` lists what the ledger promises
and the repository does not keep: a switch that params.yaml lacks, a default that is another there,
a test or a heading of the docs that is not there, a cell that no grid has.
"""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from cxrmim import grid, plugins
from cxrmim import params as params_module
from cxrmim.errors import CheckError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import LEAKAGE, atomic
from cxrmim.plugins import Strict
from cxrmim.report import published
from cxrmim.report.cells import layout_of

HOME = Path(__file__).with_name("ledger.yaml")
DOCS = Path("docs") / "switches.md"
SILENT = "silent"
NAMED = {"downstream": 2, "seeds": 0}  # which word of a key a test must name, else the last
HEAD = """# Switches: where a paper and its released code differ

Every choice is a key of `params.yaml`. The default is the paper's side, or, where a paper is
silent, what the released code does. `protocol: released` lays the block `released` of `params.yaml`
over the rest. A value without code is refused when `params.yaml` is read. "(released)" marks the
official code's side; where the default is marked, paper and code agree or the paper is silent.

This file is made of `src/cxrmim/report/ledger.yaml`, which also has what paper and code say, the
tests that flip each switch and what the report compares: change it there, then run
`python -m cxrmim.report.switches`.
"""
FOOT = """
What happens to broken files, tables and reports: [data.md](data.md#bad-input). What each downstream
task does: [downstream.md](downstream.md).
"""
Address = Annotated[str, Field(pattern=r"^[a-z0-9_]+:[a-z0-9-]+(:[a-z0-9_-]+)?$")]
Key = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z0-9_-]+)*$")]
NodeId = Annotated[str, Field(pattern=r"^tests/[a-z0-9_/]+\.py::test_\w+$")]
Anchor = Annotated[str, Field(pattern=r"^docs/[a-z]+\.md#[a-z0-9_-]+$")]
Text = Annotated[str, Field(min_length=1)]


class Switch(Strict):
    """A key of params.yaml, with both sides' values at scale `paper`.

    `released` is given where it is not the default; `tests` where they are not the row's.
    """

    key: Key
    default: Any
    released: Any = None
    tests: list[NodeId] = []

    @property
    def sides(self) -> tuple[Any, Any]:
        """Value under ``protocol: paper`` and under ``protocol: released``."""
        differ = "released" in self.model_fields_set
        return self.default, self.released if differ else self.default


class Compare(Strict):
    """Two rows of a block (in every column that they share, or in `columns`), or two cells."""

    kind: Literal["cells", "published"]
    what: Text
    ours: Address
    other: Address
    columns: list[str] = []


class Metric(Strict):
    """Two numbers of the runs behind cells."""

    kind: Literal["metric"]
    what: Text
    cells: Annotated[list[Address], Field(min_length=1)]
    ours: Text
    other: Text


class Place(Strict):
    """A number of leakage.json: a rule of a dataset, and the path to it; `of` is its total."""

    rule: Text
    path: Text
    of: Text | None = None


class Public(Strict):
    """What a rule does on real label tables; `ours` and `other` are the same measure."""

    kind: Literal["public"]
    what: Text
    dataset: Text
    unit: Literal["images", "patients", "percent", "Dice"]
    ours: Place
    other: Place


class Entry(Strict):
    """One topic: what is written about it in ledger.yaml.

    `sheet` names the rows of section 4 of the literature sheet (protocols.md) that it covers; none
    is a switch of our own. `default` and `other` may hold `{leaf}` of a switch's key, or `{0}`, for
    the value of the default.
    """

    topic: Text
    sheet: list[str] = []
    paper: Text = SILENT
    code: Text = SILENT
    default: Text
    other: Text = "any"
    switches: list[Switch] = []
    tests: Annotated[list[NodeId], Field(min_length=1)]
    docs: Anchor | None = None
    measured: list[Annotated[Compare | Metric | Public, Field(discriminator="kind")]] = []

    def fill(self, text: str) -> str:
        """A text with the values of the switches in it."""
        values = [plain(switch.default) for switch in self.switches]
        leaves = [switch.key.rpartition(".")[2] for switch in self.switches]
        named = dict(zip(reversed(leaves), reversed(values), strict=True))  # the first of a name
        try:
            return text.format(*values, **named)
        except (LookupError, ValueError) as error:
            raise ParamsError(f"{HOME.name}: {self.topic}: {text!r}: {error!r}") from None


Ledger = dict[str, list[Entry]]  # by heading


class Values:
    """Settings of one set of parameters by dotted key; a method's as it is resolved."""

    def __init__(self, params: Params) -> None:
        self._params = params
        self._tree = params.model_dump(mode="json")
        self._method = cache(lambda name: params.pretraining(name)[1].model_dump(mode="json"))

    def __getitem__(self, key: str) -> Any:
        """The value at a key, what a method is built on included.

        Raises:
            KeyError: there is no such key.
        """
        tree, parts = self._tree, key.split(".")
        if parts[:2] == ["pretrain", "methods"] and parts[2] in self._params.pretrain.methods:
            tree, parts = self._method(parts[2]), parts[3:]
        for part in parts:
            if not isinstance(tree, dict) or part not in tree:
                raise KeyError(key)
            tree = tree[part]
        return tree


def load(path: Path = HOME) -> Ledger:
    """Read and validate the ledger.

    Raises:
        ParamsError: one line that names the entry and what is wrong with it.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(Ledger).validate_python(tree)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        group, at, *rest = (*fault["loc"], "", "")
        named = tree[group][at].get("topic", at) if isinstance(at, int) else at
        place = ".".join(str(part) for part in rest if part != "")
        raise ParamsError(f"{path.name}: {group}: {named}: {place}: {fault['msg']}") from None


def plain(value: Any) -> str:
    """A value in short."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def slug(heading: str) -> str:
    """The anchor that a Markdown heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchor(group: str) -> str:
    """File and heading of a group of topics."""
    return f"{DOCS.as_posix()}#{slug(group)}"


def to_docs(ledger: Ledger) -> str:
    """docs/switches.md: one table a group."""
    parts = [HEAD]
    for group, entries in ledger.items():
        lines = [
            f"\n## {group}\n",
            "| topic | switch | default | other side |",
            "|---|---|---|---|",
        ]
        for entry in entries:
            texts = (entry.fill(entry.default), entry.fill(entry.other))
            lines.append(" | ".join(("| " + entry.topic, _named(entry.switches), *texts)) + " |")
        parts.append("\n".join(lines) + "\n")
    return "".join([*parts, FOOT])


def _named(switches: list[Switch]) -> str:
    """Keys in backticks; one of the same block as its forerunner by its last word."""
    out, block = [], ""
    for switch in switches:
        own, _, leaf = switch.key.rpartition(".")
        out.append(f"`{leaf}`" if own and own == block else f"`{switch.key}`")
        block = own
    return ", ".join(out) or "none"


def look_up(tree: Any, dataset: str, rule: str, path: str) -> float:
    """A number of leakage.json.

    Raises:
        CheckError: it holds no such rule, or no number there.
    """
    found: Any = next(
        (r for r in tree["rules"] if (r["dataset"], r["rule"]) == (dataset, rule)), None
    )
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if type(found) not in (int, float):
        raise CheckError(
            f"{LEAKAGE}: no number at {dataset}, {rule}: {path}; make it again with "
            f"`cxrmim audit --public`"
        )
    return float(found)


def faults(ledger: Ledger, paper: Params, root: Path) -> list[str]:
    """What the ledger promises and the repository does not keep, one line each.

    Args:
        ledger: what `load` gave.
        paper: the parameters of scale `paper`.
        root: the repository.
    """
    out: list[str] = []
    sides = Values(paper), Values(paper.released)
    keys: dict[str, str] = {}
    tests = _Tests(root)
    public = json.loads((root / LEAKAGE).read_text(encoding="utf-8"))
    for group, entries in ledger.items():
        for entry in entries:
            found = [
                f"no heading {a}" for a in (entry.docs or anchor(group),) if not _headed(root, a)
            ]
            for switch in entry.switches:
                if switch.key in keys:
                    found.append(f"{switch.key} is also a switch of {keys[switch.key]}")
                keys[switch.key] = entry.topic
                found += _values(switch, *sides)
                named = switch.tests or entry.tests
                if not tests.lost(named):
                    found += _tested(switch, named, paper, tests)
            own = [test for switch in entry.switches for test in switch.tests]
            found += [f"no test {t}" for t in tests.lost([*dict.fromkeys([*entry.tests, *own])])]
            for item in entry.measured:
                found += _addressed(item, paper, public)
            out += [f"{entry.topic}: {fault}" for fault in found]
    return out


def _values(switch: Switch, paper: Values, released: Values) -> Iterator[str]:
    for values, stated, name in zip(
        (paper, released), switch.sides, ("paper", "released"), strict=True
    ):
        try:
            value = values[switch.key]
        except KeyError:
            yield f"params.yaml has no {switch.key}"
            return
        if value != stated:
            yield f"{switch.key} is {value!r} under protocol {name}, the ledger says {stated!r}"


class _Tests:
    """Test files of a repository, each read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, tuple[str, set[str]]] = {}

    def file(self, name: str) -> tuple[str, set[str]]:
        """Text of a file and the functions at its top level; nothing if there is none."""
        if name not in self._read:
            path = self._root / name
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            found = {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
            self._read[name] = text, found
        return self._read[name]

    def lost(self, tests: list[str]) -> list[str]:
        """Node ids of tests that do not exist."""
        return [t for t in tests if t.partition("::")[2] not in self.file(t.partition("::")[0])[1]]


def _tested(switch: Switch, names: list[str], params: Params, tests: _Tests) -> Iterator[str]:
    """A file of its tests names the switch, or an entry that sets it."""
    parts = switch.key.split(".")
    leaf = parts[NAMED.get(parts[0], -1)]
    said = [leaf, *(e for e, v in params.pretrain.entries.items() if leaf in str(v.set))]
    words = re.compile("|".join(rf"(?<![a-z]){re.escape(word)}(?![a-z])" for word in said))
    files = sorted({test.partition("::")[0] for test in names})
    if not any(words.search(tests.file(file)[0]) for file in files):
        yield f"{', '.join(files)} never names {leaf}"


def _headed(root: Path, place: str) -> bool:
    """Whether a file of the docs has a heading."""
    file, _, wanted = place.partition("#")
    path = root / file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return wanted in {slug(line.lstrip("# ")) for line in text.splitlines() if line[:1] == "#"}


def _addressed(item: Compare | Metric | Public, params: Params, public: Any) -> Iterator[str]:
    """Every cell is in the grid of scale `paper`, every number in its file."""
    if isinstance(item, Public):
        for side in (item.ours, item.other):
            for path in filter(None, (side.path, side.of)):
                try:
                    look_up(public, item.dataset, side.rule, path)
                except CheckError as error:
                    yield str(error)
        return
    for address in item.cells if isinstance(item, Metric) else (item.ours, item.other):
        block, entry, column = (*address.split(":"), "")[:3]
        if block not in params.grid or entry not in grid.rows(params, params.grid[block]):
            yield f"the grid has no {block}:{entry}"
            continue
        if not any(plugins.source(kind, block) for kind in ("table", "figure")):
            yield f"{block} is no table and no figure"
            continue
        readers = {c.dataset: grid.reader(params, c.dataset) for c in params.grid[block].cells}
        columns = {c.key for c in layout_of(block).columns(block, params.grid[block], readers)}
        printed = {c for e, c in published.table(block).values if e == entry}
        wanted = {column} if column else set(getattr(item, "columns", ()))
        known = printed if item.kind == "published" else columns
        yield from (f"{block}:{entry} has no column {c}" for c in sorted(wanted - known))


def main() -> int:
    """Write docs/switches.md of the repository that is the working directory."""
    text = to_docs(load())
    with atomic(DOCS) as temporary:
        temporary.write_text(text, encoding="utf-8")
    paper = params_module.load(scale="paper")
    for fault in (found := faults(load(), paper, Path())):
        print(fault)  # noqa: T201
    return 4 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
