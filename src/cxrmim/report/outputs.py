"""What the stop writes, known without importing pandas or matplotlib (the workflow asks here)."""

from pathlib import Path
from types import ModuleType

from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.paths import Paths

PARTS = ("tables", "figures", "page")
TABLE_SUFFIXES = ("csv", "md", "tex")
AUDIT, CLAIMS, LEDGER, SLIPS = "data_audit", "claims", "ledger", "slips"
LISTS = {AUDIT: ("csv", "md"), CLAIMS: ("csv", "md"), LEDGER: ("csv", "md"), SLIPS: ("csv",)}
FIGURE_SUFFIXES = ("svg", "png", "csv")


def blocks(params: Params, kind: str) -> list[str]:
    """Blocks of the grid that have a plug-in of a kind (`table` or `figure`), in grid order."""
    return [name for name in params.grid if plugins.source(kind, name) is not None]


def figures(params: Params) -> list[str]:
    """Figures of the scale: blocks of the grid, then those that show other blocks' runs.

    The latter name these blocks in `OF` (``*``: any), and are drawn where the grid has one.
    """
    named = blocks(params, "figure")
    others = [name for name in plugins.names("figure") if name not in named]
    return named + [name for name in others if _shown(params, plugins.load("figure", name))]


def _shown(params: Params, module: ModuleType) -> bool:
    needed = getattr(module, "OF", ())
    return "*" in needed or any(name in params.grid for name in needed)


def compared(params: Params) -> list[str]:
    """Tables and figures whose rows are compared pair by pair: those that show cells."""
    tables = [
        name
        for name in blocks(params, "table")
        if plugins.load("table", name).LAYOUT.prints == "cells"
    ]
    figures = [
        name
        for name in blocks(params, "figure")
        if not hasattr(plugins.load("figure", name), "data")
    ]
    return tables + figures


def pairs(paths: Paths, block: str) -> Path:
    """The paired comparisons of a table's or figure's rows."""
    return paths.table(f"{block}_pairs", "csv")


def outputs(params: Params) -> dict[str, list[Path]]:
    """Every file of the report by part: tables, figures, page."""
    from cxrmim.report import site  # which asks here for figures and blocks

    paths = Paths(params.scale)
    tables = [paths.table(t, s) for t in blocks(params, "table") for s in TABLE_SUFFIXES]
    tables += [pairs(paths, name) for name in compared(params)]
    lists = [paths.table(name, s) for name, suffixes in LISTS.items() for s in suffixes]
    return {
        "tables": [*tables, *lists, paths.summary],
        "figures": [paths.figure(f, s) for f in figures(params) for s in FIGURE_SUFFIXES],
        "page": [paths.report / name for name in site.names(params)],
    }
