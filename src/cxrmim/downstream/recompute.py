"""Metrics of a run from its stored predictions."""

from typing import Any

import pandas as pd

from cxrmim import plugins
from cxrmim.downstream.bootstrap import Draws
from cxrmim.errors import CheckError
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
    """
    path = Paths(params.scale).prediction(run.id)
    if not path.is_file():
        raise CheckError(f"{path}: not there; `dvc pull` it or run `snakemake --cores all`")
    draws = Draws(f"{run.dataset}/{run.task}", params.downstream.bootstrap)
    options = getattr(params.downstream, run.task)
    out: Tree = plugins.load("task", run.task).measure(pd.read_parquet(path), options, draws)
    return {key: _rounded(value) for key, value in out.items()}


def _rounded(value: Any) -> Any:
    """Floats at a precision that does not depend on how a machine orders its sums."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value
