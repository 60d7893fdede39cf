"""MedIM Figure 3, left: masking strategies."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

LAYOUT = Layout(
    title="MedIM Figure 3 (left)",
    caption="Masking strategies of MedIM with 10% of the labels: COVIDx accuracy, CheXpert mAUC, "
    "SIIM Dice (x100). "
    "Hollow diamonds: rows of the paper's Table 3; that its figure shows the same runs is "
    "presumed, as it prints no numbers.",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"covidx": "COVIDx (accuracy)", "chexpert": "CheXpert (mAUC)", "siim": "SIIM (Dice)"},
    names={
        "medim-none": "No masking",
        "medim-random": "Random masking",
        "medim-low": "Low-activated",
        "medim": "High-activated",
    },
)


def draw(book: "Book") -> "Figure":
    """One panel a dataset, one position a strategy."""
    from cxrmim.report import charts, charts_cells

    table = book.table("medim_figure3_left")
    return charts_cells.points(table, book.params, charts.DOUBLE)
