"""Reports to token, word and sentence arrays (protocols §1.1 "Caption", exactness A2 and A14).

In a caption a word is a BERT basic token: an ASCII run of letters and digits, or one underscore.
Its pieces are its WordPieces. Token, word and sentence indices agree for every report, truncated
ones included. In a whole report (protocols §2, MRM) a word is a head piece with its continuation
pieces.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrmim.errors import DataError

Sentences = list[list[str]]
# Only at the first digit of a run: the same matches, and a long run of digits costs no square.
LIST_NUMBER = re.compile(r"(?<![0-9])[0-9]++\.")
TOKEN = re.compile(r"\w+")
WORD = re.compile(r"[a-z0-9]+|_")
SHORTEST = 3  # tokens of a report that is kept
LONGEST = int(np.iinfo(np.int16).max)  # tokens a report; word numbers are stored in 16 bits
CONTINUES = "##"  # how a WordPiece begins that goes on with a word


@dataclass(frozen=True)
class Encoded:
    """R captions of L tokens; the arrays are those of `store.Reports`.

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
            words = [sys.intern(word) for token in kept for word in WORD.findall(token)]
            if words:
                out.append(words)
    return out if count >= SHORTEST else None


def encode(
    captions: Sequence[Sentences],
    pieces: Callable[[str], list[int]],
    special: Mapping[str, int],
    headings: AbstractSet[str],
    length: int,
) -> Encoded:
    """Tokenise captions.

    Args:
        captions: R captions.
        pieces: WordPiece ids of a word.
        special: ids of [PAD], [UNK], [CLS] and [SEP].
        headings: lower-case words that `mesh` flags.
        length: L, tokens a report with [CLS] and [SEP]; what is longer is cut at that token.

    Raises:
        DataError: L is more than word numbers can count.
    """
    _check_length(length)
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


@dataclass(frozen=True)
class EncodedRaw:
    """R whole reports of L tokens; the arrays are those of `store.RawReports`.

    Attributes:
        ids: (R, L) int32, [CLS] first, [PAD] after the last token; there is no [SEP].
        word: (R, L) int16 number of each token's word in its report; -1 for [CLS] and [PAD].
        truncated: reports that were cut.
        words_cut: their words that are missing, wholly or in part.
        words: words of all reports before the cut.
        unknown: words that the vocabulary cannot spell.
    """

    ids: npt.NDArray[np.int32]
    word: npt.NDArray[np.int16]
    truncated: int
    words_cut: int
    words: int
    unknown: int


def encode_raw(
    reports: Iterable[Sequence[int]], vocabulary: Mapping[str, int], length: int
) -> EncodedRaw:
    """Frame whole reports as MRM does and number their words (rR util/pretrain_datasets.py).

    A piece that begins with ``##`` belongs to the word of the piece before it, whatever made it.

    Args:
        reports: WordPiece ids of R reports, without special tokens.
        vocabulary: token -> id.
        length: L, tokens a report with [CLS]; what is longer is cut at that token.

    Raises:
        DataError: L is more than word numbers can count.
    """
    _check_length(length)
    head = np.ones(len(vocabulary), dtype=bool)
    head[[i for token, i in vocabulary.items() if token.startswith(CONTINUES)]] = False
    room = length - 1
    rows: list[npt.NDArray[np.int32]] = []
    owners: list[npt.NDArray[np.int16]] = []
    truncated = words_cut = words = unknown = 0
    for report in reports:
        tokens = np.asarray(report, dtype=np.int32)
        owner = np.cumsum(head[tokens]) - head[tokens[:1]].sum()  # the first piece begins word 0
        count = int(owner[-1]) + 1 if len(owner) else 0
        whole = int(owner[room]) if len(owner) > room else count
        words += count
        words_cut += count - whole
        truncated += whole < count
        unknown += int((tokens == vocabulary["[UNK]"]).sum())
        kept = min(len(tokens), room)
        ids = np.full(length, vocabulary["[PAD]"], dtype=np.int32)
        word = np.full(length, -1, dtype=np.int16)
        ids[0] = vocabulary["[CLS]"]
        ids[1 : kept + 1], word[1 : kept + 1] = tokens[:kept], owner[:kept]
        rows.append(ids)
        owners.append(word)
    shape = (len(rows), length)
    ids_all = np.array(rows, dtype=np.int32).reshape(shape)
    word_all = np.array(owners, dtype=np.int16).reshape(shape)
    return EncodedRaw(ids_all, word_all, truncated, words_cut, words, unknown)


def _check_length(length: int) -> None:
    if length > LONGEST:
        raise DataError(
            f"shards.text: {length} tokens a report, but words are numbered in 16 bits; lower its "
            f"length to at most {LONGEST}"
        )
