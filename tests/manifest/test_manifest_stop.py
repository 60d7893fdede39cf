"""The stops as programs: generated data through manifest and shards, twice."""

from __future__ import annotations

import json
import logging

import pytest
import yaml

from cxrmim import plugins
from cxrmim.manifest.__main__ import main as manifest_stop
from cxrmim.shards.__main__ import main as shards_stop
from cxrmim.shards.store import open_shards

DATASETS = [d for d in ("mimic", "chexpert", "siim") if plugins.source("layout", d)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory, repo):
    """A folder with a few generated patients of each dataset and parameters for them."""
    from cxrmim import params as params_module

    folder = tmp_path_factory.mktemp("stops")
    tree = yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))
    demo = tree["scales"]["demo"]
    demo["phantom"] |= {"raster": 64, "patients": dict.fromkeys(DATASETS, 12)}
    demo["shards"] = {"side": 112, "text": {"tokenizer": "phantom", "vocab": 200, "length": 40}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    params = params_module.load(folder / "params.yaml", "demo")
    for name in DATASETS:
        root = folder / "results/demo/phantom" / name
        root.mkdir(parents=True)
        plugins.load("layout", name).write(root, params.phantom, 1)
        record = folder / f"results/demo/records/phantom/{name}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text("{}")
    return folder


@pytest.fixture
def here(generated, monkeypatch):
    monkeypatch.chdir(generated)
    log = logging.getLogger("cxrmim")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield generated
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


def artifacts(folder, name):
    places = [folder / f"results/demo/artifacts/{p}" for p in ("manifests", "shards")]
    found = [p for place in places for p in sorted(place.rglob("*")) if p.is_file()]
    records = [
        folder / f"results/demo/records/{stop}/{name}.json" for stop in ("manifest", "shards")
    ]
    return {p.relative_to(folder): p.read_bytes() for p in [*found, *records]}


@pytest.mark.parametrize("name", DATASETS)
def test_generated_data_passes_both_stops_twice_alike(here, name):
    contents = []
    for threads in ("1", "2"):
        arguments = ["--dataset", name, "--scale", "demo", "--threads", threads]
        assert manifest_stop(arguments) == 0
        assert shards_stop(arguments) == 0
        contents.append(artifacts(here, name))
    assert contents[0] == contents[1]
    shards = open_shards(here / f"results/demo/artifacts/shards/{name}")
    read = json.loads((here / f"results/demo/records/shards/{name}.json").read_text())
    assert read["metrics"]["kept"] == len(shards.images) > 0
    assert shards.images.max() > 100
    assert (shards.masks is not None) == (name == "siim")
    assert (shards.reports is not None) == (name == "mimic")
    flow = json.loads((here / f"results/demo/records/manifest/{name}.json").read_text())
    counts = dict(flow["metrics"]["flow"])
    assert counts.pop("rows") == sum(counts.values())
    if shards.masks is not None:
        marked = shards.table["label_Pneumothorax"].to_numpy() == 1
        assert ((shards.masks.reshape(len(marked), -1).max(1) > 0) == marked).all()


@pytest.mark.parametrize("name", DATASETS[:1])
def test_records_hold_no_id_and_no_text(here, name):
    arguments = ["--dataset", name, "--scale", "demo"]
    assert manifest_stop(arguments) == 0
    assert shards_stop(arguments) == 0
    table = open_shards(here / f"results/demo/artifacts/shards/{name}").table
    records = [*here.glob(f"results/demo/records/*/{name}*.json")]
    logs = [*here.glob(f"results/demo/artifacts/logs/*/{name}.log")]
    for path in [*records, *logs]:
        text = path.read_text(encoding="utf-8")
        for column in ("image", "patient", "study", "impression"):
            assert not any(value in text for value in table[column].head(5) if value), path


def test_mistakes_are_one_line_and_a_status(here, capsys, monkeypatch):
    assert manifest_stop(["--dataset", "nosuch", "--scale", "demo"]) == 2
    assert "no dataset reader 'nosuch'" in capsys.readouterr().err
    (here / "results/demo/phantom/empty").mkdir(exist_ok=True)
    name = DATASETS[0]
    root = here / f"results/demo/phantom/{name}"
    root.rename(root.with_name("away"))
    try:
        assert manifest_stop(["--dataset", name, "--scale", "demo"]) == 3
        assert "nothing generated there" in capsys.readouterr().err
    finally:
        root.with_name("away").rename(root)
    (here / f"results/demo/records/manifest/{name}.json").unlink(missing_ok=True)
    assert shards_stop(["--dataset", name, "--scale", "demo"]) == 4
    error = capsys.readouterr().err
    assert "no such record" in error
    assert error.count("\n") == 1
