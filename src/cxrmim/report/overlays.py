"""The picture of image-report pairs: radiograph, attention, masks, and the report beneath."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxrmim.report import charts
from cxrmim.report.pairs import STRATEGIES, Guide, Pair

GAP, LEFT, HEAD, LEGEND, TEXT_LINE = 0.07, 0.08, 0.22, 0.5, 0.145  # inches
PANEL = (charts.DOUBLE - 2 * LEFT - 4 * GAP) / 5
FONT = 7.0
WORDS_GAP = 0.05  # inches between words
SHADE, COLOURS = "#CFE3F2", "inferno"


def draw(pairs: list[Pair]) -> Figure:
    """A row a pair: image, then attention and mask of KWM and of SDM; the report's words below."""
    width = charts.DOUBLE
    texts = [_broken(pair, width - 2 * LEFT) for pair in pairs]
    heights = [PANEL + 0.08 + TEXT_LINE * len(lines) + 0.14 for lines in texts]
    y = sum(heights) + LEGEND
    out = charts.figure(width, charts.top(width) + HEAD + y)
    height = out.get_figheight()
    heads = ["Image", *(f"{n}: {w}" for n in STRATEGIES.values() for w in ("attention", "mask"))]
    for column, head in enumerate(heads):
        x = LEFT + column * (PANEL + GAP) + PANEL / 2
        out.text(
            x / width, (y + 0.05) / height, head, ha="center", va="bottom", fontsize=charts.HEAD
        )
    for pair, lines, step in zip(pairs, texts, heights, strict=True):
        for column, (image, scale, guide) in enumerate(_panels(pair)):
            place = (LEFT + column * (PANEL + GAP), y - PANEL, PANEL, PANEL)
            axes = charts.panel(out, *place)
            axes.imshow(image, interpolation="none", **scale)
            axes.set_axis_off()
            if guide is not None:
                _outline(axes, guide, image.shape[0])
        _write(out, lines, pair, y - PANEL - 0.08)
        y -= step
    _legend(out, width, height)
    return out


def _outline(axes: Any, guide: Guide, side: int) -> None:
    """A white line round the masked patches: black alone is lost on a radiograph's dark rim."""
    from matplotlib.collections import LineCollection

    held = np.pad(guide.masked, 1)
    edges = []
    for row, column in np.argwhere(held[:, 1:] != held[:, :-1]):
        edges.append([(column, row - 1), (column, row)])
    for row, column in np.argwhere(held[1:] != held[:-1]):
        edges.append([(column - 1, row), (column, row)])
    patch = side / len(guide.masked)
    scaled = [[(x * patch - 0.5, y * patch - 0.5) for x, y in edge] for edge in edges]
    axes.add_collection(LineCollection(scaled, colors="white", linewidths=0.9, capstyle="round"))


def overlay(image: npt.NDArray[np.uint8], guide: Guide) -> npt.NDArray[np.float64]:
    """Attention over the image, (S, S, 3) in [0, 1]: each patch's share of the map's own range."""
    from matplotlib import colormaps

    span = np.ptp(guide.attention)
    share = (guide.attention - guide.attention.min()) / (span if span > 0 else 1.0)
    colour = colormaps[COLOURS](_enlarged(share, image.shape[0]))[..., :3]
    grey = np.repeat(image[..., None] / 255.0, 3, axis=-1)
    return np.asarray(0.35 * grey + 0.65 * colour, dtype=np.float64)


def blackened(image: npt.NDArray[np.uint8], guide: Guide) -> npt.NDArray[np.float64]:
    """The image with its masked patches black, (S, S) in [0, 1]."""
    hidden = _enlarged(guide.masked, image.shape[0])
    return np.where(hidden, 0.0, image / 255.0)


def _enlarged(patches: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """A (G, G) grid as (side, side), nearest patch."""
    index = np.arange(side) * patches.shape[0] // side
    return patches[np.ix_(index, index)]


def _panels(pair: Pair) -> list[tuple[npt.NDArray[Any], dict[str, Any], Guide | None]]:
    """Pixels of each panel, how they are shown, and whose masked patches are outlined."""
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    out: list[tuple[npt.NDArray[Any], dict[str, Any], Guide | None]]
    out = [(pair.image / 255.0, grey, None)]
    for key in STRATEGIES:
        guide = pair.guides[key]
        out += [
            (overlay(pair.image, guide), {}, guide),
            (blackened(pair.image, guide), grey, guide),
        ]
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
        low = y - 0.04 / height
        box = Rectangle(
            (x - 0.02 / width, low), (step + 0.005) / width, 0.135 / height, lw=0, fc=SHADE
        )
        out.add_artist(box)
    out.text(x, y, word, fontsize=FONT, fontweight="bold" if mesh else "normal", va="baseline")
    if mesh:
        end = x + (step - WORDS_GAP) / width
        out.add_artist(Line2D([x, end], [y - 0.025 / height] * 2, lw=0.8, color=charts.DARK))


def _legend(out: Figure, width: float, height: float) -> None:
    from matplotlib.cm import ScalarMappable

    y = 0.3 / height
    _word(out, "word", (LEFT / width, y), _inches("word", True) + WORDS_GAP, True, False)
    out.text((LEFT + 0.38) / width, y, "MeSH word (guides KWM)", fontsize=FONT)
    _word(out, "word", (2.1 / width, y), _inches("word", False) + WORDS_GAP, False, True)
    out.text(2.46 / width, y, "chosen sentence (guides SDM)", fontsize=FONT)
    said = "Black, and within the white outlines of the attention: masked patches."
    out.text(LEFT / width, 0.1 / height, said, fontsize=FONT)
    axes = charts.panel(out, 5.1, 0.3, 1.2, 0.09)
    bar = out.colorbar(ScalarMappable(cmap=COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([])
    bar.outline.set_visible(False)
    out.text(5.05 / width, y, "low", fontsize=FONT, ha="right")
    out.text(6.35 / width, y, "high", fontsize=FONT)
    said = "attention, each map by itself"
    out.text(5.7 / width, 0.1 / height, said, fontsize=FONT, ha="center")
