"""`cxrmim status`: counts, progress, time left, failures and the command that does them again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cxrmim import cli, grid, pace, status, tally
from tests.watched import GONE, REPO, Watched

CHECKPOINT = "mae-s0"
WAIT = 60.0  # seconds that something is waited for


@pytest.fixture
def watched(tmp_path, monkeypatch) -> Watched:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return Watched()


def told(watched: Watched, scale: str | None = None) -> str:
    return "\n".join(status.text(watched.params, scale))


def counts(watched: Watched, stop: str) -> list[int]:
    """done, running, failed, pending of a stop's line."""
    line = next(ln for ln in told(watched).splitlines() if ln.startswith(f"{stop} "))
    return [0 if cell == "." else int(cell) for cell in line.split()[1:5]]


def test_a_clone_without_anything_is_all_pending(watched):
    text = told(watched)
    for stop in tally.WORDS:
        total = len(watched.units(stop))
        if stop == "downstream":
            total = len(grid.runs(watched.params))
        assert counts(watched, stop) == [0, 0, 0, total]
    assert "running: nothing" in text and "failed" not in text.split("pending", 1)[1]
    assert "time left: unknown, nothing like it was measured" in text


def test_paper_without_roots_and_data(repo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo / "params.yaml", "params.yaml")
    assert cli.main(["status", "--scale", "paper"]) == 0
    out = capsys.readouterr().out
    assert "scale paper, real data" in out and "of 589 runs" in out
    assert not any(ln.startswith("phantom") for ln in out.splitlines())


def test_all_done(watched):
    watched.all_done()
    text = told(watched)
    for stop in tally.WORDS:
        done, *rest = counts(watched, stop)
        assert done > 0 and rest == [0, 0, 0]
    assert "time left" not in text and "failed:" not in text
    assert "its record is there" in text  # and no more is claimed


def test_units_by_state(watched):
    names = [unit.name for unit in watched.units("pretrain")]
    watched.done("pretrain", names[0])
    watched.entry("pretrain", names[1])
    watched.failed("pretrain", names[2])
    watched.entry("pretrain", names[3], pid=GONE)
    assert counts(watched, "pretrain") == [1, 1, 2, len(names) - 4]


def test_a_downstream_job_is_counted_by_its_runs(watched):
    job, total = watched.job, len(grid.runs(watched.params))
    watched.entry("downstream", job.id)
    watched.done("downstream", job.runs[0].id)  # of this time
    watched.done("downstream", job.runs[1].id, age=3600)  # of an earlier one, not told in the log
    assert counts(watched, "downstream") == [1, 1, 0, total - 2]
    assert f"runs 1 of {len(job.runs)}" in told(watched)
    watched.log(
        "downstream",
        job.id,
        f"2026-01-01 10:00:00,000 INFO {job.runs[1].id}: current, not done again",
        f"2026-01-01 10:00:00,000 INFO {job.runs[2].id}: features read",
    )
    watched.done("downstream", job.runs[2].id, age=3600)
    assert counts(watched, "downstream") == [2, 1, 0, total - 3]
    watched.failed("downstream", job.id)
    rest = len(job.runs) - 2
    assert counts(watched, "downstream") == [2, 0, rest, total - 2 - rest]
    assert "(1 failed, " in told(watched)


def test_what_was_done_since_it_failed_is_done(watched, monkeypatch):
    watched.failed("pretrain", CHECKPOINT, ended=time.time() - 60)
    watched.done("pretrain", CHECKPOINT)
    assert counts(watched, "pretrain")[:3] == [0, 0, 1]  # an old record that Snakemake put back
    monkeypatch.setattr(tally.record, "current", lambda params, kind, unit: True)
    assert counts(watched, "pretrain")[:3] == [1, 0, 0]


def test_a_redo_that_failed_and_is_wanted_no_more_is_done(watched, monkeypatch):
    """As when params.yaml was changed, the job failed, and the change was taken back."""
    job = watched.job
    for run in job.runs:
        watched.done("downstream", run.id, age=120)
    watched.failed("downstream", job.id)
    watched.done("pretrain", CHECKPOINT, age=120)
    watched.entry("pretrain", CHECKPOINT, pid=GONE)
    total = len(grid.runs(watched.params))
    assert counts(watched, "pretrain")[:3] == [0, 0, 1]  # these records are of nothing at all
    current = {("downstream", run.id) for run in job.runs} | {("pretrain", CHECKPOINT)}
    monkeypatch.setattr(tally.record, "current", lambda params, kind, unit: (kind, unit) in current)
    assert counts(watched, "pretrain")[:3] == [1, 0, 0]
    assert counts(watched, "downstream") == [len(job.runs), 0, 0, total - len(job.runs)]
    current.remove(("downstream", job.runs[-1].id))
    assert counts(watched, "downstream") == [0, 0, len(job.runs), total - len(job.runs)]


def test_files_that_go_as_they_are_looked_at_are_not_there(watched, monkeypatch):
    """As when Snakemake clears the way for a job, while `status --watch` looks."""
    watched.entry("downstream", watched.job.id)
    watched.failed("pretrain", CHECKPOINT)
    for run in watched.job.runs:
        watched.done("downstream", run.id)
    watched.done("pretrain", CHECKPOINT)
    is_file = Path.is_file
    was = [run.id for run in watched.job.runs] + [CHECKPOINT]  # a moment ago
    monkeypatch.setattr(
        Path, "is_file", lambda path: is_file(path) or any(f"{w}.json" in str(path) for w in was)
    )
    for path in Path("results/demo/records").rglob("*.json"):
        path.unlink()
    assert counts(watched, "pretrain")[:3] == [0, 0, 1]
    assert counts(watched, "downstream")[:3] == [0, 1, 0]


def test_a_failure_is_told_with_its_line_its_log_and_the_command(watched):
    log = watched.log(
        "shards",
        "siim",
        *(f"line {n}" for n in range(9)),
        "t ERROR siim: row 3 is bad",
        " ",
        "x" * 999,
    )
    watched.failed("shards", "siim", "siim: row 3 is bad", slurm="12", host="node7")
    lines = told(watched).splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("  shards siim: "))
    assert "on node7 (Slurm job 12)" in lines[head] and "exit status 3" in lines[head]
    assert lines[head + 1 : head + 3] == ["    siim: row 3 is bad", f"    log: {log.as_posix()}"]
    shown = lines[head + 3 : head + 7]
    assert [line.strip()[:6] for line in shown] == ["line 6", "line 7", "line 8", "xxxxxx"]
    assert max(map(len, lines)) < 200
    assert sum("siim: row 3 is bad" in line for line in lines) == 1
    record = watched.paths.record("shards", "siim").as_posix()
    assert lines[-1] == f"  snakemake --cores all --profile slurm {record}"


def test_only_the_end_of_a_log_is_read(watched):
    log = watched.log("shards", "siim", "first", "x" * status.LAST, "the last")
    assert status.tail(log, 3)[-1] == "the last"
    assert "first" not in status.tail(log, 3)
    assert status.tail(watched.write(log, ""), 3) == []


def test_a_log_cannot_write_on_the_terminal(watched):
    watched.log("shards", "siim", "a\x1b[2Jb")
    watched.failed("shards", "siim", "c\x1b]0;d")
    assert "\x1b" not in told(watched)


def test_a_killed_job_is_told_as_killed(watched):
    watched.entry("pretrain", CHECKPOINT, pid=GONE)
    watched.log("pretrain", CHECKPOINT, "the last word")
    other = watched.paths.log("pretrain", CHECKPOINT).with_suffix(".1.log")
    other.write_text("x\n2026 ERROR process 1 found the disk full\n")
    text = told(watched)
    assert "killed: it is gone and left no error" in text
    assert "the last word" in text and "process 1 found the disk full" in text
    assert f"snakemake --cores all {watched.paths.record('pretrain', CHECKPOINT)}" in text


def test_a_job_that_the_cluster_has_put_back_in_the_queue_is_pending(watched, monkeypatch):
    watched.entry("pretrain", CHECKPOINT, host="node7", slurm="7")
    for state, expected in {"PENDING": "pending", "RUNNING": "running"}.items():
        monkeypatch.setattr(tally.journal, "queued", lambda entries, state=state: {"7": state})
        looked = {(f.unit.stop, f.unit.name): f.state for f in tally.look(watched.params)}
        assert looked["pretrain", CHECKPOINT] == expected


@pytest.mark.parametrize(
    ("alive", "words"), [(True, "but it lives"), (None, "cannot be told"), (False, "it is gone")]
)
def test_only_a_job_that_is_gone_is_called_killed(watched, alive, words):
    entry = watched.entry("pretrain", CHECKPOINT)
    unit = watched.unit("pretrain", CHECKPOINT)
    (line, _) = status.failure(tally.Found(unit, "running", entry, alive))
    assert words in line and ("killed" in line) == (alive is False)


def test_what_cannot_be_known_from_here_is_said(watched):
    watched.entry("pretrain", CHECKPOINT, host="another-machine", pid=1)
    assert counts(watched, "pretrain")[1:3] == [1, 0]
    assert "whether it still lives cannot be told from here" in told(watched)


def test_what_the_grid_does_not_know_is_shown_only_while_it_runs(watched):
    watched.failed("pretrain", "mistyped-s0")
    assert "mistyped" not in told(watched)
    before = counts(watched, "pretrain")
    watched.entry("pretrain", "mae-s7")
    assert "  pretrain mae-s7: on " in told(watched)
    assert counts(watched, "pretrain") == before


def test_the_command_names_what_is_missing(watched):
    job = watched.job
    watched.done("downstream", job.runs[0].id)
    watched.failed("downstream", job.id, ended=time.time() + 5)
    watched.failed("pretrain", CHECKPOINT)
    lines = told(watched, "demo").splitlines()
    at = lines.index("the failed ones alone again:")
    assert lines[at + 1 :] == [
        "  snakemake --config scale=demo --cores all \\",
        f"    {watched.paths.record('pretrain', CHECKPOINT)} \\",
        f"    {watched.paths.record('downstream', job.runs[1].id)}",
    ]


def curves(watched: Watched, step: int, age: float = 0.0) -> None:
    folder = watched.paths.curves(CHECKPOINT)
    watched.write(folder / "metrics.json", json.dumps({"total": 1.0, "step": step}), age)


def test_progress_of_a_pretraining(watched, monkeypatch):
    entry = watched.entry("pretrain", CHECKPOINT)
    unit = watched.unit("pretrain", CHECKPOINT)
    found = tally.Found(unit, "running", entry, alive=True)
    assert pace.progress(watched.params, found) is None
    curves(watched, 50, age=time.time() - entry.started + 60)  # of an earlier training
    assert pace.progress(watched.params, found) is None
    curves(watched, 50)
    how = pace.progress(watched.params, found)
    assert how is not None and how.text == "step 50" and how.left is None
    block = watched.params.pretraining("mae")[1]
    images = 10 * block.batch + 1  # the rest of a batch is left out
    corpus = watched.params.training("mae").pretrain.corpus
    watched.done("manifest", corpus, metrics={"splits": {"train": {"images": images}}})
    steps = 10 * block.epochs
    curves(watched, steps // 2)
    how = pace.progress(watched.params, found)
    assert how is not None and how.text == f"step {steps // 2} of about {steps}"
    metrics = watched.paths.curves(CHECKPOINT) / "metrics.json"
    spent = metrics.stat().st_mtime - entry.started
    assert how.left == pytest.approx(spent)  # the second half takes what the first took
    watched.log("pretrain", CHECKPOINT, "x INFO going on from the state of step 3")
    how = pace.progress(watched.params, found)
    assert how is not None
    assert how.left == pytest.approx(spent / (steps // 2 - 3) * (steps - steps // 2))


def test_progress_of_shards_whatever_is_being_written(watched):
    watched.entry("shards", "siim")
    watched.done("manifest", "siim", metrics={"flow": {"kept": 1500}})
    lines = [json.dumps({"first": n * 64, "outcomes": [["", 0]] * 64}) for n in range(3)]
    watched.write(
        watched.paths.building("siim") / "journal.jsonl",
        "\n".join([*lines, '{"first": 192, "outc']),
    )
    assert "images 192 of about 1,500" in told(watched)


def test_time_left_is_of_what_was_measured(watched):
    names = [unit.name for unit in watched.units("manifest")]
    watched.all_done()
    for name in names[:2]:
        watched.done("manifest", name, seconds=100.0)
    for name in names[2:4]:
        watched.paths.record("manifest", name).unlink()
        watched.paths.circumstances("manifest", name).unlink()
    for name in names[4:]:
        watched.done("manifest", name, seconds=100.0)
    left = pace.left(watched.params, tally.look(watched.params))
    assert left is not None
    assert (left.seconds, left.jobs, left.unmeasured) == (200.0, 1, {})
    assert "about 3.3 min if 1 job runs at a time" in told(watched)
    for name in names[2:4]:
        watched.entry("manifest", name, age=0.0)
    left = pace.left(watched.params, tally.look(watched.params))
    assert left is not None and left.jobs == 2
    assert 180 < left.seconds <= 200 and left.wall == left.seconds / 2


def test_runs_are_held_to_runs_that_are_alike(watched):
    rates = {"probe": 5.0, "segment": 50.0}
    missing = []
    for run in grid.runs(watched.params):
        if run.checkpoint == CHECKPOINT and run.task in rates:
            missing.append(run)
        elif run.baseline is None and run.task in rates:
            watched.done("downstream", run.id, seconds=rates[run.task])
    measured = pace.Rates(watched.params)
    assert {run.task for run in missing} == set(rates)
    for run in missing:
        assert measured.seconds("downstream", run.id) == rates[run.task]
    baseline = next(r for r in grid.runs(watched.params) if r.baseline and r.task in rates)
    assert measured.seconds("downstream", baseline.id) is None  # a trivial predictor is none alike
    assert measured.seconds("pretrain", CHECKPOINT) is None


def test_what_was_never_measured_is_named_and_not_counted(watched):
    watched.all_done()
    for run in grid.runs(watched.params):
        if run.task == "finetune":
            watched.paths.record("downstream", run.id).unlink()
            watched.paths.circumstances("downstream", run.id).unlink()
    watched.paths.record("shards", "siim").unlink()
    lost = sum(run.task == "finetune" for run in grid.runs(watched.params))
    text = told(watched)
    assert "time left: over 10 s" in text  # one of shards
    assert f"not counted, as none like them was measured: {lost} of downstream" in text


def test_damaged_circumstances_are_no_measurement(watched):
    watched.write(watched.paths.circumstances("shards", "siim"), "{")
    watched.write(watched.paths.circumstances("shards", "mimic"), '{"cost": {"seconds": null}}')
    assert pace.Rates(watched.params).measured == 0


def test_a_lock_is_told(watched):
    watched.write(Path(".snakemake/locks/0.input.lock"), "")
    assert "cxrmim recover" in told(watched)


def test_it_needs_no_heavy_import(watched):
    code = (
        "import sys; from cxrmim import cli; cli.main(['status']);"
        "print([m for m in ('torch', 'timm', 'transformers', 'matplotlib', 'sklearn', 'pandas')"
        " if m in sys.modules])"
    )
    watched.all_done()
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.splitlines()[-1] == "[]"


def test_watching_shows_it_again_until_it_is_ended(watched):
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrmim", "status", "--watch", "0.2"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPO / "src")},
    )
    assert process.stdout is not None
    heads = 0
    for line in process.stdout:
        heads += line.startswith("scale demo")
        if heads == 3:
            break
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(WAIT) in (0, 130)  # between two, or while it looks


def test_the_projects_own_grid_is_counted_whole(repo, tmp_path, monkeypatch, capsys):
    """Every scale of params.yaml, as a fresh clone has it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo / "params.yaml", "params.yaml")
    for scale in yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))["scales"]:
        assert cli.main(["status", "--scale", scale]) == 0
        assert f"scale {scale}, " in capsys.readouterr().out
