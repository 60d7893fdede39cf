"""What several layouts write: tables, split lists in MRM's spelling, made-up identifiers."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LISTS = "DatasetsSplits"
MRM_FOLDERS = {
    "nih": "NIH_ChestX-ray",
    "rsna": "RSNA_Pneumonia",
    "chexpert": "CheXpert",
    "siim": "SIIM-ACR_Pneumothorax",
}

LEAST_POSITIVES = 2
"""Images that show a label in each of MRM's 1 % and 10 % lists, where so many are there."""


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in UTF-8 with unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_lines(path: Path, lines: Sequence[str], final: bool = True) -> None:
    """A text file of these lines; `final` says whether the last one is ended too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + ("\n" if final and lines else "")).encode())


def write_mrm(
    root: Path, dataset: str, lists: dict[str, list[str]], unended: Sequence[str] = ()
) -> None:
    """The split lists of the MRM repository for a data set.

    Args:
        root: the data set's folder.
        dataset: a key of `MRM_FOLDERS`.
        lists: lines by the list's name, without ".txt".
        unended: lists whose last line has no line end.
    """
    for name, lines in lists.items():
        path = root / LISTS / MRM_FOLDERS[dataset] / f"{name}.txt"
        write_lines(path, lines, name not in unended)


def draw_subset(
    lines: Sequence[str], labels: Sequence[Sequence[int]], share: float, rng: np.random.Generator
) -> list[str]:
    """A share of a list's lines in random order, and what it takes to show every label.

    Args:
        lines: the list.
        labels: the bits of each line.
        share: of the lines; at least one is drawn.
        rng: draws the order.

    Returns:
        The first lines of that order, then those of the others that bring a label to
        `LEAST_POSITIVES`; a list of the real size has no need of them.
    """
    order = [int(i) for i in rng.permutation(len(lines))]
    count = max(1, round(share * len(lines)))
    chosen = order[:count]
    seen = np.sum([labels[i] for i in chosen], axis=0)
    for i in order[count:]:
        bits = np.asarray(labels[i])
        if ((bits > 0) & (seen < LEAST_POSITIVES)).any():
            chosen.append(i)
            seen = seen + bits
    return [lines[i] for i in chosen]


def uuid(rng: np.random.Generator, lead: float | None = None) -> str:
    """A random identifier in the form of a UUID; `lead` from 0 to 1 sets where it is sorted."""
    words = [int(word) for word in rng.integers(0, 2**32, 4)]
    if lead is not None:
        words[0] = min(2**32 - 1, int(lead * 2**32))
    digits = "".join(f"{word:08x}" for word in words)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
