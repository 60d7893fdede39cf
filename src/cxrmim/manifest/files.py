"""Image files in flat folders, found by their names: one listing a folder, no look at any file."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxrmim.errors import DataError
from cxrmim.manifest.contract import CLASH, Flow, safe


@dataclass(frozen=True)
class Files:
    """Image files of a dataset.

    Attributes:
        paths: path relative to the root by file name; of two files of one name, the first.
        clashes: names that two folders hold.
    """

    paths: dict[str, str]
    clashes: frozenset[str]

    def attach(self, flow: Flow, key: str) -> None:
        """Give each row its file in column ``path``; rows without exactly one are faults.

        Args:
            flow: its rows name a file each.
            key: column of the file names.
        """
        named = flow.table[key]
        flow.fault(~named.map(safe) | named.str.contains("/", regex=False), "path leaves the root")
        flow.fault(flow.table[key].isin(self.clashes), CLASH)
        flow.fault(~flow.table[key].isin(self.paths.keys()), "image is missing")
        flow.table["path"] = flow.table[key].map(self.paths)

    def unused(self, names: Iterable[str]) -> int:
        """How many files none of these names is of."""
        return len(self.paths.keys() - set(names))


def scan(root: Path, dataset: str, folders: Iterable[str], suffixes: tuple[str, ...]) -> Files:
    """List the image files of folders, not of those below them.

    Args:
        root: of the dataset.
        dataset: for messages.
        folders: relative to the root; each must be there.
        suffixes: of image files, in lower case.

    Raises:
        DataError: a folder cannot be listed.
    """
    paths: dict[str, str] = {}
    clashes: set[str] = set()
    for folder in folders:
        try:
            with os.scandir(root / folder) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            raise DataError(
                f"{dataset}: {root / folder}: cannot be listed ({type(error).__name__}); check "
                f"that it is a folder that you may read"
            ) from None
        for name in names:
            if name.lower().endswith(suffixes):
                if name in paths:
                    clashes.add(name)
                paths.setdefault(name, f"{folder}/{name}")
    return Files(paths, frozenset(clashes))
