"""States of a training on disk: what a killed run goes on from."""

import hashlib
import logging
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from cxrmim import grid, record
from cxrmim.params import Params, fingerprint
from cxrmim.paths import Paths

log = logging.getLogger("cxrmim")
Tree = dict[str, Any]
DAMAGED = (OSError, RuntimeError, ValueError, EOFError, KeyError, BadZipFile, pickle.PickleError)
DIGITS = 16  # of the sha256 that a file carries in its name


class Keeper:
    """The newest states of one training.

    A file is called ``<step>-<first digits of its sha256>.pt``: it is written under another name
    and renamed, so that it is whole or not there, and damage shows before it is read. It holds
    tensors and plain containers only and is read as such, never as code.

    Args:
        folder: `Paths.training(checkpoint)`.
        identity: hash of what the training is; states of another one are left alone.
        minutes: between saved states.
        keep: number of states kept.
    """

    def __init__(self, folder: Path, identity: str, minutes: float, keep: int) -> None:
        self.folder, self.identity, self.keep = folder, identity, keep
        self._period = 60 * minutes
        self._saved = time.monotonic()
        self.spent: Tree = {}

    @property
    def cost(self) -> Tree:
        """What the training has cost, with the processes that were killed before this one.

        What these did after their last saved state is lost, and not counted.
        """
        cost = record.process_cost()
        for name in ("seconds", "cpu_seconds"):
            cost[name] = round(cost[name] + self.spent.get(name, 0.0), 2)
        cost["peak_mb"] = max(cost["peak_mb"], self.spent.get("peak_mb", 0))
        return cost

    @property
    def due(self) -> bool:
        """Whether the last state is old enough for another."""
        return time.monotonic() - self._saved >= self._period

    @property
    def files(self) -> list[Path]:
        """Saved states, the newest first."""
        return sorted(self.folder.glob("*-*.pt"), reverse=True)

    @property
    def kept(self) -> str:
        """The newest state in words, for a message."""
        files = self.files
        if not files:
            return "no state was saved before it"
        return f"the state of step {int(files[0].name.split('-')[0])} is kept in {self.folder}"

    def save(self, step: int, tree: Tree) -> None:
        """Write the state before a step, and remove those beyond the newest `keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{os.getpid()}.pt"
        try:
            held = {"identity": self.identity, "step": step, "cost": self.cost}
            torch.save({**held, **tree}, temporary)
            with temporary.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()[:DIGITS]
                os.fsync(handle.fileno())
            temporary.replace(self.folder / f"{step:010d}-{digest}.pt")
        finally:
            temporary.unlink(missing_ok=True)
        for old in self.files[self.keep :]:
            old.unlink()
        self._saved = time.monotonic()
        log.info("state of step %d saved", step)

    def load(self) -> Tree | None:
        """The newest state that is whole and of this training, on the host; None without one."""
        for path in self.files:
            tree = _read(path)
            if tree is None:
                log.warning("%s: damaged; an older state is looked for", path)
            elif tree.get("identity") != self.identity:
                log.warning("%s: of other parameters, code or data; the training starts anew", path)
                return None
            else:
                log.info("going on from the state of step %d", tree["step"])
                self.spent = tree["cost"]
                return tree
        return None

    def clear(self) -> None:
        """Remove all states: the training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> Tree | None:
    try:
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()[:DIGITS]
        if path.stem.split("-")[1] != digest:
            return None
        tree: Tree = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED:
        return None
    return tree


def keeper(params: Params, checkpoint: str) -> Keeper:
    """The states of a checkpoint's training: of these parameters, this code and these inputs."""
    paths = Paths(params.scale)
    parents = grid.parents(params, "pretrain", checkpoint)
    identity = fingerprint(
        [
            grid.config(params, "pretrain", checkpoint),
            record.code_hash(params, "pretrain", checkpoint),
            {unit: record.sha256(paths.record(kind, unit)) for kind, unit in parents},
        ]
    )
    save = params.pretrain.save
    return Keeper(paths.training(checkpoint), identity, save.minutes, save.keep)
