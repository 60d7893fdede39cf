"""A method author touches one source file, one params entry and one test: shown on a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOY = '''
"""A method for this test: pulls the CLS token to zero."""

from typing import Annotated

from pydantic import Field

from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts.encoders import build_vit


class Options(Strict):
    """One knob."""

    pull: Annotated[float, Field(gt=0)]


class Toy(Method):
    """Nothing but an encoder."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.encoder = build_vit(setup.vit, setup.image)

    @property
    def weights(self) -> dict[str, float]:
        """One term."""
        return {"size": self.setup.options.pull}

    def losses(self, batch: Batch):
        """Mean square of CLS."""
        return {"size": self.encoder.forward_features(batch.image)[:, 0].square().mean()}


METHOD = Toy
'''


@pytest.fixture
def checkout(repo, tmp_path) -> Path:
    """A copy of the package with a toy method: one new file, one new params entry."""
    shutil.copytree(repo / "src", tmp_path / "src")
    (tmp_path / "src/cxrmim/pretrain/methods/toy.py").write_text(TOY)
    tree = yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))
    method = {k: v for k, v in tree["pretrain"]["methods"]["mae"].items() if k != "papers"}
    method |= {"init": "none", "augment": method["augment"] | {"resize": 112}}
    tree["pretrain"]["methods"]["toy"] = method | {"options": {"pull": 0.5}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return tmp_path


def call(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_has_a_row_in_every_comparison_and_is_ready(checkout):
    out = call(checkout, "-m", "cxrmim", "grid", "--scale", "demo")
    assert out.returncode == 0, out.stderr
    assert any(line.split() == ["toy", "ready"] for line in out.stdout.splitlines())
    code = (
        "from cxrmim import grid, params; p = params.load(scale='demo');"
        "print([n for n, b in p.grid.items() if 'toy' in grid.rows(p, b)],"
        "      sorted({r.task for r in grid.runs(p) if r.checkpoint == 'toy-s0'}))"
    )
    out = call(checkout, "-c", code)
    assert out.stdout.strip() == "['medim_table1', 'cmitm_table1'] ['finetune', 'probe', 'segment']"


def test_its_options_are_validated_by_its_own_file(checkout):
    path = checkout / "params.yaml"
    path.write_text(path.read_text().replace("pull: 0.5", "pull: -1"))
    out = call(checkout, "-m", "cxrmim", "grid")
    assert out.returncode == 2
    assert "pretrain.methods.toy.options.pull = -1" in out.stderr


def test_it_builds_and_gives_its_loss(checkout):
    code = (
        "import torch; from cxrmim import params; from cxrmim.pretrain import weights;"
        "from cxrmim.pretrain.contract import Batch;"
        "m = weights.build_method(params.load(scale='demo'), 'toy');"
        "x = m.losses(Batch(torch.zeros(2, 3, 96, 96))); print(list(x), m.weights)"
    )
    out = call(checkout, "-c", code)
    assert out.stdout.strip() == "['size'] {'size': 0.5}", out.stderr
