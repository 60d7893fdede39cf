"""Dataset flow: rows are conserved from the raw table to the splits, or the record is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrmim import grid
from cxrmim.errors import CheckError
from cxrmim.report import flow

Tree = dict[str, Any]
REASONS = ["view is lateral", "image is missing", "further row of an image", "unknown class"]


def manifest(changes: dict[str, int], sizes: tuple[int, int, int], faults: Tree) -> Tree:
    """A manifest record's metrics and details; rows follow from what is kept and excluded."""
    kept = sum(sizes)
    steps = {"rows": kept + sum(changes.values()), **changes, "kept": kept}
    parts = dict(zip(flow.SPLITS, sizes, strict=True)) | {"in_1": 1, "in_10": sizes[0] // 10}
    return {
        "metrics": {
            "flow": steps,
            "faults": faults,
            "splits": {
                name: {"images": n, "studies": n, "patients": n // 2} for name, n in parts.items()
            },
        },
        "details": {"flow": list(steps), "named": ["images", "patients"], "unit": "patient"},
    }


def shards(rows: int, short: int, unreadable: dict[str, int]) -> Tree:
    """A shards record's metrics."""
    kept = rows - short - sum(unreadable.values())
    return {"rows": rows, "kept": kept, "short_reports": short, "unreadable": unreadable}


def put(world, name: str, tree: Tree, metrics: Tree) -> None:
    world.write_data("manifest", name, tree["metrics"], **tree["details"])
    world.write_data("shards", name, metrics)


def fill(world) -> None:
    """Records of every entry that the scale reads."""
    for name in grid.datasets(world.params):
        put(world, name, manifest({}, (30, 5, 10), {}), shards(45, 0, {}))
    for name in grid.audited(world.params):
        put(world, name, manifest({}, (30, 5, 10), {}), {"rows": 45, "not_stored": 7})


@pytest.fixture
def world(make):
    out = make(fill=False)
    fill(out)
    return out


def found(world, name: str) -> flow.Flow:
    return next(f for f in flow.datasets(world.params) if f.entry == name)


def entry(world, used: bool = True) -> str:
    return (grid.datasets if used else grid.audited)(world.params)[0]


def test_every_entry_has_a_flow_and_replayed_ones_are_marked(world):
    flows = flow.datasets(world.params)
    params = world.params
    assert sorted(f.entry for f in flows) == sorted([*grid.datasets(params), *grid.audited(params)])
    assert {f.entry for f in flows if not f.used} == set(grid.audited(params))
    assert all(f.reader == grid.reader(params, f.entry) for f in flows)
    readers = [f.reader for f in flows]
    assert [r for i, r in enumerate(readers) if r not in readers[:i]] == grid.roots(params)


def test_the_steps_are_told_in_order(world):
    name = entry(world)
    changes = {"view is lateral": 20, "unknown class": 0, "image is missing": 3}
    tree = manifest(changes, (60, 5, 15), {"image is missing": 2})
    put(world, name, tree, shards(80, 4, {"not an image file": 1, "image is blank": 2}))
    one = found(world, name)
    assert [(step.label, step.text) for step in one.steps] == [
        ("rows of the raw table", "103"),
        ("view is lateral", "−20"),
        ("image is missing", "−3"),
        ("rows of the manifest", "80"),
        ("report is too short", "−4"),
        ("image is blank", "−2"),
        ("not an image file", "−1"),
        ("stored as arrays", "73"),
    ]
    assert one.idle == ("unknown class",)
    assert one.faults == {"image is missing": 2}
    assert one.unstored == 7


def test_rows_that_stand_twice_are_added(world):
    name = entry(world, used=False)
    tree = manifest({"on neither side": 59, "counted twice": -49}, (60, 5, 15), {})
    put(world, name, tree, {"rows": 80, "not_stored": 12})
    one = found(world, name)
    assert [step.text for step in one.steps] == ["90", "−59", "+49", "80"]
    assert one.unstored == 12


def test_units_that_the_tables_do_not_name_are_not_counted(world):
    one = found(world, entry(world))
    assert one.splits["train"] == {"images": 30, "studies": None, "patients": 15}
    assert one.subsets["10 % of the labels"]["studies"] is None


def test_subsets_stand_in_order_and_by_seed(world):
    name = entry(world)
    tree = manifest({}, (30, 5, 10), {})
    parts = tree["metrics"]["splits"]
    parts |= {"in_10_s2": parts["in_10"], "in_1_s1": parts["in_1"], "in_10_s1": parts["in_10"]}
    put(world, name, tree, shards(45, 0, {}))
    assert list(found(world, name).subsets) == [
        "1 % of the labels",
        "1 % of the labels, seed 1",
        "10 % of the labels",
        "10 % of the labels, seed 1",
        "10 % of the labels, seed 2",
    ]


@settings(
    max_examples=20,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(
    changes=st.dictionaries(st.sampled_from(REASONS), st.integers(-20, 90)),
    sizes=st.tuples(*[st.integers(20, 200)] * 3),
    short=st.integers(0, 20),
    lost=st.dictionaries(
        st.sampled_from(["not an image file", "image is blank"]), st.integers(0, 9)
    ),
)
def test_rows_are_conserved(world, changes, sizes, short, lost):
    """What is excluded and what is left are what was read, whatever the numbers."""
    tree = manifest(changes, sizes, {})
    if tree["metrics"]["flow"]["rows"] < 0:
        return
    name = entry(world)
    put(world, name, tree, shards(sum(sizes), short, lost))
    one = found(world, name)
    levels = [step for step in one.steps if not step.dropped and not step.added]
    left, reached = one.steps[0].rows, []
    for step in one.steps[1:]:
        if step in levels:
            reached.append(left)
        else:
            left += step.rows if step.added else -step.rows
    assert reached == [step.rows for step in levels[1:]]
    assert sum(counts["images"] for counts in one.splits.values()) == levels[1].rows
    assert one.unstored == levels[1].rows - levels[2].rows
    assert sum(step.rows for step in one.steps if step.dropped) == sum(
        n for n in [*changes.values(), short, *lost.values()] if n > 0
    )


SPOIL: dict[str, tuple[str, Callable[[Tree], Any]]] = {
    "rows": ("manifest", lambda t: t["metrics"]["flow"].update(rows=46)),
    "kept": ("manifest", lambda t: t["metrics"]["flow"].update(kept=44)),
    "a step": ("manifest", lambda t: t["metrics"]["flow"].update({"view is lateral": 1})),
    "a step without a place": ("manifest", lambda t: t["metrics"]["flow"].update(more=0)),
    "the order": ("manifest", lambda t: t["details"].update(flow=["kept", "rows"])),
    "a split": ("manifest", lambda t: t["metrics"]["splits"]["test"].update(images=11)),
    "no split": ("manifest", lambda t: t["metrics"]["splits"].pop("valid")),
    "an odd part": ("manifest", lambda t: t["metrics"]["splits"].update(more={})),
    "patients": ("manifest", lambda t: t["metrics"]["splits"]["test"].update(patients=99)),
    "faults": ("manifest", lambda t: t["metrics"].update(faults={"view is lateral": 1})),
    "no faults": ("manifest", lambda t: t["metrics"].pop("faults")),
    "a float": ("manifest", lambda t: t["metrics"]["splits"]["test"].update(images=10.0)),
    "a text": ("manifest", lambda t: t["metrics"]["flow"].update(rows="45")),
    "true": ("manifest", lambda t: t["metrics"]["splits"]["in_1"].update(images=True)),
    "below 0": ("manifest", lambda t: t["metrics"]["splits"]["in_1"].update(images=-1)),
    "the unit": ("manifest", lambda t: t["details"].update(unit=3)),
    "what is named": ("manifest", lambda t: t["details"].update(named="images")),
    "metrics": ("manifest", lambda t: t.update(metrics=[])),
    "the source": ("manifest", lambda t: t.update(source="elsewhere")),
    "the id": ("shards", lambda t: t.update(id="another")),
    "stored rows": ("shards", lambda t: t["metrics"].update(rows=44, kept=44)),
    "what is stored": ("shards", lambda t: t["metrics"].update(kept=44)),
    "what is unreadable": ("shards", lambda t: t["metrics"].update(unreadable={"blank": -1})),
    "no count": ("shards", lambda t: t["metrics"].pop("short_reports")),
}


@pytest.mark.parametrize("what", sorted(SPOIL))
def test_numbers_that_do_not_add_up_are_refused(world, what):
    kind, spoil = SPOIL[what]
    path = world.paths.record(kind, entry(world))
    before = path.read_text()
    tree = json.loads(before)
    spoil(tree)
    path.write_text(json.dumps(tree))
    assert path.read_text() != before
    with pytest.raises(CheckError, match=path.name) as caught:
        flow.datasets(world.params)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_refused(world):
    path = world.paths.record("shards", entry(world, used=False))
    path.unlink()
    with pytest.raises(CheckError, match="no such record"):
        flow.datasets(world.params)
