"""Words that count as medical subject headings in a report (protocols §2, MedIM).

A term is lower-cased and split at its commas; a word of a report is flagged if it equals one of the
parts. Words are runs of ASCII letters and digits (see `text`), so only such parts can ever match.

`mesh_radiology.txt` is the project's own list of single words that occur as MeSH headings or as
parts of them in the trees A (anatomy), C (diseases) and E (procedures) and that chest reports use.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cxrmim.errors import ParamsError
from cxrmim.schema import Mesh
from cxrmim.shards import nlm

RADIOLOGY = "mesh_radiology.txt"
MATCHABLE = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Headings:
    """A list of headings.

    Attributes:
        words: lower-case single words, those that a report's word can equal.
        source: whose list: radiology or nlm.
        trees: beginnings of the tree numbers that it was made of, None for our own list.
        parts: distinct parts of terms before those that no word can equal were left out.
    """

    words: frozenset[str]
    source: str
    trees: tuple[str, ...] | None
    parts: int

    def facts(self) -> dict[str, Any]:
        """What a record says about the list; sha256 is that of its words, sorted, one a line."""
        joined = "".join(f"{word}\n" for word in sorted(self.words))
        return {
            "source": self.source,
            "trees": None if self.trees is None else list(self.trees),
            "parts": self.parts,
            "words": len(self.words),
            "sha256": hashlib.sha256(joined.encode("ascii")).hexdigest(),
        }


def headings(params: Mesh) -> Headings:
    """The list that the parameters name.

    Args:
        params: `shards.text.mesh`.

    Raises:
        ParamsError: the NLM's list is asked for, but no file is named.
        DataError: its file is missing, wrong, or has nothing in the trees.
    """
    if params.source == "radiology":
        text = resources.files("cxrmim.shards").joinpath(RADIOLOGY).read_text(encoding="ascii")
        lines = (line.strip() for line in text.splitlines())
        own = split(line for line in lines if not line.startswith("#"))
        return Headings(matchable(own), params.source, None, len(own))
    if params.file is None:
        raise ParamsError(
            f"params.yaml: shards.text.mesh.file = null: source nlm reads the NLM's descriptors; "
            f"{nlm.AGAIN} and name it there, or set shards.text.mesh.source: radiology"
        )
    parts = split(nlm.terms(Path(params.file), params.trees))
    return Headings(matchable(parts), params.source, tuple(params.trees), len(parts))


def split(terms: Iterable[str]) -> frozenset[str]:
    """Distinct parts of terms: lower case, split at commas, blanks around them stripped."""
    parts = (part.strip() for term in terms for part in term.lower().split(","))
    return frozenset(part for part in parts if part)


def matchable(parts: Iterable[str]) -> frozenset[str]:
    """Parts that a report's word can equal."""
    return frozenset(part for part in parts if MATCHABLE.fullmatch(part))
