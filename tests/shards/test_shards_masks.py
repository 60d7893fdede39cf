"""Run-length masks against hand-made codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.shards.images import UnreadableError
from cxrmim.shards.masks import decode_rle


def test_run_lengths_are_relative_and_run_down_the_columns():
    """Height 4, width 3; flat index = column * 4 + row."""
    mask = decode_rle(["1 2 3 2"], 4, 3)  # flat 1, 2, then 3 further: 6, 7
    expected = [[0, 0, 0], [255, 0, 0], [255, 255, 0], [0, 255, 0]]
    assert mask.tolist() == expected
    assert decode_rle([], 4, 3).max() == 0
    both = decode_rle(["1 2 3 2", "0 1"], 4, 3)
    assert (both > 0).sum() == 5
    assert decode_rle(["0 12"], 4, 3).min() == 255


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("0 13", "past the image"),
        ("12 1", "past the image"),
        ("1 2 3", "pairs"),
        ("", "pairs"),
        ("1 -2", "whole numbers"),
        ("1.5 2", "whole numbers"),
        ("1 99999999999999999999", "whole numbers"),
        ("²3 1", "whole numbers"),
    ],
)
def test_a_bad_mask_is_a_typed_fault(code, reason):
    with pytest.raises(UnreadableError, match=reason):
        decode_rle([code], 4, 3)


@given(seed=st.integers(0, 999), height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=40)
def test_masks_come_back_from_their_code(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    code = " ".join(map(str, np.diff(edges, prepend=0)))
    assert ((decode_rle([code] if code else [], height, width) > 0) == mask).all()
