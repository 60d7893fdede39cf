"""CMITM Figure 3: masking ratios of the contrastive stage."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

LAYOUT = Layout(
    title="CMITM Figure 3",
    caption="Masking ratio of the images in CMITM's contrastive stage, fine-tuned with 1% of the "
    "training data: RSNA AUC, COVIDx accuracy (x100). "
    "Hollow diamonds: rows of the paper's Table 2; that its figure shows the same runs is "
    "presumed, as it prints no numbers.",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"rsna": "RSNA (AUC)", "covidx": "COVIDx (accuracy)"},
    names=dict.fromkeys(("cmitm-nomask", "cmitm-r25", "cmitm-r50", "cmitm"), "{ratio:.0%}"),
    decimals=1,
)


def draw(book: "Book") -> "Figure":
    """One panel a dataset, one position a ratio."""
    from cxrmim.report import charts, charts_cells

    table = book.table("cmitm_figure3")
    return charts_cells.points(table, book.params, charts.SINGLE, axis="masking ratio", joined=True)
