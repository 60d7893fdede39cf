"""The static page: one HTML file that shows a scale's tables and figures."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cxrmim import grid, plugins
from cxrmim.params import Params
from cxrmim.report import audit, cells, cost, pairs, render
from cxrmim.report.cells import Table
from cxrmim.report.layout import Layout
from cxrmim.report.outputs import blocks
from cxrmim.report.records import Records

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Word:
    """A report word of a figure's pair and how it is marked."""

    text: str
    mesh: bool
    chosen: bool


@dataclass(frozen=True)
class Shown:
    """A figure on the page; `reports` are the words of its pairs, `waits` why parts are pending.

    `compared` says whether its rows are compared pair by pair.
    """

    id: str
    layout: Layout
    alt: str
    waits: dict[str, int]
    reports: list[list[Word]]
    compared: bool


def render_page(params: Params, tables: list[Table], records: Records) -> str:
    """The page as HTML; every text that is put in is escaped.

    Args:
        params: all parameters.
        tables: the filled tables.
        records: where figures' words are read from.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["groupby_runs"] = render.groups
    environment.globals |= {
        "number": render.number,
        "published": render.published,
        "interval": render.interval,
        "multiple": render.multiple,
        "runs_of": render.runs,
    }
    figures = [_figure(params, name, records) for name in blocks(params, "figure")]
    return environment.get_template("index.html").render(
        params=params,
        banner=render.banner(params),
        phantom=params.manifest.source == "phantom",
        tables=[(table, table.best()) for table in tables],
        costs=[
            (n, cells.layout_of(n), cost.lines(params, n, records)) for n in cost.tables(params)
        ],
        cost=cost,
        figures=figures,
        audit=audit,
        audited=audit.lines(params),
        legend=render.LEGEND,
        pending=_pending(tables, figures),
        unbuilt=[name for name in params.grid if not _has_plugin(name)],
        example=_example(tables),
        made=len(grid.runs(params)),
        wanted=len(grid.all_runs(params)),
    )


def _figure(params: Params, name: str, records: Records) -> Shown:
    layout = cells.layout_of(name)
    module = plugins.load("figure", name)
    if not hasattr(module, "data"):
        table = cells.build(params, name, layout, records)
        said = [
            f"{row.name}, {cell.column.title}: {render.number(cell.mean) or cell.state}"
            for row in table.rows
            for cell in row.cells
            if cell.state != "blank"
        ]
        return Shown(name, layout, "; ".join(said), table.reasons(), [], True)
    reason = pairs.obstacle(params, name)
    found = pairs.read(params, name, records)
    alt = f"{len(found)} radiographs with attention maps and masks" if found else "nothing to draw"
    waits = {reason: 1} if reason else {}
    return Shown(name, layout, alt, waits, [_words(p) for p in found], False)


def _words(pair: pairs.Pair) -> list[Word]:
    mesh, chosen = (pair.guides[key].words for key in pairs.STRATEGIES)
    return [Word(text, at in mesh, at in chosen) for at, text in enumerate(pair.words)]


def _pending(tables: list[Table], figures: list[Shown]) -> dict[str, list[str]]:
    """Why something is pending -> titles of the tables and figures that wait for it."""
    out: dict[str, list[str]] = {}
    waits = [(t.layout.title, t.reasons()) for t in tables]
    waits += [(f.layout.title, f.waits) for f in figures]
    for title, reasons in waits:
        for reason in reasons:
            out.setdefault(reason, []).append(title)
    return out


def _has_plugin(name: str) -> bool:
    return any(plugins.source(kind, name) is not None for kind in ("table", "figure"))


def _example(tables: list[Table]) -> str:
    """The address of the last measured cell that is no baseline's, for the text on tracing."""
    found = [
        cell.address
        for table in tables
        for row in table.rows
        for cell in row.cells
        if cell.state == "measured" and not row.baseline
    ]
    return found[-1] if found else "TABLE:ROW:COLUMN"
