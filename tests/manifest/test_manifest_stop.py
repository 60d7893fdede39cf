"""The stops as programs: generated data through manifest and shards, twice."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pandas as pd
import pytest
import yaml

from cxrmim import grid, plugins
from cxrmim import params as params_module
from cxrmim.errors import DataError
from cxrmim.manifest.__main__ import main as manifest_stop
from cxrmim.manifest.build import check_faults
from cxrmim.manifest.contract import Fault, Flow, Reading
from cxrmim.shards.__main__ import main as shards_stop
from cxrmim.shards.store import open_shards

DATASETS = ["mimic", "chexpert", "covidx", "siim", "nih", "rsna"]
SHARED = ("images", "studies", "patients")


@pytest.fixture(scope="module")
def generated(tmp_path_factory, repo):
    """A folder with a few generated patients of each dataset and parameters for them."""
    folder = tmp_path_factory.mktemp("stops")
    tree = yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))
    demo = tree["scales"]["demo"]
    demo["phantom"] |= {"raster": 64, "patients": dict.fromkeys(DATASETS, 12) | {"chexpert": 120}}
    raw = {"tokenizer": "phantom", "vocab": 200, "length": 60}
    demo["shards"] |= {"side": 112}
    demo["shards"]["text"] |= {"vocab": 200, "length": 40, "raw": raw}
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
        marked = shards.table.column("label_Pneumothorax") == 1
        masks = shards.masks[np.arange(len(marked))]
        assert ((masks.reshape(len(marked), -1).max(1) > 0) == marked).all()


def record_of(folder, entry):
    path = folder / f"results/demo/records/manifest/{entry}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_entry_is_read_and_audited(here):
    params = params_module.load(here / "params.yaml", "demo")
    used, audited = grid.datasets(params), grid.audited(params)
    assert len(audited) >= 5
    assert set(used) >= set(DATASETS)
    leaky = set()
    for entry in [*used, *audited]:
        assert manifest_stop(["--dataset", entry, "--scale", "demo"]) == 0
        record = record_of(here, entry)
        found, flow = record["metrics"]["audit"], record["metrics"]["flow"]
        assert flow["rows"] == sum(flow.values()) - flow["rows"]
        assert list(record["metrics"]["splits"])
        assert set(record["details"]["flow"]) == set(flow)
        sizes = {s: record["metrics"]["splits"][s]["images"] for s in ("train", "valid", "test")}
        assert sizes["train"], entry
        shared = {name for name in SHARED if any(found[name].values())}
        other = params.manifest.entries.get(entry)
        if entry in used and not (other and other.released):
            assert record["details"]["unit"] in ("image", "study", "patient")
            assert not shared & {"images"}
            assert "patients" not in shared or record["details"]["unit"] != "patient"
        if shared & {"images"}:
            leaky.add(entry)
    assert {grid.reader(params, entry) for entry in leaky} == {"chexpert", "siim"}
    assert leaky <= set(audited)


def test_inputs_are_named_below_their_root(here):
    assert manifest_stop(["--dataset", "nih", "--scale", "demo"]) == 0
    inputs = record_of(here, "nih")["inputs"]
    assert any(name.startswith("lists/") for name in inputs)
    assert any(name.startswith("Data_Entry_2017") for name in inputs)
    assert all(entry["bytes"] > 0 and len(entry["sha256"]) == 64 for entry in inputs.values())


def test_reseeded_subsets_reach_the_file(here, generated):
    tree = yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))
    tree["manifest"]["subset"]["reseed"] = True
    (here / "reseed.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    arguments = ["--dataset", "chexpert", "--scale", "demo", "--params", "reseed.yaml"]
    assert manifest_stop(arguments) == 0
    table = pd.read_parquet(here / "results/demo/artifacts/manifests/chexpert.parquet")
    seeds = params_module.load(here / "reseed.yaml", "demo").seeds.downstream
    assert len(seeds) > 1
    columns = [f"in_10_s{seed}" for seed in seeds]
    assert all(table[name].dtype == bool for name in columns)
    assert len({tuple(table[name]) for name in columns}) > 1
    assert set(columns) < set(record_of(here, "chexpert")["metrics"]["splits"])


@pytest.mark.parametrize("name", DATASETS)
def test_records_hold_no_id_and_no_text(here, name):
    arguments = ["--dataset", name, "--scale", "demo"]
    assert manifest_stop(arguments) == 0
    table = pd.read_parquet(here / f"results/demo/artifacts/manifests/{name}.parquet")
    records = [*here.glob(f"results/demo/records/*/{name}*.json")]
    logs = [*here.glob(f"results/demo/artifacts/logs/*/{name}.log")]
    assert records
    assert logs
    private = {
        str(value)
        for column in ("image", "path", "patient", "study", "impression", "findings")
        for value in table[column].dropna()
        if len(str(value)) > 3
    }
    assert len(private) > 10
    for path in [*records, *logs]:
        text = path.read_text(encoding="utf-8")
        assert not any(value in text for value in private), path


def test_mistakes_are_one_line_and_a_status(here, capsys, monkeypatch):
    assert manifest_stop(["--dataset", "nosuch", "--scale", "demo"]) == 2
    assert "no dataset 'nosuch'" in capsys.readouterr().err
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


def test_a_split_that_is_lost_stops_the_run_however_small_it_is() -> None:
    kept = pd.DataFrame({"split": ["train"] * 1000 + ["test"]})
    lost = [Fault(row, "image is missing", True, "test") for row in (1001, 1002)]
    reading = Reading(kept, {"rows": 1003, "image is missing": 2, "kept": 1001}, [], lost)
    with pytest.raises(DataError, match=r"covidx: 2 of the 3 rows of split test cannot be used"):
        check_faults("covidx", reading, 0.01)
    check_faults("covidx", reading, 0.7)
    one = dataclasses.replace(reading, faults=lost[:1])
    check_faults("covidx", one, 0.01)


def test_a_fault_knows_the_split_that_its_row_was_for() -> None:
    flow = Flow(pd.DataFrame({"source_row": [1, 2], "split": ["train", None]}))
    flow.fault(pd.Series([True, True]), "image is missing")
    assert [fault.split for fault in flow.faults] == ["train", ""]
