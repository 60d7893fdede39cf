"""The normal chest: frontal and lateral views as film values in the patient's frame."""

import math
from dataclasses import dataclass

import numpy as np

from cxrmim.phantom.acquisition import Acquisition
from cxrmim.phantom.canvas import Array, Grid, Stroke, blob, cloud, ellipse, ramp, strokes
from cxrmim.phantom.findings import Build, Patient

SIDES = (("right", -1), ("left", 1))
"""Patient's side and the sign of x on the frontal image."""


@dataclass(frozen=True)
class Shape:
    """What findings change of a build before it is painted.

    `dome` are the y of the diaphragm's domes (patient's right and left), `shift` moves the
    mediastinum towards the viewer's right, `heart` is the cardiothoracic ratio, `vessels`
    multiplies the width of the vessels, `wide` that of the upper mediastinum.
    """

    dome: tuple[float, float]
    shift: float
    heart: float
    vessels: float
    wide: float


@dataclass
class Lung:
    """One lung of a frontal view, painted on the columns `columns` of the grid.

    Arrays are of shape (h, columns) or broadcast to it: `mask` soft in 0..1, `inside` the signed
    distance to the nearest border, `a` the distance from the midline, `lateral` and `medial` the
    borders in `a` at each row, `floor` the diaphragm's y at each column. `apex` and `width` are the
    chest's top and half-width.
    """

    side: str
    sign: int
    columns: slice
    apex: float
    width: float
    a: Array
    mask: Array
    inside: Array
    lateral: Array
    medial: Array
    floor: Array


def wall(u: Array) -> Array:
    """How the chest widens from the apex (u = 0) to the base (1), from 0 to 1."""
    widening: Array = np.sqrt(1 - (1 - u) ** 2.7)
    return widening


def lungs(grid: Grid, build: Build, shape: Shape) -> list[Lung]:
    """The two lung fields, patient's right first."""
    y = grid.y
    fields = []
    middle = int(np.searchsorted(grid.x[0], 0.0))
    for index, (side, sign) in enumerate(SIDES):
        columns = slice(0, middle) if sign < 0 else slice(middle, grid.shape[1])
        a = grid.x[:, columns] * sign
        dome = shape.dome[index]
        u = np.clip((y - build.apex) / (dome + 0.12 - build.apex), 0, 1)
        lateral = 0.135 + (build.width - 0.135) * wall(u)
        medial = 0.135 - 0.09 * np.sqrt(np.clip(u / 0.16, 0, 1)) + sign * shape.shift * u
        r = (a - 0.14) / (build.width - 0.14)
        floor = dome + 0.13 * np.clip(r, 0, None) ** 2.4 + 0.045 * np.clip(-r, 0, None) ** 2
        inside = np.minimum(np.minimum(lateral - a, a - medial), floor - y)
        inside = np.minimum(inside, y - build.apex)
        mask = ramp(inside, max(0.008, grid.pixel))
        fields.append(
            Lung(
                side,
                sign,
                columns,
                build.apex,
                build.width,
                a,
                mask,
                inside,
                lateral,
                medial,
                floor,
            )
        )
    return fields


def _vessel_tree(build: Build, shape: Shape, clutter: float) -> list[Stroke]:
    """Branching vessels from both hila; the same patient has the same tree in every study."""
    rng = np.random.Generator(np.random.PCG64(build.vessel_seed))
    lines: list[Stroke] = []
    for sign in (-1, 1):
        for angle in np.linspace(-1.35, 1.35, 8) + rng.normal(0, 0.08, 8):
            x, y = sign * 0.085 + shape.shift * 0.5, 0.425 + (0.02 if sign < 0 else 0.0)
            width, value, heading = 0.012, 0.85, float(angle)
            for _ in range(3):
                length = float(rng.uniform(0.055, 0.085))
                bends = rng.normal(0, 0.16, 2)
                points = [(x, y)]
                for bend in bends:
                    heading += float(bend)
                    x += sign * math.cos(heading) * length / 2 * 1.1
                    y += math.sin(heading) * length / 2 * 1.25
                    points.append((x, y))
                lines.append((points, width * shape.vessels, value * clutter))
                for fork in (-0.55, 0.5):
                    way = heading + fork + float(rng.normal(0, 0.15))
                    reach = length * float(rng.uniform(0.5, 0.9))
                    tip = (x + sign * math.cos(way) * reach, y + math.sin(way) * reach)
                    lines.append(
                        ([(x, y), tip], width * 0.5 * shape.vessels, value * 0.7 * clutter)
                    )
                width, value = width * 0.66, value * 0.8
    return lines


def _ribs(lung: Lung, grid: Grid, build: Build) -> Array:
    """Posterior and anterior ribs of one side: bands of a phase that bends with the chest wall."""
    r = np.clip(lung.a / build.width, 0, 1.15)
    top = build.apex - 0.05 + build.rib_phase * 0.02
    steps = 1 / build.rib_spacing
    back = (grid.y - (top + build.rib_slope * (0.12 * r**3 - 0.035 * np.sin(2.6 * r)))) * steps
    back = np.abs(back - np.floor(back) - 0.5) * 2
    band = np.clip((back - 0.48) * 5, 0, 1)
    # The cortex is brighter than the marrow: a rib is two lines with a fainter band between them.
    band -= 0.4 * np.clip((back - 0.72) * 6, 0, 1)
    front = (grid.y - (top + 0.10 + 0.17 * build.rib_slope * (1.05 - r))) * (steps * 0.86)
    front = np.abs(front - np.floor(front) - 0.5) * 2
    cover = np.clip((r - 0.42) * 4, 0, 1) * np.clip((grid.y - build.apex - 0.10) * 12, 0, 1)
    band += 0.55 * np.clip((front - 0.46) * 5, 0, 1) * cover
    wall = np.clip((lung.lateral + 0.020 - lung.a) * 90, 0, 1)
    span = np.clip((grid.y - build.apex + 0.012) * 60, 0, 1) * np.clip((0.9 - grid.y) * 6, 0, 1)
    # The chest wall runs along the rays beside the lung and adds a bright rim there.
    rim = 0.8 * np.exp(-(((lung.a - lung.lateral - 0.006) / 0.010) ** 2))
    out: Array = (band * wall + rim) * span
    return out


def _body(grid: Grid, build: Build) -> Array:
    """Neck, shoulders, arms' stumps and trunk: soft tissue that thins towards the skin."""
    y = grid.y
    neck = 0.085 + 0.02 * build.fat
    flare = np.clip((y - 0.02) / max(build.shoulder + 0.10, 0.1), 0, 1)
    half = neck + (0.52 - neck) * np.sqrt(flare) * np.clip(y * 20 + 0.2, 0, 1)
    waist = build.width + 0.075 + 0.05 * build.fat
    trunk = waist + 0.10 * np.clip((0.42 - y) / 0.30, 0, 1)
    outline = np.minimum(half, trunk + 0.02 * np.clip((y - 0.6) / 0.4, 0, 1))
    depth = np.clip((outline - np.abs(grid.x)) * 8.0, 0, 1)
    out: Array = 0.60 * depth * (1.55 - 0.55 * depth)
    return out


def _bones(grid: Grid, build: Build, view: str) -> Array:
    """Clavicles, shoulder heads, scapulae and spine, as an increment of the film value."""
    bones = np.zeros(grid.shape, np.float32)
    a = np.abs(grid.x)
    lift = -0.02 if view == "AP" else 0.0
    line = build.clavicle + lift - 0.055 * np.clip(a / 0.36, 0, 1.2)
    line = line + 0.014 * np.sin(a * 15.0)
    rows = grid.rows(float(line.min()) - 0.017, float(line.max()) + 0.017)
    near = np.abs(grid.y[rows] - line)
    collar = np.clip(1.5 - near / 0.011, 0, 1) - 0.35 * np.clip(1 - near / 0.008, 0, 1)
    span = np.clip((a - 0.035) * 60, 0, 1) * np.clip((0.43 - a) * 20, 0, 1)
    bones[rows] = 0.085 * collar * span
    rows = grid.rows(0.12, 0.46)
    y = grid.y[rows]
    inner = 0.345 - (0.025 if view == "AP" else 0.0) + 0.16 * (y - 0.28)
    blade = np.clip((a - inner) * 45, 0, 1) * np.clip((y - 0.12) * 14, 0, 1)
    bones[rows] += 0.05 * blade * np.clip((0.46 - y) * 7, 0, 1) * np.clip((0.47 - a) * 14, 0, 1)
    rows = grid.rows(0.155 - 0.08, 0.155 + 0.08)
    head = np.clip(1.25 - np.hypot(a - 0.475, grid.y[rows] - 0.155) / 0.062, 0, 0.25) * 4
    bones[rows] += 0.09 * head
    columns = grid.columns(-0.041, 0.041)
    column = np.clip((0.040 - a[:, columns]) * 60, 0, 1)
    discs = 0.055 + 0.022 * np.cos(grid.y * (2 * math.pi / 0.052) + build.rib_phase * 6)
    bones[:, columns] += column * discs
    return bones


def _centre(grid: Grid, build: Build, shape: Shape, scale: float) -> tuple[Array, Array]:
    """Heart with great vessels, and the windpipe: soft masks of shape (h, w)."""
    dome = max(shape.dome)
    half = shape.heart * build.width * scale
    low = dome - 0.72 * half - 0.01
    heart = ellipse(
        grid, shape.shift + 0.22 * half, low, 1.06 * half, 0.80 * half, build.heart_tilt, 0.016
    )
    width = build.mediastinum * shape.wide * (0.85 + 0.30 * np.clip((grid.y - 0.25) * 3, 0, 1))
    near = np.abs(grid.x - shape.shift * np.clip(grid.y * 2, 0, 1))
    vessels = ramp(width - near, 0.02)
    knob = ellipse(
        grid, 0.045 + shape.shift, 0.315, build.aorta + 0.012, build.aorta + 0.022, 0.2, 0.014
    )
    atrium = ellipse(
        grid, -0.045 + shape.shift - 0.1 * half, low, 0.62 * half, 0.85 * half, 0.0, 0.016
    )
    mass = np.maximum(np.maximum(heart, vessels), np.maximum(knob, atrium))
    pipe = ramp(0.017 - np.abs(grid.x - shape.shift * 0.6), 0.012)
    pipe = pipe * np.clip((0.375 - grid.y) * 25, 0, 1)
    rows = grid.rows(0.35, 0.45)
    y = grid.y[rows]
    fork = np.abs(np.abs(grid.x - shape.shift) - 0.55 * (y - 0.36))
    fork = np.clip(1.3 - fork / 0.009, 0, 1) * np.clip((y - 0.35) * 40, 0, 1)
    pipe[rows] = np.maximum(pipe[rows], 0.7 * fork * np.clip((0.45 - y) * 25, 0, 1))
    return mass, pipe


@dataclass
class Chest:
    """A frontal view under construction.

    `film` and the pneumothorax `mask` (h, w) are painted in place by the findings; `vessels` (h, w)
    is what the vessels show in the lungs.
    """

    grid: Grid
    shape: Shape
    film: Array
    fields: list[Lung]
    vessels: Array
    mask: Array


def paint_frontal(
    grid: Grid,
    patient: Patient,
    shape: Shape,
    shot: Acquisition,
    clutter: float,
    rng: np.random.Generator,
) -> Chest:
    """A chest without findings, except those that `shape` already carries.

    Film values come out near 0.25 in the lungs, 0.75 over the heart and 0.9 over the abdomen.
    """
    build = patient.build
    fields = lungs(grid, build, shape)
    film = _body(grid, build)
    heart, pipe = _centre(grid, build, shape, 1.07 if shot.view == "AP" else 1.0)
    vessels = strokes(grid, _vessel_tree(build, shape, 0.6 + 0.4 * clutter))
    texture = cloud(rng, grid.shape, 40)
    air = np.zeros(grid.shape, np.float32)
    ribs = np.zeros(grid.shape, np.float32)
    below = np.zeros(grid.shape, np.float32)
    for lung in fields:
        thin = np.clip(lung.inside * 9, 0, 1)
        air[:, lung.columns] = lung.mask * (0.55 + 0.45 * thin * (2 - thin))
        ribs[:, lung.columns] = _ribs(lung, grid, build)
        below[:, lung.columns] = np.clip((grid.y - lung.floor) * 9, 0, 1)
    heart = heart * (1 - below)
    open_air = air * (1 - 0.86 * heart)
    film -= 0.45 * open_air
    film += heart * (0.09 + 0.05 * np.clip((grid.y - 0.4) * 3, 0, 1))
    film += 0.10 * below * (film > 0.2)
    film -= 0.10 * pipe
    inside_body = np.clip(film * 4, 0, 1)
    film += (0.045 + 0.055 * clutter) * ribs * (1 - 0.75 * below) * (1 - 0.5 * heart) * inside_body
    film += _bones(grid, build, shot.view) * inside_body
    film += vessels * open_air * (0.26 + 0.10 * clutter)
    for sign in (-1, 1):
        hilum = blob(grid, sign * 0.088 + shape.shift, 0.42 + 0.01 * sign, 0.024, 0.05)
        film += 0.13 * hilum * open_air
        if build.breast:
            shade = ellipse(grid, sign * 0.20, 0.60, 0.15, 0.13, 0.0, 0.05)
            film += 0.07 * build.breast * shade
    bubble = ellipse(grid, 0.17, shape.dome[1] + 0.075, 0.055, 0.028, 0.2, 0.015)
    film -= 0.13 * bubble * build.fat
    film += 0.022 * clutter * texture * inside_body
    return Chest(grid, shape, film, fields, vessels * open_air, np.zeros_like(film))
