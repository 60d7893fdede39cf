"""CMITM Figure 2: what each of its two learning tasks gives."""

from typing import TYPE_CHECKING

from cxrmim.report.layout import Layout, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrmim.report.book import Book

LAYOUT = Layout(
    title="CMITM Figure 2",
    caption="CMITM without masked image-text modelling (MITM) or without cross-modal contrastive "
    "learning (CCL), fine-tuned with 1% of the training data: RSNA AUC, COVIDx accuracy (x100). "
    "Hollow diamonds: rows of the paper's Table 2; that its figure shows the same runs is "
    "presumed, as it prints no numbers.",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"rsna": "RSNA (AUC)", "covidx": "COVIDx (accuracy)"},
    names={"cmitm": "CMITM", "cmitm-nomitm": "without MITM", "cmitm-s1": "without CCL"},
    decimals=1,
)


def draw(book: "Book") -> "Figure":
    """One panel a dataset, one position a variant."""
    from cxrmim.report import charts, charts_cells

    table = book.table("cmitm_figure2")
    return charts_cells.points(table, book.params, charts.SINGLE)
