"""One benchmark as a process: arguments in, a printed table and JSON out; clocks shared by all.

Every benchmark ends with `raise SystemExit(runner.main(measure))`. A process has one thread in
every library, unless a benchmark says otherwise: variables are set before numpy is imported.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

REPO = Path(__file__).resolve().parents[1]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
HEADS = ("benchmark", "what", "median", "least to most", "target", "met")
MET = {True: "yes", False: "no", None: ""}


def main(measure: Callable[[bool], list[Row]]) -> int:
    """Measure, print a table, write JSON where asked; returns the exit status.

    Args:
        measure: gives the rows; its argument is true for a toy that finishes in seconds.
    """
    out = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    out.add_argument("--toy", action="store_true", help="small and quick; figures worthless")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    args = out.parse_args()
    if any(os.environ.get(name) != value for name, value in THREADS.items()):
        # Libraries read the variables when they are imported, which has happened already.
        os.execve(sys.executable, sys.orig_argv, os.environ | THREADS)
    started = time.perf_counter()
    rows = [row.tree() for row in measure(args.toy)]
    seconds = round(time.perf_counter() - started, 1)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.rpartition(".")[2] if spec else Path(sys.argv[0]).stem
    sys.stdout.write(table([(name, row) for row in rows]))
    if args.json:
        tree = {"seconds": seconds, "rows": rows}
        args.json.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    return 0


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, user and system, that some work takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def number(value: float) -> str:
    """Three significant digits, without an exponent; whole numbers as they are."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) >= 1 else 3
    return f"{value:.{digits if abs(value) < 10 else 1}f}"


def cells(name: str, row: dict[str, Any]) -> list[str]:
    """A row of JSON as the texts of a table's row, below `HEADS`."""
    unit = f" {row['unit']}" if row["unit"] else ""
    figure = "not measured" if row["value"] is None else number(row["value"]) + unit
    spread = ""
    if len(row["values"]) > 1:
        spread = f"{number(row['least'])} to {number(row['most'])}"
    sign = {"<=": "≤", ">=": "≥"}[row["bound"]]
    target = "" if row["target"] is None else f"{sign} {number(row['target'])}{unit}"
    return [name, row["what"], figure, spread, target, MET[row["met"]]]


def table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Rows with their benchmarks as aligned text, each reason below its row."""
    lines = [cells(name, row) for name, row in rows]
    widths = [max(len(line[i]) for line in [list(HEADS), *lines]) for i in range(len(HEADS))]
    out = [aligned(HEADS, widths)]
    for line, (_, row) in zip(lines, rows, strict=True):
        out.append(aligned(line, widths))
        if row["why"]:
            out.append(f"    {row['why']}\n")
    return "".join(out)


def aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    """A line of padded columns."""
    return "  ".join(t.ljust(w) for t, w in zip(texts, widths, strict=True)).rstrip() + "\n"
