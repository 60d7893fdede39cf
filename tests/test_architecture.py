"""The house keeps its rules: imports point upstream, rule files name no method, files are short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxrmim import cli, plugins

SRC = plugins.PACKAGE
STOPS = ["phantom", "manifest", "shards", "pretrain", "downstream", "report"]
MODULES = sorted(SRC.rglob("*.py"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {name for name in found if name.startswith("cxrmim.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_imports_point_upstream_only(path):
    room = path.relative_to(SRC).parts[0]
    if room not in STOPS:
        return
    rank = STOPS.index(room)
    for name in imported(path):
        other = name.split(".")[1]
        if other in STOPS:
            assert STOPS.index(other) <= rank, f"{path} imports downstream module {name}"


def test_only_paths_spells_results():
    for path in MODULES:
        if path.name in ("paths.py", "cli.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(n.body[0].value)
            for n in ast.walk(tree)
            if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)
            and n.body
            and isinstance(n.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert id(node) in docs or "results/" not in node.value, path


def test_no_method_or_dataset_is_named_in_the_workflow(repo, paper):
    names = [*paper.pretrain.methods, *paper.manifest.datasets]
    pattern = re.compile(r"\b(" + "|".join(names) + r")\b")
    for path in [repo / "Snakefile", repo / "dvc.yaml", *(repo / "workflow/rules").glob("*.smk")]:
        lines = [ln.split("#")[0] for ln in path.read_text(encoding="utf-8").splitlines()]
        assert not pattern.search("\n".join(lines)), path


def test_the_snakefile_is_an_index(repo):
    assert len((repo / "Snakefile").read_text(encoding="utf-8").splitlines()) <= 45


@pytest.mark.parametrize("stop", STOPS)
def test_one_word_six_times(repo, paper, stop):
    assert (repo / "workflow/rules" / f"{stop}.smk").is_file()
    assert (SRC / stop / "__main__.py").is_file()
    assert (repo / "tests" / stop).is_dir()
    assert hasattr(paper, stop)
    assert stop in cli.STOPS


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SRC).as_posix())
def test_source_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in ("utils", "helpers", "misc", "common")


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_starts_without_heavy_imports(stop):
    """Reading the arguments must not cost seconds: torch and friends load when work starts."""
    code = (
        f"import sys, cxrmim.{stop}.__main__;"
        "print([m for m in ('torch', 'timm', 'transformers', 'matplotlib', 'sklearn')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_plan_of_the_workflow_needs_no_heavy_import():
    code = (
        "import sys; from cxrmim.plan import lay_out; p = lay_out({'scale': 'demo'}); p.jobs;"
        " p.targets;"
        "print([m for m in ('torch', 'timm', 'transformers', 'matplotlib', 'sklearn', 'pandas')"
        " if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SRC.parents[1]
    )
    assert out.stdout.strip() == "[]"
