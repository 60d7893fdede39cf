"""CMITM Figure 3: masking ratios of the contrastive stage."""

from typing import TYPE_CHECKING

from cxrmim.params import Params
from cxrmim.report import cells
from cxrmim.report.layout import Layout, Measure
from cxrmim.report.records import Records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUT = Layout(
    title="CMITM Figure 3",
    caption="Masking ratio of the images in CMITM's contrastive stage, fine-tuned with 1% of the "
    "training data: RSNA AUC, COVIDx accuracy (x100).",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"rsna": "RSNA (AUC)", "covidx": "COVIDx (accuracy)"},
    names=dict.fromkeys(("cmitm-nomask", "cmitm-r25", "cmitm-r50", "cmitm"), "{ratio:.0%}"),
    decimals=1,
)


def draw(params: Params, records: Records) -> "Figure":
    """One panel a dataset, one position a ratio."""
    from cxrmim.report import charts

    table = cells.build(params, "cmitm_figure3", LAYOUT, records)
    return charts.points(table, axis="masking ratio", joined=True)
