"""Training curves: the total loss of every pretraining of a scale, from its record."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import cells, charts
from cxrmim.report.layout import ROWS
from cxrmim.report.records import Tree

KIND = "pretrain"
TOTAL = "total"
HEADER = ("entry", "seed", "terms", "step", "steps", "loss")
COLUMNS, LEFT, RIGHT, GAP, TALL, HEAD = 4, 0.36, 0.06, 0.32, 1.05, 0.32  # panels; inches
LEGEND, FOOT = 0.115, 0.3  # a line of a panel's legend; ticks and label below a panel
FEW, WIDER = 2, 0.2  # entries of a panel of one column; what a wider one takes of the next
NOTE = (
    "Each point: the mean of the total loss over a fiftieth of the steps. A panel has a scale of "
    "its own: losses of different terms cannot be compared, and within a panel a lower loss need "
    "not be a better encoder (an easier mask is restored better, a term of a smaller "
    "weight adds less, as restoration does in medim-released)."
)
CYCLE = (
    charts.Look("#0072B2", "o"),
    charts.Look("#D55E00", "s", (0, (5, 1.5))),
    charts.Look("#009E73", "^", (0, (1, 1.2))),
    charts.Look("#CC79A7", "v", (0, (5, 1, 1, 1))),
    charts.Look("#E69F00", "D", (0, (3, 1, 1, 1, 1, 1))),
    charts.Look("#000000", "x", (0, (7, 2))),
    charts.Look("#56B4E9", "P", (0, (2, 1))),
)
EVERY = 9  # points between two markers


@dataclass(frozen=True)
class Curve:
    """One training: `losses` are means over equal stretches of its `steps`.

    `terms` are those that the loss is the weighted sum of; curves are comparable only where they
    are the same, and those of one method.
    """

    entry: str
    seed: int
    method: str
    terms: tuple[str, ...]
    steps: int
    losses: tuple[float, ...]

    @property
    def middles(self) -> list[float]:
        """The step in the middle of each stretch."""
        length = self.steps / len(self.losses)
        return [length * (index + 0.5) for index in range(len(self.losses))]


def curves(params: Params) -> list[Curve]:
    """The curve of every trained checkpoint of the grid, in the grid's order of entries.

    Raises:
        CheckError: a record is missing, that of another unit, or its curve cannot be one.
    """
    trained = [i for i in grid.pretrainings(params) if params.pretraining(i.entry)[1].trains]
    order = grid.entries(params)
    trained.sort(key=lambda item: (order.index(item.entry), item.seed))
    return [_curve(params, item) for item in trained]


def lines(found: Sequence[Curve]) -> list[tuple[str, ...]]:
    """Rows of the csv: one a point."""
    out: list[tuple[str, ...]] = [HEADER]
    for curve in found:
        for step, loss in zip(curve.middles, curve.losses, strict=True):
            terms = " + ".join(curve.terms)
            out.append(
                (curve.entry, str(curve.seed), terms, f"{step:g}", str(curve.steps), f"{loss:g}")
            )
    return out


def draw(params: Params, found: Sequence[Curve]) -> Figure:
    """A panel for each method and set of terms; a line a training, one style an entry."""
    if not found:
        return charts.notice("Nothing is trained at this scale.")
    groups: dict[tuple[str, tuple[str, ...]], list[Curve]] = {}
    for curve in found:
        groups.setdefault((curve.method, curve.terms), []).append(curve)
    panels = sorted(groups.values(), key=lambda group: len({c.entry for c in group}))
    width = charts.DOUBLE
    aside = {e: said for e in (c.entry for c in found) if (said := cells.stand_in(params, e))}
    names = {e: f"{e} (stand-in)" for e in aside}
    said = "".join(f" Stand-in for {entry}: {text}." for entry, text in aside.items())
    notes = charts.wrapped(NOTE + said, width)
    ranks = _ranks(panels)
    steps = [HEAD + TALL + FOOT + max(_below(group) for group in rank) for rank in ranks]
    foot = 0.1 + charts.NOTE_LINE * len(notes)
    out = charts.figure(width, charts.top(width) + sum(steps) + foot)
    each = (width - LEFT - RIGHT - GAP * (COLUMNS - 1)) / COLUMNS
    y = foot + sum(steps)
    for rank, step in zip(ranks, steps, strict=True):
        x = LEFT
        for group in rank:
            wide = each if _span(group) == 1 else each + GAP + WIDER * each
            _draw(charts.panel(out, x, y - HEAD - TALL, wide, TALL), group, names)
            x += _span(group) * (each + GAP)
        y -= step
    charts.footnotes(out, notes)
    return out


def _span(group: Sequence[Curve]) -> int:
    """Columns that a panel takes: one with many entries has its legend at its side."""
    return 2 if len({curve.entry for curve in group}) > FEW else 1


def _below(group: Sequence[Curve]) -> float:
    """Inches that a panel's legend takes below it."""
    return 0.0 if _span(group) > 1 else LEGEND * len({curve.entry for curve in group}) + 0.06


def _ranks(panels: Sequence[Sequence[Curve]]) -> list[list[Sequence[Curve]]]:
    """Panels cut into lines of `COLUMNS`."""
    out: list[list[Sequence[Curve]]] = [[]]
    for group in panels:
        if sum(map(_span, out[-1])) + _span(group) > COLUMNS:
            out.append([])
        out[-1].append(group)
    return out


def _draw(axes: Any, group: Sequence[Curve], names: dict[str, str]) -> None:
    entries = list(dict.fromkeys(curve.entry for curve in group))
    for at, entry in enumerate(entries):
        look = CYCLE[at % len(CYCLE)]
        for number, curve in enumerate(c for c in group if c.entry == entry):
            axes.plot(
                curve.middles, curve.losses, lw=0.8, markevery=(at % EVERY, EVERY),
                label=f"_{curve.seed}" if number else names.get(entry, entry), **look.options(2.2),
            )  # fmt: skip
    name = ROWS.get(group[0].method, group[0].method)
    axes.set_title(f"{name}\n{_terms(group[0].terms)}", fontsize=charts.SMALL, pad=3)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlim(0, max(curve.steps for curve in group))
    axes.set_xlabel("step", labelpad=1)
    beside = _span(group) > 1
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.03, 1.0) if beside else (-0.12, -FOOT / TALL),
        labelspacing=0.5 if beside else 0.25,
    )  # fmt: skip


def _terms(terms: tuple[str, ...]) -> str:
    """The terms of a loss, cut at words of a common ending: `global_i2t` and `_t2i` are one."""
    short = dict.fromkeys(term.partition("_")[0] for term in terms)
    return " + ".join(short)


def _curve(params: Params, item: grid.Pretraining) -> Curve:
    path = Paths(params.scale).record(KIND, item.checkpoint)
    tree = record.read(path)
    wanted = {"kind": KIND, "id": item.checkpoint, "scale": params.scale}
    for key, value in (wanted | {"source": params.manifest.source}).items():
        if tree.get(key) != value:
            raise _bad(path, key, tree.get(key), f"not {value!r}")
    metrics = tree.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    steps, held, losses = (metrics.get(key) for key in ("steps", "curve", "losses"))
    if type(steps) is not int or steps < 1:
        raise _bad(path, "metrics.steps", steps, "not a number of steps")
    if not isinstance(held, list) or not 0 < len(held) <= steps:
        raise _bad(path, "metrics.curve", held, f"not a list of losses over {steps} steps")
    for at, value in enumerate(held):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _bad(path, f"metrics.curve[{at}]", value, "not a finite number")
    if not isinstance(losses, dict) or TOTAL not in losses:
        raise _bad(path, "metrics.losses", losses, f"not a loss by term with its {TOTAL}")
    terms = tuple(sorted(losses.keys() - {TOTAL}))
    method = params.pretraining(item.entry)[0]
    return Curve(item.entry, item.seed, method, terms, steps, tuple(float(v) for v in held))


def _bad(path: object, key: str, value: Tree | object, said: str) -> CheckError:
    return CheckError(
        f"{path}: {key} is {value!r}, {said}; restore it with git or run `snakemake --cores all`"
    )
