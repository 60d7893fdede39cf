"""Is the report on disk the one that the records give? Remade in memory, compared byte by byte."""

import csv
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from cxrmim import check
from cxrmim.params import Params
from cxrmim.paths import Paths, is_temporary

AROUND = 30  # characters shown of a long line before and after the first difference


def faults(params: Params) -> Iterator[str]:
    """Files of the report that are stale, edited, missing or made by nothing.

    Pictures are only looked for: `dvc repro` draws them again, and `git diff` tells.

    Args:
        params: all parameters; the records must have no faults.

    Yields:
        One line per file: its name, the first cell or line that differs, the command that remakes
        it; before these a record that is not as committed, as the fault may be its. Nothing where
        no report has been made yet.
    """
    found = list(_faults(params))
    changed = check.uncommitted(params) if found else []
    if changed:
        more = f" (and {len(changed) - 1} more records)" if len(changed) > 1 else ""
        yield (
            f"{changed[0]}{more}: not as committed, and the report is of other records; "
            f"restore it with git, unless a run has made it"
        )
    yield from found


def _faults(params: Params) -> Iterator[str]:
    from cxrmim.report import build, outputs

    paths = Paths(params.scale)
    parts = {path: part for part, found in outputs.outputs(params).items() for path in found}
    folders = {path.parent for path in parts}
    files = {p for folder in folders for p in folder.rglob("*") if p.is_file()}
    on_disk = sorted(p for p in files if not is_temporary(p.name))
    if not on_disk:
        return
    remake = f"run `cxrmim report --scale {params.scale} --part "
    wanted = build.contents(params)
    for path, part in parts.items():
        if not path.is_file():
            yield f"{path}: not there; {remake}{part}`"
        elif path in wanted and path.read_bytes() != wanted[path]:
            yield f"{path}: {difference(path, wanted[path])}; {remake}{part}`"
    made = {*parts, *wanted, paths.figure("phantom_sheet", "png")}
    for path in on_disk:
        if path not in made:
            yield f"{path}: no part of the report makes it; remove it"


def difference(path: Path, wanted: bytes) -> str:
    """The first cell or line in which a text file differs from what the records give."""
    try:
        have = path.read_bytes().decode()
        if path.suffix == ".json":
            return _in_json(have, wanted.decode())
        if path.suffix == ".csv":
            return _in_csv(have, wanted.decode())
    except (ValueError, RecursionError, csv.Error):  # neither UTF-8 nor JSON nor a table
        return "not what the records give"
    return _in_lines(have, wanted.decode())


def _in_json(have: str, want: str) -> str:
    for key, left, right in check.differences(json.loads(have), json.loads(want)):
        name = f"{key} = " if key else ""
        return f"{name}{check.brief(left)}, but the records give {check.brief(right)}"
    return "the same values in another form than the records give"


def _in_csv(have: str, want: str) -> str:
    left, right = (list(csv.reader(text.splitlines())) for text in (have, want))
    if not left or not right or left[0] != right[0]:
        return _in_lines(have, want)
    for number, (one, other) in enumerate(zip_longest(left, right), start=1):
        if one is None or other is None:
            return f"{len(left)} lines, but the records give {len(right)}"
        for name, cell, true in zip_longest(right[0], one, other):
            if cell != true:
                told = f"{check.brief(cell)}, but the records give {check.brief(true)}"
                return f"line {number}, {name} = {told}"
    return "the same values in another form than the records give"


def _in_lines(have: str, want: str) -> str:
    for number, (one, other) in enumerate(
        zip_longest(have.splitlines(), want.splitlines()), start=1
    ):
        if one != other:
            at = _first(one or "", other or "")
            left, right = (
                "no line" if line is None else repr(_window(line, at)) for line in (one, other)
            )
            return f"line {number} has {left}, but the records give {right}"
    return "the same lines in another form than the records give"


def _first(one: str, other: str) -> int:
    """Position of the first character in which two lines differ."""
    return next((i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b), 0)


def _window(line: str, at: int) -> str:
    start, end = max(0, at - AROUND), at + AROUND
    return ("..." if start else "") + line[start:end] + ("..." if end < len(line) else "")
