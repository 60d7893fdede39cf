"""How the records came about: the circumstances beside them, equal ones in one group.

A page that is shown to others names no person's folders: of the circumstances only commit,
versions, kind of machine, cost and days are taken, each only in the form that it must have. Roots
and Slurm job ids stay where they are.
"""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths

Tree = dict[str, Any]
UNKNOWN = "not recorded"
NO_GIT = "not in git"
COMMIT = re.compile(r"[0-9a-f]{7,64}")
HASH = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,39}")
# A GPU's name has blanks and may have a slash within a word; only a path begins with one.
DEVICE = re.compile(r"(?=.{1,80}$)[\w().,+-]+(?:[ /][\w().,+-]+)*", re.ASCII)
TIME = re.compile(r"(\d{4}-\d\d-\d\d)T\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, order=True)
class Setting:
    """What the units of a group have in common.

    Attributes:
        kind: the stop.
        commit: of the checkout, or `NO_GIT`; `UNKNOWN` for units without circumstances, of which
            nothing below is known either.
        dirty: whether the checkout had uncommitted changes.
        python: its version.
        packages: names and versions, sorted.
        lock: sha256 of requirements.lock, "" if there was none.
        threads: CPU threads of a unit.
        machine: system and processor.
        cuda: GPU and version of CUDA, "" without a GPU.
    """

    kind: str
    commit: str = UNKNOWN
    dirty: bool = False
    python: str = ""
    packages: str = ""
    lock: str = ""
    threads: int = 0
    machine: str = ""
    cuda: str = ""


@dataclass(frozen=True)
class Spent:
    """Cost of a unit: CPU seconds (None if not stated), peak MiB (0), and when it ended (UTC)."""

    cpu_seconds: float | None = None
    peak_mb: int = 0
    finished: str = ""


@dataclass(frozen=True, order=True)
class Group(Setting):
    """Units of work of one stop that came about alike; see `Setting`.

    Attributes:
        count: number of units.
        cpu_seconds: of all of them together.
        peak_mb: the most memory that one of them took, MiB.
        first, last: days (UTC, year-month-day) on which the first and the last ended, "" if
            unknown.
    """

    count: int = 0
    cpu_seconds: float = 0.0
    peak_mb: int = 0
    first: str = ""
    last: str = ""

    @property
    def recorded(self) -> bool:
        """Whether the units have circumstances."""
        return self.commit != UNKNOWN

    @property
    def cpu_hours(self) -> float:
        """CPU hours of all units together."""
        return self.cpu_seconds / 3600


def summary(params: Params) -> list[Group]:
    """Groups of all units that the scale can make, by stop in the order of the work.

    Within a stop the largest group is the first; units without circumstances are the last.

    Raises:
        CheckError: circumstances hold something else than they must.
    """
    found: dict[Setting, list[Spent]] = {}
    stops: dict[str, int] = {}
    for kind, unit in grid.units(params):
        stops.setdefault(kind, len(stops))
        setting, spent = told(params, kind, unit) or (Setting(kind), Spent())
        found.setdefault(setting, []).append(spent)
    groups = [_group(setting, spent) for setting, spent in found.items()]
    return sorted(groups, key=lambda g: (stops[g.kind], not g.recorded, -g.count, g))


def told(params: Params, kind: str, unit: str) -> tuple[Setting, Spent] | None:
    """How a unit came about, None where git has no circumstances of it.

    Raises:
        CheckError: they hold something else than they must.
    """
    path = Paths(params.scale).circumstances(kind, unit)
    if not path.is_file():
        return None
    held = _Circumstances(path.as_posix(), record.read(path))
    return held.setting(kind), held.spent()


def _group(setting: Setting, spent: list[Spent]) -> Group:
    days = sorted(one.finished[: len("2000-01-01")] for one in spent)
    return Group(
        **asdict(setting),
        count=len(spent),
        cpu_seconds=math.fsum(one.cpu_seconds or 0.0 for one in spent),
        peak_mb=max(one.peak_mb for one in spent),
        first=days[0],
        last=days[-1],
    )


class _Circumstances:
    """One file of circumstances, of which only values of the right form are taken."""

    def __init__(self, path: str, tree: Tree) -> None:
        self.path, self.tree = path, tree

    def setting(self, kind: str) -> Setting:
        """What can be shared with other units."""
        packages = self._table("environment", "packages")
        names = sorted(name for name in packages if packages[name] is not None)
        known = [f"{self._form(VERSION, name)} {self._package(name)}" for name in names]
        cuda = ""
        if self._value("environment", "cuda") is not None:
            version = self._text(VERSION, "environment", "cuda", "version")
            cuda = f"{self._text(DEVICE, 'environment', 'cuda', 'device')}, CUDA {version}"
        commit, lock = self._value("commit"), self._value("environment", "lock")
        system = (self._text(VERSION, "environment", key) for key in ("system", "machine"))
        return Setting(
            kind=kind,
            commit=NO_GIT if commit is None else self._text(COMMIT, "commit"),
            dirty=self._flag("dirty"),
            python=self._text(VERSION, "environment", "python"),
            packages=", ".join(known),
            lock="" if lock is None else self._text(HASH, "environment", "lock"),
            threads=int(self._number("environment", "threads", whole=True)),
            machine=" ".join(system),
            cuda=cuda,
        )

    def spent(self) -> Spent:
        """Its cost."""
        cost = self._table("cost")
        seconds = self._number("cost", "cpu_seconds") if "cpu_seconds" in cost else None
        peak = self._number("cost", "peak_mb", whole=True) if "peak_mb" in cost else 0
        return Spent(seconds, int(peak), self._text(TIME, "finished"))

    def _value(self, *keys: str) -> Any:
        found: Any = self.tree
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                raise self._fault(f"holds no {'.'.join(keys)}")
            found = found[key]
        return found

    def _table(self, *keys: str) -> Tree:
        found = self._value(*keys)
        if not isinstance(found, dict):
            raise self._fault(f"{'.'.join(keys)} is no table")
        return found

    def _text(self, form: re.Pattern[str], *keys: str) -> str:
        found = self._value(*keys)
        if not isinstance(found, str) or not form.fullmatch(found):
            # What stands there may be somebody's folder: not for a message.
            raise self._fault(f"{'.'.join(keys)} has not the form of one")
        return found

    def _form(self, form: re.Pattern[str], text: str) -> str:
        if not form.fullmatch(text):
            raise self._fault("environment.packages names no package")
        return text

    def _package(self, name: str) -> str:
        return self._text(VERSION, "environment", "packages", name)

    def _flag(self, key: str) -> bool:
        found = self._value(key)
        if not isinstance(found, bool):
            raise self._fault(f"{key} is neither true nor false")
        return found

    def _number(self, *keys: str, whole: bool = False) -> float:
        found = self._value(*keys)
        right = type(found) is int or (type(found) is float and not whole)
        if not right or not math.isfinite(found) or found < 0:
            raise self._fault(f"{'.'.join(keys)} is no {'whole ' * whole}number of 0 or more")
        return float(found)

    def _fault(self, what: str) -> CheckError:
        return CheckError(
            f"{self.path}: {what}; restore it with git or run `snakemake --cores all`"
        )
