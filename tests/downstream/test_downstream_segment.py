"""Segmentation network, loss and augmentation."""

import numpy as np
import pytest
import torch
from tests.downstream.conftest import Workspace

from cxrmim import grid
from cxrmim.downstream import features, runs, segmentation
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.tasks import segment
from cxrmim.errors import ParamsError

TRAINING = segmentation.Training(
    batch=4,
    epochs=1,
    patience=1,
    lr=1e-3,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    focal_weight=10.0,
    focal_gamma=2.0,
    scale=0.1,
    rotate=10.0,
    augment_p=0.5,
)


def changed(**over: float) -> segmentation.Training:
    return segmentation.Training(**{**TRAINING.__dict__, **over})


def test_loss_by_hand() -> None:
    logit = torch.tensor([[[0.0, 2.0], [-1.0, 3.0]]])
    mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    p = logit.sigmoid()
    right = torch.where(mask == 1, p, 1 - p)
    focal = (-((1 - right) ** 2) * right.log()).mean()
    dice = (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
    torch.testing.assert_close(
        segmentation.loss(logit, mask, TRAINING), 10 * focal - dice.log(), rtol=1e-5, atol=1e-6
    )


def test_loss_stays_finite_far_from_the_truth() -> None:
    logit = torch.full((1, 4, 4), 200.0, requires_grad=True)
    value = segmentation.loss(logit, torch.zeros(1, 4, 4), TRAINING)
    value.backward()
    assert value.isfinite()
    assert logit.grad.isfinite().all()


def scene(count: int = 8, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(count, side, side)
    mask[:, 4:14, 6:22] = 1
    return (mask * 3 - 2)[:, None].expand(-1, 3, -1, -1), mask


def test_augmentation_moves_image_and_mask_alike() -> None:
    image, mask = scene()
    random = torch.Generator().manual_seed(0)
    moved, moved_mask = segmentation.augment(image, mask, changed(augment_p=1.0), random)
    torch.testing.assert_close(moved[:, 0], moved_mask * 3 - 2, rtol=0, atol=1e-4)
    assert (moved_mask != mask).flatten(1).any(dim=1).all()
    assert moved.shape == image.shape


def test_augmentation_keeps_what_it_should() -> None:
    image, mask = scene()
    random = torch.Generator().manual_seed(0)
    same, same_mask = segmentation.augment(image, mask, changed(augment_p=0.0), random)
    torch.testing.assert_close(same, image, rtol=0, atol=1e-4)
    torch.testing.assert_close(same_mask, mask, rtol=0, atol=1e-4)
    moved, _ = segmentation.augment(image, mask, changed(augment_p=1.0, rotate=45.0), random)
    assert moved.min() >= image.min() - 1e-5  # corners come in dark, not grey
    scaled = changed(augment_p=1.0, rotate=0.0)
    area = segmentation.augment(image, mask, scaled, random)[1].sum(dim=(1, 2)) / mask[0].sum()
    assert ((area > 0.8) & (area < 1.22)).all()
    assert area.std() > 0.02


def test_about_half_the_samples_are_augmented() -> None:
    image, mask = scene(400, 16)
    _, moved = segmentation.augment(image, mask, TRAINING, torch.Generator().manual_seed(1))
    share = ((moved - mask).abs() > 1e-3).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.08)


def test_a_frozen_encoder_stays_as_it_is(workspace: Workspace) -> None:
    bench = Bench(workspace.params)
    encoder = bench.method("random-s0").encoder
    model = segmentation.Segmenter(encoder, None, [8, 8, 8, 8], frozen=True).train()
    assert not model.encoder.training
    assert model.decoder.training
    logits = model(torch.randn(2, 3, 48, 48))
    assert logits.shape == (2, 48, 48)
    logits.sum().backward()
    assert all(p.grad is None for p in encoder.parameters())


def test_freezing_changes_the_outcome(workspace: Workspace) -> None:
    run = grid.Run("random-s0", "siim", "segment", 100, 0)
    tuned = runs.predict(run, Bench(workspace.params)).details
    frozen = workspace.changed(segment={"freeze": True})
    kept = runs.predict(run, Bench(frozen.params)).details
    assert tuned["valid_loss"] != kept["valid_loss"]


@pytest.mark.parametrize(
    ("checkpoint", "init", "want"),
    [
        ("medim-s0", "method", "method"),
        ("medim-s0", "random", "random"),
        ("random-s0", "method", "random"),
    ],
)
def test_the_decoder_comes_from_the_method_if_it_has_one(
    workspace: Workspace, checkpoint: str, init: str, want: str
) -> None:
    bench = Bench(workspace.changed(segment={"decoder_init": init, "epochs": 1}).params)
    run = grid.Run(checkpoint, "siim", "segment", 100, 0)
    assert runs.predict(run, bench).details["decoder"] == want


def test_a_decoder_of_the_wrong_depth_is_named(workspace: Workspace) -> None:
    bench = Bench(workspace.changed(segment={"decoder": [8, 8]}).params)
    with pytest.raises(ParamsError, match=r"downstream.segment.decoder = \[8, 8\]"):
        segment.run(grid.Run("random-s0", "siim", "segment", 100, 0), bench)


def test_truth_is_a_pixel_at_least_half_covered(bench: Bench) -> None:
    """Resize 56 to 56 and crop 48: truth is the stored mask's centre."""
    frame = runs.predict(grid.Run("baseline-empty", "siim", "segment", 100, 0), bench).predictions
    rows = bench.rows("siim", "test")
    stored = bench.masks("siim")[rows]
    own = bench.plain("medim-s0")(features.block(stored, slice(None), bench.device)).numpy() >= 0.5
    assert (own == (stored[:, 4:52, 4:52] >= 128)).all()
    assert frame["truth_area"].sum() > 0


def test_it_learns_a_bright_box(workspace: Workspace) -> None:
    bench = Bench(workspace.changed(segment={"epochs": 25, "lr": 3e-3, "batch": 8}).params)
    result = runs.predict(grid.Run("random-s0", "siim", "segment", 100, 0), bench)
    found = segment.measure(result.predictions, {"empty": "one"}, runs.recompute.Draws("a/b", 5))
    assert found["dice_positive"] > 0.6
    assert np.isfinite(result.details["valid_loss"])
