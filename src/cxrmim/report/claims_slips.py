"""Slips and inconsistencies of the papers: what their own tables contradict, and slips.yaml.

Computed from published/*.csv: every claim that fails in the published means, and the entries with
`same` (cells that print the same number) or `others` (rows beside one). The rest are read facts.
"""

from dataclasses import dataclass

from pydantic import model_validator

from cxrmim.plugins import Strict
from cxrmim.report import claims_data, published
from cxrmim.report.claims_data import FOLDER, Paper
from cxrmim.schema import Name

SLIPS = FOLDER / "slips.yaml"
OWN = "Computed from the values that the paper prints."


@dataclass(frozen=True)
class Slip:
    """One slip: what the paper says at a place, what is found instead, and why that matters.

    `computed` tells those that follow from the printed numbers from facts that were read.
    """

    id: str
    paper: str
    place: str
    says: str
    found: str
    why: str
    computed: bool


class Others(Strict):
    """A number of rows beside `row` that a paper states."""

    table: Name
    row: Name
    stated: int

    def found(self) -> str:
        """The rows there are, an empty text if their number is the one stated."""
        names = published.table(self.table).names
        rest = [name for entry, name in names.items() if entry != self.row]
        return "" if len(rest) == self.stated else f"{len(rest)} other rows: {', '.join(rest)}."


class Entry(Strict):
    """An entry of slips.yaml: `found` was read, `same` and `others` are computed."""

    id: Name
    paper: Paper
    place: str
    says: str
    why: str
    found: str | None = None
    same: list[tuple[str, str]] | None = None
    others: Others | None = None

    @model_validator(mode="after")
    def _one(self) -> "Entry":
        if sum(part is not None for part in (self.found, self.same, self.others)) != 1:
            raise ValueError("give one of found, same, others")
        return self

    def text(self) -> str:
        """What is found; an empty text if the printed numbers do not bear the slip out."""
        if self.found is not None:
            return self.found
        if self.others is not None:
            return self.others.found()
        pairs = [(a, b, claims_data.value(a)) for a, b in self.same or []]
        if any(held is None or held != claims_data.value(b) for _, b, held in pairs):
            return ""
        return "; ".join(f"{a} = {b} = {held:g}" for a, b, held in pairs) + "."


class Entries(Strict):
    """The whole of slips.yaml."""

    slips: list[Entry]


def slips() -> list[Slip]:
    """All slips: claims that fail in the published means first, then those of slips.yaml.

    Raises:
        ParamsError: a data file cannot be used.
    """
    out = []
    for claim in claims_data.claims():
        failing = claims_data.on_paper(claim).failing
        if failing:
            found = "; ".join(failing) + "."
            out.append(Slip(claim.id, claim.paper, claim.place, claim.says, found, OWN, True))
    for entry in claims_data.read(SLIPS, Entries).slips:
        text = entry.text()
        if text:
            computed = entry.found is None
            out.append(
                Slip(entry.id, entry.paper, entry.place, entry.says, text, entry.why, computed)
            )
    claims_data.unique(SLIPS, [slip.id for slip in out])
    return out
