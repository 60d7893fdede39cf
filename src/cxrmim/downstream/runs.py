"""A job's runs, one after the other: predict, store, measure, record.

Every run is complete in itself: if the process dies, the runs it had finished stay, and the next
start passes over them. When a job fails, Snakemake puts back what its outputs were before; so
results that replace older ones have a spare until the job ends.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrmim import grid, plugins, record
from cxrmim.downstream import baselines, recompute
from cxrmim.downstream.contract import Bench, Result
from cxrmim.errors import DataError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.progress import track

log = logging.getLogger("cxrmim")
KIND = "downstream"
OUTPUT = "predictions"
# Hundreds of small files, read whole: what helps to search large ones is a third of their bytes.
PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 9,
    "store_schema": False,
    "use_dictionary": False,
    "write_statistics": False,
}


def do(job: grid.Job, params: Params, threads: int = 1) -> None:
    """Do the runs of a job whose records are not current.

    A run that its data or parameters forbid does not keep the others from being done.

    Args:
        job: runs that share a checkpoint.
        params: all parameters.
        threads: CPU threads, already set for the numerical libraries; logged only.

    Raises:
        DataError, ParamsError: a run could not be done; the first of those errors, after the rest.
    """
    bench = Bench(params)
    log.info("%s: %d runs on %d threads", job.id, len(job.runs), threads)
    failed: list[DataError | ParamsError] = []
    for run in track(job.runs, job.id):
        if record.current(params, KIND, run.id) or _brought_back(params, run):
            log.info("%s: current, not done again", run.id)
            continue
        try:
            _do(run, bench)
        except (DataError, ParamsError) as error:
            log.error("%s: not done: %s", run.id, error)
            failed.append(error)
    if len(failed) > 1:
        raise type(failed[0])(f"{failed[0]} ({len(failed) - 1} more runs of {job.id}: see its log)")
    if failed:
        raise failed[0]
    for run in job.runs:
        shutil.rmtree(bench.paths.spare(run.id), ignore_errors=True)


def _results(paths: Paths, run: grid.Run) -> list[Path]:
    """Predictions and record of a run: outputs of its rule, the record last."""
    return [paths.prediction(run.id), paths.record(KIND, run.id)]


def _brought_back(params: Params, run: grid.Run) -> bool:
    """Put a run's spare back in its place, if there is one, and say whether it is current."""
    paths = Paths(params.scale)
    if not all((paths.spare(run.id) / path.name).is_file() for path in _results(paths, run)):
        return False
    for path in _results(paths, run):
        with atomic(path) as temporary:
            shutil.copyfile(paths.spare(run.id) / path.name, temporary)
    return record.current(params, KIND, run.id)


def _do(run: grid.Run, bench: Bench) -> None:
    """Predict, store, measure, record."""
    replaces = any(path.exists() for path in _results(bench.paths, run))
    started, cpu = time.perf_counter(), time.process_time()
    result = predict(run, bench)
    metrics = keep(bench.params, run, result)
    cost = record.process_cost() | {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    record.write(
        bench.params,
        KIND,
        run.id,
        outputs={OUTPUT: bench.paths.prediction(run.id)},
        parents=grid.parents(bench.params, KIND, run.id),
        metrics=metrics,
        details=result.details,
        seed=run.seed,
        cost=cost,
    )
    if replaces:
        for path in _results(bench.paths, run):  # no links: Snakemake writes into the old file
            with atomic(bench.paths.spare(run.id) / path.name) as temporary:
                shutil.copyfile(path, temporary)
    log.info("%s: %s = %.4f, %.1f s", run.id, metrics["metric"], metrics["value"], cost["seconds"])


def predict(run: grid.Run, bench: Bench) -> Result:
    """Predictions of a run: a baseline's, or its task's on its checkpoint."""
    if run.baseline is not None:
        return baselines.predict(run, bench)
    result: Result = plugins.load("task", run.task).run(run, bench)
    return result


def keep(params: Params, run: grid.Run, result: Result) -> dict[str, Any]:
    """Store predictions and measure what was stored.

    Raises:
        DataError: a score is NaN or infinite; nothing is stored then.
    """
    recompute.check(run, result.predictions)
    with atomic(Paths(params.scale).prediction(run.id)) as temporary:
        pq.write_table(table(result.predictions), temporary, **PARQUET)
    return recompute.metrics(params, run)


def table(predictions: pd.DataFrame) -> pa.Table:
    """Predictions as an arrow table; equal predictions, equal bytes on every pandas."""
    out = pa.Table.from_pandas(predictions, preserve_index=False).replace_schema_metadata(None)
    for number, field in enumerate(out.schema):
        if pa.types.is_large_string(field.type):
            column = out.column(number).cast(pa.string())
            out = out.set_column(number, field.name, column)
    return out
