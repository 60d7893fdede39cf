"""`cxrmim logs <id>`: the log of a run, a checkpoint, a dataset or a job, found by its name."""

import argparse
import difflib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from cxrmim import journal, status, tally
from cxrmim.errors import CxrmimError, ParamsError
from cxrmim.explain import unknown
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.recover import LOGS
from cxrmim.tally import Unit

SLURM = Path(".snakemake") / "slurm_logs"
NEWEST = 50  # logs of Snakemake that are looked through


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "id",
        metavar="ID",
        help="a run (medim-s0/chexpert-probe-10-s1), checkpoint, dataset, downstream job, or "
        "<stop>/<unit> (shards/chexpert)",
    )
    parser.add_argument("--path", action="store_true", help="print only where the log lies")
    parser.add_argument("--tail", type=int, metavar="N", help="print only its last N lines")


def command(params: Params, args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Print the logs of everything that has the name.

    Raises:
        ParamsError: nothing has it; names what is near.
        CxrmimError: it has no log here.
    """
    units = find(params, args.id)
    shown = [(unit, path) for unit in units for path in _logs(params, unit)]
    if not shown:
        names = " or ".join(f"{unit.stop}/{unit.name}" for unit in units)
        raise CxrmimError(
            f"{names}: no log here: it has not run in this folder; `dvc pull` brings the logs of "
            f"a run that was shared"
        )
    for unit, path in shown:
        if args.path:
            say(path.as_posix())
            continue
        say(f"== {path.as_posix()}")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[max(len(lines) - args.tail, 0) :] if args.tail is not None else lines:
            say(line)
        if path == Paths(params.scale).log(unit.stop, unit.name):
            for line in beside(params, unit):
                say(f"-- {line}")


def find(params: Params, name: str) -> list[Unit]:
    """The units that a name stands for; a dataset's has one in several stops.

    Raises:
        ParamsError: there are none.
    """
    known: dict[str, list[Unit]] = {}
    for unit in tally.units(params):
        runs = [run.id for run in unit.runs]
        for key in dict.fromkeys([unit.name, f"{unit.stop}/{unit.name}", *runs]):
            known.setdefault(key, []).append(unit)
    if name in known:
        return known[name]
    if not difflib.get_close_matches(name, known, n=1, cutoff=0.4):
        some = ", ".join(list(known)[:: len(known) // 4][:4])
        raise ParamsError(f"no unit of work {name!r}; there are for instance {some}")
    raise ParamsError(unknown("unit of work", name, list(known)))


def beside(params: Params, unit: Unit) -> Iterator[str]:
    """Where else something was written about a unit: by Snakemake, by Slurm."""
    if (path := of_snakemake(unit)) is not None:
        yield f"Snakemake's own log of that run: {path.as_posix()}"
    for slurm in _slurm_jobs(params, unit):
        for path in sorted(SLURM.rglob(f"{slurm}.log")):
            yield f"Slurm's log of job {slurm}: {path.as_posix()}"


def of_snakemake(unit: Unit) -> Path | None:
    """The newest log of a Snakemake that began a unit."""
    begun = re.compile(rf"^\s*Job \d+: {unit.stop}: (.* )?{re.escape(unit.name)}$", re.MULTILINE)
    for path in sorted(LOGS.glob("*.log"), reverse=True)[:NEWEST]:
        try:
            if begun.search(path.read_text(encoding="utf-8", errors="replace")):
                return path
        except OSError:
            continue
    return None


def _logs(params: Params, unit: Unit) -> list[Path]:
    """A unit's log files that are there."""
    return status.logs(unit.stop, Paths(params.scale).log(unit.stop, unit.name))


def _slurm_jobs(params: Params, unit: Unit) -> list[str]:
    """Ids of the Slurm jobs that did a unit, as journal and circumstances tell them."""
    paths = Paths(params.scale)
    entries = journal.read(params)
    told = [e.slurm for e in entries if (e.stop, e.unit) == (unit.stop, unit.name)]
    for name in [run.id for run in unit.runs] or [unit.name]:
        try:
            text = paths.circumstances(unit.stop, name).read_text(encoding="utf-8")
            told.append(json.loads(text).get("slurm_job"))
        except (OSError, ValueError, AttributeError):
            continue
    return list(dict.fromkeys(slurm for slurm in told if slurm))
