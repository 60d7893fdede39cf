"""Training curves of every pretraining of a scale."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

OF = ("*",)
LAYOUT = Layout(
    title="Training curves",
    caption="Total loss of every pretraining against its steps, a panel for each method and set of "
    "loss terms, one line a seed. Losses of different panels cannot be compared; within a panel a "
    "lower loss need not be a better encoder.",
)


def draw(book: "Book") -> "Figure":
    """A panel for each method and set of terms."""
    from cxrmim.report import charts_training as chart

    return chart.draw(book.params, chart.curves(book.params))


def data(book: "Book") -> list[tuple[str, ...]]:
    """Rows of the csv: one a point of a curve."""
    from cxrmim.report import charts_training as chart

    return chart.lines(chart.curves(book.params))
