"""A dataset's manifest: read, split, audited, checked against the schema."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pandera.pandas as pandera
from pandera.errors import SchemaErrors

from cxrmim import plugins
from cxrmim.errors import DataError, ParamsError
from cxrmim.explain import unknown
from cxrmim.manifest import contract, splits
from cxrmim.manifest.audit import SPLITS, UNITS, audit, check
from cxrmim.manifest.contract import COLUMNS, LABEL, Raw, Reader, Reading
from cxrmim.params import Params, plugin_options
from cxrmim.paths import lists_root, raw_root

log = logging.getLogger("cxrmim")
SUBSET = r"^in_(1|10)(_s\d+)?$"


@dataclass(frozen=True)
class Manifest:
    """What `build` makes.

    Attributes:
        table: one row per image and split in the columns of `contract.COLUMNS`, then label_<Name>,
            then the subsets of each seed if they are redrawn; sorted by source_row.
        metrics: flow, faults by reason, audit, counts per split, notes; counts only.
        details: class names, the split's unit, the order of the flow's steps, digests.
        raw: table files that were read, by their path below the root.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]
    details: dict[str, Any]
    raw: dict[str, Path]


def build(dataset: str, params: Params) -> Manifest:
    """Read a dataset's raw layout into its manifest.

    Args:
        dataset: a dataset entry of params.yaml.
        params: `manifest`, `scale` and `seeds` are used.

    Raises:
        ParamsError: no such reader, or its root is not set.
        DataError: the root holds something else, too many rows cannot be used, no row remains, a
            row breaks the contract, or splits share what they must not.
    """
    name, tree = params.reading(dataset)
    if plugins.source("dataset", name) is None:
        raise ParamsError(unknown("dataset reader", name, plugins.names("dataset")))
    reader = cast(Reader, plugins.load("dataset", name))
    options = plugin_options("dataset", name, tree, f"manifest.datasets.{name}")
    raw = Raw(raw_root(params, dataset), lists_root(params, dataset))
    if params.manifest.source == "phantom" and not raw.root.is_dir():
        raise DataError(
            f"{dataset}: {raw.root}: nothing generated there; run `cxrmim phantom` first"
        )
    reading = reader.read(raw, options)
    check_faults(dataset, reading, params.manifest.max_unreadable)
    if not len(reading.table):
        raise DataError(
            f"{dataset}: {raw.root}: no row is left of {_counts(reading)}; check the files"
        )
    labels = class_names(reader, options)
    table = finish(reading.table, labels)
    drawn = splits.subsets(table, params.manifest.subset, params.seeds.downstream)
    table = order(
        pd.concat([table.drop(columns=table.columns.intersection(drawn.columns)), drawn], axis=1)
    )
    check_contract(dataset, reading, table, labels, bool(getattr(reader, "MULTICLASS", False)))
    found = audit(table)
    check(found, reading.unit, dataset)
    metrics = {
        "flow": reading.flow,
        "faults": dict(sorted(Counter(f.reason for f in reading.faults).items())),
        "audit": found,
        "splits": count(table, labels),
        "notes": reading.notes,
    }
    details = {
        "classes": list(labels),
        "unit": reading.unit,
        "named": list(getattr(reader, "NAMED", UNITS.values())),
        "flow": list(reading.flow),
        **reading.details,
    }
    return Manifest(table, metrics, details, name_inputs(raw, reading.raw))


def class_names(reader: Reader, options: Any) -> tuple[str, ...]:
    """A reader's class names; those that its options decide come from its ``labels``."""
    decide = getattr(reader, "labels", None)
    return reader.LABELS if decide is None else tuple(decide(options))


def name_inputs(raw: Raw, files: list[Path]) -> dict[str, Path]:
    """Files by their path below the root, or below ``lists/``: two may have one name."""
    found = {}
    for file in files:
        if raw.lists is not None and file.is_relative_to(raw.lists):
            found[f"lists/{file.relative_to(raw.lists).as_posix()}"] = file
        else:
            below = file.is_relative_to(raw.root)
            found[file.relative_to(raw.root).as_posix() if below else file.name] = file
    return found


def check_faults(dataset: str, reading: Reading, limit: float) -> None:
    """Log every fault; stop where they are too many.

    Raises:
        DataError: a larger share than `limit` of the rows, or of those that their table gives to
            one split, cannot be used: a lost test set is little beside a large training set.
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
    for split, lost in sorted(Counter(fault.split for fault in bad if fault.split).items()):
        whole = lost + int((reading.table["split"] == split).sum())
        if lost > max(1, limit * whole):
            first = next(fault for fault in bad if fault.split == split)
            raise DataError(
                f"{dataset}: {lost} of the {whole} rows of split {split} cannot be used, first "
                f"source row {first.source_row}: {first.reason}; mend the files or raise "
                f"manifest.max_unreadable = {limit}"
            )


def finish(table: pd.DataFrame, labels: tuple[str, ...]) -> pd.DataFrame:
    """The contract's columns in their order, rows sorted by source row, path and split."""
    table = table.sort_values(["source_row", "path", "split"], ignore_index=True)
    for name in COLUMNS:
        if name not in table.columns and not name.startswith("in_"):
            table[name] = pd.Series([None] * len(table), dtype=object)
    kept = [name for name in COLUMNS if name in table.columns]
    return table[[*kept, *(LABEL + name for name in labels)]]


def order(table: pd.DataFrame) -> pd.DataFrame:
    """The contract's columns in their order, then the others as they come."""
    first = [name for name in COLUMNS if name in table.columns]
    return table[[*first, *(name for name in table.columns if name not in COLUMNS)]]


def check_contract(
    dataset: str,
    reading: Reading,
    table: pd.DataFrame,
    labels: tuple[str, ...],
    multiclass: bool,
) -> None:
    """Assert that the manifest is what later stops rely on.

    Raises:
        DataError: a row or the flow of rows breaks the contract; no value of a row is shown.
    """
    steps = reading.flow
    if steps["rows"] != sum(steps.values()) - steps["rows"]:
        raise DataError(
            f"{dataset}: {steps['rows']} rows read, but the steps of the flow add up to "
            f"{sum(steps.values()) - steps['rows']}; mend the reader"
        )
    try:
        schema(labels, multiclass, reading.unit is not None).validate(table, lazy=True)
    except SchemaErrors as error:
        raise DataError(
            f"{dataset}: the manifest breaks its contract: {_problem(error.failure_cases, table)}; "
            f"mend the raw table or the reader"
        ) from None


def _problem(cases: pd.DataFrame, table: pd.DataFrame) -> str:
    """First of pandera's failure cases, columns before rows, without the value it holds."""
    named = {"column_in_dataframe": "is missing", "column_in_schema": "is not of the contract"}
    for check_, what in named.items():
        found = cases[cases["check"] == check_]
        if len(found):
            return f"column {found['failure_case'].iloc[0]} {what}"
    single = cases[cases["schema_context"] == "Column"]
    first = (single if len(single) else cases).iloc[0]
    column = f"column {first['column']}: " if len(single) else ""
    row = "" if pd.isna(first["index"]) else f", source row {table['source_row'][first['index']]}"
    return f"{column}{first['check']}{row}"


def schema(labels: tuple[str, ...], multiclass: bool = False, disjoint: bool = True) -> Any:
    """pandera schema of a manifest.

    Args:
        labels: bare class names.
        multiclass: each row has exactly one of them.
        disjoint: label subsets lie within the training split; imported lists may differ.
    """
    column, check_ = pandera.Column, pandera.Check
    text = {
        name: column(checks=check_.str_length(min_value=1))
        for name in ("image", "patient", "study")
    }
    texts = {
        name: column(nullable=True, required=name in COLUMNS)
        for name in ("rle", "impression", "findings", "report")
    }
    marks = {LABEL + name: column("float32", check_.isin([0, 1]), nullable=True) for name in labels}
    whole = [
        check_(lambda t: ~t.duplicated(["image", "split"]), name="image once in a split"),
        check_(lambda t: ~t.duplicated(["path", "split"]), name="path once in a split"),
        check_(_one_file, name="one image, one path"),
    ]
    if multiclass:
        whole.append(check_(_one_class, name="exactly one class"))
    if disjoint:
        whole.append(check_(_inside, name="label subsets within train"))
    return pandera.DataFrameSchema(
        {
            **text,
            "path": column(checks=check_(contract.safe, element_wise=True, name="safe path")),
            "view": column(),
            "split": column(checks=check_.isin(SPLITS)),
            SUBSET: column(bool, regex=True),
            "source_row": column("int64", check_.ge(1)),
            **texts,
            **marks,
        },
        checks=whole,
        strict=True,
    )


def _one_file(table: pd.DataFrame) -> pd.Series:
    """Rows whose image has no other path, and whose path no other image."""
    both = table[["image", "path"]].drop_duplicates()
    once = ~both["image"].duplicated(keep=False) & ~both["path"].duplicated(keep=False)
    return table["image"].isin(both.loc[once, "image"])


def _one_class(table: pd.DataFrame) -> pd.Series:
    marks = table[[c for c in table.columns if c.startswith(LABEL)]]
    return (marks == 1).sum(axis=1).eq(1) & marks.notna().all(axis=1)


def _inside(table: pd.DataFrame) -> pd.Series:
    chosen = table[[c for c in table.columns if c.startswith("in_")]].any(axis=1)
    return ~chosen | (table["split"] == "train")


def count(table: pd.DataFrame, labels: tuple[str, ...]) -> dict[str, Any]:
    """Of each split and label subset: images, studies, patients, positives and their rate.

    A rate is of the rows whose label is known; None where there is none.
    """
    parts = {split: table[table["split"] == split] for split in SPLITS}
    subsets = [c for c in table.columns if c.startswith("in_")]
    parts |= {name: table[table[name].to_numpy(dtype=bool)] for name in subsets}
    return {
        name: {
            "images": len(part),
            "studies": int(part["study"].nunique()),
            "patients": int(part["patient"].nunique()),
            "positives": {label: int((part[LABEL + label] == 1).sum()) for label in labels},
            "rates": {label: _rate(part[LABEL + label]) for label in labels},
        }
        for name, part in parts.items()
    }


def _rate(marks: pd.Series) -> float | None:
    known = marks.dropna()
    return round(float((known == 1).mean()), 6) if len(known) else None


def _counts(reading: Reading) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in reading.flow.items() if n)
