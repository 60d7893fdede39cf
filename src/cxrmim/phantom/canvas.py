"""The grid that a radiograph is painted on, and the soft-edged shapes that paint it.

Coordinates are the patient's frame: x is 0 on the midline and grows towards the viewer's right (the
patient's left side), y is 0 at the top and 1 at the bottom; film values run from 0 (air) to 1.
Everything is analytic in these coordinates: the raster only sets how finely they are sampled.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cxrmim.phantom.acquisition import Acquisition

Array = NDArray[np.float32]
Stroke = tuple[list[tuple[float, float]], float, float]
"""Points in the frame, width as a fraction of the frame, brightness from 0 to 1."""

MARGIN = 0.06
"""Extra border on each side, of the long side, from which a rotation takes its corners."""


@dataclass(frozen=True)
class Grid:
    """Sample points: `x` of shape (1, w) and `y` of shape (h, 1), `pixel` = their pitch."""

    x: Array
    y: Array
    pixel: float
    pad: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, margin included."""
        return self.y.shape[0], self.x.shape[1]

    def rows(self, top: float, bottom: float) -> slice:
        """The rows from a height to another one below it."""
        first, last = np.searchsorted(self.y[:, 0], (top, bottom))
        return slice(int(first), int(last))

    def columns(self, left: float, right: float) -> slice:
        """The columns from a place to another one on the viewer's right of it."""
        first, last = np.searchsorted(self.x[0], (left, right))
        return slice(int(first), int(last))


def size_of(raster: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of an image whose long side is `raster` px and width/height is `aspect`."""
    if aspect >= 1:
        return max(1, round(raster / aspect)), raster
    return raster, max(1, round(raster * aspect))


def make_grid(raster: int, shot: Acquisition) -> Grid:
    """The padded sample grid of an image, with the patient's scale and shift applied."""
    rows, cols = size_of(raster, shot.aspect)
    pad = math.ceil(MARGIN * raster)
    pixel = 1.0 / (min(rows, cols) * 1.05 * shot.scale)
    ys = (np.arange(-pad, rows + pad) + 0.5 - rows / 2) * pixel + 0.5 - shot.shift_y
    xs = (np.arange(-pad, cols + pad) + 0.5 - cols / 2) * pixel - shot.shift_x
    return Grid(
        x=xs.astype(np.float32)[None, :],
        y=ys.astype(np.float32)[:, None],
        pixel=pixel,
        pad=pad,
    )


def locate(shot: Acquisition, raster: int, x: float, y: float) -> tuple[float, float, float]:
    """Where a point of the patient's frame lies on the finished image.

    Returns:
        Column and row in pixels from the image's corner, and the frame's length of a pixel.
    """
    rows, cols = size_of(raster, shot.aspect)
    pixel = 1.0 / (min(rows, cols) * 1.05 * shot.scale)
    across, down = (x + shot.shift_x) / pixel, (y + shot.shift_y - 0.5) / pixel
    angle = math.radians(shot.rotation)
    c, s = math.cos(angle), math.sin(angle)
    return cols / 2 + c * across - s * down, rows / 2 + s * across + c * down, pixel


def ramp(distance: Array, width: float) -> Array:
    """A soft step: 0 far outside, 1 far inside, one half where the signed distance is 0."""
    step: Array = np.clip(distance * np.float32(1.0 / width) + np.float32(0.5), 0, 1)
    return step


def blob(grid: Grid, x: float, y: float, rx: float, ry: float) -> Array:
    """A Gaussian spot of height 1 and standard deviations `rx`, `ry`; shape (h, w)."""
    across = np.exp(-0.5 * ((grid.x - x) / rx) ** 2)
    down = np.exp(-0.5 * ((grid.y - y) / ry) ** 2)
    spot: Array = across * down
    return spot


def ellipse(
    grid: Grid, x: float, y: float, rx: float, ry: float, tilt: float, soft: float
) -> Array:
    """A filled ellipse whose edge is about `soft` wide; `tilt` in radians, clockwise on screen."""
    c, s = math.cos(tilt), math.sin(tilt)
    edge = soft / min(rx, ry)
    reach = max(rx, ry) * (1 + edge)
    rows, columns = grid.rows(y - reach, y + reach), grid.columns(x - reach, x + reach)
    dx, dy = grid.x[:, columns] - x, grid.y[rows] - y
    u = (dx * (c / rx) + dy * (s / rx)) ** 2
    u += (dy * (c / ry) - dx * (s / ry)) ** 2
    np.sqrt(u, out=u)
    filled = np.zeros(grid.shape, np.float32)
    filled[rows, columns] = ramp(1 - u, edge)
    return filled


def strokes(grid: Grid, lines: list[Stroke], over: int = 2) -> Array:
    """Polylines drawn with anti-aliasing; a line thinner than a sample is fainter, not wider."""
    rows, cols = grid.shape
    sheet = Image.new("L", (cols * over, rows * over))
    pen = ImageDraw.Draw(sheet)
    scale = over / grid.pixel
    left, top = float(grid.x[0, 0]) - grid.pixel / 2, float(grid.y[0, 0]) - grid.pixel / 2
    for points, width, value in lines:
        thick = width * scale
        fill = int(255 * value * min(1.0, thick))
        if fill > 0:
            path = [((x - left) * scale, (y - top) * scale) for x, y in points]
            pen.line(path, fill=fill, width=max(1, round(thick)))
    small = sheet.reduce(over)
    return np.asarray(small, dtype=np.float32) * np.float32(1 / 255)


def cloud(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Smooth noise of unit variance with about `cells` bumps along the long side."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    picture = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)


def turn(picture: Array, grid: Grid, degrees: float) -> Array:
    """Rotate about the centre and cut the margin off: (h, w) -> (rows, cols)."""
    pad = grid.pad
    rows, cols = grid.shape
    if abs(degrees) < 0.05:
        return picture[pad : rows - pad, pad : cols - pad]
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    wide, high = cols - 2 * pad, rows - 2 * pad
    # PIL maps an output pixel to its source: rotate about the centre, then step over the margin.
    cx, cy = wide / 2, high / 2
    matrix = (c, s, cx + pad - c * cx - s * cy, -s, c, cy + pad + s * cx - c * cy)
    turned = Image.fromarray(picture).transform(
        (wide, high), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned, dtype=np.float32)
