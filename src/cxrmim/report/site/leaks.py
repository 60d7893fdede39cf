"""Which audited splits share something, in words."""

from dataclasses import dataclass

from cxrmim.params import Params
from cxrmim.report import audit
from cxrmim.report.audit import PAIRS, UNITS, Line


@dataclass(frozen=True)
class Leak:
    """A dataset entry of the audit.

    Attributes:
        line: what its splits share.
        told: the units of which two splits share some, with counts by pair of splits; "" if none.
    """

    line: Line
    told: str

    @property
    def entry(self) -> str:
        """Its name in params.yaml."""
        return self.line.entry

    @property
    def used(self) -> bool:
        """Whether runs use it."""
        return self.line.used

    @property
    def leaks(self) -> bool:
        """Whether two of its splits share an image, a study or a patient."""
        return bool(self.told)


def leaks(params: Params) -> list[Leak]:
    """Every entry of the audit, in its order.

    Raises:
        CheckError: a record is missing or no audit.
    """
    return [Leak(line, _told(line)) for line in audit.lines(params)]


def _told(line: Line) -> str:
    """Units that the tables name and that two splits share: counts over `PAIRS`."""
    shared = [
        unit
        for unit in UNITS
        if unit in line.named and any(line.shared.get(unit, {}).get(pair) for pair in PAIRS)
    ]
    return ", ".join(f"{unit} {line.cell(unit)}" for unit in shared)
