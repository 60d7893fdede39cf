"""What stops before the first job, and the commands of the README as dry runs."""

from __future__ import annotations

import pytest

from tests.workflow.conftest import REPO, Place, place

pytestmark = pytest.mark.workflow


@pytest.fixture
def here(tmp_path) -> Place:
    return place(tmp_path / "work")


def test_dry_run_lists_every_stop(here):
    out = here.snakemake("-n")
    assert out.returncode == 0, out.stderr
    for stop in ("phantom", "manifest", "shards", "pretrain", "downstream_medim_s0", "report"):
        assert stop in out.stdout


def test_the_slurm_profile_is_found_from_the_repository_root():
    out = Place(REPO).call("snakemake", "--cores", "all", "--profile", "slurm", "-n", "--forceall")
    assert out.returncode == 0, out.stderr
    assert "slurm_partition=main" in out.stdout


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t["phantom"].update(sed=1), ["phantom.sed", "unknown key", "seed"]),
        (
            lambda t: t["scales"]["demo"]["phantom"].update(raster=1),
            ["phantom.raster = 1", "scales.demo.phantom.raster"],
        ),
        (lambda t: t.update(scale="paper"), ["manifest.roots.mimic", "set it to the folder"]),
        (
            lambda t: (t.update(scale="paper"), t["manifest"]["roots"].update(mimic="/nosuch")),
            ["manifest.roots.mimic = '/nosuch'", "no such folder"],
        ),
    ],
    ids=["misspelt", "range", "root-unset", "root-missing"],
)
def test_bad_parameters_stop_before_the_first_job(tmp_path, edit, said):
    here = place(tmp_path / "work", edit)
    out = here.snakemake()
    assert out.returncode != 0
    text = out.stdout + out.stderr
    for part in said:
        assert part in text
    assert "Traceback" not in text
    assert not (here.folder / "results").exists()


def test_an_unknown_target_is_named(here):
    out = here.snakemake("-n", "nosuchtable")
    assert out.returncode != 0
    assert "nosuchtable" in out.stderr + out.stdout


def test_a_misspelt_checkpoint_matches_no_rule(here):
    out = here.snakemake("-n", "results/demo/artifacts/checkpoints/medmi-s0.safetensors")
    assert out.returncode != 0
    assert "medmi-s0" in out.stderr + out.stdout


def test_only_the_scale_can_be_set_outside_params(here):
    out = here.snakemake("-n", "--config", "epochs=3")
    assert out.returncode != 0
    assert "only `scale` can be set there" in out.stdout + out.stderr
