"""Findings of the sets without reports: COVID-19, and what only NIH's labels name."""

from collections.abc import Callable

import numpy as np

from cxrmim.phantom.anatomy import Chest, Lung
from cxrmim.phantom.canvas import Array, blob, cloud, ellipse
from cxrmim.phantom.findings import Finding

Painter = Callable[[Chest, Lung, Finding, float, np.random.Generator], None]


def veil(chest: Chest, lung: Lung, shade: Array, strength: float, target: float = 0.78) -> None:
    """Pull the film towards `target` where `shade` (h, columns) is opaque."""
    part = chest.film[:, lung.columns]
    part += np.clip(shade * strength, 0, 1) * (target - part)


def _covid(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """Patchy ground glass along the wall, in the middle and lower zones of both lungs."""
    depth = 0.085 + 0.03 * item.severity
    rim = np.exp(-(((lung.lateral - lung.a) / depth) ** 2))
    middle = 0.53 + 0.06 * (item.place[1] - 0.5)
    band = np.exp(-(((chest.grid.y - middle) / 0.16) ** 2))
    patches = np.clip(0.95 + 0.55 * cloud(rng, chest.grid.shape, 16)[:, lung.columns], 0.15, 1.5)
    shade = np.clip(1.35 * rim * band * patches, 0, 1) * lung.mask
    veil(chest, lung, shade, min(0.9, (0.34 + 0.24 * item.severity) * contrast), 0.72)


def _infiltration(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """A wide, faint, streaky haze without a border."""
    height = {"upper": 0.30, "middle": 0.44, "lower": 0.57}[item.zone]
    x = 0.15 + 0.08 * item.place[0]
    spot = blob(chest.grid, lung.sign * x, height, 0.10, 0.12)[:, lung.columns]
    streaks = np.clip(0.85 + 0.30 * cloud(rng, chest.grid.shape, 40)[:, lung.columns], 0, 1.6)
    shade = spot * streaks * lung.mask
    veil(chest, lung, shade, min(0.8, (0.20 + 0.14 * item.severity) * contrast), 0.70)


def _fibrosis(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """A net of thin lines at the bases and along the wall."""
    texture = np.abs(cloud(rng, chest.grid.shape, 56)[:, lung.columns])
    net = np.clip(1.2 - texture / 0.30, 0, 1)
    low = np.clip((chest.grid.y - 0.42) * 5, 0, 1)
    near = np.exp(-((lung.inside / (0.07 + 0.04 * item.severity)) ** 2))
    shade = net * low * near * lung.mask
    veil(chest, lung, shade, min(0.9, (0.36 + 0.24 * item.severity) * contrast), 0.74)


def _emphysema(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """Over-inflated, dark lungs; `painting.shape_of` flattens the diaphragm."""
    dark = min(0.6, (0.16 + 0.14 * item.severity) * contrast)
    part = chest.film[:, lung.columns]
    # Air alone gets darker: the heart in front of the lung keeps its shade.
    airy = np.clip((0.52 - part) * 6, 0, 1) * lung.mask
    part += dark * airy * np.minimum(0.08 - part, 0)


def _hernia(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """A stomach above the diaphragm: a round shade behind the heart with air over fluid."""
    x = 0.03 + 0.03 * item.place[0]
    size = 0.055 + 0.025 * item.severity
    y = chest.shape.dome[1] - 0.75 * size
    pouch = ellipse(chest.grid, x, y, size * 1.15, size, 0.0, 0.012)
    air = ellipse(chest.grid, x, y, size * 0.95, size * 0.8, 0.0, 0.012)
    air = air * np.clip((y - chest.grid.y) * 60, 0, 1)
    chest.film += min(0.2, 0.10 * contrast) * pouch
    chest.film -= min(0.4, 0.20 * contrast) * air


PATTERNS: dict[str, Painter] = {
    "COVID-19": _covid,
    "Infiltration": _infiltration,
    "Fibrosis": _fibrosis,
    "Emphysema": _emphysema,
    "Hernia": _hernia,
}
"""Painter of one lung, by the finding's name."""
