"""The README's measured numbers are those of the committed tables."""

from __future__ import annotations

import csv
import re

import pytest

NAMES = {
    "random": "random weights",
    "imagenet": "ImageNet (stand-in: generated shapes)",
    "mae": "MAE",
    "gloria": "GLoRIA",
    "mrm": "MRM",
    "mgca": "MGCA",
    "medim": "MedIM",
    "cmitm": "CMITM",
}
ALIGNED = ("gloria", "mgca", "medim", "cmitm")


def rows(repo, table):
    with (repo / f"results/trend/tables/{table}.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("entry", NAMES)
def test_the_probe_numbers_are_those_of_the_trend(repo, entry):
    text = (repo / "README.md").read_text(encoding="utf-8")
    line = next(ln for ln in text.splitlines() if ln.startswith(f"| {NAMES[entry]} |"))
    cells = [row for row in rows(repo, "trend") if row["row"] == entry]
    assert len(cells) == 3
    for cell in cells:
        assert f"{float(cell['ours_mean']):.2f} ± {float(cell['ours_sd']):.2f}" in line


@pytest.mark.parametrize("entry", NAMES)
def test_the_costs_are_those_of_the_trend(repo, entry):
    text = (repo / "README.md").read_text(encoding="utf-8")
    line = next(ln for ln in text.splitlines() if ln.startswith(f"| {NAMES[entry]} |"))
    cost = next(row for row in rows(repo, "trend_cost") if row["row"] == entry)
    assert f"| {float(cost['cpu_seconds']):.0f} |" in line


@pytest.mark.parametrize("method", ALIGNED)
def test_the_retrieval_multiples_are_those_of_the_trend(repo, method):
    text = (repo / "README.md").read_text(encoding="utf-8")
    line = next(ln for ln in text.splitlines() if ln.startswith(f"| {NAMES[method]} |"))
    found = {
        row["row"]: float(row["multiple"])
        for row in rows(repo, "trend_retrieval")
        if row["column"] == "i2t_r10"
    }
    printed = [float(number) for number in re.findall(r"([0-9.]+)x", line)]
    # The csv has two decimals, so its own rounding may move the one printed here.
    assert printed == pytest.approx([found[method], found[f"{method}-shuffled"]], abs=0.051)


LEAKS = {
    "| CheXpert | MGCA's code": ("chexpert", "mgca, all views", "images"),
    "| | ours, by patient | 218": ("chexpert", "valid_as_test, all views", "images"),
    "| SIIM-ACR | MGCA's": ("siim", "mgca", "images"),
    "| | ours, by image |": ("siim", "fractions, by image", "images"),
    "| NIH | cut by image": ("nih", "fractions, by image", "patients"),
    "| | ours, by patient | 78": ("nih", "fractions, by patient", "patients"),
}


@pytest.mark.parametrize("start", LEAKS)
def test_the_leaks_are_those_computed_on_the_public_tables(repo, start):
    text = (repo / "README.md").read_text(encoding="utf-8")
    line = next(ln for ln in text.splitlines() if ln.startswith(start))
    with (repo / "results/public/leakage.csv").open(encoding="utf-8") as handle:
        found = {
            (row["measure"], row["where"]): row["value"]
            for row in csv.DictReader(handle)
            if (row["dataset"], row["rule"]) == LEAKS[start][:2]
        }
    sizes = [found.get(("size", split)) for split in ("train", "valid", "test")]
    pairs = ("train-valid", "train-test", "valid-test")
    shared = [found.get((LEAKS[start][2], pair)) for pair in pairs]
    for values in (sizes, shared):
        assert " / ".join(f"{int(v):,}" if v else "–" for v in values) in line
    if LEAKS[start][:2] == ("siim", "mgca"):
        cut, positive = (int(found[name, ""]) for name in ("cut_masks_test", "positive_test"))
        assert f"{cut} of {positive} test masks" in line
        assert f"{float(found['empty_prediction_dice', '']):.1f}" in line


def test_the_counts_of_claims_slips_and_choices_are_those_of_the_data(repo):
    text = (repo / "README.md").read_text(encoding="utf-8")
    for name, pattern in (
        ("claims", r"([0-9]+) sentences of the papers"),
        ("slips", r"([0-9]+) slips of the papers"),
    ):
        with (repo / f"results/demo/tables/{name}.csv").open(encoding="utf-8") as handle:
            assert int(re.search(pattern, text)[1]) == len(list(csv.DictReader(handle)))
    with (repo / "results/demo/tables/ledger.csv").open(encoding="utf-8") as handle:
        topics = {row["topic"] for row in csv.DictReader(handle)}
    assert int(re.search(r"([0-9]+) choices between paper and released code", text)[1]) == len(
        topics
    )
