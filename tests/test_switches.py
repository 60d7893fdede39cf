"""docs/switches.md and params.yaml name the same switches; every data row of the ledger is one."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

import pytest

from cxrmim import plugins

# Data rows of the ledger (protocols.md section 4): topic -> the switch that decides it.
LEDGER = {
    "MIMIC split": "manifest.datasets.mimic.split",
    "views": "manifest.datasets.mimic.views",
    "fallback section": "manifest.datasets.mimic.fallback",
    "override ids": "manifest.datasets.mimic.overrides",
    "resize": "shards.side",
    "CheXpert split": "manifest.datasets.chexpert.split",
    "CheXpert views": "manifest.datasets.chexpert.views",
    "CheXpert copy": "manifest.datasets.chexpert.release",
    "COVIDx split": "manifest.datasets.covidx.split",
    "COVIDx list": "manifest.datasets.covidx.list",
    "SIIM split": "manifest.datasets.siim.split",
    "SIIM split unit": "manifest.datasets.siim.unit",
    "SIIM release": "manifest.datasets.siim.release",
    "SIIM train": "manifest.datasets.siim.balance",
    "RSNA task": "manifest.datasets.rsna.negative",
    "RSNA split": "manifest.datasets.rsna.split",
    "NIH labels": "manifest.datasets.nih.labels",
    "NIH split": "manifest.datasets.nih.split",
    "seeds": "manifest.subset.reseed",
    "nested subsets": "manifest.subset.nested",
    "MeSH preprocessing": "shards.text.mesh",
    "MRM text": "shards.text.raw",
    "retrieval set": "downstream.retrieve.pool",
    "T3 label share": "grid.medim_table3.cells",
}


def lines(repo) -> list[str]:
    text = (repo / "docs/switches.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| ")]


def value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        assert isinstance(tree, dict) and part in tree, f"{key}: no {part}"
        tree = tree[part]
    return tree


@pytest.mark.parametrize("topic", LEDGER)
def test_every_data_row_of_the_ledger_has_a_switch_and_a_line(repo, paper, topic):
    value(paper.model_dump(mode="json"), LEDGER[topic])
    assert any(f"`{LEDGER[topic]}" in line for line in lines(repo)), topic


def test_every_switch_named_in_the_docs_exists(repo, paper):
    tree = paper.model_dump(mode="json")
    found = 0
    for line in lines(repo)[2:]:
        cell = line.split("|")[2]
        for name in re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)+)", cell):
            value(tree, name)
            found += 1
    assert found > 40


@pytest.mark.parametrize("dataset", plugins.names("dataset"))
def test_every_choice_of_a_reader_is_in_the_docs(repo, dataset):
    """Options that name alternatives, and every alternative by its name."""
    model = plugins.options("dataset", dataset)
    assert model is not None
    text = "\n".join(line for line in lines(repo) if f"datasets.{dataset}." in line)
    seen = 0
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) if get_origin(field.annotation) is not None else ()
        named = [kind for kind in kinds if isinstance(kind, str)]
        if len(named) < 2:
            continue
        assert f"`manifest.datasets.{dataset}.{name}`" in text, f"{dataset}.{name}"
        for kind in named:
            assert f"`{kind}`" in text or f"`{name}: {kind}`" in text, f"{dataset}.{name}: {kind}"
        seen += 1
    assert seen
