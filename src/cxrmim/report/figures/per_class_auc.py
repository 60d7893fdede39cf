"""AUC of each class of the datasets whose table prints a mean over classes."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

OF = ("medim_table1", "cmitm_table1", "trend")
LAYOUT = Layout(
    title="AUC by class",
    caption="What lies behind the mean AUC of each table at its largest share of labels: AUC of "
    "every class, mean and standard deviation over seeds, with the number of positives among the "
    "test images. Classes with few positives have wide intervals, which the bars over seeds do not "
    "show.",
)


def draw(book: "Book") -> "Figure":
    """A panel a dataset."""
    from cxrmim.report import charts_classes as chart

    return chart.draw(chart.panels(book, OF))


def data(book: "Book") -> list[tuple[str, ...]]:
    """Rows of the csv: one a class of a row, x100."""
    from cxrmim.report import charts_classes as chart

    return chart.lines(chart.panels(book, OF))
