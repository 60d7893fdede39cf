"""Losses of a training: watched for divergence, logged, shown, and summed up for the record."""

import csv
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrmim.errors import CxrmimError
from cxrmim.paths import atomic
from cxrmim.pretrain.parts import world

log = logging.getLogger("cxrmim")
Tree = dict[str, Any]
POINTS = 50  # points of the recorded loss curve
WATCH = 25  # steps between looks at the losses; each look waits for the device
RECENT = 100  # steps whose median total is the measure of an explosion
TOTAL = "total"


class DivergedError(CxrmimError):
    """The loss is no finite number, or has exploded."""


class Watch:
    """Losses of a run: kept on the device, looked at every few steps.

    Args:
        batch: images a step.
        explode: multiple of the recent median total at which a run is stopped.
        name: what a message calls the corpus.
        rows: step -> what a message calls the images of its batch.
        kept: says which saved state is there.
        live: takes step and values at each look; None for a process that logs nothing.
    """

    def __init__(
        self,
        batch: int,
        explode: float,
        name: str,
        rows: Callable[[int], list[int]],
        kept: Callable[[], str],
        live: "Live | None" = None,
    ) -> None:
        self.batch, self.explode, self.name = batch, explode, name
        self.rows, self.kept, self.live = rows, kept, live
        self.names: list[str] = []
        self.values: list[npt.NDArray[np.float64]] = []
        self.line = ""
        self._recent: list[Tensor] = []
        self._seen = (0, time.monotonic())

    @property
    def due(self) -> bool:
        """Whether enough steps have passed for a look."""
        return len(self._recent) >= WATCH

    def note(self, losses: dict[str, Tensor]) -> None:
        """Take in a step's terms as they are on the device, `total` among them."""
        self.names = list(losses)
        self._recent.append(torch.stack([x.detach().float() for x in losses.values()]))

    def look(self, rate: float) -> None:
        """Wait for the device and look at the steps since the last look.

        Args:
            rate: the learning rate, for the log.

        Raises:
            DivergedError: a step's loss is not finite or has exploded. All processes raise it.
        """
        if not self._recent:
            return
        shares = torch.stack(self._recent).double() / world.size()
        self._recent.clear()
        for value in world.total(shares).cpu().numpy():
            self._judge(value)
            self.values.append(value)
        self._tell(rate)

    def _judge(self, value: npt.NDArray[np.float64]) -> None:
        at, step = self.names.index(TOTAL), len(self.values)
        fault = None
        if not np.isfinite(value).all():
            fault = "the loss is not finite"
        elif step >= WATCH:
            usual = float(np.median([v[at] for v in self.values[-RECENT:]]))
            if 0 < self.explode * usual < value[at]:
                fault = f"the loss is {value[at]:.4g}, of late it was {usual:.4g}"
        if fault:
            raise self._diverged(step, fault)

    def spoilt(self) -> None:
        """The weights are not finite although the loss of every step was.

        Raises:
            DivergedError: naming the images of the last step, whose gradient it must have been.
        """
        raise self._diverged(len(self.values) - 1, "its gradient was not finite")

    def _diverged(self, step: int, fault: str) -> DivergedError:
        before = f" or, of the step before, {self.rows(step - 1)}" if step > 0 else ""
        return DivergedError(
            f"step {step}: {fault}; lower the learning rate, or look at source rows "
            f"{self.rows(step)}{before} of {self.name}; {self.kept()}"
        )

    def _tell(self, rate: float) -> None:
        done, now = len(self.values), time.monotonic()
        speed = (done - self._seen[0]) * self.batch / max(now - self._seen[1], 1e-9)
        mean = np.mean(self.values[self._seen[0] :], 0).tolist()
        self._seen = (done, now)
        terms = dict(zip(self.names, mean, strict=True))
        self.line = f"{speed:.0f} images/s, {words(terms)}"
        if self.live is not None:
            self.live.log(done, {**terms, "lr": rate, "images_per_second": speed})

    def report(self, epoch: int, steps: int) -> None:
        """Log the mean terms of an epoch's steps, the latest ones."""
        mean = np.mean(self.values[-steps:], 0).tolist()
        log.info("epoch %d: %s", epoch, words(dict(zip(self.names, mean, strict=True))))

    def metrics(self, per_epoch: int) -> Tree:
        """Means of the last epoch by term, and the total over about 50 stretches of the run."""
        values = np.array(self.values)
        final = values[-per_epoch:].mean(0)
        total = values[:, self.names.index(TOTAL)]
        curve = [float(x.mean()) for x in np.array_split(total, min(POINTS, len(total)))]
        return {
            "losses": {n: rounded(v) for n, v in zip(self.names, final.tolist(), strict=True)},
            "curve": [rounded(v) for v in curve],
        }

    def state_dict(self) -> Tree:
        """Every step's losses; only after a look."""
        return {"names": self.names, "values": torch.from_numpy(np.array(self.values))}

    def load_state_dict(self, tree: Tree) -> None:
        """Restore."""
        self.names, self.values = list(tree["names"]), list(tree["values"].numpy())
        self._seen = (len(self.values), time.monotonic())


class Live:
    """A run's curves as DVCLive writes them, for ``dvc plots`` and its editors' views.

    Args:
        folder: `Paths.curves(checkpoint)`.
        step: steps done before; what an earlier, killed run wrote beyond them is dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        # No telemetry, and nothing sent to DVC's service even where the user has an account there.
        os.environ["DVC_NO_ANALYTICS"] = os.environ["DVC_STUDIO_OFFLINE"] = "true"
        from dvclive import Live as DVCLive

        class Logger(DVCLive):  # type: ignore[misc]
            """Curves alone: neither git nor DVC is asked anything, so that none need be there."""

            def _init_dvc(self) -> None:
                pass

        for path in folder.rglob("*.tsv"):
            _cut(path, step)
        _drop_damaged(folder / "metrics.json")
        self._logger = Logger(
            dir=str(folder),
            resume=step > 0,
            report=None,
            save_dvc_exp=False,
            dvcyaml=None,
            monitor_system=False,
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append values of the steps up to `step`; no thread is started for it."""
        self._logger.step = step
        for name, value in values.items():
            self._logger.log_metric(name, value)
        self._logger.make_summary()


def _cut(path: Path, step: int) -> None:
    """Drop a curve's points after a step; a power cut may have left none, or half a line."""
    with path.open(encoding="utf-8", errors="replace", newline="") as handle:
        head, *rows = [line.rstrip("\r\n").split("\t") for line in handle] or [[""]]
    if head[0] != "step":
        path.unlink()
        return
    kept = [row for row in rows if len(row) == len(head) and row[0].isdecimal() and row[-1]]
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerows([head, *(row for row in kept if int(row[0]) <= step)])


def _drop_damaged(path: Path) -> None:
    """Remove the latest values if they are not whole; the next look writes them again."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        path.unlink()


def words(terms: dict[str, float]) -> str:
    """Loss terms in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in terms.items())


def rounded(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
