"""What the demo's records tell: processes, wall time, memory."""

from __future__ import annotations

import itertools
import json

import pytest
from benchmarks.demo import Process

from benchmarks import demo

ONE, OTHER = frozenset(["a" * 40]), frozenset(["b" * 40])


def process(start, end, peak=100.0, commits=ONE):
    return Process("shards", start, end, end - start, peak, commits)


@pytest.fixture
def records(tmp_path):
    def write(unit, finished, seconds, peak, stop="downstream"):
        path = tmp_path / stop / f"{unit}.circumstances.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        cost = {"seconds": seconds, "cpu_seconds": seconds / 2, "peak_mb": peak}
        tree = {"cost": cost, "finished": finished, "commit": "a" * 40}
        path.write_text(json.dumps(tree), encoding="utf-8")

    write("mae-s0/x-probe-1-s0", "2026-01-01T00:00:10Z", 4.0, 300)
    write("mae-s0/x-probe-1-s1", "2026-01-01T00:00:12Z", 2.0, 310)
    write("mae-s0/y-probe-1-s0", "2026-01-01T00:00:13Z", 1.0, 200)
    write("mae-s0", "2026-01-01T00:00:05Z", 5.0, 900, stop="pretrain")
    return tmp_path


def test_the_runs_of_a_job_are_one_process(records):
    jobs = {"mae-s0/x-probe-1-s0": "job", "mae-s0/x-probe-1-s1": "job"}
    found = sorted(demo.processes(records, jobs), key=lambda p: p.start)
    assert [(p.stop, p.end - p.start, p.cpu, p.peak) for p in found] == [
        ("pretrain", 5.0, 2.5, 900),
        ("downstream", 6.0, 3.0, 310),
        ("downstream", 1.0, 0.5, 200),
    ]
    assert found[1].start - found[0].start == 6.0


def test_peaks_of_processes_at_the_same_time_are_added():
    found = [process(0, 10, 1.0), process(5, 20, 2.0), process(12, 14, 4.0), process(30, 40, 5.5)]
    assert demo.overlap(found) == 6.0
    brute = max(
        sum(p.peak for p in some)
        for n in range(1, 5)
        for some in itertools.combinations(found, n)
        if max(p.start for p in some) < min(p.end for p in some)
    )
    assert demo.overlap(found) == brute


def test_a_successor_does_not_count_twice():
    assert demo.overlap([process(0, 10, 1.0), process(9.5, 20, 2.0)]) == 2.0


def test_wall_time_is_from_the_first_start_to_the_last_end():
    found = [process(60, 400), process(0, 300), process(310, 350)]
    row = demo.wall(found, 20.0, {})
    assert (row.value, row.unit, row.target, row.met) == (7.0, "min", 12, True)


def test_records_of_several_builds_tell_no_wall_time():
    for found in (
        [process(0, 10), process(10, 20, commits=OTHER)],
        [process(0, 10), process(200, 300)],
    ):
        row = demo.wall(found, 0.0, {})
        assert row.value is None
        assert "make demo" in row.why


def test_the_committed_records_have_every_stop():
    rows = demo.measure(toy=True)
    assert [row.target for row in rows if row.target] == [12, 4]
    whole, *stops = [
        row.value for row in rows if row.what.startswith(("the demo: CPU", "of these"))
    ]
    assert whole == pytest.approx(sum(stops))
    assert all(value > 0 for value in stops[:-1])
