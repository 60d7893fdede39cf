"""Label efficiency: each dataset's metric at 1, 10 and 100 % of the training labels."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

OF = ("medim_table1", "cmitm_table1", "trend")
LAYOUT = Layout(
    title="Label efficiency",
    caption="The tables' cells against the share of the training labels: mean and standard "
    "deviation over seeds. Below ours stand the papers' curves in grey, with axes of their own.",
)


def draw(book: "Book") -> "Figure":
    """A panel a dataset."""
    from cxrmim.report import charts_efficiency as chart

    return chart.draw(book.params, chart.panels(book, OF))


def data(book: "Book") -> list[tuple[str, ...]]:
    """Rows of the csv: one a point of a curve, x100."""
    from cxrmim.report import charts_efficiency as chart

    return chart.lines(chart.panels(book, OF))
