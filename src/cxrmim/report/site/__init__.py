"""The site: static pages that show all of a scale's results and the trace behind every cell.

Nothing heavy is imported at the top level: the workflow asks here for the names of the pages.
"""

from typing import TYPE_CHECKING

from cxrmim.params import Params
from cxrmim.report import outputs

if TYPE_CHECKING:
    from cxrmim.report.book import Book

INDEX, STYLE = "index.html", "style.css"


def names(params: Params) -> list[str]:
    """Paths below ``results/<scale>/report`` of everything that `pages` gives, in its order."""
    return [
        INDEX,
        STYLE,
        *(trace(block) for block in outputs.compared(params)),
        *(figure(block) for block in outputs.figures(params)),
    ]


def trace(block: str) -> str:
    """The page that traces the cells of a block of the grid."""
    return f"trace/{block}.html"


def figure(block: str) -> str:
    """The site's copy of a figure, so that the folder is whole without its neighbours."""
    return f"figures/{block}.svg"


def pages(book: "Book") -> dict[str, str]:
    """Every file of the site: path below ``results/<scale>/report`` -> text.

    Raises:
        CheckError: a record, or a figure that the part `figures` draws, is missing or unusable.
    """
    from cxrmim.report.site import build

    return build.pages(book)
