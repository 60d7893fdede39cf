"""Pictures that are no radiographs: classes of shape and texture, a stand-in for ImageNet.

A class is a shape with a surface: bright, dark, striped, dotted or rough. It is lit from one side,
lies on a background of 1/f noise and is often crossed by a strip. Place, size, turn, stretch and
contrast are random and tell nothing of the class. As in `canvas`, everything is analytic: a larger
side shows the same pictures.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # float32
Field = Callable[[Array, Array], Array]

WAVES = 48
"""Cosines along one side that noise is made of."""

BLOCK = 24
"""Pictures drawn at once: their arrays stay in the processor's cache."""

TAG = 7
"""Keeps the streams apart from those of other parts with the same seed."""


def _disk(u: Array, v: Array) -> Array:
    return 0.85 - np.hypot(u, v)


def _ring(u: Array, v: Array) -> Array:
    return 0.24 - np.abs(np.hypot(u, v) - 0.74)


def _square(u: Array, v: Array) -> Array:
    return 0.75 - np.maximum(np.abs(u), np.abs(v))


def _triangle(u: Array, v: Array) -> Array:
    side = np.float32(math.sqrt(3) / 2) * np.abs(u)
    return 0.5 - np.maximum(side + 0.5 * v, -v)


def _star(u: Array, v: Array) -> Array:
    turn = np.arctan2(v, u) * np.float32(5 / (2 * math.pi))
    point = 2 * np.abs(turn - np.floor(turn) - 0.5)
    distance: Array = 0.6 * (0.4 + 0.65 * point * point - np.hypot(u, v))
    return distance


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(0.95 - a, 0.27 - b), np.minimum(0.95 - b, 0.27 - a))


SHAPES: dict[str, Field] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
"""Signed distance to the edge, positive inside, of points (u, v); a radius is about 1."""


def _even(p: Array, q: Array) -> Array:
    return np.zeros_like(p)


def _stripes(p: Array, q: Array) -> Array:
    return np.clip(2.5 * np.sin(p), -1, 1)


def _dots(p: Array, q: Array) -> Array:
    return np.clip(2.5 * np.cos(p) + 2.5 * np.cos(q) - 1.5, -1, 1)


TEXTURES: dict[str, Field | None] = {
    "bright": _even,
    "dark": _even,
    "striped": _stripes,
    "dotted": _dots,
    "rough": None,
}
"""Brightness in [-1, 1] at angles (p, q); None is noise."""

LIFT = {"bright": 0.3, "dark": -0.3}
"""How much brighter than the background an even surface is; others go either way."""

CLASSES = [f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES]
"""Names of the classes, in the order of their numbers."""


def draw(
    images: int, side: int, seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    """Draw pictures; the i-th depends on the seed and i alone, and its class is i modulo theirs.

    Args:
        images: how many, N.
        side: of a picture in px.
        seed: of all random numbers.

    Returns:
        (N, side, side) grey pictures, (N,) class numbers, names of the classes.
    """
    label = np.arange(images, dtype=np.int64) % len(CLASSES)
    out = np.empty((images, side, side), np.uint8)
    for number, rows in _blocks(label):
        out[rows] = _paint(number, rows, side, seed)
    return out, label, list(CLASSES)


def _blocks(label: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Picture numbers of one class each, at most `BLOCK` at once."""
    for number in range(len(CLASSES)):
        rows = np.flatnonzero(label == number)
        for start in range(0, len(rows), BLOCK):
            yield number, rows[start : start + BLOCK]


class _Dice:
    """Uniform numbers of a block's pictures, handed out in turn as (n, 1, 1)."""

    def __init__(self, numbers: Array) -> None:
        self._numbers, self._next = numbers, 0

    def between(self, low: float, high: float) -> Array:
        """The next number of each picture, from `low` to `high`."""
        u = self._numbers[:, self._next, None, None]
        self._next += 1
        return np.float32(low) + np.float32(high - low) * u

    def sign(self) -> Array:
        """-1 or 1."""
        return np.where(self.between(0, 1) < 0.5, np.float32(-1), np.float32(1))


def _paint(number: int, rows: npt.NDArray[np.int64], side: int, seed: int) -> npt.NDArray[np.uint8]:
    """Pictures of one class."""
    streams = [np.random.Generator(np.random.PCG64([TAG, seed, int(i)])) for i in rows]
    dice = _Dice(np.stack([s.random(32, np.float32) for s in streams]))
    waves = np.stack([s.standard_normal((2, WAVES, WAVES), np.float32) for s in streams])
    shape, texture = list(SHAPES)[number // len(TEXTURES)], list(TEXTURES)[number % len(TEXTURES)]
    at = (np.arange(side, dtype=np.float32) + 0.5) / np.float32(side)
    x, y = at[None, None, :], at[None, :, None]

    smooth = _noise(waves[:, 0], side, 1.7)
    ground = dice.between(0.35, 0.65)
    picture = ground + dice.between(0.04, 0.10) * smooth

    x0, y0, size = dice.between(0.38, 0.62), dice.between(0.38, 0.62), dice.between(0.32, 0.48)
    stretch = np.exp(dice.between(-0.22, 0.22))
    u, v = _turn(x - x0, y - y0, dice.between(0, 2 * math.pi))
    inside = _edge(SHAPES[shape](u / (size * stretch), v / (size / stretch)) * size, side)
    p, q = _turn(x - x0, y - y0, dice.between(0, 2 * math.pi))
    surface = dice.between(0.25, 0.4) * _texture(texture, p, q, dice, waves[:, 1], side)
    lit = dice.between(0.05, 0.25) * (u / size)
    lift = dice.sign() * dice.between(0, 0.15)
    level = ground + LIFT.get(texture, 0.0) + lift
    picture += inside * (level + surface + lit - picture)

    across, _ = _turn(x - dice.between(0.2, 0.8), y - dice.between(0.2, 0.8), dice.between(0, 6.3))
    width = np.where(dice.between(0, 1) < 0.5, dice.between(0.02, 0.07), np.float32(-1))
    strip = _edge(width - np.abs(across), side)
    picture += strip * (dice.between(0.1, 0.9) + 0.05 * smooth - picture)

    picture += dice.between(-0.15, 0.15) * (x - y)
    grey: npt.NDArray[np.uint8] = np.clip(picture * 255, 0, 255).astype(np.uint8)
    return grey


def _turn(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Coordinates in axes turned by an angle."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def _edge(distance: Array, side: int) -> Array:
    """Signed distance in sides -> how much of the pixel is inside, 0 to 1."""
    inside: Array = np.clip(distance * side + 0.5, 0, 1)
    return inside


def _noise(waves: Array, side: int, fall: float) -> Array:
    """(n, K, K) normal numbers -> (n, side, side) noise of unit variance.

    Amplitudes fall as 1 / frequency ** `fall`; the mean is zero.
    """
    k = np.arange(WAVES, dtype=np.float32)
    frequency = np.hypot(k[:, None], k[None, :])
    frequency[0, 0] = np.inf
    amplitude = frequency ** np.float32(-fall)
    power = np.where(k == 0, np.float32(1), np.float32(0.5))  # mean square of a cosine
    amplitude /= np.sqrt(power @ amplitude**2 @ power)
    at = (np.arange(side, dtype=np.float32) + 0.5) / np.float32(side)
    basis = np.cos(np.float32(math.pi) * at[:, None] * k)
    made: Array = basis @ (waves * amplitude) @ basis.T
    return made


def _texture(name: str, p: Array, q: Array, dice: _Dice, waves: Array, side: int) -> Array:
    """Brightness, about -1 to 1, of a texture over turned coordinates."""
    angle = np.float32(2 * math.pi) * dice.between(7, 11)
    first, second = dice.between(0, 6.3), dice.between(0, 6.3)
    made = TEXTURES[name]
    if made is None:
        return 0.7 * np.clip(_noise(waves, side, 0.6), -2, 2)
    return made(angle * p + first, angle * q + second)
