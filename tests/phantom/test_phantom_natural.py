"""Generated shapes and textures: the same every time, balanced, and what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrmim.phantom import natural

SIDE = 64


@pytest.fixture(scope="module")
def drawn():
    return natural.draw(6 * len(natural.CLASSES), SIDE, 0)


def test_pictures_depend_on_the_seed_and_their_number_only(drawn):
    pictures, label, names = drawn
    assert pictures.shape == (len(label), SIDE, SIDE) and pictures.dtype == np.uint8
    fewer, first, _ = natural.draw(len(natural.CLASSES) + 3, SIDE, 0)
    np.testing.assert_array_equal(fewer, pictures[: len(fewer)])
    np.testing.assert_array_equal(first, label[: len(fewer)])
    other = natural.draw(8, SIDE, 1)[0]
    assert all((a != b).mean() > 0.5 for a, b in zip(other, pictures, strict=False))
    assert names == natural.CLASSES and label.dtype == np.int64


def test_classes_are_balanced_and_named_once(drawn):
    _, label, names = drawn
    assert 24 <= len(names) == len(set(names)) <= 48
    assert np.bincount(label).tolist() == [6] * len(names)


def test_no_two_pictures_are_alike_and_all_use_the_grey_scale(drawn):
    pictures = drawn[0].reshape(len(drawn[0]), -1).astype(float)
    assert pictures.std(1).min() > 5
    near = np.corrcoef(pictures) - np.eye(len(pictures))
    assert near.max() < 0.97
    assert ((pictures > 0) & (pictures < 255)).mean() > 0.8


def test_a_larger_side_shows_the_same_pictures():
    small, large = (natural.draw(12, side, 3)[0].astype(float) for side in (48, 144))
    shrunk = large.reshape(12, 48, 3, 48, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 6


def test_shapes_cover_what_they_should():
    """Areas on the plane by counting, against geometry."""
    at = (np.arange(600) + 0.5) / 200 - 1.5
    u, v = np.meshgrid(at, at)
    area = {name: (inside(u, v) > 0).mean() * 9 for name, inside in natural.SHAPES.items()}
    assert area["disk"] == pytest.approx(np.pi * 0.85**2, rel=0.01)
    assert area["ring"] == pytest.approx(np.pi * (0.98**2 - 0.5**2), rel=0.01)
    assert area["square"] == pytest.approx(1.5**2, rel=0.01)
    assert area["triangle"] == pytest.approx(3 * np.sqrt(3) * 0.5**2, rel=0.01)
    assert area["cross"] == pytest.approx(2 * 1.9 * 0.54 - 0.54**2, rel=0.01)
    turn = np.linspace(0, 2 * np.pi, 100_001)[:-1]
    for name, fold in (("triangle", 3), ("square", 4), ("cross", 4), ("star", 5)):
        inside = natural.SHAPES[name]
        for angle in (0.3, 1.1):
            step = 2 * np.pi / fold
            one = inside(0.6 * np.cos(turn + angle), 0.6 * np.sin(turn + angle))
            two = inside(0.6 * np.cos(turn + angle + step), 0.6 * np.sin(turn + angle + step))
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_textures_stay_within_their_range_and_differ():
    at = np.linspace(0, 20, 200)
    p, q = np.meshgrid(at, at)
    seen = {n: f(p, q) for n, f in natural.TEXTURES.items() if f is not None}
    assert all(np.abs(x).max() <= 1 for x in seen.values())
    assert np.ptp(seen["striped"], axis=0).max() == 0 < np.ptp(seen["striped"], axis=1).min()
    assert np.ptp(seen["dotted"], axis=0).max() > 1 < np.ptp(seen["dotted"], axis=1).max()
    noise = np.random.default_rng(0).standard_normal((200, natural.WAVES, natural.WAVES))
    for fall in (0.6, 1.7):
        made = natural._noise(noise, SIDE, fall)
        assert made.std() == pytest.approx(1, rel=0.1)
        assert abs(made.mean()) < 0.05


def test_even_surfaces_are_brighter_or_darker_than_the_border(drawn):
    """The class shows in the picture: the middle against the border."""
    pictures, label, names = drawn
    middle = pictures[:, 22:42, 22:42].mean((1, 2))
    border = np.concatenate([pictures[:, :4], pictures[:, -4:]], 1).mean((1, 2))
    for name, sign in (("bright disk", 1), ("dark disk", -1), ("bright square", 1)):
        lift = (middle - border)[label == names.index(name)]
        assert (sign * lift > 0).mean() > 0.8


def test_a_linear_probe_names_the_textures():
    """Spectrum of the middle, no matter how it is turned, and its lift above the border."""
    pictures, label, names = natural.draw(20 * len(natural.CLASSES), SIDE, 5)
    middle = pictures[:, 20:44, 20:44].astype(float)
    power = np.log(np.abs(np.fft.fft2(middle - middle.mean((1, 2), keepdims=True))) + 1)
    f = np.fft.fftfreq(24) * 24
    ring = np.hypot(f[:, None], f).round().astype(int)
    spectrum = np.stack([power[:, ring == r].mean(1) for r in range(1, 12)], 1)
    border = pictures[:, [0, 1, -2, -1]].mean((1, 2))
    features = np.column_stack([spectrum, middle.mean((1, 2)) - border])
    texture = np.array([name.split()[0] for name in names])[label]
    train = np.arange(len(label)) % 4 > 0
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    right = probe.fit(features[train], texture[train]).score(features[~train], texture[~train])
    assert right > 0.7  # chance is 0.2
