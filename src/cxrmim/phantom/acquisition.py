"""How an image was taken: view, exposure, gamma, geometry, marker. Never looks at a finding."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

View = Literal["PA", "AP", "LATERAL", "LL"]

FULL_RASTER = 1024
"""Long side at which noise is defined, pixels; smaller rasters average it down."""


@dataclass(frozen=True)
class Difficulty:
    """Strengths relative to the hard phantom, which is 1 everywhere."""

    nuisance: float
    contrast: float
    clutter: float
    noise: float


DIFFICULTIES = {
    "easy": Difficulty(nuisance=0.4, contrast=1.75, clutter=0.6, noise=0.1),
    "mid": Difficulty(nuisance=0.7, contrast=1.3, clutter=0.8, noise=0.2),
    "hard": Difficulty(nuisance=1.0, contrast=1.0, clutter=1.0, noise=1.0),
}


@dataclass(frozen=True)
class Acquisition:
    """The nuisances of one image. Shifts are fractions of the frame, `rotation` is in degrees.

    `exposure` is added to and `contrast` multiplies the film value (0 to 1) before `gamma`;
    `obliquity` shifts the mediastinum, as a turned patient does.
    """

    view: View
    aspect: float
    exposure: float
    contrast: float
    gamma: float
    scale: float
    shift_x: float
    shift_y: float
    rotation: float
    obliquity: float
    marker: Literal["", "L", "R"]
    marker_x: float
    marker_y: float
    collimation: float
    mottle: float

    def vector(self) -> list[float]:
        """The nuisances as numbers, for the shortcut audit."""
        flags = [float(self.view == name) for name in ("PA", "AP", "LATERAL", "LL")]
        flags += [float(self.marker == name) for name in ("L", "R")]
        numbers = [self.aspect, self.exposure, self.contrast, self.gamma, self.scale]
        numbers += [self.shift_x, self.shift_y, self.rotation, self.obliquity]
        return flags + numbers + [self.marker_x, self.marker_y, self.collimation, self.mottle]


def draw_acquisition(
    view: View, level: Difficulty, rng: np.random.Generator, square: bool = False
) -> Acquisition:
    """The nuisances of one image of that view; `square` fixes the aspect (width/height) to 1."""
    k = level.nuisance
    aspect = 1.0
    if not square:
        choices = (1.0, 0.82, 1.2) if view in ("PA", "AP") else (0.82, 1.0, 0.9)
        aspect = choices[int(rng.choice(3, p=(0.45, 0.4, 0.15)))]
    roll = float(rng.random())
    marker: Literal["", "L", "R"] = "L" if roll < 0.55 else "R" if roll < 0.85 else ""
    return Acquisition(
        view=view,
        aspect=aspect,
        exposure=float(rng.normal(0, 0.055 * k)),
        contrast=float(np.exp(rng.normal(0, 0.12 * k))),
        gamma=float(np.exp(np.clip(rng.normal(0, 0.2 * k), -0.5, 0.5))),
        scale=float(np.exp(np.clip(rng.normal(0, 0.06 * k), -0.15, 0.15))),
        shift_x=float(np.clip(rng.normal(0, 0.025 * k), -0.07, 0.07)),
        shift_y=float(np.clip(rng.normal(0, 0.025 * k), -0.07, 0.07)),
        rotation=float(np.clip(rng.normal(0, 2.5 * k), -6, 6)),
        obliquity=float(np.clip(rng.normal(0, 0.010 * k), -0.03, 0.03)),
        marker=marker,
        marker_x=float(rng.uniform(0.03, 0.08)),
        marker_y=float(rng.uniform(0.03, 0.16)),
        collimation=float(rng.uniform(0.005, 0.03)) if rng.random() < 0.2 else 0.0,
        mottle=float(rng.uniform(0.5, 1.5)),
    )
