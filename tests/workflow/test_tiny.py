"""The whole workflow on a tiny grid: build, rebuild, lose a run, change a parameter."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from tests.workflow.conftest import copied, place

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("workflow"),
]
RESULTS = ("records/**/*.json", "tables/*", "figures/*", "report/*")


def jobs_run(result) -> set[str]:
    return {
        line.split()[1].rstrip(":") for line in result.stderr.splitlines() if "rule " in line[:10]
    }


def test_every_stop_leaves_records_and_the_report_is_made(built):
    for kind in ("phantom", "manifest", "shards", "pretrain", "downstream"):
        assert built.files(f"records/{kind}/**/*.json"), kind
    for suffix in ("csv", "md", "tex"):
        assert f"results/demo/tables/medim_table1.{suffix}" in built.files("tables/*")
    page = built.files("report/*")["results/demo/report/index.html"].decode()
    assert "phantom" in page.lower()


def test_cells_without_code_say_pending(built):
    table = built.files("tables/*")["results/demo/tables/medim_table1.md"].decode()
    assert "pending" in table
    assert "PHANTOM" in table


def test_a_second_run_has_nothing_to_do(built):
    out = built.snakemake()
    assert out.returncode == 0
    assert "Nothing to be done" in out.stderr + out.stdout


def test_two_builds_give_the_same_bytes(built, tmp_path):
    again = place(tmp_path / "again")
    out = again.snakemake()
    assert out.returncode == 0, out.stderr[-3000:]
    first, second = built.files(*RESULTS), again.files(*RESULTS)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_one_lost_run_is_done_again_alone(built, tmp_path):
    here = copied(built, tmp_path / "work")
    run = here.folder / "results/demo/records/downstream/mae-s0/chexpert-probe-10-s1.json"
    before = here.files("records/downstream/**/*.json", "artifacts/predictions/**/*.parquet")
    how = {p: p.read_bytes() for p in run.parent.glob("*.circumstances.json")}
    run.unlink()
    out = here.snakemake()
    assert out.returncode == 0, out.stderr[-3000:]
    assert "downstream_random_s0" not in out.stderr
    assert (
        here.files("records/downstream/**/*.json", "artifacts/predictions/**/*.parquet") == before
    )
    # Snakemake touches every output of the job; the circumstances tell which run was done.
    done = {p.name for p, old in how.items() if p.read_bytes() != old}
    assert done == {f"{run.stem}.circumstances.json"}


def test_a_changed_parameter_reruns_what_depends_on_it(built, tmp_path):
    here = copied(built, tmp_path / "work")
    path = here.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["scales"]["demo"]["pretrain"]["methods"]["mae"]["optim"]["lr"] = 1.0e-3
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    out = here.snakemake("-n")
    assert "downstream_mae_s0" in out.stdout
    for name in ("downstream_medim_s0", "downstream_random_s0", "rule shards", "rule phantom"):
        assert name not in out.stdout


def test_trace_leads_from_a_cell_to_raw_data(built):
    text = built.must("cxrmim", "trace", "medim_table1:medim:chexpert_100")
    for part in ("downstream/medim-s0", "pretrain/medim-s0", "shards/mimic", "manifest/mimic"):
        assert part in text
    assert "BAD" not in text


def test_trace_names_near_misses(built):
    out = built.call("cxrmim", "trace", "medim_table1:medmi:chexpert_100")
    assert out.returncode != 0
    assert "medim" in out.stderr.lower()
    assert "Traceback" not in out.stderr


def test_a_swapped_checkpoint_is_bad(built, tmp_path):
    here = copied(built, tmp_path / "work")
    folder = here.folder / "results/demo/artifacts/checkpoints"
    (folder / "medim-s0.safetensors").write_bytes((folder / "mae-s0.safetensors").read_bytes())
    out = here.call("cxrmim", "trace", "medim_table1:medim:chexpert_100")
    assert out.returncode == 4
    assert "[BAD] output" in out.stdout
    out = here.call("cxrmim", "check")
    assert out.returncode == 4
    assert "medim-s0.safetensors" in out.stderr


def test_records_of_a_job_name_no_patient(built):
    import pandas as pd

    found = sorted(built.folder.glob("results/demo/artifacts/manifests/*.parquet"))
    assert {path.stem for path in found} >= {"mimic", "chexpert", "covidx", "siim", "nih"}
    text = b"".join(built.files("records/**/*.json", "tables/*", "report/*").values())
    text += b"".join(built.files("artifacts/logs/**/*.log").values())
    for path in found:
        manifest = pd.read_parquet(path)
        for column in ("patient", "study", "image", "path"):
            names = manifest[column].astype(str).unique()
            for value in [name for name in names if len(name) > 5][:50]:
                assert value.encode() not in text, (path.stem, column)


def test_the_audit_shows_what_released_rules_share_and_ours_do_not(built):
    table = built.files("tables/*")["results/demo/tables/data_audit.csv"].decode()
    shared: dict[str, int] = {}
    for row in csv.DictReader(table.splitlines()):
        if row["measure"] == "images":
            shared[row["entry"]] = shared.get(row["entry"], 0) + int(row["count"])
    assert shared["chexpert"] == shared["siim"] == shared["covidx"] == shared["nih"] == 0
    assert shared["chexpert-mgca"] > 0
    assert shared["siim-mgca"] > 0


def test_the_cut_of_the_grid_changes_no_number(built, tmp_path):
    here = copied(built, tmp_path / "work")
    before = here.files("records/downstream/random-s0/*.json")
    path = here.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["scales"]["demo"]["downstream"]["cut"] = "fraction"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    for file in (here.folder / "results/demo/records/downstream/random-s0").glob("*.json"):
        file.unlink()
    out = here.snakemake()
    assert out.returncode == 0, out.stderr[-3000:]
    assert here.files("records/downstream/random-s0/*.json") == before
    assert json.loads(next(iter(before.values())))["kind"] == "downstream"
