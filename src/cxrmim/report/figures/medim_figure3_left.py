"""MedIM Figure 3, left: masking strategies."""

from typing import TYPE_CHECKING

from cxrmim.params import Params
from cxrmim.report import cells
from cxrmim.report.layout import Layout, Measure
from cxrmim.report.records import Records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUT = Layout(
    title="MedIM Figure 3 (left)",
    caption="Masking strategies of MedIM with 10% of the labels: COVIDx accuracy, CheXpert mAUC, "
    "SIIM Dice (x100).",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"covidx": "COVIDx (accuracy)", "chexpert": "CheXpert (mAUC)", "siim": "SIIM (Dice)"},
    names={
        "medim-none": "No masking",
        "medim-random": "Random masking",
        "medim-low": "Low-activated",
        "medim": "High-activated",
    },
)


def draw(params: Params, records: Records) -> "Figure":
    """One panel a dataset, one position a strategy."""
    from cxrmim.report import charts

    return charts.points(cells.build(params, "medim_figure3_left", LAYOUT, records))
