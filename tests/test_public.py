"""`cxrmim audit --public`: the rules on the real label tables, and the committed result."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import replace

import pytest

from cxrmim import public, public_tables
from cxrmim.errors import CheckError, DataError
from cxrmim.public_tables import Line

installed = pytest.mark.skipif(
    importlib.util.find_spec(public_tables.PACKAGE) is None,
    reason=f"{public_tables.PACKAGE}, which ships the real label tables, is not installed",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The result made anew, and what was printed."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("public")
    public.main(out, said.append)
    return out, said


@installed
def test_the_committed_table_is_what_the_rules_give_now(made, repo):
    out, said = made
    ours, theirs = (
        json.loads((folder / "leakage.json").read_text(encoding="utf-8"))
        for folder in (out, repo / "results/public")
    )
    assert ours["rules"] == theirs["rules"]
    assert ours["tables"] == theirs["tables"]
    assert ours["source"]["files"] == theirs["source"]["files"]
    assert (out / "leakage.csv").read_bytes() == (repo / "results/public/leakage.csv").read_bytes()
    text = (repo / "results/public/leakage.md").read_text(encoding="utf-8")
    version = theirs["source"]["version"]
    assert text == (out / "leakage.md").read_text(encoding="utf-8").replace(
        f"torchxrayvision {ours['source']['version']} ", f"torchxrayvision {version} "
    )
    assert said[-1].startswith(f"all {len(public.STATED)} stated figures came out")


@installed
def test_the_stated_figures_by_name(made):
    # Typed here once more: the figures that the project is asked for.
    with (made[0] / "leakage.csv").open(encoding="utf-8", newline="") as handle:
        found = {
            (r["dataset"], r["rule"], r["measure"], r["where"]): float(r["value"])
            for r in csv.DictReader(handle)
        }
    mgca = ("chexpert", "mgca, all views")
    assert found[*mgca, "images", "train-valid"] == 4907
    assert found[*mgca, "size", "train"] == 217433
    assert found[*mgca, "size", "valid"] == 5000
    siim = ("siim", "mgca")
    assert [found[*siim, "images", pair] for pair in public.PAIRS] == [161, 154, 62]
    assert [found[*siim, "size", s] for s in ("train", "valid", "test")] == [8578, 1910, 1903]
    assert found[*siim, "cut_masks_test", ""] == 183
    assert found[*siim, "positive_test", ""] == 476
    assert round(found[*siim, "empty_prediction_dice", ""], 1) == 75.0


def test_our_splits_share_nothing_in_the_committed_table(repo):
    tree = json.loads((repo / "results/public/leakage.json").read_text(encoding="utf-8"))
    ours = [r for r in tree["rules"] if not r["released"]]
    assert {r["dataset"] for r in ours} == set(public_tables.FILES)
    for rule in ours:
        shared = {k: n for unit in rule["shared"].values() for k, n in unit.items() if n}
        assert bool(shared) == ((rule["dataset"], rule["rule"]) == public.TORN), rule["rule"]
    leaky = [r for r in tree["rules"] if r["released"] and any(r["shared"]["images"].values())]
    assert {r["dataset"] for r in leaky} == {"chexpert", "siim"}


def test_our_rules_are_the_defaults_of_params(paper):
    datasets = paper.manifest.datasets
    assert tuple(datasets["siim"]["fractions"]) == public_tables.THREE_WAY
    assert tuple(datasets["rsna"]["fractions"]) == public_tables.THREE_WAY
    assert tuple(datasets["nih"]["fractions"]) == public_tables.NIH_SHARES
    assert datasets["chexpert"]["held_out"] == public_tables.HELD_OUT
    assert {datasets[name]["seed"] for name in public_tables.FILES} == {public_tables.SEED}
    assert datasets["siim"]["unit"] == "image"
    assert {datasets[name]["unit"] for name in ("chexpert", "nih", "rsna")} == {"patient"}


def test_a_figure_that_differs_is_an_error():
    rows = {key: float(value) for key, value in public.STATED.items()}
    public.check(rows, [])
    key = ("siim", "mgca", "images", "train-test")
    with pytest.raises(CheckError, match="siim mgca images train-test is 153, stated is 154"):
        public.check(rows | {key: 153}, [])
    del rows[key]
    with pytest.raises(CheckError, match="is None, stated is 154"):
        public.check(rows, [])


def test_a_leak_of_ours_is_an_error():
    rows = {key: float(value) for key, value in public.STATED.items()}
    line = Line("siim", "x", True, "", ("images",), {}, {"images": {"train-test": 1}})
    public.check(rows, [line])
    with pytest.raises(CheckError, match="our split siim, x shares 1"):
        public.check(rows, [replace(line, released=False)])


def test_without_the_package_there_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(public_tables, "PACKAGE", "no_such_package")
    with pytest.raises(DataError, match=r"not installed; `pip install \"cxrmim\[test\]\"`"):
        public.main(tmp_path, print)
    assert not any(tmp_path.iterdir())


def test_a_table_that_is_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r"Data_Entry_2017_v2020.csv.gz: not there"):
        public_tables.load("nih", tmp_path)
    file = tmp_path / public_tables.FILES["siim"]
    file.write_text("ImageId, EncodedPixels\na,-1\nb,-1,3\n")
    with pytest.raises(DataError, match="rows that cannot be read"):
        public_tables.load("siim", tmp_path)
