"""Label-efficiency curves: a column of a table against the share of the training labels."""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxrmim import grid
from cxrmim.params import Params
from cxrmim.report import charts
from cxrmim.report.book import Book
from cxrmim.report.cells import PERCENT, Row, Table
from cxrmim.report.charts import MIDDLE, PALE, Look

HEADER = (
    "table", "dataset", "row", "percent", "mean", "sd", "n", "published", "state",
)  # fmt: skip
PAPERS = {"medim": "MedIM", "cmitm": "CMITM"}
LEFT, RIGHT, GAP = 0.48, 0.06, 0.34  # inches
TALL, SHORT, BETWEEN, FOOT, SIGN = 1.45, 0.95, 0.24, 0.56, 0.125
DODGE = 0.055  # of the distance between two shares, between neighbouring rows of three


@dataclass(frozen=True)
class Panel:
    """One dataset of a table: the positions of its columns among the table's."""

    table: Table
    dataset: str
    columns: tuple[int, ...]

    @property
    def title(self) -> str:
        """The dataset as printed, and its task where no metric is printed beside it."""
        column = self.table.columns[self.columns[0]]
        return column.group if "(" in column.group else f"{column.group} ({column.cells.task})"


def panels(book: Book, blocks: tuple[str, ...]) -> list[list[Panel]]:
    """The datasets of each block that the scale has, those with one share of labels left out."""
    found = []
    for block in blocks:
        if block in book.params.grid:
            table = book.table(block)
            groups: dict[str, list[int]] = {}
            for index, column in enumerate(table.columns):
                groups.setdefault(column.cells.dataset, []).append(index)
            found.append(
                [Panel(table, name, tuple(at)) for name, at in groups.items() if len(at) > 1]
            )
    return [line for line in found if line]


def lines(found: list[list[Panel]]) -> list[tuple[str, ...]]:
    """Rows of the csv: one a point; values x100."""
    out: list[tuple[str, ...]] = [HEADER]
    for panel in (panel for line in found for panel in line):
        for row in panel.table.rows:
            for cell in (row.cells[at] for at in panel.columns):
                if cell.state == "blank":
                    continue
                printed = "" if cell.published is None else f"{cell.published:g}"
                mean, sd = ("" if v is None else f"{PERCENT * v:.2f}" for v in (cell.mean, cell.sd))
                out.append(
                    (panel.table.id, panel.dataset, row.entry, str(cell.column.percent),
                     mean, sd, str(cell.n), printed, cell.state)
                )  # fmt: skip
    return out


def draw(params: Params, found: list[list[Panel]]) -> Figure:
    """A line of panels a table, ours; below it, grey, the same curves as the paper printed them."""
    if not found:
        return charts.notice("No table of this scale has more than one share of labels.")
    most = max(len(line) for line in found)
    width = charts.DOUBLE if most > 1 else charts.SINGLE
    entries = list(dict.fromkeys(r.entry for line in found for r in line[0].table.rows))
    look = charts.looks(e for e in entries if not e.startswith(grid.BASELINE))
    names = {r.entry: r.name for line in reversed(found) for r in line[0].table.rows}
    reasons: dict[str, int] = {}
    for line in found:
        for reason, count in line[0].table.reasons().items():
            reasons[reason] = reasons.get(reason, 0) + count
    notes = charts.waits(reasons, width)
    signs = [charts.sign(look[e], names[e]) for e in look]
    signs.append(charts.sign(charts.TRIVIAL, "best trivial baseline", lw=0.8))
    wide = 5 if most > 1 else 2
    low = 0.06 + charts.NOTE_LINE * len(notes)
    foot = low + SIGN * -(-len(signs) // wide) + 0.1
    steps = [TALL + FOOT + (BETWEEN + SHORT) * _printed(line) for line in found]
    out = charts.figure(width, charts.top(width) + sum(steps) + foot)
    y = foot + sum(steps)
    for line, step in zip(found, steps, strict=True):
        each = (width - LEFT - RIGHT - GAP * (most - 1)) / most
        for index, panel in enumerate(line):
            x = LEFT + index * (each + GAP)
            axes = charts.panel(out, x, y - TALL - 0.18, each, TALL)
            _ours(axes, panel, look)
            axes.set_title(f"{_paper(params, panel)}{panel.title}")
            if index == 0:
                axes.set_ylabel("ours, x100", labelpad=2)
            if _printed(line):
                axes = charts.panel(out, x, y - step + FOOT - 0.18, each, SHORT)
                _theirs(axes, panel, look)
                if index == 0:
                    axes.set_ylabel("published\n(real data)", labelpad=2)
            axes.set_xlabel("% of the training labels", labelpad=2)
        y -= step
    charts.legend(out, signs, low, wide)
    charts.footnotes(out, notes)
    return out


def _paper(params: Params, panel: Panel) -> str:
    paper = params.grid[panel.table.id].paper
    return f"{PAPERS[paper]}: " if paper else ""


def _printed(line: list[Panel]) -> bool:
    return any(cell.published is not None for row in line[0].table.rows for cell in row.cells)


def _shares(axes: Any, panel: Panel) -> None:
    """A position a share of labels: 1, 10 and 100 % are equally far apart on a log scale."""
    shares = [str(panel.table.columns[at].percent) for at in panel.columns]
    axes.set_xticks(range(len(shares)), shares)
    axes.set_xlim(-0.3, len(shares) - 0.7)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _curve(panel: Panel, row: Row) -> list[tuple[int, float, float]]:
    """(position, mean, sd) x100 of what was measured."""
    found = [(x, row.cells[at]) for x, at in enumerate(panel.columns)]
    return [
        (x, PERCENT * cell.mean, PERCENT * (cell.sd or 0))
        for x, cell in found
        if cell.mean is not None
    ]


def _ours(axes: Any, panel: Panel, look: dict[str, Look]) -> None:
    rows = [row for row in panel.table.rows if not row.baseline]
    for number, row in enumerate(rows):
        curve = _curve(panel, row)
        shift = DODGE * len(panel.columns) / 3 * (number - (len(rows) - 1) / 2)
        if curve:
            axes.errorbar(
                [x + shift for x, _, _ in curve], [mean for _, mean, _ in curve],
                yerr=[sd for _, _, sd in curve], elinewidth=0.6, lw=0.9,
                **look[row.entry].options(3.4),
            )  # fmt: skip
    best = _best(panel)
    if best:
        axes.plot(*zip(*best, strict=True), lw=0.8, **charts.TRIVIAL.options())
    _shares(axes, panel)
    if not axes.lines:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "pending", transform=axes.transAxes, ha="center", color=MIDDLE)


def _best(panel: Panel) -> list[tuple[int, float]]:
    """The best trivial baseline at each share."""
    found: dict[int, float] = {}
    for row in (row for row in panel.table.rows if row.baseline):
        for x, mean, _ in _curve(panel, row):
            found[x] = max(mean, found.get(x, mean))
    return sorted(found.items())


def _theirs(axes: Any, panel: Panel, look: dict[str, Look]) -> None:
    axes.set_facecolor(PALE)
    for row in panel.table.rows:
        values = [(x, row.cells[at].published) for x, at in enumerate(panel.columns)]
        known = [(x, value) for x, value in values if value is not None]
        if known:
            hollow = look[row.entry].options(3.0) | {"color": MIDDLE, "mfc": "white", "lw": 0.6}
            axes.plot(*zip(*known, strict=True), **hollow | {"markeredgecolor": MIDDLE})
    _shares(axes, panel)
