"""A training that is killed and started again ends with the same bytes."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cxrmim import grid, job, record
from cxrmim.errors import ParamsError
from cxrmim.paths import Paths
from cxrmim.pretrain import __main__ as stop
from cxrmim.pretrain import loop, state, watch

EVERY = {"pretrain.save": {"minutes": 0, "keep": 2}, "pretrain.text.dropout": 0.1}
PATHS = Paths("demo")


class KilledError(Exception):
    """Stands for a power cut."""


def results(unit):
    return PATHS.checkpoint(unit).read_bytes(), PATHS.record("pretrain", unit).read_bytes()


def kill_at(monkeypatch, step):
    """Let the next run end abruptly in the middle of a step."""
    plain = loop.Training.step

    def step_or_die(self, number):
        if number == step:
            raise KilledError
        plain(self, number)

    monkeypatch.setattr(loop.Training, "step", step_or_die)
    return lambda: monkeypatch.setattr(loop.Training, "step", plain)


def noting(seen):
    plain = loop.Training.step

    def step(self, number):
        seen.append(number)
        plain(self, number)

    return step


@pytest.mark.parametrize(
    ("entry", "steps"),
    [
        ("mae", (1, 4, 7)),
        ("mgca", (1, 4, 7)),
        ("medim", (3,)),
        ("gloria", (5,)),
        ("mrm", (5,)),
        ("cmitm", (5,)),
        ("imagenet", (5,)),
    ],
)
def test_killed_and_resumed_gives_the_same_bytes(small, corpus, monkeypatch, entry, steps):
    params = small(EVERY | {f"pretrain.methods.{entry}.init": "none"})
    if entry != "imagenet":
        corpus(params)
    unit = f"{entry}-s0"
    loop.run(params, unit)
    whole = results(unit)
    assert not PATHS.training(unit).exists()
    for step in steps:
        mend = kill_at(monkeypatch, step)
        with pytest.raises(KilledError):
            loop.run(params, unit)
        assert len(list(PATHS.training(unit).iterdir())) == min(step, 2)
        mend()
        began: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(loop.Training, "step", noting(began))
            loop.run(params, unit)
        assert began[0] == step
        assert results(unit) == whole
        assert not PATHS.training(unit).exists()


def test_resuming_keeps_plateau_early_stop_best_weights_and_accumulation(
    small, corpus, monkeypatch
):
    rule = {"name": "plateau", "factor": 0.5, "patience": 1}
    changes = {
        "pretrain.methods.mgca.schedule": rule | {"warmup": 0.0, "start": 0.0, "end": 0.0},
        "pretrain.methods.mgca.stop": {"patience": 3, "select": "best"},
        "pretrain.methods.mgca.epochs": 12,
        "pretrain.methods.mgca.optim": {"lr": 0.02, "clip": 0.5},
        "pretrain.loader": {"valid": 0.3, "drop_val": False},
        "pretrain.accumulate": 2,
    }
    params = small(EVERY | changes)
    corpus(params)
    loop.run(params, "mgca-s0")
    whole = results("mgca-s0")
    metrics = record.read(PATHS.record("pretrain", "mgca-s0"))["metrics"]
    assert metrics["stopped"] == "validation" and metrics["epochs"] > metrics["selected"]
    for step in (4, metrics["steps"] - 1):
        mend = kill_at(monkeypatch, step)
        with pytest.raises(KilledError):
            loop.run(params, "mgca-s0")
        mend()
        loop.run(params, "mgca-s0")
        assert results("mgca-s0") == whole


def killed_run(small, corpus, monkeypatch, step=4, changes=None):
    params = small(EVERY | (changes or {}))
    corpus(params)
    mend = kill_at(monkeypatch, step)
    with pytest.raises(KilledError):
        loop.run(params, "mae-s0")
    mend()
    return params


def test_a_damaged_state_falls_back_to_the_one_before(small, corpus, monkeypatch, caplog):
    params = killed_run(small, corpus, monkeypatch)
    new, old = sorted(PATHS.training("mae-s0").iterdir(), reverse=True)
    for damage in (b"x" * 100, new.read_bytes()[:-50], b""):
        new.write_bytes(damage)
        kept = state.keeper(params, "mae-s0")
        caplog.clear()
        with caplog.at_level(logging.INFO, "cxrmim"):
            assert kept.load()["step"] == 3
        assert f"{new}: damaged" in caplog.text
    flipped = bytearray(old.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    old.write_bytes(flipped)
    assert state.keeper(params, "mae-s0").load() is None


def test_states_hold_data_only(small, corpus, monkeypatch):
    killed_run(small, corpus, monkeypatch)
    for path in PATHS.training("mae-s0").iterdir():
        tree = torch.load(path, weights_only=True)
        assert set(tree) == {
            *("identity", "step", "cost", "method", "optimiser", "schedule", "scaler", "watch"),
            "validation",
        }


def test_a_state_of_other_parameters_is_left_alone(small, corpus, monkeypatch, caplog):
    killed_run(small, corpus, monkeypatch)
    other = small(EVERY | {"pretrain.methods.mae.options.ratio": 0.5})
    with caplog.at_level(logging.INFO, "cxrmim"):
        loop.run(other, "mae-s0")
    assert "of other parameters, code or data; the training starts anew" in caplog.text
    first = results("mae-s0")
    loop.run(other, "mae-s0")
    assert results("mae-s0") == first


def test_states_of_other_parameters_do_not_push_out_ones_own(small, corpus, monkeypatch):
    """Left states of later steps must not count among the newest two of this training."""
    killed_run(small, corpus, monkeypatch, step=7)
    left = set(PATHS.training("mae-s0").iterdir())
    other = small(EVERY | {"pretrain.methods.mae.options.ratio": 0.5})
    mend = kill_at(monkeypatch, 3)
    with pytest.raises(KilledError):
        loop.run(other, "mae-s0")
    mend()
    assert left < set(PATHS.training("mae-s0").iterdir())
    found = state.keeper(other, "mae-s0").load()
    assert found is not None and found["step"] == 3
    began: list[int] = []
    monkeypatch.setattr(loop.Training, "step", noting(began))
    loop.run(other, "mae-s0")
    assert began[0] == 3


def test_a_state_that_was_being_written_is_cleared_away(small, corpus, monkeypatch):
    params = killed_run(small, corpus, monkeypatch)
    torn = PATHS.training("mae-s0") / ".123.pt"
    torn.write_bytes(b"half")
    found = state.keeper(params, "mae-s0").load()
    assert found is not None and found["step"] == 4 and not torn.exists()


def test_published_weights_are_part_of_a_states_identity(small, corpus, tmp_path):
    params = small(EVERY)
    corpus(params)
    file = tmp_path / "model.safetensors"
    made = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        made.append(state.keeper(params, "mae-s0", {"deit": file}).identity)
    assert len({*made, state.keeper(params, "mae-s0").identity}) == 3


def test_states_of_other_code_or_data_have_another_identity(small, corpus, monkeypatch):
    params = small(EVERY)
    corpus(params)
    before = state.keeper(params, "mae-s0").identity
    assert state.keeper(params, "mae-s0").identity == before
    monkeypatch.setattr(record, "code_hash", lambda *unit: "other")
    other = state.keeper(params, "mae-s0").identity
    path = PATHS.record("shards", "mimic")
    path.write_bytes(path.read_bytes() + b" ")
    assert len({before, other, state.keeper(params, "mae-s0").identity}) == 3


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_save_at_the_next_step(small, corpus, monkeypatch, capsys, number):
    corpus(small())
    plain = loop.Training.step
    handlers = [signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM)]

    def warned(self, step):
        plain(self, step)
        if step == 2:
            os.kill(os.getpid(), number)
        if step == 5:
            assert number == signal.SIGUSR1
            assert [p.name[:10] for p in PATHS.training("mae-s0").iterdir()] == ["0000000003"]

    monkeypatch.setattr(loop.Training, "step", warned)
    status = stop.main(["--checkpoint", "mae-s0"])
    assert [signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM)] == handlers
    if number == signal.SIGUSR1:
        assert status == 0
        return
    assert status == 143
    assert capsys.readouterr().err == (
        "cxrmim pretrain: stopped by SIGTERM at step 3; saved; run the same command to go on\n"
    )
    assert not PATHS.checkpoint("mae-s0").exists()


@pytest.mark.parametrize("place", ["initialise", "save_method"])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_before_the_first_and_after_the_last_step_do_not_kill(
    small, corpus, monkeypatch, number, place
):
    """While weights are read it is noted; while they are written there is nothing left to stop."""
    corpus(small())
    plain = getattr(loop.weights, place)

    def warned(*args):
        os.kill(os.getpid(), number)
        return plain(*args)

    monkeypatch.setattr(loop.weights, place, warned)
    for each in (signal.SIGUSR1, signal.SIGTERM):  # fails this test instead of ending pytest
        signal.signal(each, lambda *_: pytest.fail("the signal was not noted"))
    try:
        status = stop.main(["--checkpoint", "mae-s0"])
    finally:
        for each in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
    stopped = number == signal.SIGTERM and place == "initialise"
    assert status == (143 if stopped else 0)
    assert PATHS.record("pretrain", "mae-s0").exists() is not stopped


def start(unit, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "cxrmim.pretrain", "--checkpoint", unit, *options],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_is_killed_twice_ends_with_the_same_bytes(small, corpus):
    """SIGTERM, then SIGKILL, then to the end."""
    corpus(small(EVERY | {"pretrain.methods.mae.epochs": 50}))
    assert start("mae-s0").wait() == 0
    whole = results("mae-s0")
    PATHS.checkpoint("mae-s0").unlink()
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        before = set(PATHS.training("mae-s0").glob("*.pt"))
        process = start("mae-s0")
        end = time.monotonic() + 60
        while not set(PATHS.training("mae-s0").glob("*.pt")) - before:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        err = process.communicate()[1]
        assert process.returncode == status
        assert not PATHS.checkpoint("mae-s0").exists()
        assert number != signal.SIGTERM or err.startswith("cxrmim pretrain: stopped by SIGTERM")
    process = start("mae-s0")
    assert process.wait() == 0
    assert "going on from the state of step" in PATHS.log("pretrain", "mae-s0").read_text()
    assert results("mae-s0") == whole


def test_only_the_newest_states_are_kept(tmp_path):
    kept = state.Keeper(tmp_path / "states", "me", 0, 2)
    assert kept.due and kept.load() is None and "no state" in kept.kept
    for step in (1, 2, 30):
        kept.save(step, {"x": torch.full((2,), step)})
    assert [int(p.name[:10]) for p in kept.files] == [30, 2]
    assert kept.load()["x"].tolist() == [30, 30]
    assert f"step 30 is kept in {tmp_path / 'states'}" in kept.kept
    assert not state.Keeper(tmp_path / "states", "me", 1000, 2).due
    assert state.Keeper(tmp_path / "states", "you", 0, 2).load() is None
    kept.clear()
    assert not kept.folder.exists()


def broken(monkeypatch, calls_until, factor):
    from cxrmim.pretrain.methods.mae import MAE

    plain, calls = MAE.losses, []

    def losses(self, batch):
        calls.append(1)
        terms = plain(self, batch)
        return {k: v * (factor if len(calls) > calls_until else 1.0) for k, v in terms.items()}

    monkeypatch.setattr(MAE, "losses", losses)


@pytest.mark.parametrize(
    ("factor", "words"), [(math.nan, "the loss is not finite"), (1e4, r"the loss is .*, of late")]
)
def test_divergence_names_the_rows_and_keeps_the_state(small, corpus, monkeypatch, factor, words):
    params = small(
        EVERY | {"pretrain.methods.mae.epochs": 20, "pretrain.save": {"minutes": 0, "keep": 2}}
    )
    shards = corpus(params)
    broken(monkeypatch, 40, factor)
    said = rf"step 40: {words}.*source rows \[.*\] of mimic; the state of step 40 is kept"
    with pytest.raises(watch.DivergedError, match=said) as error:
        loop.run(params, "mae-s0")
    assert "\n" not in str(error.value)
    training = loop.Training(
        params,
        grid.Pretraining("mae", 0),
        loop.prepare(params, grid.Pretraining("mae", 0), shards),
        shards,
    )
    rows = shards.table.column("source_row")[training.corpus.train.rows[training.order[40]]]
    assert str(rows.tolist()) in str(error.value)
    tree = state.keeper(params, "mae-s0").load()
    assert tree["step"] == 40 and torch.isfinite(tree["watch"]["values"]).all()
    assert not PATHS.checkpoint("mae-s0").exists()


@pytest.mark.parametrize("step", [9, 19])
def test_weights_that_a_gradient_has_spoilt_are_never_written(small, corpus, monkeypatch, step):
    """The loss of the step is finite: only the next one's tells, and the last one has no next."""
    from cxrmim.pretrain.methods.mae import MAE

    params = small(EVERY | {"pretrain.methods.mae.epochs": 5})
    corpus(params)
    calls = []

    def spoil(self, epoch):
        calls.append(epoch)
        if len(calls) == step + 1:
            for weight in self.parameters():
                if weight.grad is not None:
                    weight.grad.fill_(math.nan)

    monkeypatch.setattr(MAE, "after_backward", spoil)
    said = rf"step {step}: its gradient was not finite;.* rows \[.*; the state of step {step} is"
    with pytest.raises(watch.DivergedError, match=said):
        loop.run(params, "mae-s0")
    tree = state.keeper(params, "mae-s0").load()
    assert tree["step"] == step
    assert all(torch.isfinite(v).all() for v in tree["method"].values())
    assert not PATHS.checkpoint("mae-s0").exists()


def test_dvclive_keeps_one_curve_of_a_run_that_was_killed(small, corpus, monkeypatch):
    params = killed_run(small, corpus, monkeypatch, step=6)
    loop.run(params, "mae-s0")
    folder = PATHS.curves("mae-s0")
    head, *rows = (folder / "plots/metrics/total.tsv").read_text().split("\n")[:-1]
    assert head == "step\ttotal"
    steps = [int(row.split("\t")[0]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 8
    names = {p.stem for p in (folder / "plots/metrics").iterdir()}
    assert names == {"pixels", "total", "lr", "images_per_second"}
    loop.run(params, "mae-s0")  # a new run starts a new curve
    again = (folder / "plots/metrics/total.tsv").read_text().split("\n")[1:-1]
    assert int(again[0].split("\t")[0]) == 1 and len(again) == 8
    assert {p.name for p in folder.iterdir()} == {"metrics.json", "plots"}


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b"st", b"step\ttotal\n1\t0.5\n2"])
def test_a_curve_that_a_power_cut_has_torn_does_not_stop_the_run(small, corpus, monkeypatch, left):
    params = killed_run(small, corpus, monkeypatch, step=6)
    folder = PATHS.curves("mae-s0")
    (folder / "plots/metrics/total.tsv").write_bytes(left)
    (folder / "metrics.json").write_bytes(left)
    loop.run(params, "mae-s0")
    head, *rows = (folder / "plots/metrics/total.tsv").read_text().split("\n")[:-1]
    assert head == "step\ttotal" and rows[-1].startswith("8\t")


def test_half_precision_on_a_cpu(small, corpus, caplog):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    corpus(small())
    with pytest.raises(ParamsError, match=r"fp16.*needs a GPU"):
        loop.run(small({"pretrain.precision": "fp16"}), "mae-s0")
    with caplog.at_level(logging.WARNING, "cxrmim"):
        loop.run(small({"pretrain.precision": "bf16"}), "mae-s0")
    assert "this CPU computes in fp32" in caplog.text


def test_a_stopped_job_has_the_status_of_its_signal():
    assert job.StoppedError.exit_code == 143
