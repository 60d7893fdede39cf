"""A small corpus and parameters for its shards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from shards_corpus import Corpus, parameters

from cxrmim.params import Params


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


@pytest.fixture
def setup(demo: Params) -> Callable[..., Params]:
    """Parameters of the demo with 32 px images and short captions."""
    return partial(parameters, demo)
