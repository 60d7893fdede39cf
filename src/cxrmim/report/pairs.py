"""Image-report pairs with their attention maps and masks, read from the `attend` record."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report.records import Records

STRATEGIES = {"kwm": "KWM", "sdm": "SDM"}
FLAGS = {"kwm": "mesh", "sdm": "chosen"}  # what a strategy's words are called in a record
WITHHELD = "images, reports and maps of credentialed data are not kept in records"


@dataclass(frozen=True)
class Guide:
    """What one strategy made of a pair.

    `attention` (G, G) float over patches, `masked` (G, G) bool, `words` the positions of the words
    whose attention was summed.
    """

    attention: npt.NDArray[np.float64]
    masked: npt.NDArray[np.bool_]
    words: frozenset[int]


@dataclass(frozen=True)
class Pair:
    """A radiograph (S, S) uint8, the words of its report, and a `Guide` by strategy."""

    image: npt.NDArray[np.uint8]
    words: tuple[str, ...]
    guides: dict[str, Guide]


def run_of(params: Params, block: str) -> Run:
    """The `attend` run of a block of the grid."""
    return grid.runs_of_block(params, block)[0]


def obstacle(params: Params, block: str) -> str | None:
    """Why a block has no pairs to draw, or None if its record holds some."""
    reason = grid.pending(params, run_of(params, block))
    if reason is None and params.manifest.source != "phantom":
        return WITHHELD
    return reason


def read(params: Params, block: str, records: Records) -> list[Pair]:
    """Pairs of a block, none if there is an obstacle.

    Raises:
        CheckError: the record is missing or does not hold what `attend` writes.
    """
    if obstacle(params, block) is not None:
        return []
    run = run_of(params, block)
    try:
        details = records.tree(run)["details"]
        side, grid_side = int(details["side"]), int(details["grid"])
        return [_pair(tree, side, grid_side) for tree in details["pairs"]]
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CheckError(
            f"downstream/{run.id}: details.pairs cannot be read ({type(error).__name__}: {error}); "
            f"restore the record with git or run `snakemake --cores all`"
        ) from None


def stored(params: Params, block: str) -> list[Pair]:
    """Pairs of a block from its predictions on disk, credentialed ones too: see `report.local`.

    Raises:
        CheckError: the predictions are not on this machine, or not those of their record.
    """
    import pandas as pd

    from cxrmim.downstream.tasks import attend

    run, paths = run_of(params, block), Paths(params.scale)
    tree = record.read(paths.record("downstream", run.id))
    record.verify(tree, "predictions")
    side, grid_side = int(tree["details"]["side"]), int(tree["details"]["grid"])
    held = attend.shown(pd.read_parquet(paths.prediction(run.id)))
    return [_pair(pair, side, grid_side) for pair in held]


def _pair(tree: dict[str, Any], side: int, grid_side: int) -> Pair:
    """One pair as `downstream.tasks.attend.shown` keeps it: grids and pixels in raster order."""
    pixels = np.frombuffer(base64.b64decode(tree["pixels"], validate=True), dtype=np.uint8)
    words = tuple(str(word) for word in tree["words"])
    shape = (grid_side, grid_side)
    guides = {}
    for key, flags in FLAGS.items():
        attention = np.asarray(tree[f"attention_{key}"], dtype=np.float64).reshape(shape)
        masked = np.asarray(tree[f"mask_{key}"], dtype=bool).reshape(shape)
        if len(tree[flags]) != len(words) or not np.isfinite(attention).all():
            raise ValueError(f"{key} does not fit the words or is not finite")
        guides[key] = Guide(attention, masked, frozenset(np.flatnonzero(tree[flags]).tolist()))
    return Pair(pixels.reshape(side, side), words, guides)
