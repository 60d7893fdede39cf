"""Fine-tuning: optimiser, schedule, training."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.downstream.tuned import (
    COUNT,
    PLAIN,
    TRAIN,
    VALID,
    changed,
    fit,
    labels,
    network,
    pictures,
    random,
    rate,
)
from timm.models.vision_transformer import VisionTransformer

from cxrmim.downstream import finetuning, metrics
from cxrmim.downstream.finetuning import Plan
from cxrmim.errors import DataError


@pytest.mark.parametrize(("warmup", "steps"), [(50, 3000), (0, 7), (3, 4), (1, 40)])
def test_the_rate_warms_up_and_falls_to_zero(warmup: int, steps: int) -> None:
    optimiser = finetuning.optimise(network(), 3e-2, PLAIN)
    rates = finetuning.schedule(optimiser, Plan(warmup, steps, 3e-2))
    found = []
    for step in range(1, steps + 1):
        rates.at(step)
        found.append(optimiser.param_groups[0]["lr"])
    expected = [rate(t, warmup, steps, 3e-2) for t in range(1, steps + 1)]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)
    assert found[-1] == 0
    assert max(found) <= 3e-2


def test_layer_decay_slows_deeper_layers() -> None:
    model = network()
    optimiser = finetuning.optimise(model, 1.0, changed(layer_decay=0.5, optimiser="adamw"))
    finetuning.schedule(optimiser, Plan(1, 9, 1.0)).at(1)
    rates = {id(w): g["lr"] for g in optimiser.param_groups for w in g["params"]}
    of = {name: rates[id(weight)] for name, weight in model.named_parameters()}
    assert len(of) == len(rates) == len(list(model.parameters()))
    for name, found in of.items():
        if name.startswith(("head", "fc_norm")):
            assert found == 1.0, name
        elif name.startswith("blocks"):
            assert found == 0.5 ** (2 - int(name.split(".")[1])), name
        else:
            assert found == 0.5**3, name


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_matrices_alone_are_decayed(kind: str, layer_decay: float) -> None:
    model = network()
    training = changed(optimiser=kind, weight_decay=0.1, layer_decay=layer_decay)
    optimiser = finetuning.optimise(model, 1.0, training)
    decay = {id(w): g["weight_decay"] for g in optimiser.param_groups for w in g["params"]}
    for name, weight in model.named_parameters():
        free = weight.ndim == 1 or name in ("pos_embed", "cls_token")
        assert decay[id(weight)] == (0.0 if free else 0.1), name


def test_batches_are_permutations_and_keep_the_last() -> None:
    rows = np.array([3, 5, 8, 13, 21, 34, 55])
    found = finetuning.batches(rows, 3, torch.Generator().manual_seed(0))
    epochs = []
    for _ in range(2):
        parts = [next(found) for _ in range(3)]
        assert [len(part) for part, _ in parts] == [3, 3, 1]
        assert [ends for _, ends in parts] == [False, False, True]
        epochs.append(np.concatenate([part for part, _ in parts]).tolist())
        assert sorted(epochs[-1]) == rows.tolist()
    assert epochs[0] != epochs[1]
    part, ends = next(finetuning.batches(rows, 96, torch.Generator()))
    assert len(part) == 7
    assert ends


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_it_is_sgd_with_momentum_on_the_rates_of_the_schedule(clip: float) -> None:
    """A plain loop in float64 that clips, steps and schedules by hand."""
    course = fit(changed(clip=clip, validate_every=5), steps=5, lr=0.5)
    assert course is not None
    model = network().double().train()
    weights = list(model.parameters())
    speed = [torch.zeros_like(w) for w in weights]
    order, noise = random()
    rows = finetuning.batches(TRAIN, 8, order)
    norms = []
    for step in range(1, 6):
        part, _ = next(rows)
        image = pictures().train(part, noise).double()
        real, out = torch.from_numpy(labels()[part]).double(), model(image)
        known = ~real.isnan()
        real, share = real[known], out[known].sigmoid()
        cost = -(real * share.log() + (1 - real) * (1 - share).log()).mean()
        gradient = torch.autograd.grad(cost, weights)
        norm = torch.stack([g.square().sum() for g in gradient]).sum().sqrt()
        norms.append(norm.item())
        scale = min(1.0, clip / norm.item()) if clip else 1.0
        with torch.no_grad():
            for w, g, v in zip(weights, gradient, speed, strict=True):
                v.mul_(0.9).add_(g * scale)
                w.sub_(rate(step, 2, 5, 0.5) * v)
    assert clip == 0 or min(norms) > clip
    for name, value in model.state_dict().items():
        torch.testing.assert_close(course.weights[name].double(), value, rtol=1e-3, atol=2e-5)


def test_steps_are_counted_and_epochs_validated() -> None:
    course = fit(steps=7)  # an epoch is 3 steps
    assert course is not None
    assert (course.steps, len(course.values), course.stopped) == (7, 3, "steps")
    assert course.best_step == [3, 6, 7][int(np.argmax(course.values))]
    assert course.value == max(course.values)
    every = fit(changed(validate_every=2), steps=7)
    assert every is not None
    assert len(every.values) == 4
    assert every.values[2] == course.values[1]  # step 6 of both
    rare = fit(changed(validate_every=100), steps=7)
    assert rare is not None
    assert rare.values == course.values[-1:]
    assert rare.best_step == 7


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[float], list[dict]]]:
    """Validation values to come, and the weights at each validation."""
    values: list[float] = []
    states: list[dict] = []

    def evaluate(model: VisionTransformer, *_: Any) -> np.ndarray:
        states.append({n: w.clone() for n, w in model.state_dict().items()})
        return np.zeros((len(VALID), 3), np.float32)

    monkeypatch.setattr(finetuning, "evaluate", evaluate)
    monkeypatch.setattr(metrics, "separation", lambda *_: values[max(len(states) - 1, 0)])
    yield values, states


def test_the_best_step_is_kept_and_patience_ends_it(
    scripted: tuple[list[float], list[dict]],
) -> None:
    values, states = scripted
    values += [0.5, 0.7, 0.7, 0.6, 0.9, 0.1]
    course = fit(changed(validate_every=2, patience=2), steps=20)
    assert course is not None
    assert (course.best_step, course.steps, course.stopped) == (4, 8, "patience")
    assert course.values == [0.5, 0.7, 0.7, 0.6]
    assert all(torch.equal(course.weights[n], w) for n, w in states[1].items())
    assert not all(torch.equal(course.weights[n], w) for n, w in states[2].items())
    states.clear()
    course = fit(changed(validate_every=2, patience=3), steps=12)
    assert course is not None
    assert (course.best_step, course.steps, course.stopped) == (10, 12, "steps")
    assert all(torch.equal(course.weights[n], w) for n, w in states[4].items())


def test_the_training_loss_is_that_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[float] = []
    real = finetuning.loss

    def loss(*args: Any) -> torch.Tensor:
        found = real(*args)
        costs.append(found.item())
        return found

    monkeypatch.setattr(finetuning, "loss", loss)
    course = fit(steps=8)
    assert course is not None
    assert course.train_loss == pytest.approx(np.mean(costs[6:]))


def test_validation_reads_whole_images_in_eval_mode() -> None:
    """The last value is the AUC of the kept weights on the centre crops."""
    course = fit(changed(validate_every=100), model=network(drop_path=0.5))
    assert course is not None
    model = network()
    model.load_state_dict(course.weights)
    with torch.no_grad():
        score = model(pictures().evaluate(VALID)).numpy()
    assert course.value == metrics.separation(labels()[VALID], score, False)


def test_every_step_is_taken_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation puts the network in eval mode; stochastic depth must act after it, too."""
    modes: list[bool] = []
    real = finetuning.loss
    model = network(drop_path=0.5)

    def loss(*args: Any) -> torch.Tensor:
        modes.append(model.training)
        return real(*args)

    monkeypatch.setattr(finetuning, "loss", loss)
    assert fit(changed(validate_every=2), model=model) is not None
    assert modes == [True] * 7


def test_held_images_are_the_same_as_remade_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(finetuning.Held(pictures(), VALID, 4))
    monkeypatch.setattr(finetuning, "CACHE", 0)
    held = finetuning.Held(pictures(), VALID, 4)
    for _ in range(2):
        again = list(held)
        assert [len(part) for part in again] == [4, 4, 2]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_single_label_sets_are_validated_by_accuracy() -> None:
    truth = np.eye(3, dtype=np.float32)[np.arange(COUNT) % 3]
    course = fit(truth=truth, multiclass=True)
    assert course is not None
    assert all(value * len(VALID) == pytest.approx(round(value * 10)) for value in course.values)
    binary = fit(truth=truth)
    assert binary is not None
    assert any(not torch.equal(course.weights[n], w) for n, w in binary.weights.items())


def test_a_validation_split_without_a_rateable_class_is_refused() -> None:
    truth = labels()
    truth[VALID, 0], truth[VALID, 1], truth[VALID, 2] = 0.0, 1.0, np.nan
    with pytest.raises(
        DataError, match=r"invented: .* both a positive and a negative validation image"
    ):
        fit(truth=truth)
    truth[VALID[0], 0] = 1.0
    assert fit(truth=truth) is not None


@pytest.mark.parametrize("every", [1, 7])
def test_divergence_is_told(every: int) -> None:
    assert fit(changed(clip=0.0, validate_every=every), lr=1e30) is None


@pytest.mark.parametrize(
    "over",
    [
        {"optimiser": "adamw"},
        {"momentum": 0.0},
        {"weight_decay": 0.3},
        {"layer_decay": 0.5},
        {"clip": 0.1},
        {"batch": 5},
    ],
)
def test_each_switch_changes_training(over: dict[str, Any]) -> None:
    one, other = fit(steps=4), fit(changed(**over), steps=4)
    assert one is not None
    assert other is not None
    assert any(not torch.equal(one.weights[n], w) for n, w in other.weights.items())
