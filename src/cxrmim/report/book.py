"""The filled tables and figures of a scale, each built once whoever asks."""

from functools import cached_property

from cxrmim.params import Params
from cxrmim.report import cells, cost
from cxrmim.report.cells import Cell, Table
from cxrmim.report.outputs import blocks, compared
from cxrmim.report.records import Records


class Book:
    """Looks up tables, and cells by address; reads each record once.

    Args:
        params: all parameters.
        records: the records, if they have been read already.
    """

    def __init__(self, params: Params, records: Records | None = None) -> None:
        self.params = params
        self.records = records or Records(params)
        self._tables: dict[str, Table] = {}

    def table(self, block: str) -> Table:
        """A block of the grid that shows cells, filled in.

        Raises:
            CheckError: a run that could be made has no usable record.
        """
        if block not in self._tables:
            layout = cells.layout_of(block)
            self._tables[block] = cells.build(self.params, block, layout, self.records)
        return self._tables[block]

    @property
    def tables(self) -> list[Table]:
        """Every table of the grid that has a plug-in and prints its cells."""
        others = cost.tables(self.params)
        return [self.table(name) for name in blocks(self.params, "table") if name not in others]

    @cached_property
    def known(self) -> list[str]:
        """Blocks whose cells can be looked up: tables, and figures that show cells."""
        return compared(self.params)

    def cell(self, address: str) -> Cell | None:
        """The cell at BLOCK:ENTRY:COLUMN (exact keys), None if the scale's grid has none there."""
        block, entry, column = address.split(":")
        if block not in self.known:
            return None
        for row in self.table(block).rows:
            if row.entry == entry:
                return next((c for c in row.cells if c.column.key == column), None)
        return None
