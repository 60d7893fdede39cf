"""The linear head, by AdamW and by L-BFGS."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxrmim.downstream import linear
from cxrmim.downstream.options import Trained
from cxrmim.errors import ParamsError

Data = tuple[torch.Tensor, torch.Tensor]
CASES = ["binary", "unknown", "classes"]


def training(epochs: int = 30, patience: int = 3, lr: float = 1e-2, decay: float = 0.0) -> Trained:
    return Trained(
        batch=16, epochs=epochs, patience=patience, lr=lr, weight_decay=decay, betas=(0.9, 0.999)
    )


def data(case: str = "binary", count: int = 100) -> Data:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 8, generator=random)
    y = (x[:, :3] + torch.randn(count, 3, generator=random) > 0).float()
    if case == "unknown":
        y[torch.rand(y.shape, generator=random) < 0.3] = torch.nan
    if case == "classes":
        y = torch.eye(3)[(x[:, :3] + torch.randn(count, 3, generator=random)).argmax(1)]
    return x, y


def fit(
    options: Trained | None = None, seed: int = 0, case: str = "binary", **over: torch.Tensor
) -> linear.Fitted:
    x, y = data(case)
    x, y = over.get("x", x), over.get("y", y)
    random = torch.Generator().manual_seed(seed)
    train = (lambda _: x[:60]), y[:60]
    return linear.fit(train, (x[60:], y[60:]), options or training(), case == "classes", random)


def autograd(
    options: Trained, view: Callable[[int], torch.Tensor], y: torch.Tensor, valid: Data, case: str
) -> tuple[list[list[torch.Tensor]], list[float]]:
    """Weights and validation loss after each epoch of a plain loop in float64."""
    random, many = torch.Generator().manual_seed(0), case == "classes"
    first = torch.empty(3, 9).uniform_(-(8**-0.5), 8**-0.5, generator=random)
    head = torch.nn.Linear(8, 3).double()
    with torch.no_grad():
        head.weight.copy_(first[:, :-1])
        head.bias.copy_(first[:, -1])
    optimiser = torch.optim.AdamW(
        head.parameters(), options.lr, options.betas, weight_decay=options.weight_decay
    )
    weights, losses = [], []
    for epoch in range(1, options.epochs + 1):
        x = view(epoch).double()
        for rows in torch.randperm(len(x), generator=random).split(options.batch):
            optimiser.zero_grad()
            linear.loss(head(x[rows]), y[rows].double(), many).backward()
            optimiser.step()
        weights.append([head.weight.detach().clone(), head.bias.detach().clone()])
        with torch.no_grad():
            losses.append(linear.loss(head(valid[0].double()), valid[1].double(), many).item())
    return weights, losses


@pytest.mark.parametrize("case", CASES)
def test_it_is_torch_linear_trained_by_adamw_and_autograd(case: str) -> None:
    """All epochs, from the same first weights and in the same order, but for float32's rounding."""
    x, y = data(case)
    options = training(epochs=12, patience=12, decay=0.1)
    weights, losses = autograd(options, lambda _: x[:60], y[:60], (x[60:], y[60:]), case)
    found = fit(options, case=case)
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert found.best_epoch == int(np.argmin(losses)) + 1
    weight, bias = weights[found.best_epoch - 1]
    torch.testing.assert_close(found.weight, weight.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias, bias.float(), rtol=1e-4, atol=1e-5)


def test_epochs_see_their_own_view_of_the_features() -> None:
    x, y = data()
    options, asked = training(epochs=4, patience=4), []

    def view(epoch: int) -> torch.Tensor:
        return x[:60] * (1 + epoch / 10)

    def told(epoch: int) -> torch.Tensor:
        asked.append(epoch)
        return view(epoch)

    valid = x[60:], y[60:]
    found = linear.fit((told, y[:60]), valid, options, False, torch.Generator().manual_seed(0))
    losses = autograd(options, view, y[:60], valid, "binary")[1]
    assert asked == [1, 2, 3, 4]
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert found.losses != pytest.approx(fit(options).losses, rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_the_slope_is_the_derivative_of_the_loss(case: str) -> None:
    y = data(case)[1].double()
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([3, 1, 4, 15, 9, 2, 6])
    linear.loss(logits, y[rows], case == "classes").backward()
    found = linear.Slope(y, case == "classes")(logits.detach().clone(), rows)
    torch.testing.assert_close(found, logits.grad)


def test_a_batch_without_known_labels_moves_nothing() -> None:
    y = torch.full((4, 3), torch.nan)
    y[3] = 1
    found = linear.Slope(y, False)(torch.randn(3, 3), torch.tensor([0, 1, 2]))
    assert torch.equal(found, torch.zeros(3, 3))


def test_first_weights_are_spread_as_in_torch() -> None:
    x, y = torch.zeros(4, 400), torch.zeros(4, 30)
    random = torch.Generator().manual_seed(0)
    found = linear.fit((lambda _: x, y), (x, y), training(1, 1, 1e-12), False, random)
    reference = torch.nn.Linear(400, 30).weight
    assert found.weight.std() == pytest.approx(reference.std().item(), rel=0.05)
    assert found.weight.abs().max() <= 400**-0.5


def test_early_stop_keeps_the_best_epoch() -> None:
    found = fit(training(epochs=200, lr=0.3))
    assert found.stopped == "patience"
    assert len(found.losses) == found.best_epoch + 3
    assert min(found.losses) == found.losses[found.best_epoch - 1]
    x, y = data()
    assert linear.loss(found(x[60:]), y[60:], False).item() == found.losses[found.best_epoch - 1]


def test_the_budget_ends_training() -> None:
    found = fit(training(epochs=4, patience=10, lr=1e-3))
    assert (found.stopped, len(found.losses)) == ("epochs", 4)


def test_seeds_change_the_head_and_the_same_seed_does_not() -> None:
    assert torch.equal(fit(seed=1).weight, fit(seed=1).weight)
    assert not torch.equal(fit(seed=1).weight, fit(seed=2).weight)


def test_unknown_labels_carry_no_loss() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    target = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    known = F.binary_cross_entropy_with_logits(
        torch.tensor([1.0, 3.0, -1.0]), torch.tensor([1.0, 0.0, 1.0])
    )
    torch.testing.assert_close(linear.loss(logits, target, False), known)


def test_single_label_loss_is_cross_entropy() -> None:
    logits, target = torch.randn(4, 3), torch.eye(3)[[0, 2, 1, 1]]
    want = F.cross_entropy(logits, torch.tensor([0, 2, 1, 1]))
    torch.testing.assert_close(linear.loss(logits, target, True), want)


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    with pytest.raises(ParamsError, match="never finite"):
        fit(x=torch.full((100, 8), torch.nan))


def penalised(
    head: linear.Head, x: torch.Tensor, y: torch.Tensor, l2: float, case: str
) -> list[torch.Tensor]:
    """Mean loss and penalty of each problem: each class apart, or all of them at once."""
    weight, bias = head.weight.double(), head.bias.double()
    logits = F.linear(x.double(), weight, bias)
    if case == "classes":
        return [linear.loss(logits, y, True) + l2 / 2 * (weight.square().sum() + bias @ bias)]
    return [
        linear.loss(logits[:, k : k + 1], y[:, k : k + 1].double(), False)
        + l2 / 2 * (weight[k] @ weight[k] + bias[k] ** 2)
        for k in range(3)
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_lbfgs_ends_where_the_gradient_is_zero(case: str, l2: float) -> None:
    x, y = data(case)
    found = linear.solve((x.double(), y), l2, case == "classes")
    found.weight.requires_grad_()
    found.bias.requires_grad_()
    sum(penalised(found, x, y, l2, case)).backward()  # each weight is in one of them alone
    assert found.weight.grad.abs().max() < 2 * linear.TOLERANCE
    assert found.bias.grad.abs().max() < 2 * linear.TOLERANCE
    assert found.iterations > 0


@pytest.mark.parametrize("case", CASES)
def test_no_head_of_adamw_is_better_than_that_of_lbfgs(case: str) -> None:
    x, y = data(case)
    best = linear.solve((x[:60], y[:60]), 1e-2, case == "classes")
    trained = fit(training(epochs=300, patience=300, lr=3e-3), case=case)
    values = zip(
        penalised(best, x[:60], y[:60], 1e-2, case),
        penalised(trained, x[:60], y[:60], 1e-2, case),
        strict=True,
    )
    assert all(a < b for a, b in values)
    assert best.weight.dtype == torch.float32


@pytest.mark.parametrize("case", CASES)
def test_lbfgs_agrees_with_scikit_learn(case: str) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = data(case)
    l2, many = 1e-2, case == "classes"
    found = linear.solve((x, y), l2, many)
    ones = np.hstack([x.numpy(), np.ones((100, 1))])  # the bias is penalised too
    targets = [y.argmax(1).float()] if many else list(y.T)
    fits = []
    for target in targets:
        known = ~target.isnan().numpy()
        model = LogisticRegression(
            C=1 / (l2 * known.sum()), fit_intercept=False, tol=1e-9, max_iter=5000
        )
        fits.append(model.fit(ones[known], target[known]).coef_)
    both = np.hstack([found.weight.numpy(), found.bias.numpy()[:, None]])
    np.testing.assert_allclose(both, np.concatenate(fits), atol=2e-4)


def test_lbfgs_has_an_optimum_where_a_class_is_absent_or_unknown() -> None:
    x, y = data()
    y[:, 0], y[:, 1] = 0, torch.nan
    found = linear.solve((x, y), 1e-2, False)
    assert found(x)[:, 0].max() < 0
    assert torch.equal(found.weight[1], torch.zeros(8))
    classes = torch.eye(3)[torch.arange(100) % 2]
    assert set(linear.solve((x, classes), 1e-2, True)(x).argmax(1).tolist()) == {0, 1}


def test_an_optimum_that_is_not_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "ITERATIONS", 2)
    with pytest.raises(ParamsError, match=r"probe\.l2 = 0\.001: .* no optimum"):
        linear.solve(data(), 1e-3, False)
