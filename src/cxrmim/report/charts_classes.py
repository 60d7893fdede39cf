"""AUC of each class: what lies behind the mean AUC that the tables print."""

import statistics
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from cxrmim import grid
from cxrmim.errors import CheckError
from cxrmim.grid import Run
from cxrmim.paths import Paths
from cxrmim.report import charts
from cxrmim.report.book import Book
from cxrmim.report.cells import PERCENT, Cell, Table
from cxrmim.report.charts import DARK, LIGHT, MIDDLE, Look
from cxrmim.report.records import Records

METRIC = "mAUC"
HEADER = (
    "table", "dataset", "percent", "row", "class", "positives", "images", "mean", "sd", "n",
)  # fmt: skip
CLASS, LEFT, RIGHT, GAP, SIGN = 0.38, 1.02, 0.06, 1.1, 0.125  # inches
NOTE = (
    "Bars: ± sd over seeds. Dotted: chance. Below each class: its positives among the test images."
)
SPREAD = 0.76  # of a class's height that its rows share


@dataclass(frozen=True)
class Point:
    """A class of a row: AUC in [0, 1] of each of its runs."""

    entry: str
    name: str
    of: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """A column of a table whose value is a mean AUC over several classes.

    `classes` maps each class to its positives among the `images` of the test set; `points` are in
    the order of rows and classes; `reasons` say why rows are left out.
    """

    table: Table
    index: int
    classes: dict[str, int]
    images: int
    points: tuple[Point, ...]
    reasons: dict[str, int]

    @property
    def title(self) -> str:
        """Dataset, task and share of labels."""
        column = self.table.columns[self.index]
        name = column.group.partition(" (")[0]
        return f"{name} ({column.cells.task}), {column.percent}% of the labels"


def panels(book: Book, blocks: tuple[str, ...]) -> list[Panel]:
    """The largest share of labels of each dataset with a mean AUC over two classes or more.

    Raises:
        CheckError: a run of such a column lacks its classes, or they differ between runs.
    """
    found = []
    for block in blocks:
        if block in book.params.grid:
            table = book.table(block)
            last = {c.cells.dataset: index for index, c in enumerate(table.columns)}
            made = (_panel(table, index, book.records) for index in last.values())
            found += [panel for panel in made if panel is not None]
    return found


def lines(found: list[Panel]) -> list[tuple[str, ...]]:
    """Rows of the csv: one a point; AUCs x100."""
    out: list[tuple[str, ...]] = [HEADER]
    for panel in found:
        column = panel.table.columns[panel.index]
        for point in panel.points:
            mean, sd = _moments(point)
            numbers = (f"{mean:.2f}", "" if sd is None else f"{sd:.2f}", str(len(point.values)))
            out.append(
                (panel.table.id, column.cells.dataset, str(column.percent), point.entry, point.of,
                 str(panel.classes[point.of]), str(panel.images), *numbers)
            )  # fmt: skip
    return out


def draw(found: list[Panel]) -> Figure:
    """A panel a dataset, a band a class, a marker a row; panels in two columns of one height."""
    if not found:
        return charts.notice("No measured column of this scale is a mean AUC over classes.")
    sides = _sides(found)
    width = charts.DOUBLE if len(sides) > 1 else charts.SINGLE
    names = {point.entry: point.name for panel in reversed(found) for point in panel.points}
    order = dict.fromkeys(point.entry for panel in found for point in panel.points)
    look = charts.looks(e for e in order if not e.startswith(grid.BASELINE))
    signs = [charts.sign(_look(look, e), names[e], linestyle="none") for e in order]
    reasons: dict[str, int] = {}
    for panel in found:
        for reason, count in panel.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    notes = [*charts.wrapped(NOTE, width), *charts.waits(reasons, width)]
    wide = 5 if len(sides) > 1 else 2
    low = 0.06 + charts.NOTE_LINE * len(notes)
    foot = low + SIGN * -(-len(signs) // wide) + 0.1
    tall = max(sum(_height(panel) for panel in side) for side in sides)
    out = charts.figure(width, charts.top(width) + tall + foot)
    each = (width - LEFT - RIGHT - GAP * (len(sides) - 1)) / len(sides)
    for number, side in enumerate(sides):
        y = foot + tall
        for panel in side:
            y -= _height(panel)
            place = (LEFT + number * (each + GAP), y + 0.4, each, CLASS * len(panel.classes))
            _draw(charts.panel(out, *place), panel, look)
    charts.legend(out, signs, low, wide)
    charts.footnotes(out, notes)
    return out


def _panel(table: Table, index: int, records: Records) -> Panel | None:
    columns = [row.cells[index] for row in table.rows]
    measured = [cell for cell in columns if cell.state == "measured"]
    if not measured or any(
        records.tree(run)["metrics"].get("metric") != METRIC for c in measured for run in c.runs
    ):
        return None
    classes, images = _classes(measured[0].runs[0], records)
    if len(classes) < 2:
        return None
    points = [p for cell in measured if _told(cell) for p in _points(cell, classes, records)]
    reasons: dict[str, int] = {}
    for cell in columns:
        if cell.state == "pending":
            reasons[cell.reason] = reasons.get(cell.reason, 0) + 1
    return Panel(table, index, classes, images, tuple(points), reasons)


def _told(cell: Cell) -> bool:
    """Whether a row says anything: the class prior's AUC is 50 in every class."""
    return cell.row != f"{grid.BASELINE}prior"


def _points(cell: Cell, classes: dict[str, int], records: Records) -> list[Point]:
    held: list[dict[str, Any]] = []
    for run in cell.runs:
        if _classes(run, records)[0] != classes:
            raise CheckError(f"{_path(run, records)}: metrics.positives {_DIFFER}; {_CURE}")
        held.append(_shares(run, classes, records))
    return [Point(cell.row, cell.name, c, tuple(h[c] for h in held)) for c in classes]


_DIFFER = "are not those of the other runs of its test set"
_CURE = "restore it with git or run `snakemake --cores all`"


def _classes(run: Run, records: Records) -> tuple[dict[str, int], int]:
    """Positives by class and number of test images."""
    metrics = records.tree(run)["metrics"]
    held, images = metrics.get("positives"), metrics.get("n")
    if (
        not isinstance(held, dict)
        or type(images) is not int
        or any(type(v) is not int or not 0 <= v <= images for v in held.values())
    ):
        raise CheckError(
            f"{_path(run, records)}: metrics.positives is {held!r}, not a number of test images "
            f"by class; {_CURE}"
        )
    return dict(held), images


def _shares(run: Run, classes: dict[str, int], records: Records) -> dict[str, float]:
    """AUC by class."""
    held = records.tree(run)["metrics"].get("per_class")
    if not isinstance(held, dict) or held.keys() != classes.keys():
        raise CheckError(
            f"{_path(run, records)}: metrics.per_class is {held!r}, not the AUC of each of "
            f"{', '.join(classes)}; {_CURE}"
        )
    for name, value in held.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise CheckError(
                f"{_path(run, records)}: metrics.per_class.{name} is {value!r}, not a number in "
                f"[0, 1]; {_CURE}"
            )
    return {name: float(value) for name, value in held.items()}


def _path(run: Run, records: Records) -> str:
    return str(Paths(records.params.scale).record("downstream", run.id))


def _moments(point: Point) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1) over runs, x100."""
    values = [PERCENT * value for value in point.values]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _height(panel: Panel) -> float:
    return CLASS * len(panel.classes) + 0.66


def _sides(found: list[Panel]) -> list[list[Panel]]:
    """Panels in one column, or in two of about the same height, tallest first."""
    if len(found) == 1:
        return [found]
    sides: list[list[Panel]] = [[], []]
    for panel in sorted(found, key=_height, reverse=True):
        min(sides, key=lambda side: sum(_height(p) for p in side)).append(panel)
    return sides[::-1]


def _look(look: dict[str, Look], entry: str) -> Look:
    return look.get(entry, Look(DARK, (2, 2, 0), "none"))


def _draw(axes: Any, panel: Panel, look: dict[str, Look]) -> None:
    order = list(panel.classes)
    entries = list(dict.fromkeys(point.entry for point in panel.points))
    for number in range(0, len(order), 2):
        axes.axhspan(number - 0.5, number + 0.5, color="#F4F4F4", lw=0, zorder=0)
    axes.axvline(50, color=MIDDLE, lw=0.6, ls=(0, (1, 1.5)), zorder=1)
    for number, entry in enumerate(entries):
        mine = [point for point in panel.points if point.entry == entry]
        means, spreads = zip(*(_moments(point) for point in mine), strict=True)
        place = SPREAD * ((number + 0.5) / len(entries) - 0.5)
        axes.errorbar(
            means, [order.index(point.of) + place for point in mine],
            xerr=[sd or 0 for sd in spreads], elinewidth=0.7,
            **_look(look, entry).options(3.0) | {"linestyle": "none"},
        )  # fmt: skip
    texts = [f"{c.replace('_', ' ')}\n{panel.classes[c]} of {panel.images}" for c in order]
    axes.set_yticks(range(len(order)), texts)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LIGHT, lw=0.4, zorder=0)
    axes.set_axisbelow(True)
    axes.set_title(panel.title, x=0.4)
    axes.set_xlabel("AUC x100", labelpad=2)
