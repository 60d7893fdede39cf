"""Findings and devices painted onto the normal chest, and the image that comes out."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cxrmim.phantom.acquisition import FULL_RASTER, Acquisition, Difficulty
from cxrmim.phantom.anatomy import Chest, Lung, Shape, paint_frontal, wall
from cxrmim.phantom.canvas import (
    Array,
    Stroke,
    blob,
    cloud,
    ellipse,
    make_grid,
    ramp,
    strokes,
    turn,
)
from cxrmim.phantom.findings import Finding, Patient, Study
from cxrmim.phantom.lateral import paint_lateral, paint_lateral_findings
from cxrmim.phantom.patterns import PATTERNS, veil

HEIGHTS = {"upper": 0.27, "middle": 0.43, "lower": 0.60, "": 0.45}
"""Height of a zone's middle in the frame."""

GLYPHS: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 1), (0.55, 1)]],
    "R": [[(0, 1), (0, 0), (0.5, 0.05), (0.5, 0.45), (0, 0.5), (0.55, 1)]],
}


@dataclass(frozen=True)
class Radiograph:
    """An image and its pneumothorax mask, both of shape (rows, cols)."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def shape_of(patient: Patient, study: Study, shot: Acquisition, contrast: float) -> Shape:
    """The build as the findings change it: heart size, volume loss, engorged vessels."""
    build = patient.build
    domes = [build.dome_right, build.dome_left]
    if shot.view == "AP":
        domes = [dome - 0.02 for dome in domes]
    shift, heart, vessels, wide = shot.obliquity, build.heart_ratio, 1.0, 1.0
    gain = 0.6 + 0.25 * contrast
    for item in study.findings:
        if item.name == "Cardiomegaly":
            heart += gain * (0.100 + 0.11 * item.severity)
        elif item.name == "Atelectasis":
            left = item.side == "left"
            domes[left] -= gain * (0.040 + 0.045 * item.severity)
            shift += (1 if left else -1) * gain * (0.010 + 0.014 * item.severity)
        elif item.name == "Edema":
            vessels += 0.5 + 0.5 * item.severity
        elif item.name == "Enlarged Cardiomediastinum":
            wide += 0.35 + 0.25 * item.severity
        elif item.name == "Emphysema":
            domes = [dome + gain * (0.015 + 0.035 * item.severity) for dome in domes]
            heart -= 0.02 * gain
            vessels -= 0.15
    return Shape((domes[0], domes[1]), shift, heart, vessels, wide)


def _effusion(chest: Chest, lung: Lung, item: Finding, contrast: float) -> None:
    """Fluid over the diaphragm with a meniscus that climbs the lateral wall."""
    r = (lung.a - lung.medial) / np.maximum(lung.lateral - lung.medial, 0.02)
    top = chest.shape.dome[lung.sign > 0] + 0.03 - 0.25 * item.severity
    level = top + 0.03 - 0.10 * np.clip(r, 0, 1) ** 2.5
    shade = ramp(chest.grid.y - level, 0.03) * np.clip(lung.mask * 1.3, 0, 1)
    veil(chest, lung, shade, min(1.0, (0.50 + 0.25 * item.severity) * (0.45 + 0.45 * contrast)))


def _pneumothorax(chest: Chest, lung: Lung, item: Finding, contrast: float) -> None:
    """Air beside a lung that has come off the wall: dark crescent, white pleural line, mask."""
    y = chest.grid.y
    gap = 0.050 + 0.090 * item.severity
    reach = 0.52 + 0.25 * item.severity
    # Air rises: the gap is widest at the apex and closes down the wall.
    fall = np.clip((reach - (y - 0.12)) / reach, 0, 1) ** 0.8
    top = lung.apex + 0.9 * gap
    u = np.clip((y - top) / (chest.shape.dome[lung.sign > 0] + 0.12 - top), 0, 1)
    ripple = 1 + 0.12 * np.sin(y * 17 + 6 * item.place[0])
    edge = 0.07 + (lung.width - gap * fall * ripple - 0.07) * wall(u)
    outside = np.where(fall > 0, lung.a - edge, -1).astype(np.float32)
    air = ramp(outside, max(0.006, chest.grid.pixel)) * lung.mask
    part = chest.film[:, lung.columns]
    part -= 0.36 * air * chest.vessels[:, lung.columns]
    part += air * min(0.9, 0.42 * contrast) * (0.10 - part)
    line = np.clip(1.3 - np.abs(outside) / max(0.004, chest.grid.pixel * 0.7), 0, 1)
    part += 0.10 * min(1.5, contrast) * line * lung.mask
    part += 0.05 * contrast * lung.mask * (1 - air)
    hit = (outside > 0) & (lung.inside > 0)
    chest.mask[:, lung.columns] = np.maximum(chest.mask[:, lung.columns], hit)


def consolidation_spot(item: Finding) -> tuple[float, float, float]:
    """Where a consolidation lies: distance from the midline, height, standard deviation across."""
    x = 0.17 + 0.08 * item.place[0]
    y = HEIGHTS[item.zone] + 0.05 * (item.place[1] - 0.5)
    return x, y, 0.062 + 0.036 * item.severity


def _consolidation(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """A patchy opacity that fades at its edge."""
    x, y, spread = consolidation_spot(item)
    spot = blob(chest.grid, lung.sign * x, y, spread, spread * 1.15)
    rough = np.clip(0.9 + 0.4 * cloud(rng, chest.grid.shape, 22), 0.2, 1.5)
    shade = np.clip(1.5 * (spot * rough)[:, lung.columns], 0, 1) * lung.mask
    veil(chest, lung, shade, min(0.95, (0.34 + 0.2 * item.severity) * contrast), 0.74)


def _atelectasis(chest: Chest, lung: Lung, item: Finding, contrast: float) -> None:
    """Linear bands with some loss of brightness between them and the raised diaphragm."""
    y = chest.grid.y
    middle = HEIGHTS[item.zone] + 0.06 * (item.place[1] - 0.5)
    x = 0.20 + 0.05 * item.place[0]
    slope = (item.place[0] - 0.5) * 0.5
    reach = np.clip((0.15 - np.abs(lung.a - x)) * 12, 0, 1)
    shade = np.zeros_like(lung.mask)
    for step in (0.0, 0.045):
        near = np.abs(y - middle - step - slope * (lung.a - x))
        thick = 0.012 + 0.008 * item.severity - 0.12 * step
        shade = np.maximum(shade, np.clip(1.3 - near / thick, 0, 1) * (1 - 8 * step))
    haze = 0.62 * np.exp(-(((y - middle - 0.05) / 0.075) ** 2))
    shade = np.maximum(shade, haze) * reach * lung.mask
    veil(chest, lung, shade, min(0.95, (0.36 + 0.2 * item.severity) * contrast), 0.76)


def _edema(
    chest: Chest, lung: Lung, item: Finding, contrast: float, rng: np.random.Generator
) -> None:
    """Haze around the hilum, grainy as fluid in the interstitium is."""
    spread = 0.095 + 0.03 * item.severity
    spot = blob(chest.grid, lung.sign * 0.13, 0.47, spread, spread * 1.35)
    grain = np.clip(0.9 + 0.22 * cloud(rng, chest.grid.shape, 60), 0.3, 1.5)
    shade = (spot * grain)[:, lung.columns] * lung.mask
    veil(chest, lung, shade, min(0.9, (0.28 + 0.26 * item.severity) * contrast * 0.9), 0.72)


def _minor(chest: Chest, lung: Lung, item: Finding, contrast: float) -> None:
    """Nodule, mass, pleural cap or rib callus."""
    grid = chest.grid
    y = HEIGHTS[item.zone] + 0.08 * (item.place[1] - 0.5)
    x = lung.sign * (0.17 + 0.12 * item.place[0])
    if item.name in ("Lung Lesion", "Mass"):
        least, gain = (0.014, 0.018) if item.name == "Lung Lesion" else (0.042, 0.022)
        size = least + gain * item.severity
        shade = ellipse(grid, x, y, size, size * 1.1, 0.3, 0.012)[:, lung.columns] * lung.mask
        veil(chest, lung, shade, min(0.9, 0.4 * contrast), 0.72)
    elif item.name == "Pleural Other":
        rind = np.clip(1.3 - lung.inside / 0.018, 0, 1) * lung.mask
        rind = rind * np.clip((0.28 - grid.y) * 14, 0, 1)
        veil(chest, lung, rind, min(0.8, 0.35 * contrast), 0.72)
    elif item.name == "Fracture":
        spot = blob(grid, lung.sign * 0.31, 0.36 + 0.25 * item.place[1], 0.013, 0.011)
        chest.film[:, lung.columns] += 0.16 * spot[:, lung.columns]


def _paint_findings(chest: Chest, study: Study, contrast: float, rng: np.random.Generator) -> None:
    for item in study.findings:
        for lung in chest.fields:
            if item.side not in (lung.side, "both"):
                continue
            if item.name == "Pleural Effusion":
                _effusion(chest, lung, item, contrast)
            elif item.name == "Pneumothorax":
                _pneumothorax(chest, lung, item, contrast)
            elif item.name == "Consolidation":
                _consolidation(chest, lung, item, contrast, rng)
            elif item.name == "Atelectasis":
                _atelectasis(chest, lung, item, contrast)
            elif item.name == "Edema":
                _edema(chest, lung, item, contrast, rng)
            elif item.name in PATTERNS:
                PATTERNS[item.name](chest, lung, item, contrast, rng)
            else:
                _minor(chest, lung, item, contrast)


def _devices(names: tuple[str, ...], rng: np.random.Generator) -> list[Stroke]:
    """Lines, tubes and leads of a frontal view as strokes."""
    lines: list[Stroke] = []
    jitter = [float(value) for value in rng.normal(0, 0.012, 4)]
    if "endotracheal tube" in names:
        lines.append(([(jitter[0], -0.05), (jitter[1] / 2, 0.29)], 0.012, 0.7))
    if "enteric tube" in names:
        path = [(0.01, -0.05), (0.012, 0.3), (0.02, 0.6), (0.06, 0.8), (0.15 + jitter[2], 0.86)]
        lines.append((path, 0.008, 0.9))
    if "central line" in names:
        path = [(-0.30, 0.10), (-0.20, 0.13), (-0.09, 0.17), (-0.055, 0.26), (-0.05, 0.42)]
        lines.append(([(x + jitter[3], y) for x, y in path], 0.006, 0.9))
    if "ecg leads" in names:
        for x, y in ((-0.30, 0.20), (0.31, 0.22), (0.27, 0.70)):
            x, y = x + 2 * float(rng.normal(0, 0.012)), y + 2 * float(rng.normal(0, 0.012))
            lines.append(([(x, y - 0.010), (x, y + 0.010)], 0.022, 0.8))
            end = (x + 0.30 * math.copysign(1, x), y + 0.25)
            lines.append(([(x, y), ((x + end[0]) / 2, y + 0.05), end], 0.005, 0.7))
    if "pacemaker" in names:
        lines.append(([(0.27, 0.20), (0.31, 0.205)], 0.055, 1.0))
        lead = [(0.26, 0.19), (0.10, 0.17), (-0.03, 0.28), (-0.04, 0.5), (0.06, 0.64)]
        lines.append((lead, 0.005, 1.0))
    return lines


def _develop(
    film: Array, shot: Acquisition, level: Difficulty, raster: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Exposure, gamma, noise, marker and collimation: film values -> 8 bits."""
    rows, cols = film.shape
    values = (film - 0.5) * shot.contrast + 0.5 + shot.exposure
    lit = np.clip(film * 8, 0, 1)
    values = np.clip(values, 0, 1.2) * lit
    # The shoulder of the film curve: dense parts crowd below white instead of clipping.
    values = 1.06 * values / (1 + 0.09 * (values * values * values))
    np.power(np.clip(values, 0, 1), shot.gamma, out=values)
    # White noise of the full-size detector, averaged down to this raster.
    sigma = 0.16 * level.noise * shot.mottle * min(1.0, raster / FULL_RASTER)
    if level.noise:
        noise = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(sigma)
        noise += np.float32(0.035 * level.noise * shot.mottle) * cloud(rng, (rows, cols), 28)
        values += noise * np.sqrt(np.clip(1.1 - values, 0.1, 1))
    if shot.marker:
        size = 0.045 * raster
        x = shot.marker_x * cols if shot.marker == "R" else cols * (1 - shot.marker_x) - size
        _stamp(values, GLYPHS[shot.marker], x, shot.marker_y * rows, size)
    if shot.collimation:
        edge = max(1, round(shot.collimation * raster))
        values[:edge] = values[rows - edge :] = 0.02
    pixels: NDArray[np.uint8] = (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def _stamp(
    values: Array, glyph: list[list[tuple[float, float]]], x: float, y: float, size: float
) -> None:
    """Draw a lead letter onto `values` (rows, cols), in place, at pixel (x, y)."""
    rows, cols = values.shape
    ys, xs = np.ogrid[0:rows, 0:cols]
    top, left = max(0, int(y) - 2), max(0, int(x) - 2)
    box = (slice(top, int(y + size) + 3), slice(left, int(x + size) + 3))
    py, px = (ys[box[0], :] + 0.5).astype(np.float32), (xs[:, box[1]] + 0.5).astype(np.float32)
    ink = np.zeros(values[box].shape, np.float32)
    for path in glyph:
        for (x0, y0), (x1, y1) in pairwise(path):
            ax, ay, dx, dy = x + x0 * size, y + y0 * size, (x1 - x0) * size, (y1 - y0) * size
            t = np.clip(((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy), 0, 1)
            far = np.hypot(px - ax - t * dx, py - ay - t * dy)
            ink = np.maximum(ink, np.clip(0.085 * size + 0.6 - far, 0, 1))
    values[box] += ink * (0.97 - values[box])


def render(
    patient: Patient,
    study: Study,
    shot: Acquisition,
    level: Difficulty,
    raster: int,
    rng: np.random.Generator,
) -> Radiograph:
    """Take one image of a study.

    Args:
        patient: whose anatomy it is.
        study: findings and devices.
        shot: view and nuisances.
        level: contrast, clutter and noise.
        raster: long side in pixels.
        rng: stream of the image's texture and noise.

    Returns:
        uint8 pixels (rows, cols), bright where dense, and the pneumothorax mask (all False on a
        lateral view).
    """
    grid = make_grid(raster, shot)
    shape = shape_of(patient, study, shot, level.contrast)
    if shot.view in ("PA", "AP"):
        chest = paint_frontal(grid, patient, shape, shot, level.clutter, rng)
        _paint_findings(chest, study, level.contrast, rng)
        film, mask = chest.film, chest.mask
        lines = _devices(study.devices, rng)
        if lines:
            film = film + 0.30 * strokes(grid, lines)
    else:
        side = paint_lateral(grid, patient, shape, level.clutter, rng)
        paint_lateral_findings(side, study, level.contrast, rng)
        film, mask = side.film, np.zeros(grid.shape, np.float32)
    pixels = _develop(turn(film, grid, shot.rotation), shot, level, raster, rng)
    if not mask.any():
        return Radiograph(pixels, np.zeros(pixels.shape, np.bool_))
    return Radiograph(pixels, turn(mask, grid, shot.rotation) > 0.5)
