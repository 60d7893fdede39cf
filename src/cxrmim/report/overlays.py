"""The picture of image-report pairs: radiograph, attention, masks, and the report beneath."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxrmim.report import charts
from cxrmim.report.pairs import STRATEGIES, Guide, Pair

PANEL, GAP, LEFT, TOP, LEGEND, TEXT_LINE = 1.5, 0.08, 0.12, 0.62, 0.62, 0.17  # inches
FONT = 8
WORDS_GAP = 0.05  # inches between words
SHADE, COLOURS = "#CFE3F2", "inferno"


def draw(pairs: list[Pair]) -> Figure:
    """A row a pair: image, then attention and mask of KWM and of SDM; the report's words below."""
    width = 2 * LEFT + 5 * PANEL + 4 * GAP
    texts = [_broken(pair, width - 2 * LEFT) for pair in pairs]
    heights = [PANEL + 0.1 + TEXT_LINE * len(lines) + 0.18 for lines in texts]
    height = TOP + sum(heights) + LEGEND
    out = charts.figure(width, height)
    heads = ["Image", *(f"{n}: {w}" for n in STRATEGIES.values() for w in ("attention", "mask"))]
    for column, head in enumerate(heads):
        x = LEFT + column * (PANEL + GAP) + PANEL / 2
        out.text(x / width, 1 - (TOP - 0.08) / height, head, ha="center", va="bottom", fontsize=9)
    y = height - TOP
    for pair, lines, step in zip(pairs, texts, heights, strict=True):
        for column, (image, scale) in enumerate(_panels(pair)):
            box = (
                (LEFT + column * (PANEL + GAP)) / width,
                (y - PANEL) / height,
                PANEL / width,
                PANEL / height,
            )
            axes = out.add_axes(box)
            axes.imshow(image, interpolation="none", **scale)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
        _write(out, lines, pair, y - PANEL - 0.1)
        y -= step
    _legend(out, width, height)
    return out


def overlay(image: npt.NDArray[np.uint8], guide: Guide) -> npt.NDArray[np.float64]:
    """Attention over the image, (S, S, 3) in [0, 1]: each patch's share of the map's own range."""
    from matplotlib import colormaps

    span = np.ptp(guide.attention)
    share = (guide.attention - guide.attention.min()) / (span if span > 0 else 1.0)
    colour = colormaps[COLOURS](_enlarged(share, image.shape[0]))[..., :3]
    grey = np.repeat(image[..., None] / 255.0, 3, axis=-1)
    return np.asarray(0.45 * grey + 0.55 * colour, dtype=np.float64)


def blackened(image: npt.NDArray[np.uint8], guide: Guide) -> npt.NDArray[np.float64]:
    """The image with its masked patches black, (S, S) in [0, 1]."""
    hidden = _enlarged(guide.masked, image.shape[0])
    return np.where(hidden, 0.0, image / 255.0)


def _enlarged(patches: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """A (G, G) grid as (side, side), nearest patch."""
    index = np.arange(side) * patches.shape[0] // side
    return patches[np.ix_(index, index)]


def _panels(pair: Pair) -> list[tuple[npt.NDArray[Any], dict[str, Any]]]:
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    out: list[tuple[npt.NDArray[Any], dict[str, Any]]] = [(pair.image / 255.0, grey)]
    for key in STRATEGIES:
        guide = pair.guides[key]
        out += [(overlay(pair.image, guide), {}), (blackened(pair.image, guide), grey)]
    return out


def _broken(pair: Pair, width: float) -> list[list[int]]:
    """Word positions in lines that fit into `width` inches."""
    lines: list[list[int]] = [[]]
    used = 0.0
    for position, word in enumerate(pair.words):
        step = _inches(word, position in pair.guides["kwm"].words) + WORDS_GAP
        if lines[-1] and used + step > width:
            lines.append([])
            used = 0.0
        lines[-1].append(position)
        used += step
    return lines


def _inches(word: str, bold: bool) -> float:
    """Width of a word in the figure's font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=FONT)
    width, _, _ = text_to_path.get_text_width_height_descent(word, font, ismath=False)
    return float(width) / 72


def _write(out: Figure, lines: list[list[int]], pair: Pair, top: float) -> None:
    """Words below a row: MeSH words bold and underlined, the chosen sentence shaded."""
    width, height = out.get_size_inches()
    for number, line in enumerate(lines):
        x, y = LEFT, top - TEXT_LINE * (number + 0.75)
        for position in line:
            mesh, chosen = (position in pair.guides[key].words for key in STRATEGIES)
            step = _inches(pair.words[position], mesh) + WORDS_GAP
            _word(out, pair.words[position], (x / width, y / height), step, mesh, chosen)
            x += step


def _word(
    out: Figure, word: str, at: tuple[float, float], step: float, mesh: bool, chosen: bool
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    width, height = out.get_size_inches()
    x, y = at
    if chosen:
        low = y - 0.045 / height
        box = Rectangle(
            (x - 0.02 / width, low), (step + 0.005) / width, 0.16 / height, lw=0, fc=SHADE
        )
        out.add_artist(box)
    out.text(x, y, word, fontsize=FONT, fontweight="bold" if mesh else "normal", va="baseline")
    if mesh:
        end = x + (step - WORDS_GAP) / width
        out.add_artist(Line2D([x, end], [y - 0.025 / height] * 2, lw=0.8, color=charts.DARK))


def _legend(out: Figure, width: float, height: float) -> None:
    from matplotlib.cm import ScalarMappable

    y = 0.36 / height
    _word(out, "word", (LEFT / width, y), 0.38, True, False)
    out.text((LEFT + 0.42) / width, y, "MeSH word (guides KWM)", fontsize=FONT)
    _word(out, "word", (2.3 / width, y), 0.36, False, True)
    out.text(2.72 / width, y, "chosen sentence (guides SDM)", fontsize=FONT)
    out.text(LEFT / width, 0.14 / height, "Black patches are masked.", fontsize=FONT)
    axes = out.add_axes((5.55 / width, 0.36 / height, 1.4 / width, 0.1 / height))
    bar = out.colorbar(ScalarMappable(cmap=COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([])
    bar.outline.set_visible(False)
    out.text(5.5 / width, y, "low", fontsize=FONT, ha="right")
    out.text(7.0 / width, y, "high", fontsize=FONT)
    out.text(6.25 / width, 0.14 / height, "attention, each map by itself", fontsize=7, ha="center")
