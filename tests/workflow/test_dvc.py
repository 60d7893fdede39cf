"""`dvc repro` attests: it remakes reports in a bare clone and stops at a contradiction."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import yaml

from tests.workflow.conftest import Place

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]


@pytest.fixture
def clone(attested, tmp_path) -> Place:
    """What a reviewer has: the git checkout alone, no data, no artifacts, no remote."""
    attested.must("git", "clone", "-q", str(attested.folder), str(tmp_path / "clone"))
    here = Place(tmp_path / "clone")
    assert not list(here.folder.glob("results/demo/artifacts/*/"))
    return here


def spoil(clone: Place, relative: str, edit) -> None:
    path = clone.folder / relative
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def state(clone: Place) -> dict[str, bytes]:
    return clone.files("tables/*", "figures/*") | {
        "dvc.lock": (clone.folder / "dvc.lock").read_bytes()
    }


def test_a_bare_clone_remakes_tables_and_figures_byte_for_byte(clone):
    for folder in ("tables", "figures", "report"):
        for path in (clone.folder / "results/demo" / folder).rglob("*"):
            if path.is_file():
                path.write_bytes(b"stale")
    clone.must("git", "checkout", "-q", "--", "results/demo/figures/phantom_sheet.png")
    clone.must("dvc", "repro")
    clone.must("git", "diff", "--exit-code")


def test_a_parameter_is_a_dependency_whose_keys_dvc_compares(clone):
    path = clone.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["seeds"]["downstream"] = [0, 1]
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    changed = json.loads(clone.must("dvc", "params", "diff", "--json"))
    assert list(changed["params.yaml"]) == ["seeds.downstream"]
    assert "params.yaml" in clone.must("dvc", "status", "manifest")


def test_an_edited_metric_stops_it_and_is_named(clone):
    before = state(clone)
    name = "results/demo/records/downstream/medim-s0/chexpert-probe-100-s0.json"
    spoil(clone, name, lambda tree: tree["metrics"].update(value=0.999))
    out = clone.call("dvc", "repro")
    assert out.returncode != 0
    text = out.stdout + out.stderr
    assert name in text
    assert "metrics.value = 0.999" in text
    assert state(clone) == before


def test_a_changed_parameter_stops_it_and_is_named(clone):
    before = state(clone)
    path = clone.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["scales"]["demo"]["pretrain"]["methods"]["mae"]["optim"]["lr"] = 1.0e-3
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    out = clone.call("dvc", "repro")
    assert out.returncode != 0
    text = out.stdout + out.stderr
    assert "records/pretrain/mae-s0.json" in text
    assert "config.optim.lr" in text
    assert "0.001" in text
    assert state(clone) == before


def test_a_missing_record_stops_it_and_is_named(clone):
    (clone.folder / "results/demo/records/pretrain/mae-s0.json").unlink()
    out = clone.call("dvc", "repro")
    assert out.returncode != 0
    assert "mae-s0.json" in out.stdout + out.stderr


def test_a_forged_pointer_stops_it_and_is_named(clone):
    path = clone.folder / "results/demo/artifacts/checkpoints.dvc"
    tree = yaml.safe_load(path.read_text())
    tree["outs"][0]["md5"] = "0" * 32 + ".dir"
    path.write_text(yaml.safe_dump(tree))
    out = clone.call("dvc", "repro")
    assert out.returncode != 0
    assert "checkpoints.dvc" in out.stdout + out.stderr


def test_metrics_can_be_shown(clone):
    shown = json.loads(clone.must("dvc", "metrics", "show", "--json"))
    assert "summary.json" in json.dumps(list(shown[""]["data"]))


def test_metrics_diff_tells_the_cell_that_moved(clone):
    spoil(
        clone,
        "results/demo/tables/summary.json",
        lambda tree: tree["cells"]["medim_table1:mae:chexpert_100"].update(value=0.25),
    )
    told = json.loads(clone.must("dvc", "metrics", "diff", "--json"))
    ((path, cells),) = told.items()
    assert path.endswith("summary.json")
    (key,) = cells
    assert key == "cells.medim_table1:mae:chexpert_100.value"
    assert cells[key]["new"] == 0.25


def test_plots_are_shown_from_our_files(clone):
    wanted = yaml.safe_load((clone.folder / "dvc.yaml").read_text())["plots"]
    names = [name for plot in wanted for name in plot]
    assert names
    clone.must("dvc", "plots", "show", "-o", "plots")
    text = (clone.folder / "plots/index.html").read_text()
    for name in names:
        assert f"#{name.replace(' ', '_')}'" in text
    files = [f for plot in wanted for spec in plot.values() for f in spec["y"]]
    for file in files:  # one that is missing would be passed over in silence
        lines = (clone.folder / file.replace("${scale}", "demo")).read_text().splitlines()
        assert len(lines) > 1, file
        assert any(cell in text for cell in lines[1].split(",") if len(cell) > 4), file


def test_the_workflows_own_report_holds_tables_and_figures(attested, tmp_path):
    """`snakemake --report` of a finished run, with captions and categories."""
    target = tmp_path / "report.zip"
    out = attested.snakemake("--report", str(target))
    assert out.returncode == 0, out.stderr[-3000:]
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
        told = b"".join(archive.read(name) for name in names if name.endswith((".html", ".js")))
    for name in ("medim_table1.md", "label_efficiency.svg"):
        assert any(entry.endswith(name) for entry in names), name
    for words in (b"Tables", b"Figures", b"cxrmim trace"):
        assert words in told


def test_the_local_remote_takes_and_gives_back_the_artifacts(attested, tmp_path):
    attested.must("dvc", "push", "-q")
    attested.must("git", "clone", "-q", str(attested.folder), str(tmp_path / "second"))
    second = Place(tmp_path / "second")
    shutil.copytree(attested.folder / "dvc-remote", second.folder / "dvc-remote")
    second.must("dvc", "pull", "-q")
    weights = "artifacts/checkpoints/*.safetensors"
    assert second.files(weights) == attested.files(weights) != {}
