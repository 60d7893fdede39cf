"""The ImageNet stand-in: a supervised encoder on generated pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import build, make_batch

from cxrmim.errors import ParamsError
from cxrmim.phantom import natural
from cxrmim.pretrain.contract import Batch
from cxrmim.pretrain.parts import augment

STAND_IN = "pretrain.methods.imagenet.options"


def test_the_term_is_the_cross_entropy_of_cls(small, stored):
    method = build(small(), "imagenet", stored)
    assert method.needs == {"image", "label"} and method.weights == {"classes": 1.0}
    batch = make_batch(method)
    cls = method.encoder.forward_features(batch.image)[:, 0]
    logits = cls @ method.head.weight.T + method.head.bias
    assert logits.shape == (5, len(natural.CLASSES))
    want = -logits.log_softmax(1)[torch.arange(5), batch.label].mean()
    total, terms = method(batch)
    torch.testing.assert_close(terms["classes"], want)
    torch.testing.assert_close(total, want)
    total.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in method.parameters())


def test_own_images_are_the_stand_ins_and_are_drawn_once(small, stored, monkeypatch):
    method = build(small(), "imagenet", stored)
    images, label = method.own_images()
    want = natural.draw(24, 44, 0)
    np.testing.assert_array_equal(images, want[0])
    np.testing.assert_array_equal(label, want[1])
    monkeypatch.setattr(natural, "draw", None)
    assert method.own_images()[0] is images
    assert not [name for name in method.state_dict() if not name.startswith(("encoder", "head"))]


def test_given_weights_need_no_stand_in(small, stored):
    params = small({STAND_IN: {"stand_in": None}, "pretrain.methods.imagenet.trains": False})
    method = build(params, "imagenet", stored)
    assert method.own_images() is None and method.needs == {"image"} and method.weights == {}
    assert {name.split(".")[0] for name in method.state_dict()} == {"encoder"}
    with pytest.raises(ParamsError, match="trains: false"):
        method.losses(Batch(torch.zeros(1, 3, 40, 40)))


@pytest.mark.parametrize(
    ("stand_in", "told"),
    [
        ({"images": 24, "side": 44}, "images, side, seed"),
        ({"images": 24, "side": 44, "seed": 0, "colour": 1}, "nothing else"),
        ({"images": 0, "side": 44, "seed": 0}, "draw one at least"),
        ({"images": 24, "side": 43, "seed": 0}, "augment.resize = 44"),
    ],
)
def test_stand_ins_that_cannot_be_drawn_are_refused(small, stored, stand_in, told):
    with pytest.raises(ParamsError, match=told):
        build(small({STAND_IN: {"stand_in": stand_in}}), "imagenet", stored)


def test_its_pictures_are_cropped_and_flipped_like_others(small, stored):
    method = build(small(), "imagenet", stored)
    images = torch.from_numpy(method.own_images()[0][:1]).expand(64, -1, -1)
    rule = method.setup.augment
    assert rule.crop == "resized" and rule.flip == 0.5 and rule.area[0] < 1
    drawn = augment.train(images, rule, method.crop, torch.Generator().manual_seed(0))
    assert drawn.shape == (64, 3, 40, 40)
    assert len(drawn.flatten(1).unique(dim=0)) > 50


def test_classes_are_learned_in_a_few_steps(small, stored):
    """A tiny net tells held-out bright disks and squares from dark ones."""
    names = ("bright disk", "bright square", "dark disk", "dark square")
    known = [natural.CLASSES.index(name) for name in names]
    stand_in = {"images": 50 * len(natural.CLASSES), "side": 44, "seed": 0}
    method = build(small({STAND_IN: {"stand_in": stand_in}}), "imagenet", stored).float()
    images, label = (torch.from_numpy(x) for x in method.own_images())
    rows = torch.isin(label, torch.tensor(known)).nonzero().squeeze(1)
    train, held = rows[:120], rows[120:]
    optimiser = torch.optim.Adam(method.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        picked = train[torch.randint(120, (32,), generator=generator)]
        image = augment.train(images[picked], method.setup.augment, method.crop, generator)
        loss, _ = method(Batch(image, label=label[picked]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        named = method.eval().name(method.eval_transform(images[held])).argmax(1)
    bright = torch.isin(label[held], torch.tensor(known[:2]))
    assert torch.isin(named, torch.tensor(known)).all()
    right = torch.isin(named, torch.tensor(known[:2])) == bright
    assert len(held) == 80 and float(right.float().mean()) > 0.75
