"""The split rules of the released MGCA code, replayed with their leaks (protocols §1).

MGCA's preprocessing (`mgca/preprocess/{chexpert,siim,covidx,rsna}.py`), which MedIM and CMITM
build on, cuts by row or by image, and one rule mixes up positions and index labels. These are our
own replays on a table's rows, for comparison; `cxrmim audit --public` holds them to the published
tables. Rows must stand in the order of the official files, before any filter: the draws are of
positions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Rows = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]

VIEW = "Frontal/Lateral"
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
OTHERS = (
    "Enlarged Cardiomediastinum",
    "Lung Lesion",
    "Lung Opacity",
    "Pneumonia",
    "Pneumothorax",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
SINGLE = (
    COMPETITION + OTHERS
)  # labels of which a set-aside image has exactly one ("No Finding" not)
ASIDE = 200  # images per class of the zero-shot set
HELD_OUT = 5000  # images of the validation split
# A smaller table (generated data, a hand-made test) gives at most these shares of its rows.
ROWS_PER_ASIDE, ROWS_PER_HELD_OUT = 1000, 40


def chexpert_mgca(table: pd.DataFrame) -> tuple[Rows, Rows]:
    """CheXpert: training and validation rows, most of the latter left in the former.

    200 frontal images of each class with that one label and no other are set aside. 5,000
    POSITIONS among the rest, all views, validate; what is dropped from training is the rows whose
    INDEX LABELS equal these positions, and the two differ because of the images set aside.

    Args:
        table: rows of train.csv in their order, all of them; columns `SINGLE` hold 1, 0, -1 or NaN,
            `VIEW` holds "Frontal" or "Lateral". The index is not used.

    Returns:
        Ascending row numbers of train (leak included) and of valid.

    Raises:
        KeyError: a column is missing.
    """
    aside = chexpert_aside(table)
    everything = np.arange(len(table), dtype=np.int64)
    rest = np.setdiff1d(everything, aside)
    held_out = min(HELD_OUT, max(1, len(table) // ROWS_PER_HELD_OUT), len(rest))
    positions = _legacy(0).choice(len(rest), size=held_out, replace=False)
    return np.setdiff1d(rest, positions), np.sort(rest[positions])


def chexpert_aside(table: pd.DataFrame) -> Rows:
    """Rows of the zero-shot set: frontal images with one label and no other, class by class.

    Args:
        table: as for `chexpert_mgca`.
    """
    labels = table[list(SINGLE)].fillna(0).to_numpy(dtype=np.float64)
    frontal = (table[VIEW] == "Frontal").to_numpy(dtype=bool)
    size = min(ASIDE, max(1, len(table) // ROWS_PER_ASIDE))
    drawn: list[Rows] = []
    for wanted in np.eye(len(SINGLE))[: len(COMPETITION)]:
        found = pd.Series(np.flatnonzero(frontal & (labels == wanted).all(1)))
        drawn.append(found.sample(n=min(size, len(found)), random_state=0).to_numpy(np.int64))
    return np.concatenate(drawn)


def siim_mgca(rows: int) -> Names:
    """SIIM-ACR: 70/15/15 of the ROWS of the run-length table, of which an image may have ten.

    An image whose rows fall into two splits is in both, each time with a part of its mask.

    Args:
        rows: of the table.

    Returns:
        (rows,) split names.
    """
    return _three_way(rows)


def rsna_mgca(patients: npt.NDArray[Any]) -> Names:
    """RSNA: 70/15/15 of the patients, who have one image each.

    Args:
        patients: (N,) distinct patient ids in any order; the rule sorts them.

    Returns:
        (N,) split names in the order of `patients`.

    Raises:
        ValueError: an id stands there twice.
    """
    ids = np.asarray(patients).astype(str)
    if len(np.unique(ids)) != len(ids):
        raise ValueError("patients must be distinct")
    out = np.empty(len(ids), dtype=object)
    out[np.argsort(ids)] = _three_way(len(ids))
    return out


def covidx_mgca(rows: int) -> Names:
    """COVIDx: 80/20 of the rows of the training list, though patients have several images.

    Args:
        rows: of the official training list; the official test list is the test.

    Returns:
        (rows,) "train" or "valid".
    """
    train, _ = _cut(np.arange(rows), train_size=0.8)
    out = np.full(rows, "valid", dtype=object)
    out[train] = "train"
    return out


def sample_mgca(rows: int, percent: int) -> Rows:
    """Training rows of a label subset: one draw for all seeds; 10 % contains 1 %.

    Args:
        rows: of the training split.
        percent: of them.

    Returns:
        Row numbers in the order drawn.
    """
    drawn = pd.Series(np.arange(rows)).sample(frac=percent / 100, random_state=42)
    return drawn.to_numpy(dtype=np.int64)


def _three_way(rows: int) -> Names:
    """70/15/15 by two draws of scikit-learn, both with random_state 0; the test comes first."""
    train, rest = _cut(np.arange(rows), test_size=0.3)
    test, valid = _cut(rest, test_size=0.5)
    out = np.empty(rows, dtype=object)
    out[train], out[valid], out[test] = "train", "valid", "test"
    return out


def _cut(rows: Rows, **size: float) -> tuple[Rows, Rows]:
    from sklearn.model_selection import train_test_split  # a second to import, for these rules only

    first, second = train_test_split(rows, random_state=0, **size)
    return first, second


def _legacy(seed: int) -> np.random.RandomState:
    """numpy's old generator, whose stream the released code draws from."""
    return np.random.RandomState(seed)
