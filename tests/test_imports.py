"""A job imports the large libraries that it uses and no other: they are seconds of every start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cxrmim import plugins
from tests.watched import REPO

HEAVY = {
    *("torch", "timm", "torchvision", "transformers", "accelerate", "safetensors", "tokenizers"),
    *("sklearn", "scipy", "pandas", "pyarrow", "pandera", "pydicom", "PIL", "matplotlib"),
    *("snakemake", "dvc", "dvclive", "jinja2", "rich"),
}
TABLES = {"pandas", "pyarrow"}
NETWORKS = {"torch", "timm", "torchvision", "safetensors", "PIL"}  # timm brings torchvision and PIL
BERT = {"transformers", "tokenizers", "accelerate", "scipy", "jinja2"}  # it brings the others
WITHOUT_TEXT = ["imagenet", "mae", "random"]
METHODS = "cxrmim.pretrain.methods."

# What a job imports up to its work -> the large libraries that come with it.
KINDS = {
    "phantom": (["phantom.__main__", *(f"phantom.layouts.{n}" for n in plugins.names("layout"))],
        {"PIL", "pydicom"}),
    "manifest": (
        ["manifest.__main__", "manifest.build",
         *(f"manifest.datasets.{n}" for n in plugins.names("dataset"))],
        TABLES | {"pandera"},
    ),
    "shards": (["shards.__main__", "shards.build"], TABLES | {"tokenizers", "pydicom", "PIL"}),
    "shards audit": (["shards.__main__", "shards.audit"], {"pandas"}),
    "pretrain": (["pretrain.__main__", "pretrain.loop"], NETWORKS),
    "pretrain without text": (
        ["pretrain.loop", *(f"pretrain.methods.{n}" for n in WITHOUT_TEXT)], NETWORKS),
    "downstream before its first run": (["downstream.__main__", "downstream.runs"], TABLES),
    "downstream baseline of masks": (
        ["downstream.runs", "downstream.tasks.segment", "downstream.features",
         "pretrain.parts.plain", "pretrain.parts.augment"],
        TABLES | {"torch", "safetensors"},
    ),
    "downstream networks": (
        ["downstream.runs", "downstream.features", "downstream.linear", "downstream.finetuning",
         "downstream.segmentation", "pretrain.weights",
         *(f"downstream.tasks.{n}" for n in plugins.names("task"))],
        TABLES | NETWORKS,
    ),
    "report": (["report.__main__", "report.build"], set()),
}  # fmt: skip


def heavy(code: str, cwd=None) -> set[str]:
    """Large libraries among the modules of a process that has run some code."""
    shown = f"print(json.dumps(sorted(set({sorted(HEAVY)}) & set(sys.modules))))"
    told = f"{code}\nimport json, sys\n{shown}"
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_imports_what_it_uses(kind):
    modules, libraries = KINDS[kind]
    found = heavy("import " + ", ".join(f"cxrmim.{name}" for name in modules))
    assert found - {"pyarrow"} == libraries - {"pyarrow"}  # pandas imports it early, or when asked


def test_methods_import_nothing_beyond_networks_and_bert():
    names = ", ".join(METHODS + name for name in plugins.names("method"))
    assert heavy(f"import cxrmim.pretrain.loop, {names}") == NETWORKS | BERT


def test_a_whole_untrained_pretraining_needs_networks_alone(tmp_path):
    """A real job, from its arguments to its record."""
    (tmp_path / "params.yaml").write_bytes((REPO / "params.yaml").read_bytes())
    code = (
        "from cxrmim.pretrain.__main__ import main\n"
        "assert main(['--checkpoint', 'random-s0', '--scale', 'demo']) == 0"
    )
    assert heavy(code, cwd=tmp_path) == NETWORKS
    assert (tmp_path / "results/demo/records/pretrain/random-s0.json").is_file()
