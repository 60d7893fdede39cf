"""What the entrance of the site says of the differences from the papers."""

from typing import TYPE_CHECKING, Any

from cxrmim import grid
from cxrmim.params import Params
from cxrmim.report.layout import METHODS
from cxrmim.report.lineage import Lineage
from cxrmim.report.site.leads import LEVEL
from cxrmim.schema import PAPERS

if TYPE_CHECKING:
    from cxrmim.report.ledger import Line, Measured

Change = tuple[str, Any, Any]  # dotted key, value here, value at the papers' scale


def differing(params: Params, lineage: Lineage) -> dict[str, list[Change] | None]:
    """Parameters of the papers' own methods that are others than at the papers' scale.

    Returns:
        printed name of each such method that the scale trains -> its changes; None where there is
        nothing to compare with.
    """
    trained = {item.entry: item.checkpoint for item in grid.pretrainings(params)}
    return {
        METHODS[name]: lineage.differing("pretrain", trained[name])
        for name in PAPERS
        if name in trained
    }


def clear(lines: "list[Line]") -> "list[tuple[str, Measured]]":
    """Topic and comparison of what both sides were run of, and differs at the 5 % level.

    p is the ledger's, not corrected for the number of comparisons.
    """
    return [
        (line.topic, measured)
        for line in lines
        for measured in line.measured
        if measured.p is not None and measured.p < LEVEL
    ]
