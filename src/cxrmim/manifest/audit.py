"""Leakage audit: what the splits of a manifest share, and what its label subsets lack.

All of it is counts. Pixels are compared where they are decoded, by `cxrmim.shards.audit`.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pandas as pd

from cxrmim.errors import DataError
from cxrmim.manifest.contract import LABEL

SPLITS = ("train", "valid", "test")
UNITS = {"image": "images", "study": "studies", "patient": "patients"}  # finest first
POOL = "test"  # the split that retrieval ranks


def audit(table: pd.DataFrame) -> dict[str, Any]:
    """Count what two splits share, equal reports and gaps in the label subsets.

    Args:
        table: manifest rows; needs image, path, study, patient and split, and may have
            impression, findings, in_1, in_10 and label_<Name>.

    Returns:
        ``images``, ``studies``, ``patients``: "<split>-<split>" -> shared count, for every pair of
        splits present. An image is shared if its id or its file is.
        ``reports``, if any row has text: distinct texts on two sides by pair; of the retrieval
        pool, ``pool`` the rows whose text another study has too, ``siblings`` the rows whose study
        has another row, ``rows`` all.
        ``subsets``: for each column in_*, ``rows``, rows ``outside`` the training split, and the
        classes ``without`` a positive there though the training split has one.
    """
    found: dict[str, Any] = {name: _shared(table, unit) for unit, name in UNITS.items()}
    files = _shared(table, "path")
    found["images"] = {pair: max(n, files[pair]) for pair, n in found["images"].items()}
    reports = _reports(table)
    if reports is not None:
        found["reports"] = reports
    columns = [c for c in table.columns if c.startswith("in_")]
    found["subsets"] = {column: _subset(table, column) for column in columns}
    return found


def check(found: dict[str, Any], unit: str | None, dataset: str) -> None:
    """Assert that splits share nothing coarser than they may.

    Args:
        found: an `audit`.
        unit: the split's own unit: images are never shared; studies are not either if it is study
            or patient, patients not if it is patient. None: a rule of a released code, or imported
            lists that leak; what they share is counted, and nothing is refused.
        dataset: for the message.

    Raises:
        DataError: something is shared.
    """
    levels = list(UNITS)
    for level in levels[: levels.index(unit) + 1] if unit is not None else []:
        for pair, count in found[UNITS[level]].items():
            if count:
                raise DataError(
                    f"{dataset}: splits {pair} share {count} {UNITS[level]}, so the test would be "
                    f"trained on; choose another split in manifest.datasets.{dataset}"
                )


def pairs(sides: dict[str, set[Any]]) -> dict[str, int]:
    """Sizes of the intersections of every two sides, named "<side>-<side>"."""
    return {f"{a}-{b}": len(sides[a] & sides[b]) for a, b in combinations(sides, 2)}


def _shared(table: pd.DataFrame, column: str) -> dict[str, int]:
    return pairs({s: set(v.unique()) for s, v in _sides(table, column)})


def _sides(table: pd.DataFrame, column: str) -> Iterable[tuple[str, pd.Series]]:
    """Values of the splits that have a row."""
    for split in SPLITS:
        rows = (table["split"] == split).to_numpy(dtype=bool)
        if rows.any():
            yield split, table.loc[rows, column]


def _reports(table: pd.DataFrame) -> dict[str, int] | None:
    """Equal texts, case and blanks aside; None if no row has text."""
    named = [name for name in ("impression", "findings") if name in table.columns]
    if not named or table[named].isna().to_numpy().all():
        return None
    texts = table[named].fillna("").agg(" ".join, axis=1).str.lower().str.split().str.join(" ")
    rows = table[["study", "split"]].assign(text=texts)
    rows = rows[rows["text"] != ""]
    pool = rows[rows["split"] == POOL]
    studies = pool.groupby("text")["study"].nunique()
    return {
        **_shared(rows, "text"),
        "pool": int((pool["text"].map(studies) > 1).sum()),
        "siblings": int(pool["study"].duplicated(keep=False).sum()),
        "rows": len(pool),
    }


def _subset(table: pd.DataFrame, column: str) -> dict[str, int]:
    chosen = table[table[column].to_numpy(dtype=bool)]
    train = table[table["split"] == "train"]
    labels = [c for c in table.columns if c.startswith(LABEL)]
    without = [n for n in labels if (train[n] == 1).any() and not (chosen[n] == 1).any()]
    return {
        "rows": len(chosen),
        "outside": int((chosen["split"] != "train").sum()),
        "without": len(without),
    }
