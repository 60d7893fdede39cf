"""Grid + records -> the cells of a table, and a cell by its address."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from cxrmim import grid, plugins
from cxrmim.errors import CheckError, ParamsError
from cxrmim.explain import unknown
from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.report import published
from cxrmim.report.layout import ROWS, Column, Layout
from cxrmim.report.outputs import blocks
from cxrmim.report.records import Records

State = Literal["measured", "pending", "missing", "blank"]
BASELINES = {
    "prior": "Class prior",
    "pixels": "Pixel regression",
    "empty": "Empty mask",
    "chance": "Chance retrieval",
}
PERCENT = 100.0


@dataclass(frozen=True)
class Cell:
    """One cell: what it prints and the runs behind it.

    `mean`, `sd` and `interval` are in [0, 1]; `sd` divides by n - 1 and is None for one run.
    `replicates` are the runs' bootstrap values, a row a run, none where the column has none.
    `published` and `difference` are x100. `state` is

    - measured: all runs have records;
    - pending: a run cannot be made yet, `reason` says why;
    - missing: a run could be made but has no usable record, `reason` says which (only `find`
      returns such a cell, a table is not built from one);
    - blank: a baseline that does not apply to the column.
    """

    table: str
    row: str
    name: str
    column: Column
    runs: tuple[Run, ...]
    state: State
    reason: str = ""
    values: tuple[float, ...] = ()
    published: float | None = None
    replicates: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    @property
    def address(self) -> str:
        """TABLE:ROW:COLUMN."""
        return f"{self.table}:{self.row}:{self.column.key}"

    @property
    def n(self) -> int:
        """Number of measured runs."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Mean over the runs, None if not measured."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over the runs (n - 1), None for fewer than two."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval over test images of the mean over runs, None without replicates."""
        if not self.replicates:
            return None
        from cxrmim.report import statistics as images  # numpy loads when there is work for it

        return images.interval(self.replicates)

    @property
    def difference(self) -> float | None:
        """Ours minus published in points, of the numbers as printed."""
        if self.mean is None or self.published is None:
            return None
        return round(round(PERCENT * self.mean, 2) - self.published, 2)


@dataclass(frozen=True)
class Row:
    """One row: an entry or a trivial baseline; `marks` describe it, `cells` follow the columns.

    `stand_in` says what stands in for weights that the scale has not got; `name` says so too.
    """

    entry: str
    name: str
    baseline: bool
    marks: tuple[str, ...]
    cells: tuple[Cell, ...]
    stand_in: str = ""


@dataclass(frozen=True)
class Table:
    """One block of the grid, laid out and filled in; `source` is `real` or `phantom`."""

    id: str
    layout: Layout
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    source: str

    def reasons(self) -> dict[str, int]:
        """Why cells are pending: reason -> number of cells."""
        found = [c.reason for row in self.rows for c in row.cells if c.state == "pending"]
        return {reason: found.count(reason) for reason in dict.fromkeys(found)}

    def best(self) -> set[str]:
        """Addresses of the highest of our values of each column (as printed).

        Neither baselines nor what is not above them: see `trivial`.
        """
        out: set[str] = set()
        for index in range(len(self.columns)):
            printed = self._printed(index, baselines=False)
            if len(printed) > 1:
                out |= {a for a, value in printed.items() if value == max(printed.values())}
        return out - self.trivial()

    def trivial(self) -> set[str]:
        """Addresses of our values that are not above the best trivial baseline of their column."""
        out: set[str] = set()
        for index in range(len(self.columns)):
            level = max(self._printed(index, baselines=True).values(), default=-1.0)
            ours = self._printed(index, baselines=False)
            out |= {address for address, value in ours.items() if value <= level}
        return out

    def _printed(self, index: int, baselines: bool) -> dict[str, float]:
        """Measured values of a column as printed, by address."""
        cells = [row.cells[index] for row in self.rows if row.baseline == baselines]
        return {c.address: round(PERCENT * c.mean, 2) for c in cells if c.mean is not None}

    def multiple(self, cell: Cell) -> float | None:
        """A value as a multiple of the baseline that `layout.multiple_of` names."""
        base = next(
            (
                other.mean
                for row in self.rows
                if row.entry == grid.BASELINE + str(self.layout.multiple_of)
                for other in row.cells
                if other.column.key == cell.column.key
            ),
            None,
        )
        return cell.mean / base if cell.mean is not None and base else None


def build(params: Params, block: str, layout: Layout, records: Records | None = None) -> Table:
    """Lay out a block of the grid and fill in its cells.

    Raises:
        CheckError: a run that could be made has no usable record, or those of a column were not
            tested on the same images.
    """
    records = records or Records(params)
    plan = laid_out(params, block, layout)
    rows = tuple(replace(r, cells=tuple(_filled(c, records) for c in r.cells)) for r in plan.rows)
    for index, column in enumerate(plan.columns):
        if column.sampled:
            measured = [r.cells[index] for r in rows if r.cells[index].state == "measured"]
            records.same_images([run for cell in measured for run in cell.runs])
    return replace(plan, rows=rows)


def layout_of(block: str) -> Layout:
    """The `LAYOUT` of a table's or figure's plug-in."""
    kind = "table" if plugins.source("table", block) else "figure"
    layout: Layout = plugins.load(kind, block).LAYOUT
    return layout


def find(params: Params, address: str) -> Cell:
    """The cell at TABLE:ROW:COLUMN.

    Args:
        params: all parameters.
        address: ROW is an entry or a row's printed name, COLUMN a column's key or its printed
            heading; case does not matter.

    Returns:
        The cell; its state is `missing`, not an error, where a record is.

    Raises:
        ParamsError: there is no such cell; names the nearest ones.
    """
    first, _, rest = address.partition(":")
    middle, _, last = rest.rpartition(":")  # a row's printed name may hold a colon
    parts = [part.strip() for part in (first, middle, last)]
    if not all(parts):
        raise ParamsError(
            f"{address!r}: not a cell; write TABLE:ROW:COLUMN, as medim_table1:medim:chexpert_1"
        )
    known = [*blocks(params, "table"), *blocks(params, "figure")]
    block = _match("table", parts[0], {name: [name] for name in known})
    plan = laid_out(params, block, layout_of(block))
    entry = _match("row", parts[1], {r.entry: row_names(r) for r in plan.rows}, block)
    key = _match("column", parts[2], column_names(plan.columns), block)
    row = next(r for r in plan.rows if r.entry == entry)
    cell = next(c for c in row.cells if c.column.key == key)
    try:
        return _filled(cell, Records(params))
    except CheckError as error:
        return replace(cell, state="missing", reason=str(error))


def stand_in(params: Params, entry: str) -> str:
    """What stands in for the weights of an entry at this scale; empty if nothing does."""
    if entry.startswith(grid.BASELINE):
        return ""
    return params.pretraining(entry)[1].stand_in or ""


def _suffix(said: str) -> str:
    """What a row's name ends in where something stands in for its weights."""
    return f" (stand-in: {said})" if said else ""


def laid_out(params: Params, block: str, layout: Layout) -> Table:
    """The table with its cells' runs and pending reasons, nothing read yet."""
    wanted = params.grid[block]
    readers = {c.dataset: grid.reader(params, c.dataset) for c in wanted.cells}
    columns = layout.columns(block, wanted, readers)
    names = ROWS | dict(layout.names) | published.table(block).names
    entries = grid.rows(params, params.grid[block])
    printed = [e for e in published.table(block).names if e in entries]
    tasks = dict.fromkeys(c.cells.task for c in columns)
    applied = dict.fromkeys(b for t in tasks for b in params.downstream.baselines.get(t, []))
    baselines = [grid.BASELINE + name for name in applied]
    rows = []
    for entry in [*dict.fromkeys([*printed, *entries]), *baselines]:
        bare = entry.removeprefix(grid.BASELINE)
        baseline = entry in baselines
        said = stand_in(params, entry)
        name = BASELINES.get(bare, bare)
        if not baseline:
            options = params.pretraining(entry)[1].options
            name = names.get(entry, entry).format(**options) + _suffix(said)
        cells = tuple(_planned(params, block, entry, name, column) for column in columns)
        marks = layout.marked.get(entry, ("",) * len(layout.marks))
        rows.append(Row(entry, name, baseline, marks, cells, said))
    return Table(block, layout, columns, tuple(rows), params.manifest.source)


def _planned(params: Params, block: str, entry: str, name: str, column: Column) -> Cell:
    task = column.cells.task
    if entry.startswith(grid.BASELINE):
        applies = params.downstream.baselines.get(task, [])
        if entry.removeprefix(grid.BASELINE) not in applies:
            return Cell(block, entry, name, column, (), "blank")
    runs = tuple(grid.runs_of_cell(params, entry, column.cells, column.percent))
    reason = next(filter(None, (grid.pending(params, run) for run in runs)), "")
    value = published.table(block).values.get((entry, column.key))
    state: State = "pending" if reason else "measured"
    return Cell(block, entry, name, column, runs, state, reason, (), value)


def _filled(cell: Cell, records: Records) -> Cell:
    if cell.state != "measured":
        return cell
    key = cell.column.metric
    values = tuple(records.metric(run, key) for run in cell.runs)
    drawn = tuple(records.replicates(run, key) for run in cell.runs if cell.column.sampled)
    return replace(cell, values=values, replicates=drawn)


def row_names(row: Row) -> list[str]:
    """Names by which a row may be called, the entry first."""
    bare = row.entry.removeprefix(grid.BASELINE)
    short = row.name.removesuffix(_suffix(row.stand_in))
    return [row.entry, row.name, short, short.rstrip("*"), bare]


def column_names(columns: Sequence[Column]) -> dict[str, list[str]]:
    """Names of each column: key, full title, and its heading or group where no other has it."""
    out: dict[str, list[str]] = {}
    for column in columns:
        out[column.key] = [column.key, column.title]
        for part in ("heading", "group"):
            text = getattr(column, part)
            if text and sum(getattr(c, part) == text for c in columns) == 1:
                out[column.key].append(text)
    return out


def _match(what: str, text: str, known: dict[str, list[str]], block: str = "") -> str:
    """The key one of whose names is `text`, case aside."""
    wanted = text.casefold()
    for position in range(max((len(names) for names in known.values()), default=0)):
        for key, names in known.items():
            if position < len(names) and names[position].casefold() == wanted:
                return key
    where = f"{block}: " if block else ""
    shown = list(dict.fromkeys(name for names in known.values() for name in names[:2]))
    raise ParamsError(where + unknown(what, text, shown))
