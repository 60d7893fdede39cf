"""`cxrmim status`: how far is the run? Reads records, journal and logs; changes nothing."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cxrmim import pace, tally
from cxrmim.durations import span
from cxrmim.journal import Entry
from cxrmim.params import Params
from cxrmim.recover import LOCKS
from cxrmim.tally import STATES, WORDS, Found

SHOWN = 5  # last lines of a failed job's log
WIDTH = 160  # characters of each
LAST = 1 << 16  # bytes of a log in which they are looked for
CLEAR = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--watch", type=float, metavar="SECONDS", help="show it again every so many seconds"
    )


def command(params: Params, args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Print how far the scale is, once or until Ctrl-C."""
    while True:
        lines = list(text(params, args.scale))
        if args.watch is not None and sys.stdout.isatty():
            sys.stdout.write(CLEAR)
        for line in lines:
            say(line)
        if args.watch is None:
            return
        sys.stdout.flush()
        try:
            time.sleep(max(args.watch, 0.1))
        except KeyboardInterrupt:
            return


def text(params: Params, scale: str | None = None) -> Iterator[str]:
    """The state of a scale in lines.

    Args:
        params: all parameters.
        scale: what the user has named it on the command line, None if params.yaml says it.
    """
    looked = tally.look(params)
    yield f"scale {params.scale}, {params.manifest.source} data, {_clock(time.time(), day=True)}"
    yield from table(looked)
    if any(LOCKS.glob("*.lock")):
        yield "A Snakemake works in this folder, or was killed in it: then `cxrmim recover`."
    yield ""
    running = [found for found in looked if found.state == "running"]
    yield "running:" if running else "running: nothing"
    for found in running:
        yield from _running(params, found)
    yield from _time_left(params, looked)
    failed = [found for found in looked if found.state == "failed"]
    if failed:
        yield ""
        yield "failed:"
        for found in failed:
            yield from failure(found)
            yield from _ending(found)
        yield ""
        yield "the failed ones alone again:"
        yield from (f"  {line}" for line in tally.rerun(failed, scale))


def table(looked: Sequence[Found]) -> Iterator[str]:
    """One line a stop: units by state."""
    yield " " * 10 + "".join(f"{state:>9}" for state in STATES)
    for stop, word in WORDS.items():
        mine = [found for found in looked if found.unit.stop == stop and found.unit.files]
        if not mine:
            continue
        counts: Counter[str] = Counter()
        for found in mine:
            counts.update(found.counts)
        cells = "".join(f"{counts[state] or '.':>9}" for state in STATES)
        yield f"{stop:<10}{cells}   of {counts.total()} {word}" + _jobs(mine)
    yield "(done: its record is there; whether that is what params.yaml asks for: `cxrmim check`)"


def _jobs(mine: Sequence[Found]) -> str:
    """The jobs of a stop whose units are counted by what is in them."""
    if not mine[0].unit.runs:
        return ""
    states = Counter(found.state for found in mine)
    told = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return f" in {len(mine)} jobs ({told})"


def _running(params: Params, found: Found) -> Iterator[str]:
    entry = found.entry
    if entry is None:
        return
    since = f"since {_clock(entry.started)} ({span(time.time() - entry.started)})"
    parts = [f"{_place(entry)} {since}"]
    how_far = pace.progress(params, found)
    if how_far is not None:
        parts.append(how_far.text)
        if how_far.left is not None:
            parts.append(f"about {span(how_far.left)} left")
    if found.alive is None:
        parts.append("whether it still lives cannot be told from here")
    yield f"  {entry.stop} {entry.unit}: {', '.join(parts)}"
    yield f"    {entry.log}"


def failure(found: Found) -> Iterator[str]:
    """A failed unit: which, where, when, why, and its log."""
    entry = found.entry
    if entry is None:
        return
    what = f"  {entry.stop} {entry.unit}: {_place(entry)}"
    if entry.line is None:
        how = {
            False: "killed: it is gone and left no error",
            True: "given up by Snakemake, but it lives: `cxrmim recover` ends it after the run",
            None: "given up by Snakemake; whether it still lives cannot be told from here",
        }[found.alive]
        yield f"{what}, began {_clock(entry.started)}, {how}"
    else:
        yield f"{what}, {_clock(entry.ended or 0)}, exit status {entry.status}"
        yield f"    {_cut(entry.line, 4 * WIDTH)}"
    yield f"    log: {entry.log}"


def _ending(found: Found) -> Iterator[str]:
    """The last lines of a failed unit's log, without the error that has been told."""
    entry = found.entry
    if entry is None:
        return
    for log in logs(entry.stop, Path(entry.log)):
        lines = tail(log, SHOWN)
        if log != Path(entry.log):
            lines = [line for line in lines[-1:] if " ERROR " in line]
        for line in lines:
            if entry.line is None or entry.line not in line:
                yield f"      {_cut(line, WIDTH)}"


def logs(stop: str, log: Path) -> list[Path]:
    """A job's log files that are there: its own, and those of processes that share its work.

    Args:
        stop: the stop's word.
        log: its own.
    """
    others = sorted(log.parent.glob(f"{log.stem}.[0-9]*.log")) if stop == "pretrain" else []
    return [path for path in (log, *others) if path.is_file()]


def tail(path: Path, count: int) -> list[str]:
    """The last lines of a log that say something; none if it cannot be read."""
    try:
        with path.open("rb") as handle:
            handle.seek(-min(LAST, path.stat().st_size), os.SEEK_END)
            lines = handle.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip(" ^~")][-count:]


def _time_left(params: Params, looked: Sequence[Found]) -> Iterator[str]:
    left = pace.left(params, looked)
    if left is None:
        return
    yield ""
    rest = ", ".join(f"{count} of {stop}" for stop, count in left.unmeasured.items())
    if left.seconds > 0:
        jobs = "1 job runs" if left.jobs == 1 else f"{left.jobs} jobs run"
        told = f"time left: {'over' if rest else 'about'} {span(left.wall)} if {jobs} at a time"
        told += f" (rates of {left.measured} units of this scale)"
        yield told + (f"; not counted, as none like them was measured: {rest}" if rest else "")
    elif rest:
        yield f"time left: unknown, nothing like it was measured in this scale: {rest}"
    else:
        yield "time left: none, by the rates of this scale"


def _place(entry: Entry) -> str:
    where = f"on {entry.host}"
    return f"{where} (Slurm job {entry.slurm})" if entry.slurm else where


def _clock(seconds: float, *, day: bool = False) -> str:
    """Local time; the day too where it is asked for or another one."""
    then = time.localtime(seconds)
    form = "%Y-%m-%d %H:%M" if day or then[:3] != time.localtime()[:3] else "%H:%M"
    return time.strftime(form, then)


def _cut(line: str, width: int) -> str:
    shown = "".join(c if c.isprintable() else " " for c in line)
    return shown if len(shown) <= width else f"{shown[: width - 3]}..."
