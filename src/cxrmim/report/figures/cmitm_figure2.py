"""CMITM Figure 2: what each of its two learning tasks gives."""

from typing import TYPE_CHECKING

from cxrmim.params import Params
from cxrmim.report import cells
from cxrmim.report.layout import Layout, Measure
from cxrmim.report.records import Records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUT = Layout(
    title="CMITM Figure 2",
    caption="CMITM without masked image-text modelling (MITM) or without cross-modal contrastive "
    "learning (CCL), fine-tuned with 1% of the training data: RSNA AUC, COVIDx accuracy (x100).",
    measures=(Measure("{dataset}", "", "{name}"),),
    datasets={"rsna": "RSNA (AUC)", "covidx": "COVIDx (accuracy)"},
    names={"cmitm": "CMITM", "cmitm-nomitm": "without MITM", "cmitm-s1": "without CCL"},
    decimals=1,
)


def draw(params: Params, records: Records) -> "Figure":
    """One panel a dataset, one position a variant."""
    from cxrmim.report import charts

    return charts.points(cells.build(params, "cmitm_figure2", LAYOUT, records))
