"""Is a row's lead over another significant? The paired comparisons of a table in words."""

from dataclasses import dataclass

from cxrmim.params import Params
from cxrmim.report import render
from cxrmim.report.cells import PERCENT, Table
from cxrmim.report.statistics import Comparison

LEVEL = 0.05
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Lead:
    """Own row minus another in one column; `difference`, `low`, `high` are x100."""

    difference: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below 5 %."""
        return self.p < LEVEL

    @property
    def verdict(self) -> str:
        """The comparison in two words."""
        if not self.significant:
            return "not significant"
        return "significantly " + ("higher" if self.difference > 0 else "lower")


@dataclass(frozen=True)
class Rival:
    """A row that the own row is compared with; one lead a column, None where there is none."""

    entry: str
    name: str
    baseline: bool
    leads: tuple[Lead | None, ...]

    @property
    def summary(self) -> str:
        """In how many columns the own row is significantly higher or lower, and higher at all."""
        told = [lead for lead in self.leads if lead is not None]
        if not told:
            return "not compared"
        columns = f"{len(told)} {'column' if len(told) == 1 else 'columns'}"
        higher = sum(lead.difference > 0 for lead in told)
        clear = [lead.difference > 0 for lead in told if lead.significant]
        if not clear:
            return f"significant in none of {columns} (higher in {higher})"
        counts = [(sum(clear), "higher"), (len(clear) - sum(clear), "lower")]
        found = " and ".join(f"{word} in {count}" for count, word in counts if count)
        return f"significantly {found} of {columns} (higher in {higher})"


@dataclass(frozen=True)
class Leads:
    """The comparisons of a block: the own row against every other, and all pairs.

    Attributes:
        title: what the paper calls the block.
        own: the row of the paper's own method, "" where the block has none.
        name: its printed name.
        rivals: the other rows.
        pairs: every pair of rows of every column.
        families: number of comparisons that were corrected together, by family.
    """

    title: str
    own: str
    name: str
    rivals: tuple[Rival, ...]
    pairs: tuple[Comparison, ...]
    families: dict[str, int]


def leads(params: Params, table: Table, pairs: list[Comparison]) -> Leads:
    """The comparisons of a table, seen from its paper's own method.

    Args:
        params: all parameters.
        table: the filled table.
        pairs: `statistics.compare` of it.
    """
    own = params.grid[table.id].paper or ""
    row = next((r for r in table.rows if r.entry == own), None)
    sizes = dict.fromkeys((c.family for c in pairs), 0)
    for pair in pairs:
        sizes[pair.family] += 1
    if row is None:
        return Leads(table.layout.title, "", "", (), tuple(pairs), sizes)
    found = {}
    for c in pairs:
        if own in (c.row, c.other):
            rival = c.other if c.row == own else c.row
            found[rival, c.column] = _lead(c, 1 if c.row == own else -1)
    rivals = tuple(
        Rival(
            other.entry,
            other.name,
            other.baseline,
            tuple(found.get((other.entry, column.key)) for column in table.columns),
        )
        for other in table.rows
        if other.entry != own
    )
    kept = tuple(rival for rival in rivals if any(rival.leads))
    return Leads(table.layout.title, own, row.name, kept, tuple(pairs), sizes)


def _lead(c: Comparison, sign: int) -> Lead:
    low, high = sorted((sign * c.low, sign * c.high))
    return Lead(sign * PERCENT * c.difference, PERCENT * low, PERCENT * high, c.p_holm)


def signed(value: float) -> str:
    """A number x100 with its sign and two decimals; the sign of what rounds to 0 is +."""
    return render.signed(value).replace("-", MINUS)


def chance(p: float) -> str:
    """A p value as printed."""
    if p < 0.001:
        return "< 0.001"
    if round(p, 3) == LEVEL:  # on which side of it
        return f"{p:.4f}"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
