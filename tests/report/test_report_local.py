"""Withheld images are drawn for the user alone: on demand, outside of what git and DVC keep."""

import base64
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from fabricated import attend_details

from cxrmim import record
from cxrmim.errors import CheckError, ParamsError
from cxrmim.report import __main__ as command
from cxrmim.report import local, pairs

ROOT = Path(__file__).parents[2]
ALLOWED = {"report": {"site_images": True}, "manifest": {"source": "real"}}


@pytest.fixture
def world(make):
    """Credentialed data: predictions on disk, no pair in the record."""
    found = make(over={"scales": {"demo": ALLOWED}})
    run = pairs.run_of(found.params, "medim_figure2")
    details = attend_details()
    rows = pd.DataFrame(details.pop("pairs"))
    rows["pixels"] = [base64.b64decode(text) for text in rows["pixels"]]
    rows = rows.assign(image="secret-image", patient="secret-patient", source_row=range(len(rows)))
    path = found.paths.prediction(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path)
    found.write(run, {"value": 0.5}, details=details)
    place = found.paths.record("downstream", run.id)
    tree = record.read(place)
    tree["outputs"] = {"predictions": {"path": path.as_posix(), **record.digest(path)}}
    place.write_bytes(record.canonical(tree))
    return found


def test_withheld_pairs_are_drawn_on_demand(world) -> None:
    local.build(world.params)
    drawn = sorted(p.name for p in world.paths.local.iterdir())
    assert drawn == ["medim_figure2.png", "medim_figure2.svg"]
    svg = (world.paths.local / "medim_figure2.svg").read_text()
    assert "<!-- NOT TO BE SHARED" in svg and "PHANTOM" not in svg
    assert "secret" not in svg


def test_git_leaves_the_folder_alone(world) -> None:
    name = (world.paths.local / "medim_figure2.png").as_posix()
    asked = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
    assert asked.returncode == 0
    kept = (world.paths.results / "figures" / "medim_figure2.png").as_posix()
    asked = subprocess.run(["git", "check-ignore", "-q", kept], cwd=ROOT, check=False)
    assert asked.returncode == 1


def test_it_takes_a_switch(make, capsys) -> None:
    world = make()
    with pytest.raises(ParamsError, match=r"report\.site_images = false"):
        local.build(world.params)
    assert command.main(["--part", "local", "--scale", world.params.scale]) == 2
    assert "report.site_images" in capsys.readouterr().err
    assert not world.paths.local.exists()


def test_other_predictions_than_the_recorded_ones_are_refused(world) -> None:
    run = pairs.run_of(world.params, "medim_figure2")
    path = world.paths.prediction(run.id)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckError, match="sha256"):
        local.build(world.params)
    path.unlink()
    with pytest.raises(CheckError, match="not there"):
        local.build(world.params)
    assert not world.paths.local.exists()
