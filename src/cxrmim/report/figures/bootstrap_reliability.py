"""Reliability of the bootstrap: repeatability, Monte-Carlo error, and the seeds beside it."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

OF = ("*",)
LAYOUT = Layout(
    title="Reliability of the bootstrap",
    caption="Left: standard deviation of the first against the second half of every run's "
    "replicates. Middle: how far an interval's lower bound moves between disjoint sets of "
    "replicates, in percent of the interval's half width; dashed: a normal distribution. Right: "
    "each cell's standard deviation over seeds against that over test images, which alone its "
    "interval holds.",
)


def draw(book: "Book") -> "Figure":
    """Three panels."""
    from cxrmim.report import charts_bootstrap as chart

    return chart.draw(chart.find(book))


def data(book: "Book") -> list[tuple[str, ...]]:
    """Rows of the csv: one a point."""
    from cxrmim.report import charts_bootstrap as chart

    return chart.lines(chart.find(book))
