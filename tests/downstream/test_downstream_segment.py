"""Segmentation network, loss and augmentation."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.downstream.conftest import Workspace
from timm.models.vision_transformer import VisionTransformer

from cxrmim import grid
from cxrmim.downstream import features, runs, segmentation
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.tasks import segment
from cxrmim.errors import ParamsError

TRAINING = segmentation.Training(
    batch=4,
    epochs=1,
    epoch_steps=1,
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
OPTIONS = {"empty": "one", "threshold": 0.5}


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


def test_augmentation_turns_without_shearing() -> None:
    """A patch keeps its size and its distance from the centre, at many angles."""
    count, side = 40, 48
    mask = torch.zeros(count, side, side)
    mask[:, 10:16, 26:32] = 1
    turning = changed(augment_p=1.0, scale=0.0, rotate=60.0)
    _, moved = segmentation.augment(
        (mask * 3 - 2)[:, None].expand(-1, 3, -1, -1),
        mask,
        turning,
        torch.Generator().manual_seed(2),
    )
    at = torch.arange(side) - (side - 1) / 2
    area = moved.sum(dim=(1, 2))
    y, x = (moved.sum(dim=2) @ at) / area, (moved.sum(dim=1) @ at) / area
    assert ((area - 36).abs() < 1.5).all()
    was = (11.0**2 + 5.0**2) ** 0.5
    assert ((y.square() + x.square()).sqrt() - was).abs().max() < 0.3
    assert torch.atan2(y, x).std() > 0.4


def test_validation_weighs_batches_by_their_size(workspace: Workspace) -> None:
    encoder = Bench(workspace.params).method("random-s0").encoder
    model = segmentation.Segmenter(encoder, None, [8, 8, 8, 8], frozen=False).eval()
    image, mask = scene(5, 48)
    mask[4] = 0

    def load(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image[rows], mask[rows]

    with torch.no_grad():
        one, two = (
            segmentation.loss(model(image[part]), mask[part], TRAINING).item()
            for part in (slice(0, 4), slice(4, 5))
        )
    found = segmentation.validate(model, load, torch.arange(5), TRAINING)
    assert one != pytest.approx(two, rel=1e-3)
    assert found == pytest.approx((4 * one + two) / 5, rel=1e-5)


def test_a_mask_is_what_exceeds_the_threshold(workspace: Workspace) -> None:
    run = grid.Run("random-s0", "siim", "segment", 100, 0)
    first = runs.predict(run, Bench(workspace.params)).predictions
    cut = float(first["score"].median())
    bench = Bench(workspace.changed(segment={"threshold": cut}).params)
    found = runs.predict(run, bench).predictions
    assert found["score"].equals(first["score"])
    assert ((found["area"] > 0) == (found["score"] > cut)).all()
    assert 0 < (found["area"] > 0).sum() < len(found)


def test_a_runs_truth_is_half_covered_too(bench: Bench) -> None:
    frame = runs.predict(grid.Run("random-s0", "siim", "segment", 100, 0), bench).predictions
    covered = bench.scenes("random-s0", "siim")[1][bench.rows("siim", "test")]
    area, touched = ((covered >= 0.5).sum((1, 2)), (covered > 0).sum((1, 2)))
    assert frame["truth_area"].tolist() == area.tolist()
    assert (area != touched).any()


def test_about_half_the_samples_are_augmented() -> None:
    image, mask = scene(400, 16)
    _, moved = segmentation.augment(image, mask, TRAINING, torch.Generator().manual_seed(1))
    share = ((moved - mask).abs() > 1e-3).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.08)


def test_a_frozen_encoder_stays_as_it_is(workspace: Workspace) -> None:
    bench = Bench(workspace.params)
    encoder = bench.method("random-s0").encoder
    model = segmentation.Segmenter(encoder, None, [8, 8, 8, 8], frozen=True).train()
    assert not any(module.training for module in model.encoder.modules())
    assert model.decoder.training
    logits = model(torch.randn(2, 3, 48, 48))
    assert logits.shape == (2, 48, 48)
    logits.sum().backward()
    assert all(p.grad is None for p in encoder.parameters())


def trained(frozen: bool) -> tuple[dict, dict, segmentation.Segmenter]:
    """State of the whole network before and after some training on an encoder with buffers."""
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    encoder.pos_drop = torch.nn.Dropout(0.5)
    encoder.norm = Batched(16)
    model = segmentation.Segmenter(encoder.train(), None, [8, 8, 8, 8], frozen)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    image, mask = scene()
    segmentation.fit(
        model,
        lambda rows: (image[rows], mask[rows]),
        torch.arange(6),
        torch.arange(6, 8),
        changed(epochs=3, patience=3),
        torch.Generator().manual_seed(0),
    )
    return before, model.state_dict(), model


class Batched(torch.nn.BatchNorm1d):
    """BatchNorm over the tokens of all images: its buffers move whenever it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


def test_frozen_means_bit_identical_weights_and_buffers() -> None:
    before, after, model = trained(frozen=True)
    own = [k for k in before if k.startswith("encoder.")]
    assert "encoder.norm.running_mean" in own
    assert all(torch.equal(before[k], after[k]) for k in own)
    assert not any(module.training for module in model.encoder.modules())
    rest = [k for k in before if not k.startswith("encoder.") and before[k].is_floating_point()]
    assert all(not torch.equal(before[k], after[k]) for k in rest)


def test_tuned_means_all_weights_move() -> None:
    before, after, _ = trained(frozen=False)
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert moved >= {name for name, value in before.items() if value.is_floating_point()}


def test_a_run_with_a_frozen_encoder_gives_it_back_unchanged(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(workspace.changed(segment={"freeze": True}).params)
    models, real = [], segmentation.fit
    monkeypatch.setattr(segmentation, "fit", lambda *a: models.append(a[0]) or real(*a))
    runs.predict(grid.Run("medim-s0", "siim", "segment", 100, 0), bench)
    want = bench.method("medim-s0").encoder.state_dict()
    found = models[0].encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in want.items())


def test_the_best_epoch_is_kept_and_patience_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, embed_dim=16, depth=1, num_heads=2, num_classes=0)
    model = segmentation.Segmenter(encoder, None, [8, 8, 8, 8], False)
    values, states = iter([3.0, 1.0, 2.0, 1.0, 0.5]), []

    def validate(model: torch.nn.Module, *_: object) -> float:
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(values)

    monkeypatch.setattr(segmentation, "validate", validate)
    image, mask = scene()
    best = segmentation.fit(
        model,
        lambda rows: (image[rows], mask[rows]),
        torch.arange(8),
        torch.arange(8),
        changed(epochs=9, patience=2),
        torch.Generator(),
    )
    assert (best.at, best.stopped, best.values) == (2, "patience", [3.0, 1.0, 2.0, 1.0])
    assert all(torch.equal(v, states[1][k]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, states[3][k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("steps", "passes"), [(1, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_an_epoch_is_whole_passes(steps: int, passes: int) -> None:
    """Ten images in batches of four are three steps a pass."""
    train = torch.arange(5, 15)
    found = list(segmentation.epoch(train, changed(epoch_steps=steps), torch.Generator()))
    assert [len(rows) for rows in found] == [4, 4, 2] * passes
    seen = torch.cat(found).view(passes, 10)
    assert (seen.sort(dim=1).values == train).all()
    assert passes == 1 or not torch.equal(seen[0], seen[1])


def test_a_training_that_diverges_is_named(workspace: Workspace) -> None:
    bench = Bench(workspace.changed(segment={"lr": 1e30, "epochs": 1}).params)
    with pytest.raises(ParamsError, match=r"^downstream.segment.lr = 1e\+30: .* never finite"):
        segment.run(grid.Run("random-s0", "siim", "segment", 100, 0), bench)


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
        ("random-s0", "random", "random"),
    ],
)
def test_the_decoder_comes_from_the_method_if_it_has_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, checkpoint: str, init: str, want: str
) -> None:
    bench = Bench(workspace.changed(segment={"decoder_init": init, "epochs": 1}).params)
    run = grid.Run(checkpoint, "siim", "segment", 100, 0)
    given, real = [], segmentation.fit

    def fit(model: segmentation.Segmenter, *rest: object) -> object:
        given.append({k: v.clone() for k, v in model.decoder.state_dict().items()})
        return real(model, *rest)

    monkeypatch.setattr(segmentation, "fit", fit)
    assert runs.predict(run, bench).details["decoder"] == want
    pretrained = bench.method(checkpoint).decoder
    assert (pretrained is None) == (checkpoint == "random-s0")
    if pretrained is not None:
        own = pretrained.state_dict()
        same = all(torch.equal(own[k], v) for k, v in given[0].items())
        assert same == (want == "method")


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


@pytest.mark.parametrize("frame", ["whole", "method"])
def test_whole_images_give_every_method_the_same_truth(workspace: Workspace, frame: str) -> None:
    """A mask at the edge of the image is seen whole, or cut off as the method's crop does."""
    bench = Bench(workspace.changed(segment={"frame": frame}).params)
    stored = np.zeros((72, 56, 56), np.uint8)
    stored[:, :7, :7] = 255
    bench.shards("siim")
    shards = bench._shards["siim"]
    bits = np.packbits(stored > 0, axis=-1)
    bench._shards["siim"] = dataclasses.replace(shards, masks=type(shards.masks)(bits))
    images, masks = bench.scenes("medim-s0", "siim")
    whole = frame == "whole"
    corner = (masks[:, :6, :6] > 0.5).all() if whole else (masks[:, :3, :3] > 0.5).all()
    assert corner
    assert int((masks[0] >= 0.5).sum()) == (36 if whole else 9)
    if not whole:
        seen = bench.view("medim-s0")(torch.from_numpy(np.array(shards.images[:4])))
        torch.testing.assert_close(images[:4], seen[:, 0])


def test_it_learns_a_bright_box(workspace: Workspace) -> None:
    bench = Bench(workspace.changed(segment={"epochs": 25, "lr": 3e-3, "batch": 8}).params)
    result = runs.predict(grid.Run("random-s0", "siim", "segment", 100, 0), bench)
    found = segment.measure(result.predictions, OPTIONS, runs.recompute.Draws("a/b", 5))
    assert found["dice_positive"] > 0.6
    assert found["auc"] > 0.9
    assert np.isfinite(result.details["valid_loss"])


def test_the_score_is_the_highest_pixel(workspace: Workspace) -> None:
    bench = Bench(workspace.params)
    run = grid.Run("random-s0", "siim", "segment", 100, 0)
    frame = runs.predict(run, bench).predictions
    assert frame["score"].between(0, 1).all()
    assert ((frame["score"] > 0.5) == (frame["area"] > 0)).all()
    assert frame["score"].nunique() > 1
