"""From stored tokens to words: collation on the host, aggregation on the device.

A word is a BERT basic token; its feature is the sum of its sub-words' features (MGCA, MedIM §2.1).
Words are kept packed, (M, C) over the batch's M real words, so that no padding enters a BatchNorm
or a softmax. All indices are made on the host from the stored word numbers: nothing waits for the
device.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrmim.shards.store import RawReports, Reports

PAD = 0
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """Reports of a batch on the device, trimmed to the longest (L tokens, W words, M words in all).

    Attributes:
        ids: (B, L) int64 WordPiece ids with CLS and SEP; PAD is 0.
        sentence: (B, W) int64 sentence of each word, -1 where there is none.
        mesh: (B, W) bool, the word is a MeSH term.
        count: (B,) int64 real words.
        pieces: (T,) int64 positions of all word pieces in the flattened (B * L) tokens.
        owner: (T,) int64 packed word (0 .. M-1) of each piece.
        slots: (M,) int64 position of each packed word in the flattened (B * W) words.
        word: (B, L) int64 stored word number of each token, -1 for CLS, SEP and PAD.
    """

    ids: Tensor
    sentence: Tensor
    mesh: Tensor
    count: Tensor
    pieces: Tensor
    owner: Tensor
    slots: Tensor
    word: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, W) bool: the slot holds a word."""
        return torch.arange(self.sentence.shape[1], device=self.count.device) < self.count[:, None]


@dataclass(frozen=True)
class Raw:
    """Whole reports of a batch on the device; L tokens, not trimmed (MRM scores padding too).

    Attributes:
        ids: (B, L) int64 WordPiece ids, PAD 0 after the last.
        word: (B, L) int64 word of each token in its report, -1 for special tokens and PAD.
    """

    ids: Tensor
    word: Tensor


def collate_raw(reports: RawReports, rows: Rows, device: torch.device | str = "cpu") -> Raw:
    """Gather whole reports into a batch.

    Args:
        reports: stored arrays.
        rows: (B,) report numbers.
        device: where the tensors go.
    """
    ids = torch.from_numpy(np.asarray(reports.ids[rows], np.int64))
    word = torch.from_numpy(np.asarray(reports.word[rows], np.int64))
    return Raw(to_device(ids, device), to_device(word, device))


def collate(
    reports: Reports, rows: Rows, device: torch.device | str = "cpu", *, released: bool = False
) -> Text:
    """Gather reports into a batch and trim it to its longest.

    Args:
        reports: stored arrays.
        rows: (B,) report numbers; repeats are fine.
        device: where the tensors go.
        released: count words as the official code does (`text.attn_shift: released`): SEP is a word
            of its own, and a caption that fills all L tokens loses its last word and SEP
            (exactness.md A2; rG models/backbones/encoder.py aggregate_tokens).
    """
    ids = np.asarray(reports.ids[rows], np.int64)
    stored = np.asarray(reports.word[rows], np.int64)
    lengths = np.maximum((ids != PAD).sum(1), 1)
    word, count = stored, stored.max(1) + 1
    if released:
        word, count = _with_sep(ids, word, lengths, count)
    tokens, words = int(lengths.max()), max(int(count.max()), 1)
    sentence = np.asarray(reports.sentence[rows, :words], np.int64)
    mesh = np.asarray(reports.mesh[rows, :words], bool)
    if released:  # SEP's slot belongs to no sentence; a word that was lost has no flag left
        real = np.arange(words) < count[:, None]
        sentence, mesh = np.where(real, sentence, -1), mesh & real
    ids, word, stored = ids[:, :tokens], word[:, :tokens], stored[:, :tokens]
    return _pack(ids, word, stored, sentence, mesh, count, device)


def collate_sentence(
    reports: Reports,
    rows: Rows,
    u: npt.NDArray[np.float64],
    device: torch.device | str = "cpu",
    length: int | None = None,
) -> Text:
    """Gather one random sentence of each caption, framed by CLS and SEP (GLoRIA, CMITM).

    A sentence is taken as stored: where the caption was cut, its last one is what is left of it.

    Args:
        reports: stored arrays.
        rows: (B,) report numbers; repeats are fine.
        u: (B,) uniform random numbers in [0, 1); each picks evenly among a caption's sentences.
        device: where the tensors go.
        length: most tokens of a sentence with CLS and SEP; pieces beyond are cut and SEP stays, as
            BERT's tokenizer truncates. None keeps all.
    """
    ids = np.asarray(reports.ids[rows], np.int64)
    word = np.asarray(reports.word[rows], np.int64)
    sentence = np.asarray(reports.sentence[rows], np.int64)
    batch = np.arange(len(ids))
    total = np.maximum(sentence.max(1) + 1, 1)
    pick = np.minimum((u * total).astype(np.int64), total - 1)[:, None]
    inside = (word >= 0) & (np.take_along_axis(sentence, np.maximum(word, 0), 1) == pick)
    place = np.cumsum(inside, 1)  # of a chosen piece in its sentence, after CLS
    room = ids.shape[1] if length is None else length - 2
    row, column = np.nonzero(inside & (place <= room))
    place = place[row, column]
    tokens = np.bincount(row, minlength=len(ids)) + 2
    out, numbers = np.full((2, len(ids), int(tokens.max())), [[[PAD]], [[-1]]], np.int64)
    out[:, 0] = ids[:, 0]
    out[batch, tokens - 1] = ids[batch, np.maximum((ids != PAD).sum(1), 1) - 1]
    out[row, place] = ids[row, column]
    first = (sentence == pick).argmax(1)  # number in its caption of the sentence's first word
    numbers[row, place] = word[row, column] - first[row]
    count = numbers.max(1) + 1
    slot = np.arange(max(int(count.max()), 1))
    real = slot < count[:, None]
    at = np.minimum(first[:, None] + slot, sentence.shape[1] - 1)
    mesh = np.take_along_axis(np.asarray(reports.mesh[rows], bool), at, 1) & real
    return _pack(out, numbers, numbers, np.where(real, 0, -1), mesh, count, device)


def _pack(
    ids: Rows,
    word: Rows,
    stored: Rows,
    sentence: Rows,
    mesh: npt.NDArray[np.bool_],
    count: Rows,
    device: torch.device | str,
) -> Text:
    """Make the indices of a batch's packed words and move all to the device.

    Args:
        ids: (B, L).
        word: (B, L) word that each token is summed to, -1 for none.
        stored: (B, L) word numbers without special tokens.
        sentence: (B, W).
        mesh: (B, W).
        count: (B,) words of each report.
        device: where the tensors go.
    """
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    pieces = np.flatnonzero(word >= 0)
    owner = (word + first[:, None]).ravel()[pieces]
    slots = np.flatnonzero(np.arange(sentence.shape[1]) < count[:, None])
    arrays = (ids, sentence, mesh, count, pieces, owner, slots, stored)
    return Text(*(to_device(torch.from_numpy(array), device) for array in arrays))


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move to the device without waiting for it."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def sum_pieces(tokens: Tensor, text: Text) -> Tensor:
    """Sum sub-words to words: (B, L, C) or (B, L) token values -> (M, C) or (M,) packed words."""
    flat = tokens.flatten(0, 1)
    out = flat.new_zeros((text.slots.shape[0], *flat.shape[1:]))
    return out.index_add(0, text.owner, flat[text.pieces])


def unpack(packed: Tensor, text: Text) -> Tensor:
    """(M, C) or (M,) packed words -> (B, W, C) or (B, W), zero where there is no word."""
    rows, width = text.sentence.shape
    out = packed.new_zeros((rows * width, *packed.shape[1:]))
    return out.index_copy(0, text.slots, packed).view(rows, width, *packed.shape[1:])


def shift(attention: Tensor) -> Tensor:
    """(B, L) attention on keys -> what the official code gives token t: the value of key t + 1.

    The key column of CLS is dropped but the tokens it is paired with still start at CLS, so every
    word is weighted with its successors' attention (exactness.md A2; rG encoder.py:382-388).
    """
    return torch.nn.functional.pad(attention[:, 1:], (0, 1))


def _with_sep(ids: Rows, word: Rows, lengths: Rows, count: Rows) -> tuple[Rows, Rows]:
    """Word numbers with SEP as a last word; full captions lose their last word instead."""
    rows = np.arange(len(ids))
    full = lengths == ids.shape[1]
    word = word.copy()
    word[rows, lengths - 1] = np.where(full, -1, count)
    word[full[:, None] & (word == (count - 1)[:, None])] = -1
    return word, np.where(full, np.maximum(count - 1, 0), count + 1)
