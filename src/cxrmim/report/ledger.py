"""The ledger of a scale: where a paper and its released code differ, and what that changes.

ledger.yaml states topic, paper, released code, default, switches, tests and docs (`switches` reads
it and makes docs/switches.md of it). Here its comparisons are filled in:

    cells      two cells of the grid: difference with an interval over test images and p
    metric     two numbers of the same runs (conventions of Dice): mean difference over seeds
    published  two numbers that the papers print
    public     a split rule on real public label tables, from results/public/leakage.json

Differences are ours minus the other side; p is two-sided and not corrected.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from cxrmim.params import Params
from cxrmim.paths import LEAKAGE
from cxrmim.report import published, render
from cxrmim.report.book import Book
from cxrmim.report.cells import PERCENT, Cell
from cxrmim.report.statistics import contrast
from cxrmim.report.switches import (
    Compare,
    Entry,
    Metric,
    Public,
    Values,
    anchor,
    load,
    look_up,
    plain,
)

stated = cache(load)  # reading YAML takes longer than all the comparisons
HEADER = (
    *("topic", "group", "sheet", "paper", "code", "default", "other", "switch", "here"),
    *("tests", "docs", "kind", "what", "ours", "other_side", "ours_value", "other_value", "unit"),
    *("difference", "ci_low", "ci_high", "p", "n", "paired", "source", "reason"),
)


@dataclass(frozen=True)
class Measured:
    """One comparison of the two sides.

    Attributes:
        kind: what was compared, see the head of this module.
        what: what the two sides are.
        ours: address of our side: a cell, a metric of a cell, or a rule of leakage.json.
        other: address of the other side.
        ours_value: our side: x100, or a count of `unit`.
        other_value: the other side.
        unit: "points", or what is counted.
        difference: ours minus the other side, in `unit`; None if not measured.
        low: lower end of the 95 % interval over test images, None where there is none.
        high: its upper end.
        p: two-sided, uncorrected; None where there is none.
        n: seeds; 0 for what no run made.
        paired: whether both sides are of one test set, and its draws.
        source: whose data the numbers are of.
        reason: why it was not measured, "" if it was.
        of: totals that the counts are of, (None, None) for what is no count.
    """

    kind: str
    what: str
    ours: str
    other: str
    ours_value: float | None = None
    other_value: float | None = None
    unit: str = "points"
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    paired: bool = True
    source: str = ""
    reason: str = ""
    of: tuple[float | None, float | None] = (None, None)

    @property
    def text(self) -> str:
        """The result in one line."""
        if self.difference is None:
            return self.reason
        if self.kind == "public":
            counts = [
                _count(value) + ("" if total is None else f" of {_count(total)}")
                for value, total in zip((self.ours_value, self.other_value), self.of, strict=True)
            ]
            return f"ours {counts[0]}, other {counts[1]} {self.unit}"
        sides = f"{self.ours_value:.2f} against {self.other_value:.2f}"
        out = f"{render.signed(self.difference)} ({sides})"
        if self.high is not None and self.low is not None and self.p is not None:
            bounds = f"{render.signed(self.low)} to {render.signed(self.high)}"
            out += f", 95% interval {bounds}, p = {self.p:.2g}"
        out += f", n = {self.n}" if self.n else ""
        return out + ("" if self.paired else "; not paired")


@dataclass(frozen=True)
class Line:
    """One topic of the ledger at a scale.

    Attributes:
        topic: what it is about.
        group: heading under which docs/switches.md has it.
        sheet: rows of section 4 of the literature sheet that it covers, none for our own.
        paper: what the paper says.
        code: what the released code does.
        default: what is done here.
        other: what else the switch offers.
        switch: dotted keys of params.yaml.
        here: what this scale sets otherwise, "" if nothing.
        docs: file and heading.
        tests: node ids of pytest.
        measured: the comparisons of both sides.
        reason: why nothing was measured, "" if something was.
    """

    topic: str
    group: str
    sheet: tuple[str, ...]
    paper: str
    code: str
    default: str
    other: str
    switch: tuple[str, ...]
    here: str
    docs: str
    tests: tuple[str, ...]
    measured: tuple[Measured, ...]
    reason: str


def rows(book: Book) -> list[Line]:
    """Every topic of the ledger, with what the records of the book's scale say about both sides.

    Raises:
        CheckError: leakage.json is there and lacks what the ledger names.
    """
    values = Values(book.params)
    out = []
    for group, entries in stated().items():
        for entry in entries:
            measured = tuple(m for item in entry.measured for m in _measure(book, item))
            missing = not any(m.difference is not None for m in measured)
            reason = measured[0].reason if measured else "the other side was not run at this scale"
            own = [test for switch in entry.switches for test in switch.tests]
            line = Line(
                topic=entry.topic,
                group=group,
                sheet=tuple(entry.sheet),
                paper=entry.paper,
                code=entry.code,
                default=entry.fill(entry.default),
                other=entry.fill(entry.other),
                switch=tuple(switch.key for switch in entry.switches),
                here=elsewhere(entry, values),
                docs=entry.docs or anchor(group),
                tests=tuple(dict.fromkeys([*entry.tests, *own])),
                measured=measured,
                reason=reason if missing else "",
            )
            out.append(line)
    return out


def elsewhere(entry: Entry, values: Values) -> str:
    """What a scale sets otherwise than scale `paper`, "" if nothing."""
    found = []
    for switch in entry.switches:
        try:
            value = values[switch.key]
        except KeyError:
            found.append(f"{switch.key}: none at this scale")
            continue
        if value != switch.default:
            found.append(f"{switch.key}: {plain(value)}")
    return "; ".join(found)


def _measure(book: Book, item: Compare | Metric | Public) -> Iterator[Measured]:
    if isinstance(item, Public):
        yield _public(item)
    elif isinstance(item, Metric):
        for address in item.cells:
            yield _metric(book, item, address)
    elif item.kind == "published":
        yield from _published(item)
    else:
        yield from _compared(book, item)


def _cells(book: Book, address: str) -> list[str]:
    """The address of a cell itself, or those of all cells of its row; itself if there is none."""
    block, entry, column = (*address.split(":"), "")[:3]
    found = book.table(block).rows if block in book.known and not column else ()
    return [c.address for r in found if r.entry == entry for c in r.cells] or [address]


def _look(book: Book, address: str) -> tuple[Cell | None, str]:
    """A measured cell, or why there is none."""
    cell = book.cell(address) if address.count(":") == 2 else None
    if cell is None:
        return None, "not run at this scale"
    return (cell, "") if cell.state == "measured" else (None, f"not run yet: {cell.reason}")


def _compared(book: Book, item: Compare) -> Iterator[Measured]:
    """Ours minus other, cell by cell."""
    row = item.ours.count(":") == 1
    for address in _cells(book, item.ours):
        column = address.removeprefix(item.ours) if row else ""
        empty = Measured("cells", item.what, address, item.other + column)
        (cell, reason), (other, why) = _look(book, empty.ours), _look(book, empty.other)
        if cell is None or other is None:
            yield replace(empty, reason=reason or why)
            continue
        found = contrast([(1.0, cell), (-1.0, other)])
        yield replace(
            empty,
            ours_value=PERCENT * (cell.mean or 0.0),
            other_value=PERCENT * (other.mean or 0.0),
            difference=PERCENT * found.difference,
            low=PERCENT * found.low,
            high=PERCENT * found.high,
            p=found.p,
            n=found.n,
            paired=cell.column.cells.dataset == other.column.cells.dataset,
            source=_source(book.params),
        )


def _metric(book: Book, item: Metric, address: str) -> Measured:
    """Mean over the runs of one number of the record minus another."""
    empty = Measured("metric", item.what, f"{address} {item.ours}", f"{address} {item.other}")
    cell, reason = _look(book, address)
    if cell is None:
        return replace(empty, reason=reason)
    for key in (item.ours, item.other):
        if any(book.records.tree(run)["metrics"].get(key) is None for run in cell.runs):
            return replace(empty, reason=f"its records hold no {key}")
    sides = [
        PERCENT * sum(book.records.metric(run, key) for run in cell.runs) / len(cell.runs)
        for key in (item.ours, item.other)
    ]
    return replace(
        empty,
        ours_value=sides[0],
        other_value=sides[1],
        difference=sides[0] - sides[1],
        n=len(cell.runs),
        source=_source(book.params),
    )


def _published(item: Compare) -> Iterator[Measured]:
    """The papers' own numbers, as printed."""
    for column in item.columns:
        values = []
        for address in (item.ours, item.other):
            block, entry = address.split(":")
            values.append(published.table(block).values[entry, column])
        yield Measured(
            "published",
            item.what,
            f"{item.ours}:{column}",
            f"{item.other}:{column}",
            ours_value=values[0],
            other_value=values[1],
            difference=round(values[0] - values[1], 2),
            source="published",
        )


def _public(item: Public) -> Measured:
    """A number of the real label tables under both rules."""
    places = [f"{item.dataset}, {side.rule}: {side.path}" for side in (item.ours, item.other)]
    empty = Measured("public", item.what, places[0], places[1], unit=item.unit)
    if not LEAKAGE.is_file():
        return replace(empty, reason=f"{LEAKAGE} is not there; `cxrmim audit --public` makes it")
    tree = json.loads(LEAKAGE.read_text(encoding="utf-8"))
    values = [look_up(tree, item.dataset, side.rule, side.path) for side in (item.ours, item.other)]
    totals = [
        None if side.of is None else look_up(tree, item.dataset, side.rule, side.of)
        for side in (item.ours, item.other)
    ]
    return replace(
        empty,
        ours_value=values[0],
        other_value=values[1],
        difference=values[0] - values[1],
        source="real public label tables",
        of=(totals[0], totals[1]),
    )


def _source(params: Params) -> str:
    return f"{params.manifest.source} data"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}".removesuffix(".00")


def to_csv(lines: Sequence[Line]) -> str:
    """One row a comparison, or one a topic without any; points and counts as in `Measured`."""
    out: list[Sequence[str]] = [HEADER]
    for line in lines:
        head = [
            line.topic, line.group, "; ".join(line.sheet), line.paper, line.code, line.default,
            line.other, "; ".join(line.switch), line.here, "; ".join(line.tests), line.docs,
        ]  # fmt: skip
        for m in line.measured:
            sides, signed = (m.ours_value, m.other_value), (m.difference, m.low, m.high)
            tail = [
                m.kind, m.what, m.ours, m.other,
                *("" if v is None else f"{v:.2f}" for v in sides), m.unit,
                *("" if v is None else render.signed(v) for v in signed),
                "" if m.p is None else f"{m.p:.3g}",
                str(m.n), "yes" if m.paired else "no", m.source, m.reason,
            ]  # fmt: skip
            out.append([*head, *tail])
        if not line.measured:
            out.append([*head, *[""] * (len(HEADER) - len(head) - 1), line.reason])
    return render.csv_text(out)


def to_markdown(lines: Sequence[Line], params: Params) -> str:
    """The ledger for people: what was measured first, then every topic."""
    heads = ["topic", "what", "ours", "other side", "result", "data"]
    text = [
        "# Ledger: paper, released code, and what is done here",
        "",
        f"**{render.banner(params)}.** Scale {params.scale}, protocol {params.protocol}. Lines "
        "whose data are public label tables or published values say so; they are real.",
        "",
        "## Both sides compared",
        "",
        "Our side minus the other, in points, with the 95% interval over test images and a "
        "two-sided p that counts the seeds too and is not corrected for the number of lines.",
        "",
        render.pipes(heads),
        render.pipes(["---"] * len(heads), raw=True),
    ]
    for line in lines:
        for m in line.measured:
            shown = [line.topic, m.what, m.ours, m.other, m.text, m.source]
            text.append(render.pipes(shown))
    heads = ["topic", "paper", "released code", "default"]
    heads += ["switch", "this scale", "tests", "compared"]
    for group in dict.fromkeys(line.group for line in lines):
        text += ["", f"## {group}", "", render.pipes(heads)]
        text.append(render.pipes(["---"] * len(heads), raw=True))
        for line in lines:
            if line.group == group:
                shown = [line.topic, line.paper, line.code, line.default.replace("`", "")]
                shown += [", ".join(line.switch), line.here, ", ".join(line.tests)]
                shown.append(line.reason or "above")
                text.append(render.pipes(shown))
    return "\n".join(text) + "\n"
