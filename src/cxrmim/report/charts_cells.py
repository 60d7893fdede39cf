"""The chart of a block's cells: a panel a column, a position a row, the paper's points above."""

import textwrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cxrmim.params import Params
from cxrmim.report import charts, published
from cxrmim.report.cells import PERCENT, Row, Table
from cxrmim.report.charts import BLUE, DARK, LIGHT, MIDDLE, PALE, SMALL

LEFT, RIGHT, GAP, HEIGHT = 0.46, 0.06, 0.34, 1.45  # inches
HEAD, STRIP, LOW_STRIP = 0.34, 0.32, 0.22  # title; published values with and without a note
TICK, SIGN = 0.115, 0.125  # lines of tick labels and of the legend
PAPER: dict[str, Any] = {"marker": "D", "mfc": "white", "mec": DARK, "mew": 0.9, "ls": "none"}
OURS: dict[str, Any] = {"marker": "o", "color": BLUE, "ls": "none"}
RUN: dict[str, Any] = {"marker": "o", "mfc": "none", "mec": MIDDLE, "mew": 0.6, "ls": "none"}


def points(
    table: Table, params: Params, width: float, axis: str = "", joined: bool = False
) -> Figure:
    """One panel a column: mean (dot), standard deviation (bar) and each run (ring) of every row.

    The best trivial baseline is a dashed line. What the paper printed stands in a strip of its own
    above the panel, at its row, as a hollow diamond with its value; where a scale trains another
    value of the option than the paper, the paper's stands below. On real data the diamond is drawn
    on the axis too. What is pending says so in its place, with the reason at the foot.

    Args:
        table: the cells; values are drawn x100.
        params: all parameters.
        width: of the figure in inches.
        axis: label of the horizontal axis.
        joined: join the means by a line, where the rows are steps of one quantity.
    """
    number = max(1, len(table.columns))
    each = (width - LEFT - RIGHT - GAP * (number - 1)) / number
    others = _others(table, params)
    notes = [
        *(f"at {share}: masking ratio of the paper; ours is another" for share in others),
        *charts.waits(table.reasons(), width),
    ]
    signs = _signs(table, joined)
    columns = len(signs) if width > charts.SINGLE else 1
    low = 0.06 + charts.NOTE_LINE * len(notes)
    strip = (STRIP if others else LOW_STRIP) if published.points(table.id) else 0.0
    foot = low + SIGN * (len(signs) // columns) + TICK * _deepest(table) + 0.1
    foot += TICK if axis else 0.0
    height = foot + HEIGHT + 0.14 + strip + HEAD + charts.top(width)
    out = charts.figure(width, height)
    for index in range(len(table.columns)):
        x = LEFT + index * (each + GAP)
        axes = charts.panel(out, x, foot, each, HEIGHT)
        _panel(axes, table, index, joined)
        axes.set_xlabel(axis, labelpad=2)
        above = axes.get_xlim()
        if strip:
            place = charts.panel(out, x, foot + HEIGHT + 0.15, each, strip)
            _published(place, table, index, params, above)
        _head(out, table, index, (x + each / 2, foot + HEIGHT + 0.15 + strip + 0.05))
        if index == 0:
            axes.set_ylabel("x100", labelpad=2)
            across = 0.06 / width
            out.text(across, (foot + HEIGHT + 0.03) / height, "ours", color=BLUE, fontsize=SMALL)
            if strip:
                y = (foot + HEIGHT + 0.15 + strip - 0.06) / height
                out.text(across, y, "paper", color=DARK, fontsize=SMALL, va="top")
    charts.legend(out, signs, low, columns)
    charts.footnotes(out, notes)
    return out


def _panel(axes: Any, table: Table, index: int, joined: bool) -> None:
    rows = [row for row in table.rows if not row.baseline]
    axes.set_xticks(range(len(rows)), [_wrapped(row) for row in rows])
    axes.set_xlim(-0.55, len(rows) - 0.45)
    axes.tick_params(axis="x", length=0, pad=3)
    drawn = [(x, m) for x, row in enumerate(rows) if (m := row.cells[index].mean) is not None]
    if joined and drawn:
        axes.plot(
            [x for x, _ in drawn], [PERCENT * m for _, m in drawn], color=BLUE, lw=0.8, zorder=2
        )
    for x, mean in drawn:
        cell = rows[x].cells[index]
        axes.errorbar(
            [x], [PERCENT * mean], yerr=[PERCENT * (cell.sd or 0)],
            ecolor=DARK, elinewidth=0.9, markersize=4.5, zorder=3, **OURS,
        )  # fmt: skip
        if cell.n > 1:
            runs = [PERCENT * value for value in cell.values]
            axes.plot([x + 0.22] * cell.n, runs, markersize=2.6, zorder=3, **RUN)
        axes.text(
            x, 1.02, f"{PERCENT * mean:.{table.layout.decimals}f}", color=BLUE, ha="center",
            va="bottom", fontsize=SMALL, transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    best = _baseline(table, index)
    if best is not None:
        axes.axhline(PERCENT * best[1], color=MIDDLE, linestyle=(0, (4, 3)), lw=0.8, zorder=1)
    if table.source == "real":
        for x, row in enumerate(rows):
            if (value := row.cells[index].published) is not None:
                axes.plot([x - 0.22], [value], markersize=4, zorder=3, **PAPER)
    if not axes.lines:
        axes.set_yticks([])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.margins(y=0.12)
    for x, row in enumerate(rows):
        if row.cells[index].state == "pending":
            axes.axvspan(x - 0.38, x + 0.38, facecolor="none", edgecolor=LIGHT, hatch="///", lw=0)
            axes.text(
                x, 0.5, "pending", rotation=90, ha="center", va="center", color=MIDDLE,
                transform=axes.get_xaxis_transform(),
                bbox={"facecolor": "white", "lw": 0, "pad": 1.5},
            )  # fmt: skip


def _published(
    axes: Any, table: Table, index: int, params: Params, span: tuple[float, float]
) -> None:
    """The strip of published values: no scale of its own, so that no height is read into it."""
    axes.set_axis_off()
    axes.set_xlim(*span)
    axes.set_ylim(0, axes.get_position().height * axes.get_figure().get_figheight())
    top = axes.get_ylim()[1]
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fc=PALE, lw=0))
    known = published.points(table.id)
    for x, row in enumerate(row for row in table.rows if not row.baseline):
        value = row.cells[index].published
        if value is None:
            continue
        axes.plot([x], [top - 0.05], markersize=3.2, **PAPER)
        axes.text(
            x,
            top - 0.1,
            f"{value:.{table.layout.decimals}f}",
            ha="center",
            va="top",
            fontsize=SMALL,
        )
        if _differs(params, row, known[row.entry]):
            said = f"at {known[row.entry].value:.0%}"
            axes.text(
                x, top - 0.21, said, ha="center", va="top", fontsize=SMALL, style="italic",
                bbox={"facecolor": PALE, "lw": 0, "pad": 0.2},
            )  # fmt: skip


def _head(out: Figure, table: Table, index: int, at: tuple[float, float]) -> None:
    """Title of a panel, and below it which trivial baseline its dashed line is."""
    width, height = out.get_size_inches()
    x, y = at[0] / width, at[1]
    out.text(
        x, (y + 0.13) / height, table.columns[index].title, ha="center", va="bottom",
        fontsize=charts.HEAD,
    )  # fmt: skip
    best = _baseline(table, index)
    if best is not None:
        said = f"dashed: {best[0]} {PERCENT * best[1]:.{table.layout.decimals}f}"
        out.text(x, y / height, said, ha="center", va="bottom", fontsize=SMALL, color=MIDDLE)


def _baseline(table: Table, index: int) -> tuple[str, float] | None:
    """Name and value of a column's best trivial baseline."""
    found = [(r.name, r.cells[index].mean) for r in table.rows if r.baseline]
    measured = [(name, mean) for name, mean in found if mean is not None]
    return max(measured, key=lambda item: item[1], default=None)


def _signs(table: Table, joined: bool) -> list[Any]:
    ours = charts.Look(BLUE, "o", "-" if joined else "none")
    ring = charts.Look(MIDDLE, "o", "none")
    out = [
        charts.sign(ours, "ours: mean, bar: ± sd over seeds", lw=0.8),
        charts.sign(ring, "one run", mfc="none", markersize=2.6, mew=0.6),
    ]
    if published.points(table.id):
        where = "published" if table.source == "real" else "published: real data, not on our axis"
        out.append(charts.sign(charts.Look(DARK, "D", "none"), where, **PAPER | {"ms": 3.2}))
    return out


def _differs(params: Params, row: Row, point: published.Point) -> bool:
    """Whether a scale trains another value of the option than the paper's point has."""
    return params.pretraining(row.entry)[1].options.get(point.option) != point.value


def _others(table: Table, params: Params) -> list[str]:
    """Values of the option at which the paper's points are and ours are not."""
    known = published.points(table.id)
    found = [
        f"{known[row.entry].value:.0%}"
        for row in table.rows
        if row.entry in known and _differs(params, row, known[row.entry])
    ]
    return list(dict.fromkeys(found))


def _deepest(table: Table) -> int:
    """Lines of the longest row name, at least one."""
    return max([1, *(_wrapped(row).count("\n") + 1 for row in table.rows if not row.baseline)])


def _wrapped(row: Row) -> str:
    return "\n".join(textwrap.wrap(row.name, 9))
