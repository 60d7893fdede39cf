"""What every reader of the first three datasets promises, on hand-made roots."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxrmim.errors import DataError, ParamsError
from cxrmim.manifest.build import build
from cxrmim.manifest.contract import COLUMNS, to_arrow, write_table

PLACES = ("mimic", "chexpert", "siim")


@pytest.mark.parametrize("dataset", PLACES)
def test_a_manifest_keeps_the_contract(made, request, dataset):
    request.getfixturevalue(dataset).write()
    manifest = made(dataset)
    table = manifest.table
    labels = [f"label_{name}" for name in manifest.details["classes"]]
    assert list(table.columns) == [*COLUMNS, *labels]
    assert table["source_row"].is_monotonic_increasing
    schema = to_arrow(table).schema
    assert all(schema.field(name).type == kind for name, kind in COLUMNS.items())
    assert not manifest.metrics["faults"]
    for level in ("images", "studies", "patients"):
        shared = manifest.metrics["audit"][level]
        assert shared
        assert not any(shared.values())


@pytest.mark.parametrize("dataset", PLACES)
def test_equal_input_gives_equal_bytes(setup, request, dataset, tmp_path):
    layout = request.getfixturevalue(dataset)
    layout.write()
    params = setup(dataset)
    for name in ("a", "b"):
        write_table(build(dataset, params).table, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = pd.read_parquet(tmp_path / "a")
    assert back["in_1"].dtype == bool
    assert back["source_row"].dtype == np.int64


@pytest.mark.parametrize("dataset", PLACES)
def test_a_wrong_root_is_named_with_the_expected_file(setup, dataset, tmp_path):
    expected = {
        "mimic": "mimic-cxr-2.0.0-metadata.csv",
        "chexpert": "train.csv",
        "siim": "train-rle.csv",
    }[dataset]
    params = setup(dataset)
    with pytest.raises(ParamsError, match=f"manifest.roots.{dataset} = .*no such folder"):
        build(dataset, params)
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=f"{dataset}: .*raw: empty, expected .*{expected}"):
        build(dataset, params)
    (tmp_path / "raw/other.txt").touch()
    with pytest.raises(
        DataError, match=f"not this dataset, expected .*{expected}.*roots.{dataset}"
    ):
        build(dataset, params)


def test_an_unknown_reader_is_named(setup):
    with pytest.raises(ParamsError, match="no dataset 'chexprt'; did you mean chexpert"):
        build("chexprt", setup("chexpert"))


@pytest.mark.parametrize("dataset", PLACES)
def test_a_seed_changes_who_is_tested(made, request, dataset):
    request.getfixturevalue(dataset).write()
    split = {"split": "valid_as_test"} if dataset == "chexpert" else {}
    sides = [made(dataset, seed=seed, **split).table for seed in (0, 0, 1)]
    held_out = [set(side.loc[side["split"] != "train", "image"]) for side in sides]
    assert held_out[0] == held_out[1] != held_out[2]


@pytest.mark.parametrize("dataset", PLACES)
def test_another_entry_reads_the_same_root_differently(setup, request, dataset):
    request.getfixturevalue(dataset).write()
    entries = {"other": {"dataset": dataset, "set": {"seed": 5}}}
    params = setup(dataset, entries=entries, **({} if dataset != "siim" else {"balance": False}))
    one, two = build(dataset, params).table, build("other", params).table
    assert set(one["image"]) == set(two["image"])
    assert dataset == "chexpert" or (one["split"] != two["split"]).any()


@pytest.mark.parametrize("dataset", PLACES)
def test_what_a_root_must_hold_is_stated_and_true(request, dataset):
    """`cxrmim doctor` looks for these parts; a hand-made root has them all."""
    from cxrmim import plugins

    layout = request.getfixturevalue(dataset)
    layout.suffix = ".csv"
    root = layout.write()
    about = plugins.load("dataset", dataset).ABOUT
    assert about.parts
    for part in about.parts:
        assert any((root / name).exists() for name in part.names), part.what
    assert any((root / folder).is_dir() for folder in about.folders)
    assert 0 < about.used <= about.images


@pytest.mark.parametrize("dataset", PLACES)
def test_a_table_without_rows_leaves_nothing(setup, request, dataset):
    layout = request.getfixturevalue(dataset)
    for rows in ("rows", "train", "valid"):
        if hasattr(layout, rows):
            setattr(layout, rows, [])
    if dataset == "chexpert":
        layout.test = [["CheXpert-v1.0/test/patient00200/study1", *"xxxxx"]]
    layout.write()
    with pytest.raises(DataError, match=f"{dataset}: .* no row is left of .*; check the files"):
        build(dataset, setup(dataset, limit=1.0))
