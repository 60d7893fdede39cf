"""MedIM Figure 3, right: masking ratios."""

from typing import TYPE_CHECKING

from cxrmim.params import Params
from cxrmim.report import cells
from cxrmim.report.layout import Layout, Measure
from cxrmim.report.records import Records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUT = Layout(
    title="MedIM Figure 3 (right)",
    caption="Masking ratios of MedIM with 10% of the labels: COVIDx accuracy, CheXpert mAUC, SIIM "
    "Dice (x100).",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"covidx": "COVIDx (accuracy)", "chexpert": "CheXpert (mAUC)", "siim": "SIIM (Dice)"},
    names=dict.fromkeys(("medim-r25", "medim", "medim-r75"), "{ratio:.0%}"),
)


def draw(params: Params, records: Records) -> "Figure":
    """One panel a dataset, one position a ratio."""
    from cxrmim.report import charts

    table = cells.build(params, "medim_figure3_right", LAYOUT, records)
    return charts.points(table, axis="masking ratio", joined=True)
