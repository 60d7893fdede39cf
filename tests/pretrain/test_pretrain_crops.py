"""Shapes of RandomResizedCrop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrmim.pretrain.parts import augment


def test_shapes_of_resized_crops_are_distributed_as_torchvisions():
    """A shape that does not fit is drawn again: against a loop that does so, one by one."""
    count, side, area = 20_000, 512, (0.2, 1.0)
    draw = augment.Draw(count, torch.device("cpu"), torch.Generator().manual_seed(0))
    height, width = augment.shapes(draw, area, side)
    assert float(torch.maximum(height, width).max()) <= side
    rng, slow = np.random.default_rng(1), []
    for _ in range(count):
        for _ in range(10):
            size = side**2 * rng.uniform(*area)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            h, w = round(np.sqrt(size / ratio)), round(np.sqrt(size * ratio))
            if max(h, w) <= side:
                break
        else:
            h = w = side
        slow.append((h, w))
    want = np.array(slow, float)
    for got, theirs in ((height.numpy(), want[:, 0]), (width.numpy(), want[:, 1])):
        assert np.mean(got) == pytest.approx(np.mean(theirs), rel=0.01)
        levels = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(
            np.quantile(got, levels), np.quantile(theirs, levels), atol=0.012 * side
        )
    reaching = float(((height == side) | (width == side)).float().mean())
    assert reaching < 0.01  # 17 % if shapes were cut off at the edge instead


def test_a_crop_that_never_fits_is_the_whole_image():
    draw = augment.Draw(5, torch.device("cpu"), torch.Generator().manual_seed(0))
    height, width = augment.shapes(draw, (1.5, 2.0), 48)
    assert height.tolist() == width.tolist() == [48.0] * 5
