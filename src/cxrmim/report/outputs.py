"""What the stop writes, known without importing pandas or matplotlib (the workflow asks here)."""

from pathlib import Path

from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.paths import Paths

PARTS = ("tables", "figures", "page")
TABLE_SUFFIXES = ("csv", "md", "tex")
AUDIT, AUDIT_SUFFIXES = "data_audit", ("csv", "md")
FIGURE_SUFFIXES = ("svg", "png", "csv")


def blocks(params: Params, kind: str) -> list[str]:
    """Blocks of the grid that have a plug-in of a kind (`table` or `figure`), in grid order."""
    return [name for name in params.grid if plugins.source(kind, name) is not None]


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
    paths = Paths(params.scale)
    tables = [paths.table(t, s) for t in blocks(params, "table") for s in TABLE_SUFFIXES]
    tables += [pairs(paths, name) for name in compared(params)]
    figures = [paths.figure(f, s) for f in blocks(params, "figure") for s in FIGURE_SUFFIXES]
    return {
        "tables": [*tables, *(paths.table(AUDIT, s) for s in AUDIT_SUFFIXES), paths.summary],
        "figures": figures,
        "page": [page(paths)],
    }


def page(paths: Paths) -> Path:
    """The static page."""
    return paths.report / "index.html"
