"""Groups of the circumstances: equal ones merged, nothing of a person's folders shown."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.report import environment

Tree = dict[str, Any]
HOME = "/home/alice/secret/mimic"
COMMIT = "59e82d917c0d53618ea57eb8d08b24937bb3c082"


def circumstances(**over: Any) -> Tree:
    """A unit's circumstances as `record.write` writes them."""
    return {
        "schema": record.SCHEMA,
        "commit": COMMIT,
        "dirty": False,
        "environment": {
            "python": "3.11.7",
            "lock": "e5" * 32,
            "packages": {"torch": "2.15.0+cu128", "timm": None, "numpy": "2.4.6"},
            "cuda": None,
            "threads": 1,
            "machine": "x86_64",
            "system": "Linux",
        },
        "roots": {"mimic": HOME},
        "slurm_job": "4711",
        "finished": "2026-11-22T07:25:46Z",
        "cost": {"cpu_seconds": 1.5, "seconds": 2.0, "peak_mb": 300},
    } | over


class Files:
    """Circumstances of a fabricated scale."""

    def __init__(self, world) -> None:
        self.params = world.params
        self.paths = world.paths
        units = list(grid.units(world.params))
        kinds = dict.fromkeys(kind for kind, _ in units)
        # A few of each stop: a scale has hundreds, and each is a file.
        self.units = [one for kind in kinds for one in [u for u in units if u[0] == kind][:4]]

    def put(self, kind: str, unit: str, tree: Tree) -> None:
        path = self.paths.circumstances(kind, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree))

    def fill(self) -> None:
        for kind, unit in self.units:
            self.put(kind, unit, circumstances())

    def groups(self) -> list[environment.Group]:
        return environment.summary(self.params)


@pytest.fixture
def files(make, monkeypatch) -> Files:
    found = Files(make(fill=False))
    monkeypatch.setattr(grid, "units", lambda params: iter(found.units))
    return found


def test_the_circumstances_are_those_that_records_have(demo):
    """The form that these tests make up is the form that is written."""
    written = record._circumstances(demo, "manifest", record.process_cost())
    made = circumstances()
    assert written.keys() == made.keys()
    assert written["environment"].keys() == made["environment"].keys()
    assert written["cost"].keys() == made["cost"].keys()


def test_equal_circumstances_are_one_group_a_stop(files):
    files.fill()
    groups = files.groups()
    kinds = [kind for kind, _ in files.units]
    assert [g.kind for g in groups] == list(dict.fromkeys(kinds))
    assert [g.count for g in groups] == [kinds.count(g.kind) for g in groups]
    one = groups[0]
    assert (one.commit, one.dirty, one.python, one.threads) == (COMMIT, False, "3.11.7", 1)
    assert one.packages == "numpy 2.4.6, torch 2.15.0+cu128"
    assert (one.machine, one.cuda) == ("Linux x86_64", "")
    assert one.cpu_seconds == pytest.approx(1.5 * one.count)
    assert (one.peak_mb, one.first, one.last) == (300, "2026-11-22", "2026-11-22")


def test_units_without_circumstances_are_counted(files):
    files.fill()
    kind, unit = files.units[-1]
    files.paths.circumstances(kind, unit).unlink()
    *_, largest, lost = files.groups()
    assert (lost.kind, lost.count, lost.recorded) == (kind, 1, False)
    assert largest.kind == kind
    assert largest.recorded


def test_nothing_at_all_is_as_many_units_without_circumstances(files):
    groups = files.groups()
    assert not any(g.recorded for g in groups)
    assert sum(g.count for g in groups) == len(files.units)


def test_a_gpu_and_a_checkout_without_git(files):
    files.fill()
    tree = circumstances(commit=None, dirty=True)
    tree["environment"]["cuda"] = {"version": "12.8", "device": "NVIDIA H100 80GB HBM3"}
    kind, unit = files.units[0]
    files.put(kind, unit, tree)
    one = next(g for g in files.groups() if g.cuda)
    assert (one.kind, one.count, one.commit) == (kind, 1, environment.NO_GIT)
    assert one.dirty
    assert one.cuda == "NVIDIA H100 80GB HBM3, CUDA 12.8"


def test_no_folder_and_no_job_is_shown(files):
    files.fill()
    groups = files.groups()
    told = repr(groups)
    for secret in (HOME, "alice", "4711", "secret", "07:25"):
        assert secret not in told


CHANGES: dict[str, Callable[[Tree], Any]] = {
    "commit": lambda t: t.update(commit="f" * 40),
    "dirty": lambda t: t.update(dirty=True),
    "python": lambda t: t["environment"].update(python="3.12.1"),
    "package": lambda t: t["environment"]["packages"].update(timm="1.0.31"),
    "lock": lambda t: t["environment"].update(lock=None),
    "threads": lambda t: t["environment"].update(threads=8),
    "machine": lambda t: t["environment"].update(machine="aarch64"),
    "cuda": lambda t: t["environment"].update(cuda={"version": "12.8", "device": "A100-SXM4"}),
}


@pytest.mark.parametrize("what", sorted(CHANGES))
def test_what_differs_is_a_group_of_its_own(files, what):
    files.fill()
    before = len(files.groups())
    tree = circumstances()
    CHANGES[what](tree)
    files.put(*files.units[0], tree)
    assert len(files.groups()) == before + 1


@settings(
    max_examples=15,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(data=st.data())
def test_counts_costs_and_days_are_conserved(files, data):
    """Over all groups of a stop, whichever units share what; some units are lost."""
    kind = "manifest"
    units = [unit for stop, unit in files.units if stop == kind]
    seconds, peaks, days = [], [], []
    for unit in units:
        path = files.paths.circumstances(kind, unit)
        if data.draw(st.booleans()):
            path.unlink(missing_ok=True)
            continue
        seconds.append(data.draw(st.floats(0, 1e6)))
        peaks.append(data.draw(st.integers(0, 10**6)))
        days.append(f"2026-11-{data.draw(st.integers(1, 30)):02d}")
        cost = {"cpu_seconds": seconds[-1], "peak_mb": peaks[-1]}
        tree = circumstances(cost=cost, finished=f"{days[-1]}T00:00:00Z")
        tree["environment"]["threads"] = data.draw(st.integers(1, 3))
        files.put(kind, unit, tree)
    groups = [g for g in files.groups() if g.kind == kind]
    known = [g for g in groups if g.recorded]
    assert sum(g.count for g in groups) == len(units)
    assert sum(g.count for g in known) == len(seconds)
    assert sum(g.cpu_seconds for g in known) == pytest.approx(sum(seconds))
    assert max((g.peak_mb for g in known), default=0) == max(peaks, default=0)
    assert min((g.first for g in known), default="") == min(days, default="")
    assert max((g.last for g in known), default="") == max(days, default="")
    assert len({g.threads for g in known}) == len(known)


def nested(*keys: str, value: Any) -> Callable[[Tree], Any]:
    def spoil(tree: Tree) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return spoil


HOSTILE: dict[str, Callable[[Tree], Any]] = {
    "commit of a path": nested("commit", value=HOME),
    "commit of a number": nested("commit", value=7),
    "no commit": lambda t: t.pop("commit"),
    "dirty as a text": nested("dirty", value="no"),
    "no environment": lambda t: t.pop("environment"),
    "environment as a list": nested("environment", value=[HOME]),
    "python of a path": nested("environment", "python", value=HOME),
    "packages as a text": nested("environment", "packages", value=HOME),
    "a package of a path": nested("environment", "packages", "torch", value=HOME),
    "a package's name of a path": nested("environment", "packages", HOME, value="1"),
    "a script as a package": nested("environment", "packages", "torch", value="<script>"),
    "lock of a path": nested("environment", "lock", value=HOME),
    "threads as a text": nested("environment", "threads", value="1"),
    "threads as true": nested("environment", "threads", value=True),
    "threads below 0": nested("environment", "threads", value=-1),
    "machine of a path": nested("environment", "machine", value=HOME),
    "machine of two lines": nested("environment", "machine", value="x86_64\nalice"),
    "system of a path": nested("environment", "system", value=HOME),
    "cuda of a path": nested("environment", "cuda", value=HOME),
    "device of a path": nested("environment", "cuda", value={"version": "1", "device": HOME}),
    "device, then a path": nested(
        "environment", "cuda", value={"version": "1", "device": f"GPU {HOME}"}
    ),
    "finished as a number": nested("finished", value=0),
    "finished of a path": nested("finished", value=HOME),
    "no cost": lambda t: t.pop("cost"),
    "cost as a text": nested("cost", value=HOME),
    "seconds as a text": nested("cost", "cpu_seconds", value="1"),
    "seconds without end": nested("cost", "cpu_seconds", value=float("inf")),
    "peak of a half": nested("cost", "peak_mb", value=0.5),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_hostile_circumstances_are_refused_and_not_repeated(files, what):
    files.fill()
    tree = circumstances()
    before = json.dumps(tree)
    HOSTILE[what](tree)
    assert json.dumps(tree) != before
    kind, unit = files.units[0]
    files.put(kind, unit, tree)
    with pytest.raises(CheckError, match=f"{unit}.circumstances.json") as caught:
        files.groups()
    assert "alice" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_equal_files_give_equal_groups_in_an_equal_order(files):
    files.fill()
    for number, (kind, unit) in enumerate(files.units[:12]):
        files.put(kind, unit, circumstances(commit=f"{number % 3}" * 40))
    first = files.groups()
    for kind, unit in reversed(files.units[:12]):  # written anew, in another order
        path = files.paths.circumstances(kind, unit)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert files.groups() == first


def test_cpu_hours_are_hours() -> None:
    group = environment.Group(kind="shards", commit="a" * 40, count=2, cpu_seconds=5400.0)
    assert group.cpu_hours == 1.5
