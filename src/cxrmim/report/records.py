"""Downstream records as the report reads them: each once, nothing taken on trust."""

import math
from collections.abc import Sequence
from typing import Any

from cxrmim import record
from cxrmim.errors import CheckError
from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.paths import Paths

Tree = dict[str, Any]


class Records:
    """Reads downstream records of a scale, each once."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._paths = Paths(params.scale)
        self._trees: dict[str, Tree] = {}

    def tree(self, run: Run) -> Tree:
        """The record of a run.

        Raises:
            CheckError: it is missing, unreadable, or that of another run, scale or source.
        """
        if run.id not in self._trees:
            path = self._paths.record("downstream", run.id)
            tree = record.read(path)
            expected = {
                "kind": "downstream",
                "id": run.id,
                "scale": self.params.scale,
                "source": self.params.manifest.source,
            }
            for key, value in expected.items():
                if tree.get(key) != value:
                    raise CheckError(
                        f"{path}: {key} is {tree.get(key)!r}, not {value!r}; restore it with git "
                        f"or run `snakemake --cores all`"
                    )
            self._trees[run.id] = tree
        return self._trees[run.id]

    def metric(self, run: Run, key: str) -> float:
        """One number of a run, in [0, 1].

        Raises:
            CheckError: the record lacks it, or it is no share.
        """
        metrics = self.tree(run).get("metrics")
        value = metrics.get(key) if isinstance(metrics, dict) else None
        number = float(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]
        if not 0 <= number <= 1:
            path = self._paths.record("downstream", run.id)
            raise CheckError(
                f"{path}: metrics.{key} is {value!r}, not a number in [0, 1]; "
                f"restore it with git or run `snakemake --cores all`"
            )
        return number

    def replicates(self, run: Run, key: str) -> tuple[float, ...]:
        """Bootstrap replicates of one number of a run, each in [0, 1].

        Raises:
            CheckError: the record holds no list of ``downstream.bootstrap`` such numbers.
        """
        metrics, wanted = self.tree(run)["metrics"], self.params.downstream.bootstrap
        if key in ("value", metrics.get("metric")):
            held, place = metrics.get("replicates"), "replicates"
        else:
            others = metrics.get("replicates_of")
            held = others.get(key) if isinstance(others, dict) else None
            place = f"replicates_of.{key}"
        fault = _fault(held, wanted)
        if fault:
            path = self._paths.record("downstream", run.id)
            raise CheckError(
                f"{path}: metrics.{place}{fault}; restore it with git or run "
                f"`snakemake --cores all`"
            )
        return tuple(float(v) for v in held)

    def same_images(self, runs: Sequence[Run]) -> None:
        """Assert that runs of one dataset and task were tested on the same images.

        Bootstrap draws follow from dataset, task, and the patients and labels of the test images
        (`downstream.bootstrap`); the last two lie in the shards. So equal shards are equal draws.

        Raises:
            CheckError: shards, metric, or number of images or positives differ; names both records.
        """
        for run in runs[1:]:
            first, other = self._tested(runs[0]), self._tested(run)
            for key, value in other.items():
                if value is None or value != first[key]:
                    path, against = (self._paths.record("downstream", r.id) for r in (run, runs[0]))
                    raise CheckError(
                        f"{path}: {key} is {value!r}, but {first[key]!r} in {against}: they were "
                        f"not tested on the same images; run `snakemake --cores all`"
                    )

    def _tested(self, run: Run) -> Tree:
        """What tells a run's test set and metric."""
        tree, shards = self.tree(run), f"shards/{run.dataset}"
        out = {f"metrics.{key}": tree["metrics"].get(key) for key in ("n", "metric")}
        out[f"parents.{shards}"] = (tree.get("parents") or {}).get(shards)
        return out | {"metrics.positives": tree["metrics"].get("positives", "not counted")}


def _fault(held: Any, wanted: int) -> str:
    """What is wrong with a list of replicates; nothing if all is well."""
    if not isinstance(held, list):
        return f" is {held!r}, not a list of {wanted} numbers"
    if len(held) != wanted:
        return f" has {len(held)} values, but downstream.bootstrap is {wanted}"
    for at, value in enumerate(held):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            return f"[{at}] is {value!r}, not a number in [0, 1]"
    return ""
