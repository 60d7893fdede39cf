"""What the entrance of the site says of the differences from the papers."""

from typing import TYPE_CHECKING, Any

from cxrmim import grid
from cxrmim.params import Params
from cxrmim.report.layout import METHODS
from cxrmim.report.lineage import Lineage
from cxrmim.report.site.leads import LEVEL

if TYPE_CHECKING:
    from cxrmim.report.ledger import Line, Measured

Change = tuple[str, Any, Any]  # dotted key, value here, value at the papers' scale


def differing(params: Params, lineage: Lineage) -> dict[str, list[Change]]:
    """Parameters of the papers' own methods that are others than at the papers' scale.

    Returns:
        printed name of the method -> its changes, of those that the scale trains.
    """
    own = [block.paper for block in params.grid.values() if block.paper]
    trained = {item.entry: item.checkpoint for item in grid.pretrainings(params)}
    found = {
        METHODS[name]: lineage.differing("pretrain", trained[name])
        for name in dict.fromkeys(own)
        if name in trained
    }
    return {name: changes for name, changes in found.items() if changes}


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
