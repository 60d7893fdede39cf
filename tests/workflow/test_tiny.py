"""The whole workflow on a tiny grid: build, rebuild, lose a run, change a parameter."""

from __future__ import annotations

import csv
import re
from base64 import urlsafe_b64encode

import pytest
import yaml

from tests.workflow.conftest import copied, one_row, place

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]
NUMBERS = ("records/**/*.json", "artifacts/checkpoints/*", "artifacts/predictions/**/*.parquet")
MEDIM, KEPT = "medim-s0", ("records/downstream", "artifacts/predictions")
RUNS = ("records/downstream/**/*.json", "artifacts/predictions/**/*.parquet")


def jobs_run(result) -> list[str]:
    """Names of the rules that a call of Snakemake ran, in order, but for those of the report."""
    found = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", result.stderr, flags=re.M)
    return [name for name in found if name not in ("all", "tables", "figures", "page")]


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


def test_a_second_build_of_one_row_gives_the_same_bytes(built, tmp_path):
    """From nothing, in another grid and a process for each cell: neither changes a number.

    That the report's bytes do not change either is test_dvc's.
    """
    again = place(tmp_path / "again", one_row)
    chosen = re.compile(
        rf"/{MEDIM}/(chexpert-probe-10|siim|covidx-finetune|mimic)-"
        "|/baseline-pixels/chexpert-probe-10-"
    )
    wanted = [name for name in built.files("records/downstream/*/*.json") if chosen.search(name)]
    assert len(wanted) == 3 * 2 + 2 + 1
    out = again.snakemake(*wanted)
    assert out.returncode == 0, out.stderr[-3000:]
    assert sum("downstream_medim_s0_" in name for name in jobs_run(out)) == 5
    first, second = built.files(*NUMBERS), again.files(*NUMBERS)
    assert set(wanted) < second.keys() < first.keys()
    assert [name for name in second if first[name] != second[name]] == []


def test_lost_runs_are_done_again_alone(built, tmp_path):
    """One of each task, by the one process that does the others of its checkpoint too."""
    here = copied(built, tmp_path / "work")
    folders = [here.folder / f"results/demo/{kind}/{MEDIM}" for kind in KEPT]
    lost = {
        f"{dataset}-{task}-{percent}-s{seed}"
        for dataset, task, percent, seed in (
            ("chexpert", "probe", 10, 1),
            ("siim", "segment", 100, 0),
            ("covidx", "finetune", 100, 1),
            ("mimic", "retrieve", 100, 0),
            ("mimic", "attend", 100, 0),
        )
    }
    before = here.files(*RUNS)
    how = {path: path.read_bytes() for path in folders[0].glob("*.circumstances.json")}
    for name in lost:
        for folder, suffix in zip(folders, (".json", ".parquet"), strict=True):
            (folder / f"{name}{suffix}").unlink()
    out = here.snakemake()
    assert out.returncode == 0, out.stderr[-3000:]
    assert jobs_run(out) == ["downstream_medim_s0"]
    assert here.files(*RUNS) == before
    # Snakemake touches every output of the job; the circumstances tell which runs were done.
    done = {path.name for path, old in how.items() if path.read_bytes() != old}
    assert done == {f"{name}.circumstances.json" for name in lost}


def test_a_finished_pretraining_is_not_trained_again_when_nobody_noted_its_end(built, tmp_path):
    """Its Snakemake was killed while it trained: what it left is still marked as unfinished."""
    here = copied(built, tmp_path / "work")
    for name in (
        "results/demo/artifacts/checkpoints/medim-s0.safetensors",
        "results/demo/records/pretrain/medim-s0.json",
    ):
        key = urlsafe_b64encode(name.encode()).decode()
        assert (here.folder / ".snakemake/metadata" / key).is_file()
        (here.folder / ".snakemake/metadata" / key).unlink()
        (here.folder / ".snakemake/incomplete" / key).touch()
    how = here.folder / "results/demo/records/pretrain/medim-s0.circumstances.json"
    before = here.files("**/*") | {"how": how.read_bytes()}
    out = here.snakemake()
    assert out.returncode == 0, out.stderr[-3000:]
    assert jobs_run(out)[:1] == ["pretrain"]
    log = here.folder / "results/demo/artifacts/logs/pretrain/medim-s0.log"
    assert "medim-s0: current, not trained again" in log.read_text()
    after = here.files("**/*") | {"how": how.read_bytes()}
    logs = {name for name in before if "/logs/" in name}
    assert {n: b for n, b in before.items() if n not in logs} == {
        n: b for n, b in after.items() if n not in logs
    }


def test_no_two_runs_predict_the_same(built):
    """Each has weights, labels or a task of its own; an alias has no run.

    Baselines are left out: they know no task, and COVIDx has two here.
    """
    seen: dict[bytes, str] = {}
    for name, content in built.files("artifacts/predictions/*-s0/*.parquet").items():
        assert seen.setdefault(content, name) == name
    assert len(seen) == 4 * 8 + 2 * 2 + 2


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
    out = built.call("cxrmim", "trace", "medim_table1:m:chexpert_100")
    assert out.returncode != 0
    assert "mae, medim" in out.stderr
    assert "Traceback" not in out.stderr
    out = built.call("cxrmim", "trace", "medim_table1:medmi:chexpert_100")
    assert out.returncode == 0
    assert "medim_table1:medim:chexpert_100" in out.stdout


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
    assert {path.stem for path in found} >= {"mimic", "chexpert", "covidx", "siim"}
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
    assert shared["chexpert"] == shared["siim"] == shared["covidx"] == 0
    assert shared["chexpert-mgca"] > 0
    assert shared["siim-mgca"] > 0
