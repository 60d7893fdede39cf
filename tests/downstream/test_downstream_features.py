"""Features of a frozen encoder: augmented views, runs that train on them, their rank."""

import numpy as np
import pandas as pd
import pytest
import torch
from tests.downstream.conftest import Workspace

from cxrmim import grid
from cxrmim.downstream import features, linear, runs
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.seeds import generator
from cxrmim.downstream.tasks import probe
from cxrmim.errors import ParamsError
from cxrmim.pretrain.parts import augment
from cxrmim.schema import Augment

RUN = grid.Run("random-s0", "chexpert", "probe", 10, 0)
ALL = grid.Run("random-s0", "chexpert", "probe", 100, 0)
JITTER = {"crop": "random", "flip": 0.5, "jitter": [0.4, 0.4, 0.0, 0.0], "jitter_p": 0.8}
AUGMENT = {"chexpert": JITTER | {"blur_p": 0.5}}
ANY = Augment(resize=56, crop="random", mean=0.5, std=0.5)
RULES = [{"crop": "random"}, AUGMENT["chexpert"], {"crop": "resized", "area": [0.3, 1.0]}]


def bench_of(workspace: Workspace, **over: object) -> Bench:
    return Bench(workspace.changed(probe={"augment": AUGMENT} | over).params)


def views_of(bench: Bench, rule: dict[str, object], limit: int | None = None) -> features.Views:
    drawn = probe.rule(bench.method("random-s0").evaluation, "chexpert", rule)
    return bench.augmented("random-s0", "chexpert", drawn, limit)


def options_of(bench: Bench) -> probe.Options:
    return probe.Options.model_validate(bench.params.downstream.probe)


# What a view is


@pytest.mark.parametrize("rule", RULES)
def test_a_view_of_an_image_does_not_depend_on_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rule: dict[str, object]
) -> None:
    monkeypatch.setattr(features, "BATCH", 8)
    views = views_of(bench, rule)
    many = bench.rows("chexpert", "train")
    few = many[[3, 17, 21, 40]]
    whole = views(2, many, ["cls"])["cls"]
    part = views(2, few, ["cls"])["cls"]
    torch.testing.assert_close(part, whole[[3, 17, 21, 40]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(part, whole[:4], rtol=1e-4, atol=1e-5)


def test_views_differ_and_are_not_the_evaluation_view(bench: Bench) -> None:
    rows, views = bench.rows("chexpert", "train"), views_of(bench, RULES[0])
    found = [views(number, rows, ["cls"])["cls"] for number in (1, 2)]
    found.append(bench.features("random-s0", "chexpert", "cls")[rows])
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        different = (found[i] - found[j]).abs().amax(1) > 1e-4
        assert different.float().mean() > 0.5


def test_a_view_is_resized_and_normalised_as_the_method_is_used_to(bench: Bench) -> None:
    """An augmentation that changes nothing gives the evaluation view."""
    rows, views = bench.rows("chexpert", "train"), views_of(bench, {"crop": "centre"})
    for pool in features.POOLS:
        want = bench.features("random-s0", "chexpert", pool)[rows]
        torch.testing.assert_close(views(1, rows, [pool])[pool], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("limit", "encoded"), [(None, 1), (0, 3)])
def test_memory_decides_what_is_encoded_again_and_not_what_is_found(
    bench: Bench, limit: int | None, encoded: int
) -> None:
    views, rows = views_of(bench, RULES[0], limit), bench.rows("chexpert", "train", 10)
    found = [views(1, rows, features.POOLS) for _ in range(3)]
    assert views.encoded == encoded * len(rows)
    for pool in features.POOLS:
        assert torch.equal(found[0][pool], found[2][pool])


def test_views_keep_the_poolings_that_were_asked_for(bench: Bench) -> None:
    views, rows = views_of(bench, RULES[0]), bench.rows("chexpert", "train", 10)
    views(1, rows, ["cls"])
    assert views.bytes == len(rows) * bench.params.pretrain.vit.width * 4
    assert views(1, rows, ["avg"]).keys() == {"avg"}
    assert views.encoded == 2 * len(rows)


# What a run does with views


def numbers_of(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, **over: object) -> tuple:
    """Views that were read and that were made, in order, and the run's details."""
    read, made = [], []
    call, make = features.Views.__call__, features.Views._make

    def reading(self: features.Views, number: int, *rest: object) -> object:
        read.append(number)
        return call(self, number, *rest)

    def making(self: features.Views, number: int, rows: object) -> object:
        made.append(number)
        return make(self, number, rows)

    monkeypatch.setattr(features.Views, "__call__", reading)
    monkeypatch.setattr(features.Views, "_make", making)
    bench = bench_of(workspace, **over)
    details = runs.predict(RUN, bench).details
    return read, made, details


def test_epochs_take_turns_with_the_views(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made, details = numbers_of(workspace, monkeypatch, views=3, epochs=7, patience=7)
    assert read == [1, 2, 3, 1, 2, 3, 1]
    assert made == [1, 2, 3]
    assert details["encoded"] == 3 * details["train_n"]


def test_no_view_is_made_that_no_epoch_needs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"views": "epoch", "epochs": 50, "patience": 1, "lr": 1.0}
    read, made, details = numbers_of(workspace, monkeypatch, **told)
    assert details["stopped"] == "patience"
    assert read == made == list(range(1, details["epochs"] + 1))
    assert len(made) < 50
    assert details["encoded"] == len(made) * details["train_n"]


def test_one_view_is_the_evaluation_view(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made, details = numbers_of(workspace, monkeypatch, views=1)
    assert read == made == []
    assert details["encoded"] == details["train_n"]
    bench = bench_of(workspace, views=1)
    rows = bench.rows("chexpert", "train", 10)
    seen = probe.Seen(RUN, bench, options_of(bench), rows, ["cls"])
    assert torch.equal(seen(1, "cls"), bench.features("random-s0", "chexpert", "cls")[rows])


def test_a_fresh_view_an_epoch_is_what_a_plain_loop_does(workspace: Workspace) -> None:
    """Every epoch augments and encodes the whole dataset anew; autograd in float64."""
    bench = bench_of(workspace, views="epoch", epochs=4, patience=4, pool="avg")
    method, options = bench.method("random-s0"), options_of(bench)
    stored = torch.from_numpy(np.array(bench.shards("chexpert").images))
    target = torch.from_numpy(bench.labels("chexpert")).double()
    train, valid, test = (
        bench.rows("chexpert", split, percent)
        for split, percent in (("train", 10), ("valid", 100), ("test", 100))
    )
    rule = method.evaluation.model_copy(update={"crop": "random", "flip": 0.5, "area": (1.0, 1.0)})
    rule = rule.model_copy(update={"jitter": (0.4, 0.4, 0.0, 0.0), "jitter_p": 0.8, "blur_p": 0.5})

    def encoded(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return method.encoder.forward_features(images)[:, 1:].mean(1).double()

    width = method.setup.vit.width
    random = generator(RUN, "probe")
    first = torch.empty(5, width + 1).uniform_(-(width**-0.5), width**-0.5, generator=random)
    head = torch.nn.Linear(width, 5).double()
    with torch.no_grad():
        head.weight.copy_(first[:, :-1])
        head.bias.copy_(first[:, -1])
    optimiser = torch.optim.AdamW(
        head.parameters(), options.lr, options.betas, weight_decay=options.weight_decay
    )
    centre, losses, scores = encoded(method.eval_transform(stored)), [], []
    for epoch in range(1, 5):
        drawn = features.seeded("chexpert", epoch)
        x = encoded(augment.train(stored, rule, method.setup.image, drawn))[train]
        for rows in torch.randperm(len(train), generator=random).split(options.batch):
            optimiser.zero_grad()
            linear.loss(head(x[rows]), target[train][rows], False).backward()
            optimiser.step()
        with torch.no_grad():
            losses.append(linear.loss(head(centre[valid]), target[valid], False).item())
            scores.append(head(centre[test]).numpy())
    result = runs.predict(RUN, bench)
    best = int(np.argmin(losses))
    assert result.details["best_epoch"] == best + 1
    assert result.details["valid_loss"] == pytest.approx(losses[best], rel=1e-4)
    found = result.predictions[[f"score_{name}" for name in bench.classes("chexpert")]]
    np.testing.assert_allclose(found, scores[best], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("views", [1, 2, "epoch"])
def test_fractions_and_seeds_in_one_process_and_apart(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, views: object
) -> None:
    """A run's bytes do not depend on the others; float32 may round a row by its company."""
    monkeypatch.setattr(features, "BATCH", 16)
    monkeypatch.setattr(probe, "SCARCE", 10)
    names = [RUN, ALL, grid.Run("random-s0", "chexpert", "probe", 100, 1)]
    together, told = bench_of(workspace, views=views), []
    for run in reversed(names):
        joint = runs.predict(run, together)
        alone = runs.predict(run, bench_of(workspace, views=views))
        pd.testing.assert_frame_equal(joint.predictions, alone.predictions, check_exact=True)
        assert joint.details == alone.details
        told.append(joint.details["encoded"])
    if views != 1:  # two seeds at 100 percent share theirs
        made = together.augmented("random-s0", "chexpert", ANY, None).encoded
        assert made == max(told[:2]) + told[2]


def test_views_change_what_is_predicted(workspace: Workspace) -> None:
    scores = []
    for views in (1, 2, "epoch"):
        result = runs.predict(RUN, bench_of(workspace, views=views, lr=2e-3))
        assert result.details["best_epoch"] > 2
        scores.append(result.predictions["score_Edema"].to_numpy())
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])


@pytest.mark.parametrize(("views", "solver"), [(1, "adamw"), ("epoch", "adamw"), (1, "lbfgs")])
def test_the_encoder_is_frozen(workspace: Workspace, views: object, solver: str) -> None:
    """Weights, buffers and mode; all of the method, bit for bit."""
    bench = bench_of(workspace, views=views, solver=solver)
    method = bench.method("random-s0")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.encoder.train()
    result = runs.predict(RUN, bench)
    after = bench.method("random-s0").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(p.grad is None for p in method.parameters())
    assert result.details["encoded"] > 0


def test_lbfgs_scores_as_its_own_head(workspace: Workspace) -> None:
    bench = bench_of(workspace, solver="lbfgs", l2=1e-2)
    result = runs.predict(RUN, bench)
    of = bench.features("random-s0", "chexpert", "cls")
    labels = torch.from_numpy(bench.labels("chexpert"))
    train, test = bench.rows("chexpert", "train", 10), bench.rows("chexpert", "test")
    head = linear.solve((of[train], labels[train]), 1e-2, False)
    found = result.predictions[[f"score_{name}" for name in bench.classes("chexpert")]]
    np.testing.assert_array_equal(found, head(of[test]).numpy())
    told = result.details
    assert (told["solver"], told["converged"]) == ("lbfgs", True)
    assert told["iterations"] == head.iterations > 0
    assert not told.keys() & {"best_epoch", "epochs", "stopped"}
    assert told.keys() >= {"train_value", "valid_loss", "rank", "train_n", "valid_n", "encoded"}


# Options that do not fit


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"solver": "lbfgs", "views": 2}, r"views = 2: L-BFGS .* set it to 1"),
        ({"solver": "lbfgs", "views": "epoch"}, "views = 'epoch': L-BFGS"),
        ({"views": 2, "augment": {"covidx": JITTER}}, "augment: lacks chexpert"),
        ({"augment": {"chexpert": JITTER | {"resize": 64}}}, r"augment\.chexpert\.resize: "),
        ({"augment": {"chexpert": {"flip": 0.5}}}, r"augment\.chexpert\.crop: missing"),
        ({"augment": {"covidx": {"crop": "random", "jiter": 1}}}, "did you mean 'jitter'"),
        ({"augment": {"covidx": {"crop": "centered"}}}, r"covidx\.crop = 'centered'"),
    ],
)
def test_options_that_do_not_fit_are_named(
    workspace: Workspace, over: dict[str, object], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        runs.predict(RUN, bench_of(workspace, **over))


@pytest.mark.parametrize("wrong", [{"views": 0}, {"views": "many"}, {"l2": 0}, {"solver": "sgd"}])
def test_options_out_of_range_are_refused(workspace: Workspace, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        options_of(bench_of(workspace, **wrong))


# How they spread


def test_effective_rank_by_hand() -> None:
    corners = torch.cat([torch.eye(4), -torch.eye(4)])  # covariance I / 4
    assert features.effective_rank(corners) == pytest.approx(4)
    assert features.effective_rank(corners + 7) == pytest.approx(4)
    assert features.effective_rank(corners * torch.tensor([3.0, 0, 0, 0])) == pytest.approx(1)
    # eigenvalues 4, 1, 0, 0: (4 + 1)^2 / (16 + 1)
    two = corners * torch.tensor([2.0, 1, 0, 0])
    assert features.effective_rank(two) == pytest.approx(25 / 17)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
    assert features.effective_rank(two @ turn) == pytest.approx(25 / 17, rel=1e-5)


def test_features_that_have_collapsed_have_no_rank() -> None:
    assert features.effective_rank(torch.full((50, 8), 0.1)) == 0
    assert features.effective_rank(torch.zeros(50, 8)) == 0
    assert features.effective_rank(torch.randn(50, 8) * 1e-4 + 0.1) > 1
