"""What is said once, at the end of a run: what was done, or what failed and how to do it again.

The Snakefile's handlers call this with the names that Snakemake gives them, ``workflow`` and the
plan. Snakemake runs itself again for every Slurm job; those inner runs say nothing.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrmim import logs, record, status, tally
from cxrmim.durations import span
from cxrmim.journal import SLACK
from cxrmim.paths import Paths
from cxrmim.plan import Plan
from cxrmim.tally import WORDS, Found, Unit
from snakemake_logger_plugin_cxrmim import MARK

PROFILE = re.compile(r"--profile[ =](\S*/)?slurm/?( |$)")


def succeeded(workflow: Any, plan: Plan) -> None:
    """Log what a run that went well has done: for ``onsuccess``."""
    if workflow.is_main_process:
        jobs = [job for job in workflow.dag.jobs if workflow.dag.finished(job)]
        _tell(list(success(plan, [_name(plan.paths, job) for job in jobs if job.log])))


def failed(workflow: Any, plan: Plan) -> None:
    """Log what has failed or was interrupted, each unit once: for ``onerror``."""
    if workflow.is_main_process:
        scheduler = workflow.scheduler
        bad = [(_name(plan.paths, job), job.output[0]) for job in _single(scheduler.failed)]
        stopped = [_name(plan.paths, job) for job in _single(scheduler.running)]
        _tell(list(failure(plan, dict(bad), stopped, workflow.config.get("scale"))))


def success(plan: Plan, names: list[tuple[str, str]]) -> Iterator[str]:
    """One or two lines about a run.

    Args:
        plan: the scale's workflow.
        names: (stop, unit) of the jobs that were done.
    """
    counts = Counter(stop for stop, _ in names)
    by_stop = ", ".join(f"{counts[stop]} {stop}" for stop in WORDS if counts[stop])
    done = f"{len(names)} job{'s' * (len(names) != 1)} done" + (f" ({by_stop})" if by_stop else "")
    yield f"cxrmim: scale {plan.params.scale}: {done} in {_took()}"
    if ("report", "page") in names:
        phantom = plan.params.manifest.source == "phantom"
        note = "; PHANTOM DATA, no number there is a result" if phantom else ""
        yield f"cxrmim: the page: {(plan.paths.report / 'index.html').as_posix()}{note}"


def failure(
    plan: Plan, bad: dict[tuple[str, str], str], stopped: list[tuple[str, str]], scale: str | None
) -> Iterator[str]:
    """Every failed unit, and the command that does them again.

    Args:
        plan: the scale's workflow.
        bad: (stop, unit) of the jobs that failed -> an output.
        stopped: (stop, unit) of the jobs that ran when the run was interrupted.
        scale: what ``--config scale=`` said, None where it was not given.
    """
    where = f"cxrmim: scale {plan.params.scale}: "
    if stopped:
        names = ", ".join(sorted(f"{stop} {unit}" for stop, unit in stopped))
        yield f"{where}interrupted after {_took()} as {len(stopped)} ran: {names}"
        yield "cxrmim: the same command goes on where this one was"
    looked = {(found.unit.stop, found.unit.name): found for found in tally.look(plan.params)}
    order = {name: place for place, name in enumerate(looked)}
    found = []
    if bad:
        yield f"{where}{len(bad)} job{'s' * (len(bad) != 1)} failed, after {_took()}:"
    for name in sorted(bad, key=lambda name: order.get(name, len(order))):
        one = looked.get(name) or Found(Unit(*name, (Path(bad[name]),)), "failed")
        found.append(one)
        yield from status.failure(one) if _spoke(one) else _silent(plan.paths, one.unit)
    if found:
        yield "these alone again:"
        yield from (f"  {line}" for line in tally.rerun(found, scale, slurm=_on_slurm()))
        yield "all that is left: the command of this run. More of their logs: cxrmim status"


def _spoke(found: Found) -> bool:
    """Whether the journal's entry is of this run."""
    entry = found.entry
    return entry is not None and (entry.ended or entry.started) > record.STARTED - SLACK


def _silent(paths: Paths, unit: Unit) -> Iterator[str]:
    """A job that failed before it could say why, or outside its own code."""
    yield f"  {unit.stop} {unit.name}: failed without an error of its own"
    log, its = paths.log(unit.stop, unit.name), logs.of_snakemake(unit)
    written = log.is_file() and log.stat().st_size and log.stat().st_mtime > record.STARTED - SLACK
    where = [path.as_posix() for path in ([log, its] if written else [its]) if path]
    yield f"    log: {', '.join(where) or 'none'}"


def _single(jobs: Any) -> list[Any]:
    """Snakemake's jobs, those of a group each on its own; Snakemake's own targets left out."""
    members = [one for job in jobs for one in (job.jobs if job.is_group() else [job])]
    return [job for job in members if job.output]


def _name(paths: Paths, job: Any) -> tuple[str, str]:
    """(stop, unit) of one of Snakemake's jobs, told by its log file; its rule where it has none."""
    root = paths.log("stop", "unit").parents[1]
    path = Path(job.log[0]) if job.log else None
    if path is None or not path.is_relative_to(root) or len(path.relative_to(root).parts) < 2:
        return "rule", str(job.rule.name)
    stop, *unit = path.relative_to(root).with_suffix("").parts
    return stop, "/".join(unit)


def _on_slurm() -> bool:
    """Whether this Snakemake was started with the Slurm profile."""
    return PROFILE.search(" ".join(sys.argv)) is not None


def _took() -> str:
    return span(time.time() - record.STARTED)


def _tell(lines: list[str]) -> None:
    """Through Snakemake's logger, so that its log file has it too."""
    from snakemake.logging import logger

    for line in lines:
        logger.info(line, extra={MARK: True})
