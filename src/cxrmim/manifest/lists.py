"""Text files that list images: the MRM repository's splits and the publishers' own (protocols §1).

A line is a path or an id, then the bits of its labels, if the list has any, all separated by
blanks. Lines end in a blank or not, in a carriage return or not; empty ones are no rows.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from cxrmim.errors import DataError
from cxrmim.manifest.contract import CONTRADICTION, LABEL, Flow, Raw

FOLDERS = {
    "nih": "NIH_ChestX-ray",
    "rsna": "RSNA_Pneumonia",
    "chexpert": "CheXpert",
    "siim": "SIIM-ACR_Pneumothorax",
}
FILES = {"train": "train_list.txt", "valid": "val_list.txt", "test": "test_list.txt"}
SUBSETS = {"in_1": "train_1.txt", "in_10": "train_10.txt"}
ABSENT = {"chexpert": ("train",)}  # that the repository has no list of: the rest trains
SOURCE = "DatasetsSplits of https://github.com/RL4M/MRM-pytorch"
LARGEST = 1 << 26  # bytes; the largest real list has 17 MB


def names(dataset: str) -> tuple[str, ...]:
    """Files that a reader of split ``mrm`` needs, relative to the folder of lists."""
    absent = ABSENT.get(dataset, ())
    found = [name for split, name in FILES.items() if split not in absent]
    return tuple(f"{FOLDERS[dataset]}/{name}" for name in (*found, *SUBSETS.values()))


def locate(raw: Raw, dataset: str, folder: str, name: str) -> Path:
    """File of one of the MRM repository's lists.

    Raises:
        DataError: the user has set no folder of lists, or the list is not there.
    """
    if raw.lists is None:
        raise DataError(
            f"{dataset}: manifest.lists is not set, but split: mrm reads {folder}/{name}; set it "
            f"to the folder {SOURCE}"
        )
    file = raw.lists / folder / name
    if not file.is_file():
        raise DataError(
            f"{dataset}: {raw.lists}: no {folder}/{name}; set manifest.lists to the folder {SOURCE}"
        )
    return file


def read_list(raw: Raw, dataset: str, folder: str, name: str) -> pd.DataFrame:
    """One of the MRM repository's lists, as it stands.

    Args:
        raw: `lists` is its folder of lists.
        dataset: for messages.
        folder: of the dataset, one of `FOLDERS`.
        name: of the list, such as ``train_list.txt``.

    Returns:
        name (text of the path or id), bits (tuple of the texts after it, see `parse_bits`), line
        (int64, from 1, empty lines not counted).

    Raises:
        DataError: the list is not there, or no text.
    """
    return read_names(locate(raw, dataset, folder, name), dataset)


def read_names(file: Path, dataset: str) -> pd.DataFrame:
    """Any list of names, in the columns of `read_list`.

    Raises:
        DataError: it is empty or no text.
    """
    words = [line.split() for line in read_lines(file, dataset)]
    return pd.DataFrame(
        {
            "name": pd.Series([line[0] for line in words], dtype=object),
            "bits": pd.Series([tuple(line[1:]) for line in words], dtype=object),
            "line": np.arange(1, len(words) + 1, dtype=np.int64),
        }
    )


def read_lines(file: Path, dataset: str) -> list[str]:
    """Lines of a list, gzipped or not, that are not empty, without blanks around them.

    Bytes that are not UTF-8 become lone surrogates, so that only their lines are unusable.

    Raises:
        DataError: it is empty, far too large, or no text.
    """
    try:
        with file.open("rb") as opened:
            packed = opened.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as content:
            found = content.read(LARGEST + 1)
        if len(found) > LARGEST:
            raise ValueError(f"larger than {LARGEST >> 20} MiB")
        if b"\0" in found:
            raise ValueError("binary or UTF-16")
        lines = [line.strip() for line in found.decode("utf-8-sig", "surrogateescape").split("\n")]
        lines = [line for line in lines if line]
        if not lines:
            raise ValueError("empty")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise DataError(
            f"{dataset}: {file}: cannot be read as a list ({why}); restore the file as it was "
            f"released"
        ) from None
    return lines


def read_splits(raw: Raw, dataset: str) -> tuple[Flow, list[Path], dict[str, int]]:
    """The lists of train, valid and test one after the other, and the training subsets.

    An image that stands in one list twice is a fault. One that stands in two lists stays in both:
    the lists are imported as they are.

    Returns:
        A flow whose rows are the lists' lines (name, bits, split, bool in_1 and in_10: named by
        the list of the subset, source_row from 1 through the three lists); the files that were
        read; how many lines of the subsets name no training image.

    Raises:
        DataError: a list is not there, or no text.
    """
    folder = FOLDERS[dataset]
    parts = [
        read_list(raw, dataset, folder, name).assign(split=split) for split, name in FILES.items()
    ]
    table = pd.concat(parts, ignore_index=True).drop(columns="line")
    table["source_row"] = np.arange(1, len(table) + 1, dtype=np.int64)
    train = table["split"] == "train"
    notes = {}
    for column, name in SUBSETS.items():
        named = read_list(raw, dataset, folder, name)["name"]
        table[column] = train & table["name"].isin(named)
        notes[f"{name}: not in {FILES['train']}"] = int((~named.isin(table["name"][train])).sum())
    flow = Flow(table)
    flow.table["entry"] = flow.table["split"] + "/" + flow.table["name"]
    flow.unique("entry", {CONTRADICTION: ["bits"]})
    files = [locate(raw, dataset, folder, name) for name in (*FILES.values(), *SUBSETS.values())]
    return flow, files, notes


def parse_bits(flow: Flow, names: tuple[str, ...]) -> None:
    """Turn column bits into float32 columns ``label_<Name>`` of 0 and 1, in the order of `names`.

    Rows with another number of bits, or with another text than 0 or 1, are faults.
    """
    known = {"0", "1"}
    good = [len(bits) == len(names) and known.issuperset(bits) for bits in flow.table["bits"]]
    flow.fault(~np.array(good, dtype=bool), f"line has not {len(names)} bits of 0 or 1")
    values = np.array(flow.table["bits"].tolist(), dtype=np.float32).reshape(-1, len(names))
    for column, name in enumerate(names):
        flow.table[LABEL + name] = values[:, column]
