"""The linear head."""

import pytest
import torch

from cxrmim.downstream import features, linear
from cxrmim.errors import ParamsError

TRAINING = linear.Training(16, 30, 3, 1e-2, 0.0, (0.9, 0.999))


def data(count: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 8, generator=random)
    return x, (x[:, :3] + torch.randn(count, 3, generator=random) > 0).float()


def fit(training: linear.Training = TRAINING, seed: int = 0, **over: torch.Tensor) -> linear.Fitted:
    x, y = data()
    x, y = over.get("x", x), over.get("y", y)
    random = torch.Generator().manual_seed(seed)
    return linear.fit((x[:60], y[:60]), (x[60:], y[60:]), training, False, random)


def test_it_is_torch_linear_trained_by_adamw() -> None:
    """One epoch equals a plain loop from the same first weights and order."""
    x, y = data()
    random = torch.Generator().manual_seed(0)
    first = torch.empty(3, 9).uniform_(-(8**-0.5), 8**-0.5, generator=random)
    head = torch.nn.Linear(8, 3)
    with torch.no_grad():
        head.weight.copy_(first[:, :-1])
        head.bias.copy_(first[:, -1])
    optimiser = torch.optim.AdamW(head.parameters(), 1e-2, (0.9, 0.999), weight_decay=0.1)
    for rows in torch.randperm(60, generator=random).split(16):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(x[rows]), y[rows])
        loss.backward()
        optimiser.step()
    found = fit(linear.Training(16, 1, 3, 1e-2, 0.1, (0.9, 0.999)))
    torch.testing.assert_close(found.weight, head.weight.detach())
    torch.testing.assert_close(found.bias, head.bias.detach())


def test_first_weights_are_spread_as_in_torch() -> None:
    x, y = torch.zeros(4, 400), torch.zeros(4, 30)
    frozen = linear.Training(4, 1, 1, 1e-12, 0.0, (0.9, 0.999))
    found = linear.fit((x, y), (x, y), frozen, False, torch.Generator().manual_seed(0))
    reference = torch.nn.Linear(400, 30).weight
    assert found.weight.std() == pytest.approx(reference.std().item(), rel=0.05)
    assert found.weight.abs().max() <= 400**-0.5


def test_early_stop_keeps_the_best_epoch() -> None:
    found = fit(linear.Training(16, 200, 3, 0.3, 0.0, (0.9, 0.999)))
    assert found.stopped == "patience"
    assert len(found.losses) == found.best_epoch + 3
    assert min(found.losses) == found.losses[found.best_epoch - 1]
    x, y = data()
    assert linear.loss(found(x[60:]), y[60:], False).item() == found.losses[found.best_epoch - 1]


def test_the_budget_ends_training() -> None:
    found = fit(linear.Training(16, 4, 10, 1e-3, 0.0, (0.9, 0.999)))
    assert (found.stopped, len(found.losses)) == ("epochs", 4)


def test_seeds_change_the_head_and_the_same_seed_does_not() -> None:
    assert torch.equal(fit(seed=1).weight, fit(seed=1).weight)
    assert not torch.equal(fit(seed=1).weight, fit(seed=2).weight)


def test_unknown_labels_carry_no_loss() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    target = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    known = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([1.0, 3.0, -1.0]), torch.tensor([1.0, 0.0, 1.0])
    )
    torch.testing.assert_close(linear.loss(logits, target, False), known)


def test_single_label_loss_is_cross_entropy() -> None:
    logits, target = torch.randn(4, 3), torch.eye(3)[[0, 2, 1, 1]]
    want = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1, 1]))
    torch.testing.assert_close(linear.loss(logits, target, True), want)


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    with pytest.raises(ParamsError, match="never finite"):
        fit(x=torch.full((100, 8), torch.nan))


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
