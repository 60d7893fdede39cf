"""The pixel audit on tables solved by hand, and as a stop of its own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxrmim import params as params_module
from cxrmim import record
from cxrmim.errors import DataError
from cxrmim.manifest.contract import COLUMNS, write_table
from cxrmim.paths import Paths
from cxrmim.shards import audit
from cxrmim.shards.__main__ import main


def table(rows: str) -> pd.DataFrame:
    """Rows of "image split pixels dhash"."""
    return pd.DataFrame(
        [row.split() for row in rows.strip().splitlines()],
        columns=["image", "split", "pixels", "dhash"],
    )


NONE = {"train-valid": 0, "train-test": 0, "valid-test": 0, "train": 0, "valid": 0, "test": 0}


def test_nothing_shared():
    found = audit.pixels(table("a train p h\nb valid q i\nc test r j"))
    assert found == {"pixels": NONE, "similar": NONE}


def test_contents_under_two_ids():
    """p: train and test. q: twice in train. r: in all three splits, and twice in test."""
    found = audit.pixels(
        table(
            """
            a train p 1
            b test  p 1
            c train q 2
            d train q 2
            e train r 3
            f valid r 3
            g test  r 3
            h test  r 3
            i train s 4
            """
        )
    )
    expected = NONE | {"train-valid": 1, "train-test": 2, "valid-test": 1, "train": 1, "test": 1}
    assert found == {"pixels": expected, "similar": expected}


def test_what_only_looks_alike_is_counted_apart():
    found = audit.pixels(table("a train p 1\nb valid q 1\nc valid r 2\nd valid s 2"))
    assert found["pixels"] == {"train-valid": 0, "train": 0, "valid": 0}
    assert found["similar"] == {"train-valid": 1, "train": 0, "valid": 1}


def test_an_image_that_stands_in_two_splits_itself_is_no_pixel_leak():
    """The manifest audit counts it, by its id; a second id of the same pixels is counted here."""
    assert audit.pixels(table("a train p 1\na test p 1"))["pixels"]["train-test"] == 0
    assert audit.pixels(table("a train p 1\na test p 1\nb test p 1"))["pixels"]["train-test"] == 1


def test_only_splits_that_are_there():
    assert audit.pixels(table("a train p 1\nb test p 1")) == {
        "pixels": {"train-test": 1, "train": 0, "test": 0},
        "similar": {"train-test": 1, "train": 0, "test": 0},
    }


def test_another_reading_looks_its_pixels_up():
    stored = table("a train p 1\nb test q 2\nc test p 1").assign(path=["a.png", "b.png", "c.png"])
    manifest = pd.DataFrame(
        {
            "image": ["a", "b", "c", "d"],
            "path": ["a.png", "b.png", "c.png", "d.png"],
            "split": ["valid", "train", "train", "train"],
        }
    )
    found = audit.work("other", manifest, stored)
    assert found["rows"] == 4
    assert found["not_stored"] == 1
    assert found["audit"]["pixels"] == {"train-valid": 1, "train": 0, "valid": 0}
    with pytest.raises(DataError, match="other: none of its 4 images is in the shards"):
        audit.work("other", manifest.assign(path="x"), stored)


def test_a_path_that_is_stored_twice_is_looked_up_once():
    stored = table("a train p 1\na test p 1").assign(path="a.png")
    manifest = pd.DataFrame({"image": ["a"], "path": ["a.png"], "split": ["train"]})
    assert audit.work("other", manifest, stored)["rows"] == 1


@pytest.fixture
def workspace(tmp_path, tree, monkeypatch):
    """A dataset of six images, 1 and 4 with the same pixels, with its manifest's record."""
    monkeypatch.chdir(tmp_path)
    tree["scales"]["demo"]["shards"] = {"side_downstream": 32}
    del tree["grid"]["medim_protocols"]  # whose reading of the dataset would be stored too
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    params, paths = params_module.load("params.yaml", "demo"), Paths("demo")
    root = paths.phantom("siim")
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    shutil.copy(root / "1.png", root / "4.png")
    rows = {
        "image": [f"SECRET{i}" for i in range(6)],
        "path": [f"{i}.png" for i in range(6)],
        "source_row": range(1, 7),
    }
    splits = {"siim": ["train", "train", "train", "test", "train", "test"]}
    splits["siim-mgca"] = ["train", "train", "train", "train", "test", "test"]
    for name, split in splits.items():
        found = pd.DataFrame(rows).assign(split=split, in_1=False, in_10=True)
        found = found.assign(**{c: None for c in COLUMNS if c not in found})
        paths.manifest(name).parent.mkdir(parents=True, exist_ok=True)
        write_table(found, paths.manifest(name))
        record.write(params, "manifest", name, outputs={"manifest": paths.manifest(name)})
    return paths


def test_the_stop_audits_an_entry_without_storing_it(workspace, capfd):
    assert main(["--dataset", "siim", "--scale", "demo"]) == 0
    own = record.read(workspace.record("shards", "siim"))
    assert own["metrics"]["audit"]["pixels"] == {"train-test": 0, "train": 1, "test": 0}
    assert list(own["parents"]) == ["manifest/siim"]
    assert {"images", "table", "checksums"} <= set(own["outputs"])
    assert not workspace.building("siim").exists()
    assert main(["--dataset", "siim-mgca", "--scale", "demo"]) == 0
    found = record.read(workspace.record("shards", "siim-mgca"))
    assert found["metrics"]["audit"]["pixels"] == {"train-test": 1, "train": 0, "test": 0}
    assert found["metrics"]["not_stored"] == 0
    assert sorted(found["parents"]) == ["manifest/siim-mgca", "shards/siim"]
    assert found["outputs"] == {}
    assert sorted(found["inputs"]) == ["manifest", "siim"]
    assert not workspace.shards("siim-mgca").exists()
    assert "SECRET" not in json.dumps([own, found])
    assert "SECRET" not in "".join(capfd.readouterr())


def test_an_audit_without_the_stored_pixels_is_named(workspace, capfd):
    assert main(["--dataset", "siim-mgca", "--scale", "demo"]) == 4
    assert "no such record" in capfd.readouterr().err


def test_a_second_run_writes_the_same_record(workspace):
    first, second = {}, {}
    for found in (first, second):
        for name in ("siim", "siim-mgca"):
            assert main(["--dataset", name, "--scale", "demo", "--threads", "1"]) == 0
            found[name] = workspace.record("shards", name).read_bytes()
    assert first == second
