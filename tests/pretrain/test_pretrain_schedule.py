"""Learning rates, early stopping, and which weights are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cxrmim import grid, record
from cxrmim.errors import DataError, ParamsError
from cxrmim.paths import Paths
from cxrmim.pretrain import data, loop, schedule, weights
from cxrmim.pretrain.parts import world
from cxrmim.schema import Optim, Schedule

MAE = grid.Pretraining("mae", 0)
PLATEAU = {"name": "plateau", "factor": 0.5, "patience": 1, "warmup": 0.0, "start": 0.0, "end": 0.0}


def rates(peak, rule, steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    made = schedule.build_schedule(optimiser, rule, steps)
    found = []
    for step in range(steps):
        made.at(step)
        found.append(optimiser.param_groups[0]["lr"])
    return found


def test_schedule_equals_a_list_computed_by_hand():
    """10 steps, 40 % warm-up from 0.1 to 1, cosine to 0.2."""
    got = rates(1.0, Schedule(warmup=0.4, start=0.1, end=0.2), 10)
    warm = [0.1, 0.325, 0.55, 0.775]
    cosine = [1.0, 0.9464101615, 0.8, 0.6, 0.4, 0.2535898385]
    assert got == pytest.approx(warm + cosine, rel=1e-9)


def test_first_step_of_mgca_has_rate_1e_8_and_the_peak_comes_at_40_percent(paper):
    block = paper.pretraining("mgca")[1]
    got = rates(block.optim.lr, block.schedule, 1000)
    assert got[0] == 1e-8
    assert max(got) == got[400] == 2e-5
    assert 1e-8 < got[-1] < 2e-10 + 1e-8 + 2e-5 * (math.pi / 600) ** 2


def test_no_warmup_starts_at_the_peak_and_all_warmup_never_falls():
    assert rates(0.3, Schedule(warmup=0.0, start=0.0, end=0.0), 5)[0] == 0.3
    rising = rates(0.3, Schedule(warmup=1.0, start=0.0, end=0.0), 5)
    assert rising == pytest.approx([0.0, 0.06, 0.12, 0.18, 0.24])


@pytest.mark.parametrize("decay_1d", [True, False])
def test_one_dimensional_weights_are_decayed_only_if_asked(decay_1d):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    layer[1].bias.requires_grad_(False)
    rule = Optim(
        name="adam", lr=0.1, betas=(0.9, 0.99), weight_decay=0.5, decay_1d=decay_1d, clip=0.0
    )
    groups = schedule.build_optimiser(layer, rule).param_groups
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert len(decays) == 3
    assert decays[id(layer[0].weight)] == 0.5
    assert decays[id(layer[0].bias)] == (0.5 if decay_1d else 0.0)


def test_plateau_halves_the_rate_after_patience_epochs():
    """GLoRIA: factor 0.5, patience 5; six epochs without a lower loss halve the rate."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    made = schedule.build_schedule(optimiser, Schedule(**{**PLATEAU, "patience": 5}), 100)
    seen = []
    for loss in [2.0, 1.0, *[1.5] * 6, 0.5, *[0.6] * 6]:
        made.judge(loss)
        seen.append(optimiser.param_groups[0]["lr"])
    assert seen == [0.8] * 7 + [0.4] * 7 + [0.2]


def test_a_plateau_that_cannot_be_stops():
    for change, words in (({"warmup": 0.1}, "no warm-up"), ({"factor": 1.0}, "below 1")):
        with pytest.raises(ParamsError, match=words):
            schedule.check(Schedule(**PLATEAU | change), "gloria")


def validated(small, **changes):
    base = {
        "pretrain.methods.mae.epochs": 6,
        "pretrain.loader": {"valid": 0.3, "drop_val": False},
        "pretrain.methods.mgca.augment.resize": 44,
    }
    return small(base | changes)


def losses_of(monkeypatch, values):
    """Let the validation losses of a run be `values`."""
    given = iter(values)
    monkeypatch.setattr("cxrmim.pretrain.validation.Validation._mean", lambda self: next(given))


def test_early_stopping_and_the_best_weights(small, corpus, monkeypatch):
    """The lowest loss comes in epoch 2; two epochs later the run stops and gives its weights."""
    stop = {"patience": 2, "select": "best"}
    params = validated(small, **{"pretrain.methods.mae.stop": stop})
    shards = corpus(params)
    losses_of(monkeypatch, [3.0, 1.0, 2.0, 1.0, 0.0])
    torch.manual_seed(0)
    trained = loop.train(params, MAE, loop.prepare(params, MAE, shards), shards)
    metrics = trained.metrics
    assert metrics["validation"] == [3.0, 1.0, 2.0, 1.0] and metrics["selected"] == 2
    assert metrics["epochs"] == 4 and metrics["stopped"] == "validation"
    assert metrics["images"] == 4 * metrics["steps"]

    losses_of(monkeypatch, [3.0, 1.0, 2.0, 1.0])
    torch.manual_seed(0)
    method = loop.prepare(params, MAE, shards)
    training = loop.Training(params, MAE, method, shards)
    for step in range(2 * training.order.per_epoch):
        training.step(step)
    state = trained.method.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in method.state_dict().items())


def test_last_weights_are_kept_where_nothing_else_is_asked(small, corpus, monkeypatch):
    params = validated(small, **{"pretrain.methods.mae.stop": {"patience": 9}})
    shards = corpus(params)
    losses_of(monkeypatch, [3.0, 1.0, 2.0, 1.0, 4.0, 5.0])
    trained = loop.train(params, MAE, loop.prepare(params, MAE, shards), shards)
    assert trained.metrics["selected"] == 6 and trained.metrics["stopped"] == "last epoch"


def test_plateau_through_the_loop_lowers_the_rate(small, corpus, monkeypatch):
    params = validated(small, **{"pretrain.methods.mae.schedule": PLATEAU})
    shards = corpus(params)
    losses_of(monkeypatch, [1.0, 2.0, 2.0, 2.0, 2.0, 0.5])
    training = loop.Training(params, MAE, loop.prepare(params, MAE, shards), shards)
    peak, seen = training.rate, []
    for step in range(training.order.steps):
        training.step(step)
        if training.order.ends(step):
            training.close_epoch(training.order.epoch(step))
            seen.append(training.rate / peak)
    assert seen == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("entry", ["mae", "mgca", "medim", "gloria", "mrm", "cmitm", "imagenet"])
def test_validation_is_reproducible_and_changes_nothing(small, corpus, entry):
    stop = {f"pretrain.methods.{entry}.stop": {"patience": 3}}
    params = validated(small, **stop, **{f"pretrain.methods.{entry}.init": "none"})
    shards = None if entry == "imagenet" else corpus(params)
    item = grid.Pretraining(entry, 0)
    training = loop.Training(params, item, loop.prepare(params, item, shards), shards)
    training.step(0)
    before = {k: v.clone() for k, v in training.method.state_dict().items()}
    drawn = torch.random.get_rng_state()
    first, second = training.validation.look(), training.validation.look()
    assert math.isfinite(first) and first == second
    assert torch.equal(drawn, torch.random.get_rng_state())
    after = training.method.state_dict()
    for key, value in before.items():
        torch.testing.assert_close(value, after[key], rtol=0, atol=0, msg=key)
    assert training.method.training


def test_the_mean_over_batches_is_weighted_by_their_sizes(small, corpus):
    """MAE's loss is a mean over images: of 5 in batches of 2 it is that of all 5."""
    stop = {"pretrain.methods.mae.stop": {"patience": 3}}
    params = validated(small, **stop)
    shards = corpus(params)
    training = loop.Training(params, MAE, loop.prepare(params, MAE, shards), shards)
    rule = training.validation
    rule.pairs = data.Pairs(np.arange(5), None)
    each = []
    for number, picked in enumerate(([0, 1], [2, 3], [4])):
        batch = training.loader.valid(data.Pairs(np.array(picked), None), number)
        with torch.no_grad():
            each.append(float(training.method.eval()(batch)[0]))
    rule.batch, rule.starts = 2, range(0, 5, 2)
    assert rule._mean() == pytest.approx((2 * each[0] + 2 * each[1] + each[2]) / 5, rel=1e-6)
    rule.starts = range(0, 4, 2)
    assert rule._mean() == pytest.approx((each[0] + each[1]) / 2, rel=1e-6)


def test_too_few_validation_pairs_stop_where_incomplete_batches_are_dropped(small, corpus):
    changes = {
        "pretrain.methods.mae.stop": {"patience": 3},
        "pretrain.loader": {"valid": 0.01, "drop_val": True},
        "pretrain.methods.mae.batch": 8,
    }
    params = validated(small, **changes)
    shards = corpus(params)
    with pytest.raises(DataError, match=r"do not fill a batch of 8; raise `pretrain"):
        loop.Training(params, MAE, loop.prepare(params, MAE, shards), shards)


def test_the_record_tells_the_validation(small, corpus):
    params = validated(small, **{"pretrain.methods.mae.stop": {"patience": 6}})
    corpus(params)
    loop.run(params, "mae-s0")
    metrics = record.read(Paths("demo").record("pretrain", "mae-s0"))["metrics"]
    assert len(metrics["validation"]) == metrics["epochs"] == 6
    assert weights.load_method(params, "mae-s0").crop == 40


def test_alone_is_one_process():
    with world.alone():
        assert world.size() == 1 and world.rank() == 0
