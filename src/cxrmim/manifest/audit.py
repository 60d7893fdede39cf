"""Leakage audit: what the splits of a manifest share."""

from itertools import combinations
from typing import Any

import pandas as pd

from cxrmim.errors import DataError

UNITS = {"image": "images", "study": "studies", "patient": "patients"}  # finest first


def audit(table: pd.DataFrame) -> dict[str, Any]:
    """Count the images, studies and patients that two splits share.

    Args:
        table: manifest rows; needs image, study, patient and split.

    Returns:
        For each unit, "<split>-<split>" -> shared count, every pair of splits present.
    """
    present = [s for s in ("train", "valid", "test") if (table["split"] == s).any()]
    found: dict[str, Any] = {}
    for unit in UNITS:
        sets = {s: set(table.loc[table["split"] == s, unit]) for s in present}
        found[unit] = {f"{a}-{b}": len(sets[a] & sets[b]) for a, b in combinations(present, 2)}
    return found


def check(found: dict[str, Any], unit: str, dataset: str) -> None:
    """Assert that splits share nothing coarser than they may.

    Args:
        found: an `audit`.
        unit: the split's own unit: images are never shared; studies are not either if it is study
            or patient, patients not if it is patient.
        dataset: for the message.

    Raises:
        DataError: something is shared.
    """
    levels = list(UNITS)
    for level in levels[: levels.index(unit) + 1]:
        for pair, count in found[level].items():
            if count:
                raise DataError(
                    f"{dataset}: splits {pair} share {count} {UNITS[level]}, so the test would be "
                    f"trained on; choose another split in manifest.datasets.{dataset}"
                )
