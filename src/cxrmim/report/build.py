"""Build the tables, the figures and the site of a scale from its records."""

from pathlib import Path

from cxrmim import plugins
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.record import Tree, canonical
from cxrmim.report import audit, cells, claims, cost, ledger, outputs, render, statistics
from cxrmim.report.book import Book
from cxrmim.report.cells import Table

Files = dict[Path, bytes]


def build_tables(params: Params) -> None:
    """Write every table as csv, Markdown and LaTeX, and their cells as one summary.json.

    Beside them stand the paired comparisons of their rows and of those of the figures that show
    cells, the data audit, the claims and the ledger. Nothing is written unless everything can be.

    Raises:
        CheckError: a run that could be made, or a dataset, has no usable record.
    """
    _write(tables(Book(params)))


def build_figures(params: Params) -> None:
    """Write every figure as svg and png, and what it shows as csv.

    Raises:
        CheckError: a run that could be made has no usable record.
    """
    from cxrmim.report import charts

    paths, book = Paths(params.scale), Book(params)
    shown = figures(book)
    for name in outputs.figures(params):
        with charts.style(params):
            figure = plugins.load("figure", name).draw(book)
            charts.label(figure, render.banner(params))
            for suffix in ("svg", "png"):
                with atomic(paths.figure(name, suffix)) as temporary:
                    charts.save(figure, temporary)
    _write(shown)


def build_page(params: Params) -> None:
    """Write the static site that shows the tables and figures.

    Raises:
        CheckError: a run that could be made has no usable record.
    """
    _write(site(Book(params)))


def contents(params: Params) -> Files:
    """Every text file of the report as it should be; the pictures alone are left out.

    Raises:
        CheckError: a run that could be made, or a dataset, has no usable record.
    """
    book = Book(params)
    return tables(book) | figures(book) | site(book)


def tables(book: Book) -> Files:
    """The files of `build_tables`."""
    params, paths = book.params, Paths(book.params.scale)
    out: Files = {}

    def put(name: str, **texts: str) -> None:
        for suffix, text in texts.items():
            out[paths.table(name, suffix)] = text.encode()

    for table in book.tables:
        put(
            table.id,
            csv=render.to_csv(table),
            md=render.to_markdown(table, params),
            tex=render.to_latex(table, params),
        )
    for name in book.known:
        pairs = render.csv_text(statistics.lines(book.table(name)))
        out[outputs.pairs(paths, name)] = pairs.encode()
    for name in cost.tables(params):
        layout, lines = cells.layout_of(name), cost.lines(params, name, book.records)
        put(
            name,
            csv=cost.to_csv(name, lines),
            md=cost.to_markdown(layout, lines, params),
            tex=cost.to_latex(name, layout, lines, params),
        )
    audited, judged, differing = audit.lines(params), claims.evaluate(book), ledger.rows(book)
    put(outputs.AUDIT, csv=audit.to_csv(audited), md=audit.to_markdown(audited, params))
    put(outputs.CLAIMS, csv=claims.to_csv(judged), md=claims.to_markdown(judged, params))
    put(outputs.LEDGER, csv=ledger.to_csv(differing), md=ledger.to_markdown(differing, params))
    put(outputs.SLIPS, csv=claims.slips_to_csv(claims.slips()))
    out[paths.summary] = canonical(summary(book.tables))
    return out


def figures(book: Book) -> Files:
    """The data behind every figure."""
    params, paths = book.params, Paths(book.params.scale)
    out: Files = {}
    for name in outputs.figures(params):
        module = plugins.load("figure", name)
        if hasattr(module, "data"):
            text = render.csv_text(module.data(book))
        else:
            text = render.to_csv(book.table(name))
        out[paths.figure(name, "csv")] = text.encode()
    return out


def site(book: Book) -> Files:
    """The pages."""
    from cxrmim.report import site as pages

    folder = Paths(book.params.scale).report
    return {folder / name: text.encode() for name, text in pages.pages(book).items()}


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


def _write(files: Files) -> None:
    for path, content in files.items():
        with atomic(path) as temporary:
            temporary.write_bytes(content)
