"""Build the tables, the figures and the page of a scale from its records."""

from pathlib import Path

from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.record import Tree, canonical
from cxrmim.report import audit, cells, cost, outputs, render, statistics
from cxrmim.report.cells import Table
from cxrmim.report.outputs import AUDIT, blocks, page
from cxrmim.report.records import Records


def build_tables(params: Params) -> None:
    """Write every table as csv, Markdown and LaTeX, and their cells as one summary.json.

    Beside them stand the paired comparisons of their rows, and of those of the figures that show
    cells. Nothing is written unless every table can be.

    Raises:
        CheckError: a run that could be made, or a dataset, has no usable record.
    """
    paths = Paths(params.scale)
    records = Records(params)
    tables, audited = all_tables(params, records), audit.lines(params)
    drawn = [
        cells.build(params, name, cells.layout_of(name), records)
        for name in outputs.compared(params)
        if name not in {table.id for table in tables}
    ]
    compared = {table.id: statistics.lines(table) for table in [*tables, *drawn]}
    costs = {name: cost.lines(params, name, records) for name in cost.tables(params)}
    for table in tables:
        _write(paths.table(table.id, "csv"), render.to_csv(table).encode())
        _write(paths.table(table.id, "md"), render.to_markdown(table, params).encode())
        _write(paths.table(table.id, "tex"), render.to_latex(table, params).encode())
    for name, pairs in compared.items():
        _write(outputs.pairs(paths, name), render.csv_text(pairs).encode())
    for name, lines in costs.items():
        layout = cells.layout_of(name)
        _write(paths.table(name, "csv"), cost.to_csv(name, lines).encode())
        _write(paths.table(name, "md"), cost.to_markdown(layout, lines, params).encode())
        _write(paths.table(name, "tex"), cost.to_latex(name, layout, lines, params).encode())
    _write(paths.table(AUDIT, "csv"), audit.to_csv(audited).encode())
    _write(paths.table(AUDIT, "md"), audit.to_markdown(audited, params).encode())
    _write(paths.summary, canonical(summary(tables)))


def build_figures(params: Params) -> None:
    """Write every figure as svg and png, and what it shows as csv.

    Raises:
        CheckError: a run that could be made has no usable record.
    """
    from cxrmim.report import charts

    paths, records = Paths(params.scale), Records(params)
    for name in blocks(params, "figure"):
        module = plugins.load("figure", name)
        if hasattr(module, "data"):
            text = render.csv_text(module.data(params, records))
        else:
            text = render.to_csv(cells.build(params, name, module.LAYOUT, records))
        with charts.style(params):
            figure = module.draw(params, records)
            charts.label(figure, render.banner(params))
            for suffix in ("svg", "png"):
                with atomic(paths.figure(name, suffix)) as temporary:
                    charts.save(figure, temporary)
        _write(paths.figure(name, "csv"), text.encode())


def build_page(params: Params) -> None:
    """Write the static page that shows the tables and figures.

    Raises:
        CheckError: a run that could be made has no usable record.
    """
    from cxrmim.report import site

    records = Records(params)
    text = site.render_page(params, all_tables(params, records), records)
    _write(page(Paths(params.scale)), text.encode())


def all_tables(params: Params, records: Records) -> list[Table]:
    """Every table of the grid that has a plug-in and prints its cells, filled in."""
    others = cost.tables(params)
    return [
        cells.build(params, name, cells.layout_of(name), records)
        for name in blocks(params, "table")
        if name not in others
    ]


def summary(tables: list[Table]) -> Tree:
    """Measured cells by address; numbers only, for `dvc metrics`.

    `value`, `sd`, `ci_low` and `ci_high` are in [0, 1], `n` counts runs.
    """
    found: Tree = {}
    for table in tables:
        for row in table.rows:
            for cell in row.cells:
                if cell.mean is None:
                    continue
                found[cell.address] = {"value": cell.mean, "n": cell.n}
                if cell.sd is not None:
                    found[cell.address]["sd"] = cell.sd
                if cell.interval is not None:
                    low, high = cell.interval
                    found[cell.address] |= {"ci_low": low, "ci_high": high}
    return {"cells": found}


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)
