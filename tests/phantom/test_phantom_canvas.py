"""Shapes on the grid, and where a point of the frame comes out."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.phantom.acquisition import DIFFICULTIES, draw_acquisition
from cxrmim.phantom.canvas import blob, ellipse, locate, make_grid, ramp, size_of, turn

SHOT = draw_acquisition("PA", DIFFICULTIES["hard"], np.random.default_rng(4))
PLACES = st.floats(-0.6, 0.6)
RADII = st.floats(0.01, 0.4)


@settings(max_examples=60)
@given(x=PLACES, y=PLACES, rx=RADII, ry=RADII, tilt=st.floats(-2, 2), soft=st.floats(0.005, 0.1))
def test_an_ellipse_is_the_formula_everywhere(x, y, rx, ry, tilt, soft):
    grid = make_grid(50, SHOT)
    across, down = grid.x - x, grid.y - (y + 0.5)
    c, s = math.cos(tilt), math.sin(tilt)
    radius = np.hypot((across * c + down * s) / rx, (down * c - across * s) / ry)
    expected = ramp(1 - radius, soft / min(rx, ry))
    assert np.allclose(ellipse(grid, x, y + 0.5, rx, ry, tilt, soft), expected, atol=1e-4)


def test_rows_and_columns_are_those_between():
    grid = make_grid(64, SHOT)
    rows, columns = grid.rows(0.2, 0.4), grid.columns(-0.1, 0.3)
    assert ((grid.y[:, 0] >= 0.2) & (grid.y[:, 0] < 0.4)).sum() == len(grid.y[rows])
    assert (grid.y[rows] >= 0.2).all() and (grid.y[rows] < 0.4).all() and len(grid.y[rows])
    assert ((grid.x[0] >= -0.1) & (grid.x[0] < 0.3)).sum() == len(grid.x[0, columns]) > 0
    assert grid.rows(5, 6) == slice(grid.shape[0], grid.shape[0])


@pytest.mark.parametrize("aspect", [1.0, 0.82, 1.2])
@pytest.mark.parametrize("rotation", [0.0, 5.5, -4.0])
@pytest.mark.parametrize(("x", "y"), [(0.0, 0.5), (0.2, 0.3), (-0.25, 0.7)])
def test_a_point_comes_out_where_it_is_located(aspect, rotation, x, y):
    shot = replace(SHOT, aspect=aspect, rotation=rotation, shift_x=0.05, shift_y=-0.03, scale=1.1)
    grid = make_grid(200, shot)
    picture = turn(blob(grid, x, y, 0.012, 0.012), grid, rotation)
    assert picture.shape == size_of(200, aspect)
    weights = picture / picture.sum()
    ys, xs = np.indices(picture.shape) + 0.5
    column, row, pixel = locate(shot, 200, x, y)
    assert (weights * xs).sum() == pytest.approx(column, abs=0.6)
    assert (weights * ys).sum() == pytest.approx(row, abs=0.6)
    assert pixel == pytest.approx(grid.pixel)
