"""Contact sheet: a row a finding, frontal and lateral, and what nuisances alone look like."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxrmim.phantom.acquisition import DIFFICULTIES, Acquisition, View, draw_acquisition
from cxrmim.phantom.findings import (
    EXTRA_PREVALENCE,
    PREVALENCE,
    Finding,
    Study,
    draw_finding,
    draw_patient,
)
from cxrmim.phantom.painting import render
from cxrmim.phantom.streams import PhantomSpec, stream

COLUMNS: tuple[View, ...] = ("PA", "PA", "AP", "AP", "LATERAL")
GAP, CAPTION, TITLE = 6, 16, 30
INK, PAPER, OUTLINE = (230, 230, 230), (18, 18, 18), (255, 190, 40)
FRONTAL_ONLY = ("COVID-19", *EXTRA_PREVALENCE)
NORMAL = Study((), (), False, frozenset(), frozenset(), frozenset())

NUISANCES: tuple[tuple[str, dict[str, float], tuple[str, ...]], ...] = (
    ("over-exposed", {"exposure": 0.13, "gamma": 0.8}, ()),
    ("under-exposed", {"exposure": -0.1, "contrast": 1.25, "gamma": 1.3}, ()),
    ("turned, off centre", {"rotation": 5.0, "shift_x": 0.06, "obliquity": 0.02}, ()),
    ("lines and tubes", {}, ("central line", "endotracheal tube", "enteric tube")),
    ("leads, pacemaker", {}, ("ecg leads", "pacemaker")),
)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's own pixels that touch one outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: NDArray[np.bool_] = mask & ~inner
    return edge


def _tile(pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> Image.Image:
    """The image in colour, with the outline of the mask if there is one."""
    colour = np.repeat(pixels[:, :, None], 3, axis=2)
    if mask is not None:
        colour[_outline(mask)] = OUTLINE
    return Image.fromarray(colour)


def _caption(item: Finding | None, view: str) -> str:
    if item is None:
        return view
    zone = "" if item.name == "Pneumothorax" else item.zone
    words = [item.side, zone, f"{item.severity:.1f}", view]
    return " ".join(word for word in words if word)


def draw_sheet(params: PhantomSpec) -> Image.Image:
    """The contact sheet of a population's look, in RGB.

    Args:
        params: seed, raster (of each square tile, px) and difficulty.

    Returns:
        Rows: normal, each main finding (the last frontal of pneumothorax with its mask outlined),
        the findings of the sets without lateral views, nuisances without findings; four frontals
        and a lateral (or a fifth frontal) each.
    """
    level, side = DIFFICULTIES[params.difficulty], params.raster
    rows: list[tuple[str, list[tuple[Image.Image, str]]]] = []
    kinds: list[str] = ["Normal", *PREVALENCE, *FRONTAL_ONLY]
    for row, name in enumerate(kinds):
        tiles = []
        for column, usual in enumerate(COLUMNS):
            # The sets that name these findings have no lateral views.
            view = "PA" if name in FRONTAL_ONLY else usual
            rng = stream(params.seed, "sheet", row, column)
            patient = draw_patient(rng)
            item = None
            if name != "Normal":
                item = replace(draw_finding(name, rng), severity=(0.1, 0.4, 0.7, 1.0, 0.9)[column])
            study = replace(NORMAL, findings=() if item is None else (item,))
            shot = draw_acquisition(view, level, rng, square=True)
            pixels_rng = stream(params.seed, "sheet", row, column, 0, "pixels")
            image = render(patient, study, shot, level, side, pixels_rng)
            masked = name == "Pneumothorax" and column in (2, 3)
            caption = _caption(item, view) + (", mask" if masked else "")
            tiles.append((_tile(image.pixels, image.mask if masked else None), caption))
        rows.append((name, tiles))
    rows.append(("Nuisances only", _nuisance_row(params)))
    return _compose(rows, side, params.difficulty)


def _nuisance_row(params: PhantomSpec) -> list[tuple[Image.Image, str]]:
    """One healthy patient under five ways of taking the image."""
    level = DIFFICULTIES[params.difficulty]
    rng = stream(params.seed, "sheet", 99)
    patient = draw_patient(rng)
    usual: Acquisition = draw_acquisition("AP", level, rng, square=True)
    tiles = []
    for column, (caption, changes, devices) in enumerate(NUISANCES):
        shot = replace(usual, **changes)  # type: ignore[arg-type]
        study = replace(NORMAL, devices=devices)
        pixels_rng = stream(params.seed, "sheet", 99, column, 0, "pixels")
        image = render(patient, study, shot, level, params.raster, pixels_rng)
        tiles.append((_tile(image.pixels, None), caption))
    return tiles


def _compose(
    rows: list[tuple[str, list[tuple[Image.Image, str]]]], side: int, difficulty: str
) -> Image.Image:
    """Lay captioned tiles out in rows with their names on the left."""
    font = ImageFont.load_default(size=11)
    label = 118
    wide = label + len(COLUMNS) * (side + GAP) + GAP
    sheet = Image.new("RGB", (wide, TITLE + len(rows) * (side + CAPTION + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    title = (
        f"phantom data: synthetic, no patient's image ({difficulty} level; numbers are severities)"
    )
    pen.text((GAP, 8), title, INK, font=ImageFont.load_default(size=14))
    for row, (name, tiles) in enumerate(rows):
        top = TITLE + row * (side + CAPTION + GAP)
        pen.text((GAP, top + side // 2), name, INK, font=font)
        for column, (tile, caption) in enumerate(tiles):
            left = label + column * (side + GAP)
            sheet.paste(tile, (left, top))
            pen.text((left, top + side + 1), caption, INK, font=font)
    return sheet


def write_sheet(path: Path, params: PhantomSpec) -> None:
    """Save the contact sheet as a PNG at `path`."""
    draw_sheet(params).save(path, "PNG")
