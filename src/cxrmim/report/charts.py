"""How figures look: one style, byte-identical files, and the chart of a block's cells.

Black, greys and one blue (Okabe and Ito), told apart by shape as well, so that a grey print and a
colour-blind reader see the same.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxrmim.params import Params
from cxrmim.report.cells import PERCENT, Row, Table

BLUE, DARK, MIDDLE, LIGHT = "#0072B2", "#222222", "#666666", "#DDDDDD"
ALARM = "#A33B00"
DPI = 150
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MIDDLE,
    "axes.titlesize": 10,
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "cxrmim",
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
}
NOTE_WIDTH, NOTE_LINE, PANEL_WIDTH, PANEL_HEIGHT = 17, 0.16, 2.7, 2.3  # characters/in; inches


@contextmanager
def style(params: Params) -> Iterator[None]:
    """Matplotlib settings of all figures, whatever the user's own are; salted by the scale."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        mpl.rcParams["svg.hashsalt"] = f"cxrmim {params.scale}"
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, on the Agg canvas."""
    out = Figure(figsize=(width, height))
    FigureCanvasAgg(out)
    return out


def label(drawn: Figure, banner: str) -> None:
    """Write whose data a figure shows into its top left corner."""
    colour = ALARM if banner.startswith("PHANTOM") else MIDDLE
    height = drawn.get_figheight()
    drawn.text(
        0.1 / drawn.get_figwidth(),
        1 - 0.08 / height,
        banner,
        color=colour,
        fontsize=8,
        fontweight="bold",
        va="top",
    )


def save(drawn: Figure, path: Path) -> None:
    """Write a figure without dates or versions, so that the same figure is the same bytes."""
    metadata: dict[str, None] = (
        {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    )
    drawn.savefig(path, metadata=metadata)


def points(table: Table, axis: str = "", joined: bool = False) -> Figure:
    """One panel a column: mean (dot), standard deviation (bar) and each run (ring) of every row.

    The best trivial baseline is a dashed line. What is pending says so in its place, with the
    reason below.

    Args:
        table: the cells; values are drawn x100.
        axis: label of the horizontal axis.
        joined: join the means by a line, where the rows are steps of one quantity.
    """
    width = PANEL_WIDTH * max(1, len(table.columns)) + 0.4
    notes = [
        line
        for reason, count in table.reasons().items()
        for line in textwrap.wrap(f"Pending ({count}): {reason}", int(width * NOTE_WIDTH))
    ]
    bottom = 0.66 + NOTE_LINE * len(notes)
    height = PANEL_HEIGHT + bottom + 0.7
    out = figure(width, height)
    out.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.15 / width,
        bottom=bottom / height,
        top=1 - 0.7 / height,
        wspace=0.25,
    )
    for index, column in enumerate(table.columns):
        axes = out.add_subplot(1, len(table.columns), index + 1)
        axes.set_title(column.title, pad=14)
        _panel(axes, table, index, joined)
        axes.set_xlabel(axis, fontsize=8, color=MIDDLE)
        if index == 0:
            axes.set_ylabel("x100", fontsize=8, color=MIDDLE)
    for index, line in enumerate(reversed(notes)):
        y = (0.08 + NOTE_LINE * index) / height
        out.text(0.1 / width, y, line, fontsize=7, color=MIDDLE, va="bottom")
    return out


def notice(text: str) -> Figure:
    """A figure that only says why there is none."""
    out = figure(6.0, 1.2)
    out.text(0.5, 0.42, "\n".join(textwrap.wrap(text, 80)), ha="center", va="center", color=MIDDLE)
    return out


def _panel(axes: Any, table: Table, index: int, joined: bool) -> None:
    rows = [row for row in table.rows if not row.baseline]
    means = [row.cells[index].mean for row in rows]
    axes.set_xticks(range(len(rows)), [_wrapped(row) for row in rows], fontsize=7.5)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", labelsize=7.5, color=MIDDLE)
    axes.tick_params(axis="x", length=0)
    drawn = [(x, m) for x, m in enumerate(means) if m is not None]
    if joined:
        axes.plot([x for x, _ in drawn], [PERCENT * m for _, m in drawn], color=BLUE, zorder=2)
    for x, mean in drawn:
        cell = rows[x].cells[index]
        runs = [PERCENT * value for value in cell.values]
        axes.errorbar(
            [x], [PERCENT * mean], yerr=[PERCENT * (cell.sd or 0)],
            fmt="o", color=BLUE, ecolor=DARK, capsize=3, markersize=6, zorder=3,
        )  # fmt: skip
        if len(runs) > 1:
            axes.plot(
                [x + 0.18] * len(runs), runs, "o", mfc="none", mec=MIDDLE, markersize=3.5, zorder=3
            )
        axes.text(
            x, 0.985, f"{PERCENT * mean:.2f}", transform=axes.get_xaxis_transform(),
            ha="center", va="top", fontsize=7.5,
        )  # fmt: skip
    baselines = {
        row.name: m
        for row in table.rows
        if row.baseline and (m := row.cells[index].mean) is not None
    }
    if baselines:
        name, value = max(baselines.items(), key=lambda item: item[1])
        axes.axhline(PERCENT * value, color=MIDDLE, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        axes.text(
            0.5, 1.01, f"dashed: {name} {PERCENT * value:.2f}", transform=axes.transAxes,
            ha="center", va="bottom", fontsize=7, color=MIDDLE,
        )  # fmt: skip
    if not drawn and not baselines:
        axes.set_yticks([])
    axes.margins(y=0.28)
    for x, row in enumerate(rows):
        if row.cells[index].state == "pending":
            axes.axvspan(x - 0.38, x + 0.38, facecolor="none", edgecolor=LIGHT, hatch="///", lw=0)
            axes.text(
                x, 0.5, "pending", rotation=90, ha="center", va="center", fontsize=8, color=MIDDLE,
                transform=axes.get_xaxis_transform(),
                bbox={"facecolor": "white", "lw": 0, "pad": 2},
            )  # fmt: skip


def _wrapped(row: Row) -> str:
    return "\n".join(textwrap.wrap(row.name, 9))
