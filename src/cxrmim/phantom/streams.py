"""Random streams that depend on what is drawn and never on who draws it or when."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Literal, Protocol, TypeVar

import numpy as np

from cxrmim.progress import track

DATASET_IDS = {"mimic": 1, "chexpert": 2, "siim": 3, "sheet": 4, "audit": 5}
DATASET_IDS |= {"covidx": 6, "nih": 7, "rsna": 8}

PURPOSES = {"latent": 0, "pixels": 1, "text": 2, "names": 3}

Item = TypeVar("Item")
Result = TypeVar("Result")


class PhantomSpec(Protocol):
    """The part of `cxrmim.params.PhantomParams` that the generator reads.

    `raster` is the long side of the images in pixels; `patients` maps a data set's name to its
    number of patients (for siim: of labelled images; for rsna: of training images). A scale that
    does not use a data set leaves it out.
    """

    @property
    def seed(self) -> int:
        """The seed of the whole population."""

    @property
    def raster(self) -> int:
        """Long side of the images, pixels."""

    @property
    def difficulty(self) -> Literal["easy", "mid", "hard"]:
        """How strong nuisances, clutter and noise are against the findings."""

    @property
    def patients(self) -> dict[str, int]:
        """Patients a data set."""


def stream(
    seed: int, dataset: str, patient: int, study: int = -1, image: int = -1, purpose: str = "latent"
) -> np.random.Generator:
    """The generator of one patient, study or image; -1 stands for the level above.

    Raises `KeyError` for an unknown data set or purpose. What an image shows (`latent`) and its
    noise (`pixels`) have streams of their own, so a larger raster shows the same patients.
    """
    key = [seed, DATASET_IDS[dataset], patient, study + 1, image + 1, PURPOSES[purpose]]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def spread(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`work` over `items`, in the order of `items`, on `workers` processes (1: in this one).

    Processes are spawned, not forked: a caller that has loaded a threaded library would deadlock.
    """
    if workers <= 1:
        yield from track(map(work, items), "patients", len(items))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from track(pool.map(work, items, chunksize=16), "patients", len(items))
