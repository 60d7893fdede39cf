"""The lateral view: a chest seen from its left side, sternum to the viewer's left."""

import math
from dataclasses import dataclass

import numpy as np

from cxrmim.phantom.anatomy import Shape
from cxrmim.phantom.canvas import Array, Grid, blob, cloud, ellipse, ramp
from cxrmim.phantom.findings import Patient, Study


@dataclass
class Profile:
    """A lateral view: `film` (h, w), the lungs' soft mask `lung`, the diaphragm's y `floor`."""

    grid: Grid
    film: Array
    lung: Array
    floor: Array
    back: Array


def paint_lateral(
    grid: Grid, patient: Patient, shape: Shape, clutter: float, rng: np.random.Generator
) -> Profile:
    """A lateral chest without findings, except those that `shape` carries."""
    build = patient.build
    x, y = grid.x, grid.y
    front = -build.depth + 0.16 * np.clip((0.34 - y) / 0.3, 0, 1) ** 1.5 + 0.03 * (y - 0.5)
    back = build.depth * (0.78 + 0.25 * np.sin(math.pi * np.clip((y - 0.08) / 0.9, 0, 1)))
    skin = 0.05 + 0.03 * build.fat
    outline = np.minimum(x - front + skin, back + skin + 0.03 - x)
    depth = np.clip(outline * 8, 0, 1)
    arms = ellipse(grid, 0.03, 0.06, 0.27, 0.19, 0.25, 0.12)
    depth = np.maximum(depth, arms)
    film: Array = (0.60 * depth).astype(np.float32)
    r = (x + 0.05) / build.depth
    floor = min(shape.dome) + 0.02 + 0.05 * np.clip(-r, 0, 1) ** 2 + 0.17 * np.clip(r, 0, 2) ** 2.2
    inside = np.minimum(np.minimum(x - front, back - x), floor - y)
    inside = np.minimum(inside, y - build.apex - 0.03)
    lung: Array = ramp(inside.astype(np.float32), max(0.012, grid.pixel)) * (
        0.55 + 0.45 * np.clip(inside * 7, 0, 1)
    )
    film -= 0.33 * lung
    film += 0.16 * np.clip((floor - y) * -9, 0, 1) * depth
    half = shape.heart * build.width
    heart = ellipse(
        grid,
        -0.13 + 0.25 * half,
        min(shape.dome) - 0.7 * half,
        0.95 * half,
        0.72 * half,
        -0.7,
        0.03,
    )
    film += 0.20 * heart * lung + 0.05 * heart
    arch = np.abs(np.hypot(x - 0.02, y - 0.34) - 0.065)
    film += 0.08 * np.clip(1.4 - arch / 0.02, 0, 1) * np.clip((0.4 - y) * 12, 0, 1)
    film += 0.10 * blob(grid, 0.0, 0.43, 0.035, 0.05)
    spine = (back - 0.055).astype(np.float32)
    bone = ramp(0.035 - np.abs(x - spine), 0.02)
    film += bone * (0.10 + 0.05 * np.cos(y * (2 * math.pi / 0.055) + build.rib_phase * 6)) * depth
    film += 0.17 * arms
    axis = np.asarray(0.015 + 0.12 * (y - 0.2), np.float32)
    pipe = ramp(0.016 - np.abs(x - axis), 0.012)
    film -= 0.12 * pipe * np.clip((0.41 - y) * 20, 0, 1) * np.clip((y - 0.02) * 30, 0, 1)
    slope = (y - (0.32 * (0.25 - x) + build.rib_phase * 0.05)) / (build.rib_spacing * 1.1)
    wave = np.abs(slope - np.floor(slope) - 0.5) * 2
    film += (0.025 + 0.04 * clutter) * np.clip((wave - 0.55) * 5, 0, 1) * np.clip(lung * 3, 0, 1)
    sternum = ramp(0.012 - np.abs(x - front + 0.012), 0.01)
    film += 0.06 * sternum * np.clip((y - 0.2) * 10, 0, 1) * np.clip((0.66 - y) * 10, 0, 1)
    film += 0.022 * clutter * cloud(rng, grid.shape, 40) * depth
    return Profile(grid, film, lung, np.asarray(floor), np.asarray(back))


def paint_lateral_findings(
    chest: Profile, study: Study, contrast: float, rng: np.random.Generator
) -> None:
    """Paint what a lateral view shows of the findings onto `chest.film`, in place."""
    grid, film, lung = chest.grid, chest.film, np.clip(chest.lung * 1.6, 0, 1)
    heights = {"upper": 0.30, "middle": 0.45, "lower": 0.62, "": 0.5}
    for item in study.findings:
        strength = min(1.0, (0.35 + 0.3 * item.severity) * contrast * 0.8)
        here = heights[item.zone]
        along = -0.1 + 0.28 * item.place[0]
        if item.name == "Pleural Effusion":
            reach = np.clip(grid.x / 0.3, -1, 1.2)
            level = 0.83 - 0.20 * item.severity - 0.06 * reach
            shade = ramp(grid.y - level, 0.02) * lung
        elif item.name == "Consolidation":
            rough = np.clip(0.8 + 0.35 * cloud(rng, grid.shape, 24), 0, 1.3)
            shade = blob(grid, along, here, 0.07, 0.07) * rough * lung
        elif item.name == "Atelectasis":
            near = np.abs(grid.y - here - 0.25 * (grid.x - along))
            shade = np.clip(1.4 - near / 0.02, 0, 1) * lung
            shade = shade * np.clip((0.17 - np.abs(grid.x - along)) * 12, 0, 1)
        elif item.name == "Edema":
            shade = 0.8 * blob(grid, 0.02, 0.46, 0.13, 0.16) * lung
        elif item.name == "Lung Lesion":
            shade = ellipse(grid, along, here, 0.025, 0.025, 0.0, 0.01) * lung
        else:
            continue
        film += shade * strength * (0.78 - film)
