"""Reports to token, word and sentence arrays (protocols §1.1 "Caption", exactness A2 and A14).

A word is a BERT basic token: an ASCII run of letters and digits, or one underscore. Its pieces are
its WordPieces. Token, word and sentence indices agree for every report, truncated ones included.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Sentences = list[list[str]]
LIST_NUMBER = re.compile(r"[0-9]+\.")
TOKEN = re.compile(r"\w+")
WORD = re.compile(r"[a-z0-9]+|_")
SHORTEST = 3  # tokens of a report that is kept


@dataclass(frozen=True)
class Encoded:
    """R reports of L tokens; the arrays are those of `store.Reports`.

    Attributes:
        truncated: reports that were cut.
        words_cut: their words that are missing, wholly or in part.
        words: words of all reports before the cut.
        unknown: words that the vocabulary cannot spell.
    """

    ids: npt.NDArray[np.int32]
    word: npt.NDArray[np.int16]
    sentence: npt.NDArray[np.int16]
    mesh: npt.NDArray[np.bool_]
    truncated: int
    words_cut: int
    words: int
    unknown: int


def caption(impression: str | None, findings: str | None) -> Sentences | None:
    """Sentences of a report as lists of words.

    Impression, a blank and findings; newlines to blanks; split at digits with a dot, then at every
    dot; lower case; word tokens; sentences with at most one token dropped; non-ASCII stripped.

    Returns:
        The sentences, or None if fewer than three tokens remain.
    """
    text = f"{impression or ''} {findings or ''}".replace("\n", " ")
    out: Sentences = []
    count = 0
    for part in LIST_NUMBER.split(text):
        for sentence in part.split("."):
            tokens = TOKEN.findall(sentence.lower())
            if len(tokens) <= 1:
                continue
            kept = [t for t in (t.encode("ascii", "ignore").decode() for t in tokens) if t]
            count += len(kept)
            words = [word for token in kept for word in WORD.findall(token)]
            if words:
                out.append(words)
    return out if count >= SHORTEST else None


def encode(
    captions: Sequence[Sentences],
    pieces: Callable[[str], list[int]],
    special: dict[str, int],
    headings: frozenset[str],
    length: int,
) -> Encoded:
    """Tokenise captions.

    Args:
        captions: R captions.
        pieces: WordPiece ids of a word.
        special: ids of [PAD], [UNK], [CLS] and [SEP].
        headings: lower-case words that `mesh` flags.
        length: L, tokens a report with [CLS] and [SEP]; what is longer is cut at that token.
    """
    shape = (len(captions), length)
    ids = np.full(shape, special["[PAD]"], dtype=np.int32)
    word = np.full(shape, -1, dtype=np.int16)
    sentence = np.full(shape, -1, dtype=np.int16)
    mesh = np.zeros(shape, dtype=bool)
    known: dict[str, list[int]] = {}
    room = length - 2
    truncated = words_cut = words = unknown = 0
    for row, sentences in enumerate(captions):
        tokens: list[int] = []
        owner: list[int] = []
        number = whole = 0
        for s, sentence_words in enumerate(sentences):
            for text in sentence_words:
                if text not in known:
                    known[text] = pieces(text)
                found = known[text]
                unknown += found == [special["[UNK]"]]
                if len(tokens) < room:
                    sentence[row, number] = s
                    mesh[row, number] = text in headings
                    whole += len(tokens) + len(found) <= room
                    tokens += found
                    owner += [number] * len(found)
                number += 1
        words += number
        words_cut += number - whole
        truncated += whole < number
        tokens, owner = tokens[:room], owner[:room]
        ids[row, : len(tokens) + 2] = [special["[CLS]"], *tokens, special["[SEP]"]]
        word[row, 1 : len(tokens) + 1] = owner
    return Encoded(ids, word, sentence, mesh, truncated, words_cut, words, unknown)
