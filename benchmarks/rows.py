"""What a benchmark hands over: table rows, each with its target and how it was measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure.

    Attributes:
        what: the quantity, in words that stand alone in a table.
        unit: of the figure, "" for a ratio.
        value: the median of `values`; None where nothing could be measured.
        values: every repetition.
        target: the bound that the figure is held to, None where it is for orientation only.
        bound: whether the figure must be at least or at most the target.
        why: why nothing was measured, or what a missed target comes from; "" otherwise.
        details: whatever else explains the figure (canonical JSON types only).
    """

    what: str
    unit: str
    value: float | None
    values: tuple[float, ...] = ()
    target: float | None = None
    bound: Literal["<=", ">="] = "<="
    why: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a figure or a target."""
        if self.value is None or self.target is None:
            return None
        return self.value <= self.target if self.bound == "<=" else self.value >= self.target

    def tree(self) -> dict[str, Any]:
        """As JSON, with the spread."""
        spread = {"least": min(self.values), "most": max(self.values)} if self.values else {}
        return asdict(self) | {"values": list(self.values), "met": self.met} | spread


def measured(what: str, unit: str, values: Sequence[float], **other: Any) -> Row:
    """A row of repeated measurements: the median is its figure."""
    return Row(what=what, unit=unit, value=median(values), values=tuple(values), **other)


def not_measured(what: str, unit: str, why: str, **other: Any) -> Row:
    """A row without a figure: says why, and by its reason which command would give one."""
    return Row(what=what, unit=unit, value=None, why=why, **other)


def explained(row: Row, why: str) -> Row:
    """The row, with what its miss comes from if it misses its target."""
    return replace(row, why=why) if row.met is False else row
