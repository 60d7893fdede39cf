"""Where a run stands: its jobs by stop and state, as Snakemake's events tell."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxrmim.durations import span

if TYPE_CHECKING:
    from rich.console import Group

STOPS = ("phantom", "manifest", "shards", "pretrain", "downstream", "report")  # as they follow
ROWS = 12  # running jobs that are shown
WIDTH = 240  # characters of an error
REPORT = ("tables", "figures", "page")  # rules of one stop
HIDDEN = ("all", "total")  # no work


@dataclass
class Job:
    """One of Snakemake's jobs that has begun."""

    stop: str
    unit: str
    log: str
    started: float
    state: Literal["running", "done", "failed"] = "running"


class Board:
    """The jobs of a run. Events come in one thread, the terminal asks in another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.time()
        self._totals: dict[str, int] = {}
        self._jobs: dict[int, Job] = {}
        self._took: dict[str, list[float]] = {}

    def plan(self, stats: Mapping[str, int]) -> None:
        """Take in how many jobs each rule has."""
        with self._lock:
            counts: Counter[str] = Counter()
            for rule, count in stats.items():
                if rule not in HIDDEN:
                    counts[stop_of(rule)] += count
            known = [stop for stop in STOPS if stop in counts]
            self._totals = {stop: counts[stop] for stop in dict.fromkeys([*known, *counts])}

    def start(self, told: Mapping[str, Any]) -> None:
        """A job begins, for the first time or again."""
        rule = str(told.get("rule_name"))
        if rule in HIDDEN:
            return
        logs = told.get("log") or []
        log = str(logs[0]) if logs else ""
        values = ", ".join(str(value) for value in (told.get("wildcards") or {}).values())
        unit = Path(log).name.removesuffix(".log") or values or rule
        with self._lock:
            self._jobs[int(told["jobid"])] = Job(stop_of(rule), unit, log, time.time())

    def finish(self, number: int | None) -> str | None:
        """A job has ended well; a line that tells it, None for one that is not counted."""
        job = self._end(number, "done")
        if job is None:
            return None
        done, total = self._done()
        seconds = span(self._took[job.stop][-1])
        return f"done   {job.stop} {job.unit} in {seconds}; {done} of {total} jobs{self._rest()}"

    def fail(self, number: int | None, shown: str = "") -> str | None:
        """A job has failed; a line that tells it with the last error of its log.

        Args:
            number: Snakemake's of the job.
            shown: what was shown of late; an error in it is not told again.
        """
        job = self._end(number, "failed")
        if job is None:
            return None
        error = last_error(Path(job.log), job.started) if job.log else None
        told = f": {error}" if error and error not in shown else ""
        where = f" (log: {job.log})" if job.log else ""
        return f"FAILED {job.stop} {job.unit} after {span(time.time() - job.started)}{told}{where}"

    def _end(self, number: int | None, state: Literal["done", "failed"]) -> Job | None:
        with self._lock:
            job = None if number is None else self._jobs.get(number)
            if job is None or job.state != "running":
                return None  # Snakemake tells the failure of a group's job twice
            job.state = state
            if state == "done":
                self._took.setdefault(job.stop, []).append(time.time() - job.started)
            return job

    def _done(self) -> tuple[int, int]:
        with self._lock:
            done = sum(job.state == "done" for job in self._jobs.values())
            return done, sum(self._totals.values())

    def _rest(self) -> str:
        """The time left at the rates of this run, in words that follow others."""
        with self._lock:
            now, seconds, unknown, running = time.time(), 0.0, [], 0
            for stop, total in self._totals.items():
                mine = [job for job in self._jobs.values() if job.stop == stop]
                going = [job for job in mine if job.state == "running"]
                running += len(going)
                left = total - sum(job.state != "running" for job in mine)
                if not left:
                    continue
                if stop not in self._took:
                    unknown.append(stop)
                    continue
                mean = statistics.fmean(self._took[stop])
                spent = sum(min(now - job.started, mean) for job in going)
                seconds += max(left * mean - spent, 0.0)
        if not seconds:
            return ""
        many = f"{max(running, 1)} at a time"
        if unknown:
            return (
                f", over {span(seconds / max(running, 1))} left, {many} (not yet known: "
                f"{', '.join(unknown)})"
            )
        return f", about {span(seconds / max(running, 1))} left, {many}"

    def table(self) -> "Group":
        """The run as a table, the running jobs, and one line about all."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("")
        for head, style in (("done", "green"), ("running", "cyan"), ("failed", "red")):
            table.add_column(head, justify="right", style=style)
        table.add_column("pending", justify="right")
        with self._lock:
            jobs, totals = list(self._jobs.values()), dict(self._totals)
        for stop, total in totals.items():
            states = [job.state for job in jobs if job.stop == stop]
            counts = [states.count(state) for state in ("done", "running", "failed")]
            cells = [*counts, max(total - sum(counts), 0)]
            table.add_row(stop, *(str(count) if count else "." for count in cells))
        going = sorted((j for j in jobs if j.state == "running"), key=lambda job: job.started)
        lines = [
            Text(f"  {span(time.time() - job.started):>8}  {job.stop} {job.unit}", no_wrap=True)
            for job in going[:ROWS]
        ]
        if len(going) > ROWS:
            lines.append(Text(f"            and {len(going) - ROWS} more"))
        done, total = self._done()
        took = span(time.time() - self._began)
        lines.append(Text(f"{done} of {total} jobs in {took}{self._rest()}", style="bold"))
        return Group(table, *lines)


def stop_of(rule: str) -> str:
    """The stop that a rule belongs to; a rule's name begins with it."""
    return "report" if rule in REPORT else rule.partition("_")[0]


def last_error(log: Path, since: float) -> str | None:
    """The last error that a job's log names; None without one, or in a log of an earlier time.

    Args:
        log: the job's.
        since: when the job began, s since 1970.
    """
    try:
        if log.stat().st_mtime < since - 1:
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    return errors[-1][:WIDTH] if errors else None
