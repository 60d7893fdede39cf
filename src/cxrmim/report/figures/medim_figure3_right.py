"""MedIM Figure 3, right: masking ratios."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

LAYOUT = Layout(
    title="MedIM Figure 3 (right)",
    caption="Masking ratios of MedIM with 10% of the labels: COVIDx accuracy, CheXpert mAUC, SIIM "
    "Dice (x100). "
    "Hollow diamonds: rows of the paper's Table 3; that its figure shows the same runs is "
    "presumed, as it prints no numbers.",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"covidx": "COVIDx (accuracy)", "chexpert": "CheXpert (mAUC)", "siim": "SIIM (Dice)"},
    names=dict.fromkeys(("medim-r25", "medim", "medim-r75"), "{ratio:.0%}"),
)


def draw(book: "Book") -> "Figure":
    """One panel a dataset, one position a ratio."""
    from cxrmim.report import charts, charts_cells

    table = book.table("medim_figure3_right")
    return charts_cells.points(table, book.params, charts.DOUBLE, axis="masking ratio", joined=True)
