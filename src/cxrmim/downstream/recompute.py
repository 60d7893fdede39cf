"""Metrics of a run from its stored predictions."""

import math
from typing import Any

import pandas as pd

from cxrmim import plugins
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.metrics import finite
from cxrmim.errors import CheckError, DataError
from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.paths import Paths

Tree = dict[str, Any]
DIGITS = 9


def metrics(params: Params, run: Run) -> Tree:
    """What the run's record holds as its metrics.

    Args:
        params: all parameters.
        run: a run whose predictions are on disk.

    Raises:
        CheckError: they are not.
        DataError: a score, or what is made of them, is not finite.
    """
    path = Paths(params.scale).prediction(run.id)
    if not path.is_file():
        raise CheckError(f"{path}: not there; `dvc pull` it or run `snakemake --cores all`")
    draws = Draws(f"{run.dataset}/{run.task}", params.downstream.bootstrap)
    options = getattr(params.downstream, run.task)
    predictions = pd.read_parquet(path)
    check(run, predictions)
    out: Tree = plugins.load("task", run.task).measure(predictions, options, draws)
    if not math.isfinite(out["value"]):
        raise DataError(f"{run.id}: its {out['metric']} is {out['value']}; do the run again")
    return {key: _rounded(value) for key, value in out.items()}


def check(run: Run, predictions: pd.DataFrame) -> None:
    """Refuse predictions that cannot be ranked.

    Args:
        run: whose they are.
        predictions: columns `score` and `score_<class>`, if any, are held to finite numbers.

    Raises:
        DataError: one is NaN or infinite.
    """
    for name in predictions:
        if str(name).partition("_")[0] == "score":
            finite(predictions[name].to_numpy(), f"{run.id}: test set's {name}")


def _rounded(value: Any) -> Any:
    """Floats at a precision that does not depend on how a machine orders its sums."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value
