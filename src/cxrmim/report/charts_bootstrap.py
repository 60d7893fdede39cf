"""How far the bootstrap can be trusted: is 1000 replicates enough, and what it leaves out.

Three questions, each of every run or cell that a scale's tables and figures show:

- halves: does the standard deviation of the first half of a run's replicates repeat in the second?
  By chance alone the ratio's logarithm has standard deviation 1 / sqrt(B / 2 - 1), near-normal
  replicates given.
- bounds: how far does the lower bound of the 95 % interval move from one set of b replicates to the
  next, as a share of the interval's half width? Under a normal distribution the 2.5th percentile of
  b values has standard error sqrt(0.025 * 0.975 / b) / phi(1.96) standard deviations.
- seeds: how large is the spread over seeds, which an interval over test images does not hold?

Runs of one test set share their draws (`statistics`), so that their points move together: how many
lie outside the band of chance is no test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxrmim.report import charts
from cxrmim.report.book import Book
from cxrmim.report.cells import PERCENT, Cell
from cxrmim.report.charts import BLUE, DARK, MIDDLE, Look
from cxrmim.report.statistics import BOUNDS, NOTHING, Floats

HEADER = ("part", "of", "task", "x", "y", "low", "high")
PARTS = (20, 10, 5, 4, 2)  # disjoint sets into which the replicates are cut
FEWEST = 20  # replicates of a set that has a 2.5th percentile worth the name
TICKS = (20, 50, 100, 200, 500, 1000)
QUANTILE, NORMAL = BOUNDS[0] / 100.0, 1.959964
DENSITY = math.exp(-(NORMAL**2) / 2.0) / math.sqrt(2.0 * math.pi)
MIDDLE_SHARE = (10.0, 90.0)  # percentiles over runs that the bars of `bounds` span
LEFT, RIGHT, GAP, TALL, SIGN = 0.46, 0.08, 0.52, 1.8, 0.125  # inches
TASKS = (
    Look("#0072B2", "o"), Look("#D55E00", "s"), Look("#009E73", "^"), Look("#CC79A7", "D"),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """`x` and `y` of one run, number of replicates or cell; `low` and `high` where it has a bar."""

    part: str
    of: str
    task: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Found:
    """All points, the number of replicates, and how many runs never vary (a constant predictor)."""

    points: tuple[Point, ...]
    replicates: int
    constant: int

    def of(self, part: str) -> list[Point]:
        """The points of one question."""
        return [point for point in self.points if point.part == part]


def find(book: Book) -> Found:
    """Every run with replicates and every cell with several seeds, each once."""
    drawn: dict[tuple[str, str], tuple[str, Floats]] = {}
    seen: dict[tuple[tuple[str, ...], str], Cell] = {}
    for block in book.known:
        for row in book.table(block).rows:
            for cell in row.cells:
                for run, held in zip(cell.runs, cell.replicates, strict=False):
                    drawn[run.id, cell.column.metric] = run.task, np.asarray(held)
                if cell.replicates:
                    seen.setdefault((tuple(r.id for r in cell.runs), cell.column.metric), cell)
    varied = {key: v for key, v in drawn.items() if np.std(v[1]) > NOTHING}
    points = _halves(varied) + _bounds([v for _, v in varied.values()]) + _seeds(seen.values())
    count = len(next(iter(drawn.values()))[1]) if drawn else 0
    return Found(tuple(points), count, len(drawn) - len(varied))


def lines(found: Found) -> list[tuple[str, ...]]:
    """Rows of the csv. Deviations are x100, shares of the half width are in percent."""
    out: list[tuple[str, ...]] = [HEADER]
    for p in found.points:
        bars = ("" if v is None else f"{v:.4g}" for v in (p.low, p.high))
        out.append((p.part, p.of, p.task, f"{p.x:.4g}", f"{p.y:.4g}", *bars))
    return out


def expected(replicates: float) -> float:
    """Standard error of an interval's bound in percent of its half width, see above."""
    error = math.sqrt(QUANTILE * (1.0 - QUANTILE) / replicates) / DENSITY
    return PERCENT * error / NORMAL


def draw(found: Found) -> Figure:
    """Three panels, one a question."""
    if not found.points:
        return charts.notice("No run of this scale has bootstrap replicates yet.")
    width = charts.DOUBLE
    tasks = list(dict.fromkeys(point.task for point in found.points if point.task))
    look = {task: TASKS[at % len(TASKS)] for at, task in enumerate(tasks)}
    still = sum(p.x == 0 for p in found.of("seeds"))
    said = (
        f"Left out: {found.constant} runs whose replicates never vary (constant predictors); "
        f"right, {still} cells whose seeds agree exactly."
    )
    notes = charts.wrapped(said, width) if found.constant or still else []
    low = 0.06 + charts.NOTE_LINE * len(notes)
    foot = low + SIGN + 0.4
    out = charts.figure(width, charts.top(width) + 0.26 + TALL + foot)
    each = (width - LEFT - RIGHT - GAP * 2) / 3
    for index, drawer in enumerate((_draw_halves, _draw_bounds, _draw_seeds)):
        drawer(charts.panel(out, LEFT + index * (each + GAP), foot, each, TALL), found, look)
    signs = [charts.sign(look[task], task, **HOLLOW) for task in tasks]
    charts.legend(out, signs, low, len(signs))
    charts.footnotes(out, notes)
    return out


HOLLOW: dict[str, Any] = {
    "linestyle": "none", "markerfacecolor": "none", "markersize": 3, "markeredgewidth": 0.6,
}  # fmt: skip


def _halves(drawn: dict[tuple[str, str], tuple[str, Floats]]) -> list[Point]:
    out = []
    for (run, metric), (task, held) in drawn.items():
        first, second = np.array_split(held, 2)
        spreads = (PERCENT * float(np.std(half, ddof=1)) for half in (first, second))
        out.append(Point("halves", f"{run}:{metric}", task, *spreads))
    return out


def _bounds(drawn: Sequence[Floats]) -> list[Point]:
    """Movement of the lower bound between disjoint sets of replicates, over all runs."""
    if not drawn:
        return []
    held = np.stack(drawn)
    count = held.shape[1]
    out = []
    for parts in PARTS:
        size = count // parts
        if size < FEWEST:
            continue
        sets = held[:, : size * parts].reshape(len(held), parts, size)
        moved = np.std(np.percentile(sets, BOUNDS[0], axis=2), axis=1, ddof=1)
        share = PERCENT * moved / (NORMAL * np.std(held, axis=1, ddof=1))
        low, high = np.percentile(share, MIDDLE_SHARE)
        out.append(
            Point("bounds", str(parts), "", size, float(np.sqrt(np.mean(share**2))),
                  float(low), float(high))
        )  # fmt: skip
    return out


def _seeds(seen: Any) -> list[Point]:
    out = []
    for cell in seen:
        if cell.sd is not None:
            images = float(np.std(np.mean(np.asarray(cell.replicates), axis=0), ddof=1))
            task = cell.column.cells.task
            out.append(Point("seeds", cell.address, task, PERCENT * cell.sd, PERCENT * images))
    return out


def _scatter(axes: Any, points: Sequence[Point], look: dict[str, Look]) -> None:
    for task, style in look.items():
        mine = [p for p in points if p.task == task]
        axes.plot([p.x for p in mine], [p.y for p in mine], **style.options() | HOLLOW, zorder=3)


def _log(axes: Any, points: Sequence[Point]) -> None:
    """Equal logarithmic axes over all points and the line of equality."""
    values = [v for p in points for v in (p.x, p.y)] or [1.0]
    low, high = min(values) / 1.3, max(values) * 1.3
    for axis in ("x", "y"):
        getattr(axes, f"set_{axis}scale")("log")
        _ticks(axes, axis, low, high)
    axes.plot([low, high], [low, high], color=MIDDLE, lw=0.7, zorder=1)


def _ticks(axes: Any, axis: str, low: float, high: float) -> None:
    """Limits and plain numbers along a logarithmic axis."""
    getattr(axes, f"set_{axis}lim")(low, high)
    ticks = [v for v in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30) if low <= v <= high]
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{v:g}" for v in ticks])
    getattr(axes, f"set_{axis}ticks")([], minor=True)


def _draw_halves(axes: Any, found: Found, look: dict[str, Look]) -> None:
    points = [p for p in found.of("halves") if p.x > 0]
    band = math.exp(2.0 / math.sqrt(max(found.replicates / 2 - 1, 1)))
    axes.axhline(1.0, color=MIDDLE, lw=0.7, zorder=1)
    for factor in (band, 1 / band):
        axes.axhline(factor, color=MIDDLE, lw=0.6, ls=(0, (3, 2)), zorder=1)
    _scatter(axes, [replace(p, y=p.y / p.x) for p in points], look)
    axes.set_xscale("log")
    _ticks(axes, "x", *axes.get_xlim())
    reach = 1.5 * max(abs(v - 1) for v in (band, *(p.y / p.x for p in points)))
    axes.set_ylim(1 - reach, 1 + reach)
    inside = sum(1 / band <= p.y / p.x <= band for p in points)
    axes.set_title("Does it repeat?")
    half = found.replicates // 2
    axes.set_xlabel(f"sd of replicates 1 to {half}, x100", labelpad=2)
    axes.set_ylabel(f"sd of the others / of the first {half}", labelpad=2)
    share = f"{inside} of {len(points)} within\nchance (2 sd, dashed)"
    axes.text(0.04, 0.98, share, transform=axes.transAxes, va="top", fontsize=charts.SMALL)


def _draw_bounds(axes: Any, found: Found, look: dict[str, Look]) -> None:
    points = found.of("bounds")
    last = found.replicates
    theory = sorted({v for v in (*TICKS, last, *(int(p.x) for p in points)) if v <= last})
    axes.plot(
        theory, [expected(v) for v in theory], color=MIDDLE, lw=0.8, ls=(0, (3, 2)),
        label="normal distribution",
    )  # fmt: skip
    axes.plot(
        [last], [expected(last)], "s", color=DARK, markersize=4, mfc="white", zorder=3,
        label=f"the same at {last}: {expected(last):.1f}%",
    )  # fmt: skip
    axes.errorbar(
        [p.x for p in points], [p.y for p in points],
        yerr=[[max(p.y - (p.low or 0), 0) for p in points],
              [max((p.high or 0) - p.y, 0) for p in points]],
        fmt="o", color=BLUE, ecolor=DARK, elinewidth=0.7, markersize=4, zorder=3,
        label="measured; bar: 80% of runs",
    )  # fmt: skip
    axes.set_xscale("log")
    ticks = [v for v in TICKS if v <= last]
    axes.set_xticks(ticks, [str(v) for v in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.set_title("Are there enough replicates?")
    axes.set_xlabel("replicates", labelpad=2)
    axes.set_ylabel("movement of a bound, % of half width", labelpad=2)
    axes.legend(loc="upper right", handlelength=2.0)


def _draw_seeds(axes: Any, found: Found, look: dict[str, Look]) -> None:
    points = [p for p in found.of("seeds") if p.x > 0 and p.y > 0]
    _log(axes, points)
    _scatter(axes, points, look)
    more = sum(p.x > p.y for p in points)
    axes.set_title("What does it leave out?")
    axes.set_xlabel("sd over seeds, x100", labelpad=2)
    axes.set_ylabel("sd over test images, x100", labelpad=2)
    share = f"seeds vary more\nin {more} of {len(points)} cells"
    axes.text(0.96, 0.03, share, transform=axes.transAxes, ha="right", fontsize=charts.SMALL)
