"""Where everything lies; the sole speller of ``results/``. Also atomic writing."""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cxrmim.errors import ParamsError
from cxrmim.params import Params

LISTS = "DatasetsSplits"
TEMPORARY = re.compile(r"\.\d+-[0-9a-f]{8}\..+")  # the names that `_beside` gives
PUBLIC = Path("results") / "public"  # what is computed on public tables, at no scale
LEAKAGE = PUBLIC / "leakage.json"


@dataclass(frozen=True)
class Paths:
    """Paths of one scale, relative to the working directory."""

    scale: str

    @property
    def results(self) -> Path:
        """Folder of everything that a run of this scale writes."""
        return Path("results") / self.scale

    @property
    def artifacts(self) -> Path:
        """Large files, kept by DVC."""
        return self.results / "artifacts"

    def record(self, kind: str, unit: str) -> Path:
        """The record of a unit of work: what it is."""
        return self.results / "records" / kind / f"{unit}.json"

    def circumstances(self, kind: str, unit: str) -> Path:
        """How a unit of work came about: commit, environment, times."""
        return self.results / "records" / kind / f"{unit}.circumstances.json"

    def log(self, kind: str, unit: str) -> Path:
        """Log file of a job."""
        return self.artifacts / "logs" / kind / f"{unit}.log"

    def journal(self, kind: str, unit: str) -> Path:
        """Note of a job that runs or has failed; git ignores it."""
        return self.results / "journal" / kind / f"{unit}.json"

    def phantom(self, dataset: str) -> Path:
        """Generated raw data of a dataset, in its on-disk layout."""
        return self.results / "phantom" / dataset

    def manifest(self, dataset: str) -> Path:
        """Manifest of a dataset (parquet)."""
        return self.artifacts / "manifests" / f"{dataset}.parquet"

    def shards(self, dataset: str) -> Path:
        """Folder of a dataset's arrays."""
        return self.artifacts / "shards" / dataset

    def building(self, dataset: str) -> Path:
        """Arrays of a dataset while they are made; what is done survives a kill."""
        return self.results / "building" / dataset

    def training(self, checkpoint: str) -> Path:
        """Folder of the states that a pretraining goes on from; gone when it has ended."""
        return self.results / "training" / checkpoint

    def curves(self, checkpoint: str) -> Path:
        """Folder of a pretraining's DVCLive logs."""
        return self.log("pretrain", checkpoint).with_suffix("")

    def checkpoint(self, checkpoint: str) -> Path:
        """Weights of a pretraining (safetensors)."""
        return self.artifacts / "checkpoints" / f"{checkpoint}.safetensors"

    def features(self, checkpoint: str, dataset: str) -> Path:
        """Features of a dataset that jobs hand on to each other; can be deleted at any time."""
        return self.results / "features" / checkpoint / f"{dataset}.safetensors"

    def spare(self, run_id: str) -> Path:
        """Folder of a redone run's results until its job ends; see `downstream.runs`."""
        return self.results / "spare" / run_id

    def prediction(self, run_id: str) -> Path:
        """Predictions of a downstream run (parquet)."""
        return self.artifacts / "predictions" / f"{run_id}.parquet"

    def table(self, name: str, suffix: str) -> Path:
        """A table; `suffix` is csv, md or tex."""
        return self.results / "tables" / f"{name}.{suffix}"

    def figure(self, name: str, suffix: str) -> Path:
        """A figure; `suffix` is png, svg or csv."""
        return self.results / "figures" / f"{name}.{suffix}"

    @property
    def local(self) -> Path:
        """Folder of what must not leave this machine; git and DVC leave it alone."""
        return self.results / "local"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.results / "report"

    def sweep(self) -> int:
        """Remove what killed processes have left half written; no job may run beside it.

        Returns:
            How many files and folders have gone; what cannot be removed stays.
        """
        found: list[Path] = []
        for here, folders, files in os.walk(self.results):
            found += [Path(here, name) for name in (*folders, *files) if is_temporary(name)]
            folders[:] = [name for name in folders if not is_temporary(name)]
        for path in found:
            with suppress(OSError):  # over NFS one that was open a moment ago holds its folder
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return sum(not path.exists() for path in found)

    @property
    def summary(self) -> Path:
        """Every printed cell of the scale as one JSON file."""
        return self.results / "tables" / "summary.json"


def everywhere() -> list[Paths]:
    """Paths of every scale that has been run here."""
    return [Paths(path.parent.name) for path in sorted(Path("results").glob("*/journal"))]


def lists_root(params: Params, dataset: str) -> Path | None:
    """Folder of the MRM repository's split lists, None if the user has set none.

    The phantom writes a dataset's lists below its own root.

    Raises:
        ParamsError: the folder that is set does not exist.
    """
    if params.manifest.source == "phantom":
        return raw_root(params, dataset) / LISTS
    if params.manifest.lists is None:
        return None
    if not _readable(params.manifest.lists):
        raise ParamsError(
            f"params.yaml: manifest.lists = {params.manifest.lists!r}: no such folder on "
            f"{socket.gethostname()}; set it to the folder {LISTS} of the MRM repository, where "
            f"every machine that runs jobs sees it"
        )
    return Path(params.manifest.lists)


def raw_root(params: Params, dataset: str) -> Path:
    """Folder of a dataset's raw files: generated, or the one that the user set.

    Raises:
        ParamsError: the scale reads real data and the root is not set or no folder.
    """
    dataset = params.reading(dataset)[0]
    if params.manifest.source == "phantom":
        return Paths(params.scale).phantom(dataset)
    root = params.manifest.roots.get(dataset)
    where = f"manifest.roots.{dataset}"
    if root is None:
        raise ParamsError(
            f"params.yaml: {where} = null: scale {params.scale!r} reads the real {dataset} data; "
            f"set it to the folder that holds them"
        )
    if not _readable(root):
        raise ParamsError(
            f"params.yaml: {where} = {root!r}: no such folder on {socket.gethostname()}; set it at "
            f"`{where}` to one that every machine that runs jobs sees"
        )
    return Path(root)


def _readable(folder: str) -> bool:
    """Whether a folder is there and open to the user; one out of reach raises nothing."""
    return os.access(f"{folder}/", os.R_OK | os.X_OK)


def is_temporary(name: str) -> bool:
    """Whether a name is one of `atomic`'s, of what is being written or was when it was killed."""
    return TEMPORARY.fullmatch(name) is not None


def _beside(path: Path) -> Path:
    """A name of its own for what is being written; other nodes may have the same process ids."""
    return path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.{path.name}")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside it, then renames.

    The suffix is kept, so that writers which look at it behave.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder whole or not at all; an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
