"""Which image-report pairs a figure shows, and the words of their reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrmim.errors import DataError
from cxrmim.shards.store import Reports

SENTENCES = 3  # a shown report has at least as many
NEGATIONS = frozenset(
    {"no", "not", "without", "clear", "normal", "unremarkable", "negative", "free"}
)


@dataclass(frozen=True)
class Pair:
    """A chosen pair.

    Attributes:
        place: its index among the offered pairs.
        words: words of the report.
        mesh: whether each is a MeSH heading.
        sentences: sentence of each word.
        sentence: the sentence with the most MeSH words and no negation.
    """

    place: int
    words: list[str]
    mesh: list[bool]
    sentences: list[int]
    sentence: int


def choose(reports: Reports, report: NDArray[np.int64], count: int) -> list[Pair]:
    """Choose pairs with distinct reports (MedIM figure 2), the richest first.

    Args:
        reports: tokenised reports.
        report: (N,) report of each offered pair.
        count: pairs wanted; fewer come back if there are fewer distinct reports.

    Raises:
        DataError: nothing is offered.
    """
    if len(report) == 0:
        raise DataError(
            "attend: the held-out split holds no pair to show; check the manifest's record"
        )
    pieces = {number: piece for piece, number in reports.vocab.items()}
    rows, places = np.unique(report, return_index=True)
    ranked, seen = [], set()
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        ids = reports.ids[row].tolist()
        if tuple(ids) in seen:
            continue
        seen.add(tuple(ids))
        words = spell(ids, reports.word[row].tolist(), pieces)
        sentences = reports.sentence[row, : len(words)].tolist()
        mesh = [bool(m) for m in reports.mesh[row, : len(words)]]
        hits = _hits(words, mesh, sentences)
        if words:
            best = max(sorted(hits), key=hits.__getitem__)
            key = (len(hits) < SENTENCES, -sum(hits.values()), place)
            ranked.append((key, Pair(place, words, mesh, sentences, best)))
    return [pair for _, pair in sorted(ranked, key=lambda item: item[0])[:count]]


def spell(ids: Sequence[int], word: Sequence[int], pieces: dict[int, str]) -> list[str]:
    """Words of a report from its pieces.

    Args:
        ids: (L,) WordPiece ids.
        word: (L,) word of each piece, -1 for [CLS], [SEP] and [PAD].
        pieces: id -> piece.
    """
    out = [""] * (max(word, default=-1) + 1)
    for number, place in zip(ids, word, strict=True):
        if place >= 0:
            out[place] += pieces[number].removeprefix("##")
    return out


def _hits(words: list[str], mesh: list[bool], sentences: list[int]) -> dict[int, int]:
    """MeSH words of each sentence; none in a sentence that negates."""
    negated = {s for w, s in zip(words, sentences, strict=True) if w in NEGATIONS}
    out = dict.fromkeys(sentences, 0)
    for hit, sentence in zip(mesh, sentences, strict=True):
        out[sentence] += hit and sentence not in negated
    return out
