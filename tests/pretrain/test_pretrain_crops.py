"""Shapes and places of RandomResizedCrop, and crops of an image without its padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as vision

from cxrmim.pretrain.parts import augment
from cxrmim.schema import Augment

CPU = torch.device("cpu")


def draws(count: int) -> augment.Draw:
    return augment.Draw(count, CPU, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("tall", "wide"), [(512, 512), (512, 400), (180, 512)])
def test_shapes_of_resized_crops_are_distributed_as_torchvisions(tall: int, wide: int):
    """A shape that does not fit is drawn again: against a loop that does so, one by one."""
    count, area = 20_000, (0.2, 1.0)
    content = torch.tensor([[float(tall), float(wide)]]).expand(count, 2)
    height, width, some = augment.shapes(draws(count), area, content)
    assert float(height.max()) <= tall
    assert float(width.max()) <= wide
    rng, slow, fell = np.random.default_rng(1), [], 0
    for _ in range(count):
        for _ in range(10):
            size = tall * wide * rng.uniform(*area)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            h, w = round(np.sqrt(size / ratio)), round(np.sqrt(size * ratio))
            if h <= tall and w <= wide:
                break
        else:
            h, w = min(tall, round(wide * 4 / 3)), min(wide, round(tall * 4 / 3))
            fell += 1
        slow.append((h, w))
    want = np.array(slow, float)
    for got, theirs in ((height.numpy(), want[:, 0]), (width.numpy(), want[:, 1])):
        assert np.mean(got) == pytest.approx(np.mean(theirs), rel=0.01)
        levels = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(
            np.quantile(got, levels), np.quantile(theirs, levels), atol=0.012 * max(tall, wide)
        )
    assert 1 - float(some.float().mean()) == pytest.approx(fell / count, abs=0.01)
    if tall == wide:
        reaching = float(((height == tall) | (width == wide)).float().mean())
        assert reaching < 0.01  # 17 % if shapes were cut off at the edge instead


def test_a_crop_that_never_fits_is_as_much_of_the_image_as_may_be_around_its_centre():
    content = torch.tensor([[48.0, 48.0], [48.0, 20.0], [21.0, 48.0]])
    rule = Augment(resize=48, crop="resized", area=(0.9, 0.9), mean=0.5, std=0.5)
    rule = rule.model_copy(update={"area": (1.5, 2.0)})
    rows, columns = augment.boxes(draws(3), rule, 48, 16, content)
    assert rows.tolist() == [[0.0, 48.0], [10.0, 27.0], [13.0, 21.0]]
    assert columns.tolist() == [[0.0, 48.0], [14.0, 20.0], [10.0, 28.0]]


@pytest.mark.parametrize(("tall", "wide"), [(56, 33), (20, 56), (56, 55), (56, 56)])
def test_crops_of_the_content_see_no_padding_and_all_of_the_image(tall: int, wide: int):
    """A white image in black padding stays white; over many draws every edge is reached."""
    stored, count = 56, 4000
    top, left = (stored - tall) // 2, (stored - wide) // 2
    content = torch.tensor([[float(tall), float(wide)]]).expand(count, 2)
    rule = Augment(resize=stored, crop="resized", area=(0.08, 1.0), mean=0.5, std=0.5)
    rows, columns = augment.boxes(draws(count), rule, stored, 24, content)
    for box, start, length in ((rows, top, tall), (columns, left, wide)):
        assert float(box[:, 0].min()) == start
        assert float(box.sum(1).max()) == start + length
    white = torch.zeros(8, stored, stored, dtype=torch.uint8)
    white[:, top : top + tall, left : left + wide] = 255
    seen = augment.train(white, rule, 24, torch.Generator().manual_seed(1), content[:8])
    torch.testing.assert_close(seen, torch.ones_like(seen))
    padded = augment.train(white, rule, 24, torch.Generator().manual_seed(1))
    assert (tall == wide == stored) == bool((padded > 0.99).all())


@pytest.mark.parametrize(
    ("tall", "wide"), [(56, 41), (33, 56), (56, 56), (56, 55), (55, 56), (18, 56)]
)
def test_evaluation_of_the_content_is_torchvisions_resize_and_centre_crop(tall: int, wide: int):
    stored, size = 56, 24
    rows, columns = torch.arange(tall)[:, None] / 9, torch.arange(wide)[None] / 7
    image = (128 + 60 * rows.sin() + 60 * columns.cos()).to(torch.uint8)
    top, left = (stored - tall) // 2, (stored - wide) // 2
    square = torch.zeros(1, stored, stored, dtype=torch.uint8)
    square[0, top : top + tall, left : left + wide] = image.to(torch.uint8)
    rule = Augment(resize=size, crop="centre", mean=0.5, std=0.25)
    content = torch.tensor([[float(tall), float(wide)]])
    got = augment.evaluate(square, rule, size, content)[0, 0] * 0.25 + 0.5
    small = vision.resize(image[None].float() / 255, [size], antialias=True)
    want = vision.center_crop(small, [size, size])[0]
    assert float((got - want).abs().max()) < 1e-5


def test_content_is_refused_for_crops_of_the_square():
    rule = Augment(resize=56, crop="random", mean=0.5, std=0.5)
    images, content = torch.zeros(1, 56, 56, dtype=torch.uint8), torch.tensor([[56.0, 40.0]])
    with pytest.raises(ValueError, match="random"):
        augment.train(images, rule, 24, torch.Generator(), content)
