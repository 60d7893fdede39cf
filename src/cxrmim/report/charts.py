"""How figures look: one style, two widths, byte-identical files.

A figure is drawn at the width it is printed at, `SINGLE` or `DOUBLE` column, with no text below
`LEAST` points. Series differ by marker and line style as well as by colour (Okabe and Ito), so that
a grey print and a colour-blind reader see the same.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxrmim.params import Params

SINGLE, DOUBLE = 3.4, 7.0  # inches: a column, the page
LEAST, SMALL, TEXT, HEAD = 6.0, 6.2, 6.8, 7.6  # points
BLUE, DARK, MIDDLE, LIGHT, PALE = "#0072B2", "#222222", "#5F5F5F", "#D4D4D4", "#F1F1F1"
ALARM = "#A33B00"
DPI = 200
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MIDDLE,
    "axes.linewidth": 0.6,
    "axes.labelsize": SMALL,
    "axes.labelcolor": MIDDLE,
    "axes.titlesize": HEAD,
    "axes.titlepad": 4,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "errorbar.capsize": 1.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.0,
    "text.hinting": "none",
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "cxrmim",
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
}
BANNER_LINE, NOTE_LINE = 0.125, 0.115  # inches
BANNER_WIDTH, NOTE_WIDTH = 14.5, 20.0  # characters an inch


@dataclass(frozen=True)
class Look:
    """How a series is drawn: colour, marker and line style, each telling on its own."""

    colour: str
    marker: Any
    line: Any = "-"

    def options(self, size: float = 3.6) -> dict[str, Any]:
        """Keyword arguments of a line of markers."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
            "markersize": size,
            "markeredgecolor": self.colour,
            "markeredgewidth": 0.7,
        }


LOOKS = {
    "random": Look("#8A8A8A", "x", (0, (1, 1.6))),
    "imagenet": Look("#CC79A7", "v", (0, (2, 1))),
    "mae": Look("#E69F00", "s", (0, (5, 1.5))),
    "gloria": Look("#56B4E9", "^", (0, (5, 1, 1, 1))),
    "mrm": Look("#009E73", "D", (0, (3, 1, 1, 1, 1, 1))),
    "mgca": Look("#D55E00", "P", (0, (7, 2))),
    "medim": Look("#0072B2", "o"),
    "cmitm": Look("#000000", "*"),
}
SPARE = (
    Look("#D55E00", "<", (0, (5, 1.5))),
    Look("#009E73", ">", (0, (1, 1.2))),
    Look("#CC79A7", "p", (0, (5, 1, 1, 1))),
    Look("#E69F00", "h", (0, (3, 1, 1, 1, 1, 1))),
    Look("#56B4E9", "d", (0, (7, 2))),
)
TRIVIAL = Look(MIDDLE, "_", (0, (3, 2)))


def looks(entries: Iterable[str]) -> dict[str, Look]:
    """The look of each entry: that of its method, a spare one where no method has its name."""
    out: dict[str, Look] = {}
    for entry in entries:
        if entry not in out:
            extra = SPARE[sum(e not in LOOKS for e in out) % len(SPARE)]
            out[entry] = LOOKS.get(entry, extra)
    return out


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


def top(width: float) -> float:
    """Inches that `label` needs above whatever a figure of a width draws."""
    return 0.1 + BANNER_LINE * (1 if width >= DOUBLE else 2)


def label(drawn: Figure, banner: str) -> None:
    """Write whose data a figure shows into its top left corner."""
    colour = ALARM if banner.startswith("PHANTOM") else MIDDLE
    width, height = drawn.get_size_inches()
    for number, line in enumerate(textwrap.wrap(banner, int(width * BANNER_WIDTH))):
        y = 1 - (0.06 + BANNER_LINE * number) / height
        drawn.text(
            0.06 / width, y, line, color=colour, fontsize=TEXT, fontweight="bold", va="top"
        )  # fmt: skip


def save(drawn: Figure, path: Path) -> None:
    """Write a figure without dates or versions, so that the same figure is the same bytes."""
    metadata: dict[str, None] = (
        {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    )
    drawn.savefig(path, metadata=metadata)


def panel(drawn: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place given in inches from the figure's lower left corner."""
    across, up = drawn.get_size_inches()
    return drawn.add_axes((left / across, bottom / up, width / across, height / up))


def waits(reasons: Mapping[str, int], width: float) -> list[str]:
    """Lines that say why cells are pending."""
    return [
        line
        for reason, count in reasons.items()
        for line in wrapped(f"Pending ({count}): {reason}", width)
    ]


def wrapped(text: str, width: float) -> list[str]:
    """A note cut into lines that fit into a figure of a width."""
    return textwrap.wrap(text, int(width * NOTE_WIDTH))


def footnotes(drawn: Figure, lines: Sequence[str]) -> None:
    """Write lines at the foot of a figure; they take `NOTE_LINE` inches each."""
    width, height = drawn.get_size_inches()
    for index, line in enumerate(reversed(lines)):
        y = (0.05 + NOTE_LINE * index) / height
        drawn.text(0.06 / width, y, line, fontsize=SMALL, color=MIDDLE, va="bottom")


def legend(drawn: Figure, handles: Sequence[Any], bottom: float, columns: int) -> None:
    """A row or rows of the figure's signs, the lowest `bottom` inches above its foot."""
    width, height = drawn.get_size_inches()
    drawn.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(0.06 / width, bottom / height),
        ncols=columns,
        columnspacing=1.4,
        handletextpad=0.5,
        labelspacing=0.3,
        handlelength=2.6,
    )


def sign(look: Look, text: str, **over: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=text, **(look.options() | over))


def notice(text: str) -> Figure:
    """A figure that only says why there is none."""
    out = figure(DOUBLE, 0.9)
    out.text(0.5, 0.4, "\n".join(textwrap.wrap(text, 110)), ha="center", va="center", color=MIDDLE)
    return out
