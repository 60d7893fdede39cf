"""Fine-tuning as a task on invented shards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.downstream.conftest import SECRET, Workspace
from timm.models.vision_transformer import VisionTransformer

from cxrmim import grid, record
from cxrmim.downstream import features, finetuning, metrics, runs, seeds
from cxrmim.downstream.contract import Bench, Result, truths
from cxrmim.downstream.tasks import finetune
from cxrmim.errors import ParamsError

NAME = "mae-s0/chexpert-finetune-100-s0"
RUN = grid.Run.parse(NAME)
Do = Callable[..., Result]


@pytest.fixture(scope="module")
def benches() -> dict[Any, Bench]:
    """One bench for this file, so that weights and shards are read once."""
    return {}


@pytest.fixture
def do(workspace: Workspace, benches: dict[Any, Bench]) -> Do:
    def run(run: grid.Run = RUN, **over: Any) -> Result:
        bench = benches.setdefault(None, Bench(workspace.params))
        bench.params = workspace.changed(finetune=over).params
        return finetune.run(run, bench)

    return run


def same(one: Result, other: Result) -> bool:
    return one.predictions.equals(other.predictions) and one.details == other.details


def test_predictions_and_details(workspace: Workspace, do: Do) -> None:
    result = do()
    bench = Bench(workspace.params)
    test = bench.rows("chexpert", "test")
    pd.testing.assert_frame_equal(
        result.predictions[["image", "patient", "source_row"]], bench.identity("chexpert", test)
    )
    assert list(result.predictions.filter(like="label_")) == [
        f"label_{name}" for name in bench.classes("chexpert")
    ]
    np.testing.assert_array_equal(
        result.predictions.filter(like="label_").to_numpy(), bench.labels("chexpert")[test]
    )
    details = result.details
    assert details["steps"] == 12
    assert details["validations"] == 4
    assert details["stopped"] == "steps"
    assert details["best_step"] in (3, 6, 9, 12)
    assert (details["train_n"], details["valid_n"], details["lr"]) == (80, 40, 1e-2)
    assert 0 < details["valid_value"] <= 1
    assert "lr_values" not in details
    assert SECRET not in str(details)


def test_the_kept_weights_make_the_predictions(
    workspace: Workspace, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of the last step, nor of the last learning rate."""
    kept = []
    real = finetuning.fit

    def watched(*args: Any, **over: Any) -> finetuning.Course | None:
        course = real(*args, **over)
        assert course is not None
        kept.append(course)
        return course

    monkeypatch.setattr(finetuning, "fit", watched)
    schedule = {"chexpert": {"100": [1, 12, [1e-2, 3e-2, 1e-4]]}}
    result = do(schedule=schedule, frame="padded", validate_every=2)
    best = max(range(3), key=lambda i: kept[i].value)
    values = result.details["lr_values"]
    assert list(values) == ["0.01", "0.03", "0.0001"]
    assert list(values.values()) == [round(course.value, 6) for course in kept]
    assert len(set(values.values())) > 1
    assert result.details["lr"] == [1e-2, 3e-2, 1e-4][best]
    assert result.details["valid_value"] == max(values.values())
    bench = Bench(workspace.params)
    model = VisionTransformer(
        48, 16, num_classes=5, embed_dim=32, depth=2, num_heads=2, global_pool="avg"
    )
    model.load_state_dict(kept[best].weights)
    images = bench.shards("chexpert").images[bench.rows("chexpert", "test")]
    seen = torch.nn.functional.interpolate(
        torch.tensor(images)[:, None] / 255, 48, mode="bilinear", antialias=True
    )
    with torch.no_grad():
        score = model.eval()(((seen - 0.4978) / 0.2449).expand(-1, 3, -1, -1))
    np.testing.assert_allclose(
        result.predictions.filter(like="score_").to_numpy(), score, rtol=1e-3, atol=1e-4
    )


def test_a_grid_of_rates_gives_what_its_best_rate_gives_alone(do: Do) -> None:
    rates = [1e-5, 1e-2, 1e30]  # the last diverges
    several = do(schedule={"chexpert": {"100": [1, 6, rates]}}, clip=0.0)
    values = several.details.pop("lr_values")
    assert values["1e+30"] is None
    alone = [do(schedule={"chexpert": {"100": [1, 6, lr]}}, clip=0.0) for lr in rates[:2]]
    assert values["1e-05"] != values["0.01"]
    assert [values["1e-05"], values["0.01"]] == [r.details["valid_value"] for r in alone]
    best = alone[0] if values["1e-05"] >= values["0.01"] else alone[1]
    assert same(several, best)
    assert not alone[0].predictions.equals(alone[1].predictions)


def test_a_run_leaves_the_checkpoint_and_torch_alone(workspace: Workspace) -> None:
    bench = Bench(workspace.params)
    method = bench.method("mae-s0")
    before = {n: w.clone() for n, w in method.state_dict().items()}
    flags = [w.requires_grad for w in method.parameters()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = finetune.run(RUN, bench)
    assert bench.method("mae-s0") is method
    assert not method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], w) for n, w in method.state_dict().items())
    assert [w.requires_grad for w in method.parameters()] == flags
    assert all(w.grad is None for w in method.parameters())
    assert same(one, finetune.run(RUN, bench))


def test_a_run_gives_the_same_bytes_whatever_ran_before(workspace: Workspace) -> None:
    def bytes_of(*names: str) -> tuple[bytes, bytes]:
        paths = workspace.paths
        for name in names:
            paths.record("downstream", name).unlink(missing_ok=True)
        job = grid.Job("test", tuple(grid.Run.parse(name) for name in names))
        runs.do(job, workspace.params)
        return paths.prediction(NAME).read_bytes(), paths.record("downstream", NAME).read_bytes()

    alone = bytes_of(NAME)
    torch.manual_seed(99)
    assert bytes_of(NAME) == alone
    others = ("mae-s0/chexpert-finetune-10-s1", "mae-s0/chexpert-probe-10-s0")
    assert bytes_of(*others, NAME) == alone
    found = record.read(workspace.paths.record("downstream", NAME))
    assert found["metrics"]["metric"] == "mAUC"
    assert found["metrics"]["n"] == 40
    assert len(found["metrics"]["replicates"]) == 50


@pytest.mark.parametrize(
    "over",
    [
        {"pool": "cls"},
        {"drop_path": 0.6},
        {"head_std": 0.1},
        {"area": [0.5, 0.5]},
        {"flip": 0.0},
        {"mean": 0.3},
        {"std": 0.4},
        {"precision": "bf16", "batch": 7},
        {"validate_every": "epoch", "patience": 1},
    ],
)
def test_each_option_acts(do: Do, over: dict[str, Any]) -> None:
    assert not same(do(), do(**over))


def test_seeds_percents_and_weights_change_predictions(do: Do) -> None:
    names = [NAME, NAME[:-1] + "1", NAME.replace("100", "10"), NAME.replace("mae", "random")]
    found = [do(grid.Run.parse(name)).predictions for name in names]
    for i, one in enumerate(found):
        assert not any(one.equals(other) for other in found[:i])


def test_an_entry_uses_the_schedule_of_its_reader(workspace: Workspace) -> None:
    """`chexpert-cmitm` reads chexpert otherwise; its steps are chexpert's."""
    options = finetune.Options.model_validate(workspace.params.downstream.finetune)
    run = grid.Run("mae-s0", "chexpert-cmitm", "finetune", 10, 0)
    reader = workspace.params.reading(run.dataset)[0]
    found = finetune.planned(options, reader, run)
    assert found == ("downstream.finetune.schedule.chexpert.10", 1, 7, [1e-2])


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"rsna": {"100": [1, 2, 0.1]}}, r"schedule\.chexpert\.100: missing"),
        ({"chexpert": {"10": [1, 2, 0.1]}}, r"schedule\.chexpert\.100: missing"),
        ({"chexpert": {"100": [2, 2, 0.1]}}, r"schedule\.chexpert\.100: 2 of 2 steps warm up"),
        (
            {"chexpert": {"100": [0, 3, 1e30]}},
            r"schedule\.chexpert\.100: learning rate 1e\+30: the loss .* is not finite",
        ),
        ({"chexpert": {"100": [0, 3, [1e29, 1e30]]}}, r"learning rate 1e\+29 and 1e\+30"),
    ],
)
def test_what_is_wrong_is_said(do: Do, schedule: dict, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        do(schedule=schedule, clip=0.0)


def test_memory_is_bounded_by_the_batch(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a batch of the memory map is ever read at once."""
    seen = []
    real = features.block

    def block(images: Any, rows: Any, device: torch.device) -> torch.Tensor:
        found = real(images, rows, device)
        seen.append(len(found))
        return found

    monkeypatch.setattr(finetuning, "block", block)
    do(batch=8, eval_batch=12)
    assert max(seen) == 12
    assert seen.count(8) == 12


def test_the_global_seed_is_put_back() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeds.global_seed(RUN, "x"):
        one = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeds.global_seed(RUN, "x"):
        assert torch.equal(torch.rand(3), one)


def test_it_learns(do: Do) -> None:
    """Bright squares tell the classes of the invented images."""
    over = {
        "optimiser": "adamw",
        "flip": 0.0,
        "area": [0.8, 1.0],
        "drop_path": 0.0,
        "validate_every": 40,
        "schedule": {"chexpert": {"100": [10, 160, 3e-3]}},
    }
    result = do(**over)
    _, truth, score = truths(result.predictions)
    assert metrics.separation(truth, score, False) > 0.85
