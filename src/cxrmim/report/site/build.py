"""Fill the templates: the tables, figures, claims and the rest of a scale as pages of text."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxrmim import grid, plugins
from cxrmim.errors import CheckError
from cxrmim.paths import Paths
from cxrmim.report import audit, cells, cost, outputs, pairs, render, site, statistics
from cxrmim.report.book import Book
from cxrmim.report.cells import Cell, Table
from cxrmim.report.layout import Layout
from cxrmim.report.lineage import LARGEST, Lineage
from cxrmim.report.site import leads, leaks, public, start, traced

if TYPE_CHECKING:
    from cxrmim.report.claims import Slip, Verdict
    from cxrmim.report.environment import Group
    from cxrmim.report.flow import Flow
    from cxrmim.report.ledger import Line

WIDTH = re.compile(r'<svg[^>]* width="([0-9.]+)pt"')
NARROW = 400.0  # pt; a column is 245, a page 504
VERDICTS = ("supported", "contradicted", "undecided", "pending")
TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Parts:
    """What other modules of the report tell, and the site shows."""

    verdicts: "list[Verdict]"
    slips: "list[Slip]"
    ledger: "list[Line]"
    flows: "list[Flow]"
    environment: "list[Group]"


@dataclass(frozen=True)
class Word:
    """A report word of a figure's pair and how it is marked."""

    text: str
    mesh: bool
    chosen: bool


@dataclass(frozen=True)
class Shown:
    """A figure on the page.

    Attributes:
        id: its block of the grid.
        layout: its title and caption.
        alt: what it is, for who cannot see it.
        table: the cells that it draws, None if it draws something else.
        waits: why parts of it are pending.
        reports: the words of its image-report pairs.
    """

    id: str
    layout: Layout
    alt: str
    table: Table | None
    waits: dict[str, int]
    reports: list[list[Word]]


def pages(book: Book) -> dict[str, str]:
    """Every file of the site: path below ``results/<scale>/report`` -> text."""
    return filled(book, gathered(book))


def gathered(book: Book) -> Parts:
    """Ask the modules that judge claims, keep the ledger, and tell flow and environment."""
    from cxrmim.report import claims, environment, flow, ledger

    return Parts(
        verdicts=claims.evaluate(book),
        slips=claims.slips(),
        ledger=ledger.rows(book),
        flows=flow.datasets(book.params),
        environment=environment.summary(book.params),
    )


def filled(book: Book, parts: Parts) -> dict[str, str]:
    """The pages from a book and the other parts; every text that is put in is escaped.

    Raises:
        CheckError: a record or a figure is missing or unusable.
    """
    params, lineage = book.params, Lineage(book.params, book.records)
    known = {name: book.table(name) for name in outputs.compared(params)}
    compared = {
        name: leads.leads(params, table, statistics.compare(table)) for name, table in known.items()
    }
    shown = [_figure(book, name) for name in outputs.figures(params)]
    drawn = {figure.id: _drawn(params.scale, figure.id) for figure in shown}
    audited, real = leaks.leaks(params), public.rules()
    environment = _environment(book, lineage)
    common: dict[str, Any] = {
        "params": params,
        "banner": render.banner(params),
        "phantom": params.manifest.source == "phantom",
        "compared": compared,
    }
    index = environment.get_template("index.html").render(
        **common,
        tables=book.tables,
        costs=[
            (name, cells.layout_of(name), cost.lines(params, name, book.records))
            for name in cost.tables(params)
        ],
        figures=shown,
        narrow={name for name, text in drawn.items() if _is_narrow(text)},
        audited=audited,
        real=real,
        official=leaks.official(audited, real),
        differing=start.differing(book.params, lineage),
        clear=start.clear(parts.ledger),
        tested=sum(m.p is not None for line in parts.ledger for m in line.measured),
        pending=_pending(book.tables, shown),
        unbuilt=[name for name in params.grid if not _has_plugin(name)],
        example=_example(book.tables, compared),
        made=len(grid.runs(params)),
        wanted=len(grid.all_runs(params)),
        parts=parts,
        judged=_counts(parts.verdicts),
        measured=sum(not line.reason for line in parts.ledger),
        smaller=sum(bool(line.here) for line in parts.ledger),
        commits=_commits(parts.environment),
    )
    found = {site.INDEX: index, site.STYLE: (TEMPLATES / "style.css").read_text(encoding="utf-8")}
    for name, table in known.items():
        found[site.trace(name)] = environment.get_template("trace.html").render(
            **common,
            table=table,
            page=traced.traced(table, lineage),
            versus=compared[name],
        )
    return found | {site.figure(name): text for name, text in drawn.items()}


def _environment(book: Book, lineage: Lineage) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = (TEMPLATES / "site.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment.filters |= {"groupby_runs": render.groups, "ticked": _ticked}
    environment.globals |= {
        "audit": audit,
        "blocks_of": _blocks,
        "chance": leads.chance,
        "cost": cost,
        "href": lambda address, up="": _href(book, address, up),
        "interval": render.interval,
        "largest": LARGEST,
        "legend": f"{render.OURS}. {render.INTERVALS}",
        "multiple": render.multiple,
        "number": render.number,
        "published": render.published,
        "pull": lambda units: traced.pull(lineage, units),
        "pointers": lambda units: traced.pointers(lineage, units),
        "runs_of": render.runs,
        "script": script,
        "script_hash": base64.b64encode(digest).decode(),
        "below": render.BELOW,
        "seeding": render.seeding(book.params),
        "seeds": _seeds,
        "setting": traced.setting,
        "signed": leads.signed,
        "site": site,
        "size": traced.size,
        "sums": traced.sums,
    }
    return environment


def _ticked(text: str) -> Markup:
    """Text whose parts between backticks are code; all of it is escaped."""
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in parts)


def _href(book: Book, address: str, up: str) -> str:
    """Where a cell is traced, "" if the scale has no such cell."""
    if book.cell(address) is None:
        return ""
    block, _, rest = address.partition(":")
    return f"{up}{site.trace(block)}#{rest}"


def _blocks(addresses: Sequence[str]) -> list[tuple[str, int]]:
    """Blocks of cells, with the number of cells of each."""
    found = [address.partition(":")[0] for address in addresses]
    return [(name, found.count(name)) for name in dict.fromkeys(found)]


def _seeds(cell: Cell) -> str:
    """The values of a cell's runs, by what tells them apart: pretraining or downstream seed."""
    values = ", ".join(render.number(value) for value in cell.values)
    if cell.n == 1:
        return f"one run: {values}"
    several = len({run.checkpoint for run in cell.runs}) > 1
    seeds = [grid.entry_of(run.checkpoint).seed if several else run.seed for run in cell.runs]
    named = ", ".join(str(seed) for seed in seeds)
    return f"{'pretraining ' if several else ''}seeds {named}: {values}"


def _figure(book: Book, name: str) -> Shown:
    params, layout = book.params, cells.layout_of(name)
    if not hasattr(plugins.load("figure", name), "data"):
        table = book.table(name)
        rows = ", ".join(row.name for row in table.rows if not row.baseline)
        alt = f"Chart of {rows}; its numbers stand below as a table"
        return Shown(name, layout, alt, table, table.reasons(), [])
    if name not in params.grid:  # it shows runs of other blocks
        return Shown(name, layout, f"{layout.title}: chart of the data in its csv", None, {}, [])
    reason = pairs.obstacle(params, name)
    found = pairs.read(params, name, book.records)
    alt = f"{len(found)} radiographs with attention maps and masks" if found else "nothing to draw"
    waits = {reason: 1} if reason else {}
    return Shown(name, layout, alt, None, waits, [_words(p) for p in found])


def _words(pair: pairs.Pair) -> list[Word]:
    mesh, chosen = (pair.guides[key].words for key in pairs.STRATEGIES)
    return [Word(text, at in mesh, at in chosen) for at, text in enumerate(pair.words)]


def _drawn(scale: str, name: str) -> str:
    path = Paths(scale).figure(name, "svg")
    if not path.is_file():
        raise CheckError(f"{path}: not there; run `cxrmim report --scale {scale} --part figures`")
    return path.read_bytes().decode()


def _is_narrow(drawing: str) -> bool:
    """Whether a drawing is a column wide, not a page."""
    found = WIDTH.search(drawing)
    return found is not None and float(found[1]) < NARROW


def _pending(tables: list[Table], figures: list[Shown]) -> dict[str, list[str]]:
    """Why something is pending -> titles of the tables and figures that wait for it."""
    out: dict[str, list[str]] = {}
    waits = [(t.layout.title, t.reasons()) for t in tables]
    waits += [(f.layout.title, f.waits) for f in figures]
    for title, reasons in waits:
        for reason in reasons:
            out.setdefault(reason, []).append(title)
    return out


def _counts(verdicts: "list[Verdict]") -> dict[str, int]:
    """Number of claims by verdict."""
    found: list[str] = [verdict.verdict for verdict in verdicts]
    return {name: found.count(name) for name in VERDICTS if name != "pending" or name in found}


def _commits(groups: "list[Group]") -> dict[str, int]:
    """Number of units of work by commit, in words where the checkout had been changed."""
    found: dict[str, int] = {}
    for group in groups:
        name = f"{group.commit}{' with uncommitted changes' if group.dirty else ''}"
        found[name] = found.get(name, 0) + group.count
    return found


def _example(tables: list[Table], compared: dict[str, leads.Leads]) -> Cell | None:
    """A measured cell to show the trace with: one of a paper's own method if there is one."""
    found = [
        (row.entry == compared[table.id].own, cell)
        for table in tables
        for row in table.rows
        for cell in row.cells
        if cell.state == "measured" and not row.baseline
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def _has_plugin(name: str) -> bool:
    """Whether a block of the grid has table or figure code."""
    return any(plugins.source(kind, name) is not None for kind in ("table", "figure"))
