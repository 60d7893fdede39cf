"""States of a training on disk: what a killed run goes on from."""

import hashlib
import logging
import os
import pickle
import shutil
import time
from collections.abc import Mapping
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
DIGITS = 16  # of a hash in a file's name


class Keeper:
    """The newest states of one training.

    A file is called ``<step>-<first digits of the identity>-<those of its sha256>.pt``: it is
    written under another name and renamed, so that it is whole or not there, and damage shows
    before it is read. It holds tensors and plain containers only and is read as such, never as
    code. States of another training in the same folder are neither read nor counted.

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
        """Saved states of this training, the newest first."""
        return sorted(self.folder.glob(f"*-{self.identity[:DIGITS]}-*.pt"), reverse=True)

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
            name = f"{step:010d}-{self.identity[:DIGITS]}-{digest}.pt"
            temporary.replace(self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        for old in self.files[self.keep :]:
            old.unlink(missing_ok=True)
        self._saved = time.monotonic()
        log.info("state of step %d saved", step)

    def load(self) -> Tree | None:
        """The newest state that is whole and of this training, on the host; None without one."""
        for torn in self.folder.glob(".*.pt"):  # of a process that was killed as it wrote
            torn.unlink(missing_ok=True)
        files = self.files
        if not files and any(self.folder.glob("*.pt")):
            log.warning(
                "%s: states of other parameters, code or data; the training starts anew",
                self.folder,
            )
        for path in files:
            tree = _read(path)
            if tree is None or tree.get("identity") != self.identity:
                log.warning("%s: damaged; an older state is looked for", path)
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
        if path.stem.split("-")[-1] != digest:
            return None
        tree: Tree = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED:
        return None
    return tree


def keeper(params: Params, checkpoint: str, used: Mapping[str, Path] | None = None) -> Keeper:
    """The states of a checkpoint's training: of these parameters, this code and these inputs.

    Args:
        params: all parameters.
        checkpoint: ``<entry>-s<seed>``.
        used: published files that the training starts from (`initial.initialise`).
    """
    paths = Paths(params.scale)
    parents = grid.parents(params, "pretrain", checkpoint)
    identity = fingerprint(
        [
            grid.config(params, "pretrain", checkpoint),
            record.code_hash(params, "pretrain", checkpoint),
            {unit: record.sha256(paths.record(kind, unit)) for kind, unit in parents},
            {name: record.digest(path)["sha256"] for name, path in (used or {}).items()},
        ]
    )
    save = params.pretrain.save
    return Keeper(paths.training(checkpoint), identity, save.minutes, save.keep)
