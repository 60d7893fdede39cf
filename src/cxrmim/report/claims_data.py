"""What the papers claim, read from claims.yaml, and whether their own tables bear it out.

A claim is a list of comparisons "a linear combination of cells is above zero", all of which must
hold. `all` columns and `others` are what the paper's table prints (published/*.csv), so a row that
someone adds to the grid does not change what a paper claimed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import ValidationError, model_validator

from cxrmim import explain
from cxrmim.errors import ParamsError
from cxrmim.plugins import Strict
from cxrmim.report import cells, published
from cxrmim.schema import Name

FOLDER = Path(__file__).parent
CLAIMS = FOLDER / "claims.yaml"
EXACT = 6  # digits that sums of printed values keep; what binary fractions add lies beyond
Model = TypeVar("Model", bound=Strict)
Paper = Literal["MedIM", "CMITM"]
Columns = list[Name] | Literal["all"]
Others = list[Name] | Literal["others"]


Terms = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Comparison:
    """``left + margin > right``.

    `label` says it in words; each side is a sum of pairs (c, address of a cell); `margin` is in
    points.
    """

    label: str
    left: Terms
    right: Terms
    margin: float = 0.0

    @property
    def terms(self) -> Terms:
        """Left minus right."""
        return self.left + tuple((-c, address) for c, address in self.right)


class Above(Strict):
    """Each of `rows` above each row of `over`: column by column, or in the columns' `total`."""

    table: Name
    rows: list[Name]
    over: Others
    columns: Columns
    total: bool = False

    def comparisons(self) -> Iterator[Comparison]:
        """Rows first, then the rows they are held against, then columns."""
        columns = _columns(self.table, self.columns)
        groups = [columns] if self.total else [[key] for key in columns]
        words = f"sum of all {len(columns)} columns" if self.total and self.columns == "all" else ""
        for row in self.rows:
            for other in _others(self.table, self.rows, self.over):
                for group in groups:
                    yield _pair(self.table, row, group, other, group, words)


class Order(Strict):
    """Each of `rows` above the next, in every column."""

    table: Name
    rows: list[Name]
    columns: Columns

    def comparisons(self) -> Iterator[Comparison]:
        """From the top of the order, columns within."""
        for row, other in zip(self.rows, self.rows[1:], strict=False):
            for key in _columns(self.table, self.columns):
                yield _pair(self.table, row, [key], other, [key])


class Scarcer(Strict):
    """Each of `rows` in one column above each row of `over` in another (`against`)."""

    table: Name
    rows: list[Name]
    column: Name
    over: Others
    against: Name

    def comparisons(self) -> Iterator[Comparison]:
        """Rows first, then the rows they are held against."""
        for row in self.rows:
            for other in _others(self.table, self.rows, self.over):
                yield _pair(self.table, row, [self.column], other, [self.against])


class Lead(Strict):
    """The lead of `row` over each row of `over`, summed over `columns`, above that over `than`."""

    table: Name
    row: Name
    over: list[Name]
    columns: list[Name]
    than: list[Name]

    def comparisons(self) -> Iterator[Comparison]:
        """One for each row of `over`."""
        for other in self.over:
            near = _pair(self.table, self.row, self.columns, other, self.columns)
            far = _pair(self.table, self.row, self.than, other, self.than)
            label = (
                f"lead of {self.row} over {other}: sum of {', '.join(self.columns)} > "
                f"sum of {', '.join(self.than)}"
            )
            yield Comparison(label, near.terms, far.terms)


class Within(Strict):
    """Two cells less than `points` apart: both one-sided tests of equivalence."""

    left: str
    right: str
    points: float

    def comparisons(self) -> Iterator[Comparison]:
        """Left not far below right, right not far below left."""
        for one, other in ((self.left, self.right), (self.right, self.left)):
            names = [address.partition(":")[2].replace(":", " ") for address in (one, other)]
            label = f"{names[0]} - {names[1]} + {self.points:g} > 0"
            yield Comparison(label, ((1.0, one), (-1.0, other)), (), self.points)


class Form(Strict):
    """One of the five forms."""

    above: Above | None = None
    order: Order | None = None
    scarcer: Scarcer | None = None
    lead: Lead | None = None
    within: Within | None = None

    @model_validator(mode="after")
    def _one(self) -> "Form":
        if len(self.model_fields_set) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}")
        return self

    def comparisons(self) -> Iterator[Comparison]:
        """Those of the form that is given."""
        for form in (self.above, self.order, self.scarcer, self.lead, self.within):
            if form is not None:
                yield from form.comparisons()


class Claim(Strict):
    """One sentence, table or figure of a paper.

    `place` is where it stands, `says` what we take it to say; `stated` is the size in points that
    the paper gives for the combination of cells in its first comparison.
    """

    id: Name
    paper: Paper
    place: str
    says: str
    stated: float | None = None
    test: list[Form]

    def comparisons(self) -> list[Comparison]:
        """All that must hold.

        Raises:
            ParamsError: it asks for `all` or `others` of a block of which the paper printed none.
        """
        return [found for form in self.test for found in form.comparisons()]


class Claims(Strict):
    """The whole of claims.yaml."""

    claims: list[Claim]


@dataclass(frozen=True)
class Printed:
    """The verdict on the published means alone.

    `verdict` is `holds`, `fails`, or `not stated` where the paper prints no number for a cell;
    `failing` says which comparisons fail, with both sides.
    """

    verdict: Literal["holds", "fails", "not stated"]
    failing: tuple[str, ...] = ()


@cache
def claims(file: Path = CLAIMS) -> tuple[Claim, ...]:
    """The claims, in the order of the file.

    Raises:
        ParamsError: the file cannot be used; names the key.
    """
    found = read(file, Claims).claims
    unique(file, [claim.id for claim in found])
    return tuple(found)


def read(file: Path, model: type[Model]) -> Model:
    """Parse and validate a data file of this package.

    Raises:
        ParamsError: names the file, the key and what is wrong.
    """
    try:
        return model.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ParamsError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ParamsError(f"{file}: {explain.fault(error, model)}") from None


def unique(file: Path, ids: Sequence[str]) -> None:
    """Refuse an id that is given twice."""
    for name in ids:
        if ids.count(name) > 1:
            raise ParamsError(f"{file}: id {name} is given twice; rename one")


def value(address: str) -> float | None:
    """The number that a paper prints in a cell, None if it prints none."""
    table, row, column = address.split(":")
    return published.table(table).values.get((row, column))


def printed(comparison: Comparison) -> float | None:
    """Left minus right in published points, None if a cell was not printed."""
    left, right = (_sum(side) for side in (comparison.left, comparison.right))
    if left is None or right is None:
        return None
    return round(left + comparison.margin - right, EXACT)


def on_paper(claim: Claim) -> Printed:
    """Whether a claim holds in the paper's own numbers; a tie is not above."""
    comparisons = claim.comparisons()
    found = [printed(one) for one in comparisons]
    failing = [
        f"{one.label}: {sides(one)}"
        for one, size in zip(comparisons, found, strict=True)
        if size is not None and size <= 0
    ]
    first = found[0]
    if claim.stated is not None and first is not None:
        given = round(first - comparisons[0].margin, EXACT)
        if given != claim.stated:
            failing.append(f"stated as {claim.stated:g}, but the table gives {given:g}")
    if failing:
        return Printed("fails", tuple(failing))
    return Printed("not stated" if None in found else "holds")


def sides(comparison: Comparison) -> str:
    """Both sides of a comparison in published values, as "85.0 < 85.1"."""
    decimals = max(cells.layout_of(a.partition(":")[0]).decimals for _, a in comparison.terms)
    left = (_sum(comparison.left) or 0.0) + comparison.margin
    right = _sum(comparison.right) or 0.0
    size = printed(comparison) or 0.0
    sign = ">" if size > 0 else "<" if size < 0 else "="
    tie = " (tie)" if size == 0 else ""
    return f"{left:.{decimals}f} {sign} {right:.{decimals}f}{tie}"


def _sum(side: Terms) -> float | None:
    """Published points of one side, None if a cell was not printed."""
    found = 0.0
    for c, address in side:
        held = value(address)
        if held is None:
            return None
        found += c * held
    return found


def _pair(
    table: str,
    row: str,
    columns: Sequence[str],
    other: str,
    against: Sequence[str],
    words: str = "",
) -> Comparison:
    """A row, summed over columns, above another, summed over columns of its own.

    `words` name the columns if both sides have the same.
    """
    if columns != against:
        label = f"{row} {', '.join(columns)} > {other} {', '.join(against)}"
    else:
        label = f"{row} > {other}, {words or 'sum of ' * (len(columns) > 1) + ', '.join(columns)}"
    left = tuple((1.0, f"{table}:{row}:{key}") for key in columns)
    right = tuple((1.0, f"{table}:{other}:{key}") for key in against)
    return Comparison(label, left, right)


def _columns(table: str, wanted: Columns) -> list[str]:
    if wanted != "all":
        return list(wanted)
    return list(dict.fromkeys(column for _, column in _known(table).values))


def _others(table: str, rows: Sequence[str], wanted: Others) -> list[str]:
    if wanted != "others":
        return list(wanted)
    return [name for name in _known(table).names if name not in rows]


def _known(table: str) -> published.Published:
    found = published.table(table)
    if not found.names:
        raise ParamsError(
            f"{CLAIMS}: {table} has no published values, so `all` and `others` mean nothing there; "
            f"name the rows and columns"
        )
    return found
