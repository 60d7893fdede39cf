import hashlib
from itertools import pairwise

import numpy as np
import pytest

from cxrmim import plugins
from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.population import draw_visits

LAYOUTS = plugins.names("layout")
SMALL = {"mimic": 6, "chexpert": 3, "siim": 6, "covidx": 6, "nih": 6, "rsna": 6}


def digest(root):
    """Hash of every file's name and bytes below a folder."""
    total = hashlib.sha256()
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_depend_on_the_seed_and_not_on_the_workers(name, spec, tmp_path, monkeypatch):
    layout = plugins.load("layout", name)
    # The floors of the validation and test sets are more than this test needs.
    for floor in ("LEAST_VALID", "LEAST_TEST"):
        if hasattr(layout, floor):
            monkeypatch.setattr(layout, floor, 3)
    digests = {}
    for label, seed, workers in (("one", 0, 1), ("two", 0, 2), ("again", 0, 1), ("other", 1, 1)):
        root = tmp_path / label
        root.mkdir()
        layout.write(root, spec(seed=seed, raster=40, **SMALL), workers)
        digests[label] = digest(root)
    assert digests["one"] == digests["two"] == digests["again"]
    assert digests["one"] != digests["other"]


def test_a_larger_raster_shows_the_same_patients():
    level = DIFFICULTIES["easy"]
    first, second = (draw_visits(3, "mimic", 5, level) for _ in range(2))
    assert first == second
    assert draw_visits(3, "mimic", 6, level) != first


def test_a_patients_anatomy_stays_and_findings_change():
    level = DIFFICULTIES["easy"]
    pairs = []
    for number in range(1500):
        _, visits = draw_visits(0, "mimic", number, level)
        pairs += [("Edema" in a.study.names, "Edema" in b.study.names) for a, b in pairwise(visits)]
    before, after = np.array(pairs).T
    assert 0.5 < after[before].mean() < 0.8
    assert after[~before].mean() < 0.16
