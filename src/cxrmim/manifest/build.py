"""A dataset's manifest: read, split, audited, checked against the schema."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pandera.pandas as pandera

from cxrmim import plugins
from cxrmim.errors import DataError, ParamsError
from cxrmim.explain import unknown
from cxrmim.manifest import contract, splits
from cxrmim.manifest.audit import audit, check
from cxrmim.manifest.contract import COLUMNS, LABEL, Reader, Reading
from cxrmim.params import Params, plugin_options
from cxrmim.paths import raw_root

log = logging.getLogger("cxrmim")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Manifest:
    """What `build` makes.

    Attributes:
        table: one row per image in the columns of `contract.COLUMNS`, then label_<Name>, sorted by
            source_row.
        metrics: flow, faults by reason, audit, counts per split, notes; counts only.
        details: class names, the order of the flow's steps, digests.
        raw: table files that were read.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]
    details: dict[str, Any]
    raw: list[Path]


def build(dataset: str, params: Params) -> Manifest:
    """Read a dataset's raw layout into its manifest.

    Args:
        dataset: name of a reader.
        params: `manifest` and `scale` are used.

    Raises:
        ParamsError: no such reader, or its root is not set.
        DataError: the root holds something else, too many rows cannot be used, no row remains, or
            splits share what they must not.
    """
    if plugins.source("dataset", dataset) is None:
        raise ParamsError(unknown("dataset reader", dataset, plugins.names("dataset")))
    reader = cast(Reader, plugins.load("dataset", dataset))
    tree = params.manifest.datasets.get(dataset)
    if tree is None:
        raise ParamsError(f"params.yaml: manifest.datasets.{dataset} is missing; add it there")
    options = plugin_options("dataset", dataset, tree, f"manifest.datasets.{dataset}")
    root = raw_root(params, dataset)
    if params.manifest.source == "phantom" and not root.is_dir():
        raise DataError(f"{dataset}: {root}: nothing generated there; run `cxrmim phantom` first")
    reading = reader.read(root, options)
    check_faults(dataset, reading, params.manifest.max_unreadable)
    if not len(reading.table):
        raise DataError(f"{dataset}: {root}: no row is left of {_counts(reading)}; check the files")
    table = finish(reading.table, reader.LABELS)
    table[["in_1", "in_10"]] = splits.subsets(table, params.manifest.subset)
    table = schema(reader.LABELS).validate(table)
    found = audit(table)
    check(found, reading.unit, dataset)
    metrics = {
        "flow": reading.flow,
        "faults": dict(sorted(Counter(f.reason for f in reading.faults).items())),
        "audit": found,
        "splits": count(table, reader.LABELS),
        "notes": reading.notes,
    }
    details = {
        "classes": list(reader.LABELS),
        "unit": reading.unit,
        "flow": list(reading.flow),
        **reading.details,
    }
    return Manifest(table, metrics, details, reading.raw)


def check_faults(dataset: str, reading: Reading, limit: float) -> None:
    """Log every fault; stop where they are too many.

    Raises:
        DataError: a larger share of the rows than `limit` cannot be used.
    """
    for fault in reading.faults:
        log.info("%s, source row %d: %s", dataset, fault.source_row, fault.reason)
    if reading.faults:
        log.warning("%s: %d rows left out, named in the log", dataset, len(reading.faults))
    bad = [fault for fault in reading.faults if fault.unreadable]
    rows = reading.flow["rows"]
    if len(bad) > limit * rows:
        raise DataError(
            f"{dataset}: {len(bad)} of {rows} rows cannot be used, first source row "
            f"{bad[0].source_row}: {bad[0].reason}; mend the files or raise "
            f"manifest.max_unreadable = {limit}"
        )


def finish(table: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    """The contract's columns in their order, rows sorted by source row and path."""
    table = table.sort_values(["source_row", "path"], ignore_index=True)
    for name in COLUMNS:
        if name not in table.columns:
            table[name] = pd.Series([None] * len(table), dtype=object)
    return table[[*COLUMNS, *(LABEL + name for name in labels)]]


def schema(labels: tuple[str, ...]) -> Any:
    """pandera schema of a manifest."""
    column, check_ = pandera.Column, pandera.Check
    text = {name: column(checks=check_.str_length(min_value=1)) for name in ("patient", "study")}
    texts = {name: column(nullable=True) for name in ("rle", "impression", "findings")}
    marks = {LABEL + n: column("float32", check_.isin([0, 1]), nullable=True) for n in labels}
    return pandera.DataFrameSchema(
        {
            "image": column(checks=check_.str_length(min_value=1), unique=True),
            "path": column(checks=check_(contract.safe, element_wise=True), unique=True),
            **text,
            "view": column(),
            "split": column(checks=check_.isin(SPLITS)),
            "in_1": column(bool),
            "in_10": column(bool),
            "source_row": column("int64", check_.ge(1)),
            **texts,
            **marks,
        },
        strict=True,
    )


def count(table: pd.DataFrame, labels: tuple[str, ...]) -> dict[str, Any]:
    """Rows, patients and positives per label, of each split and label subset."""
    parts = {split: table[table["split"] == split] for split in SPLITS}
    parts |= {"in_1": table[table["in_1"]], "in_10": table[table["in_10"]]}
    return {
        name: {
            "images": len(part),
            "studies": int(part["study"].nunique()),
            "patients": int(part["patient"].nunique()),
            "positives": {label: int((part[LABEL + label] == 1).sum()) for label in labels},
        }
        for name, part in parts.items()
    }


def _counts(reading: Reading) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in reading.flow.items() if n)
