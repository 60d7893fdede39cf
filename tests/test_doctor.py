"""The doctor says in plain words what is missing and where to get it, and changes nothing."""

from __future__ import annotations

import builtins
import getpass
import gzip
import shutil

from cxrmim import cli, doctor, grid, params, plugins
from cxrmim.errors import DataError
from cxrmim.manifest import lists
from cxrmim.manifest.about import About, Part

TOY = About(
    title="Toy 1.0",
    source="https://example.org/toy (register there)",
    parts=(
        Part("the table", ("toy.csv", "other.csv"), rows=3),
        Part("the images", ("images",), folder=True),
    ),
    suffixes=(".png",),
    folders=("images",),
    images=2,
    used=2,
    format="png",
)


def states(findings):
    return [item.state for item in findings]


def test_every_reader_says_where_its_data_come_from(paper):
    for dataset in grid.roots(paper):
        about = doctor.about_of(dataset)
        assert about is not None, dataset
        assert "http" in about.source
        assert about.used <= about.images
        assert about.format in doctor.RATES
        assert doctor.needed(paper, dataset) and about.images > 0


def test_roots_that_are_not_set_are_named_with_their_source(paper):
    missing = [f for f in doctor.diagnose(paper) if f.topic == "data"]
    assert len(missing) == 6
    for dataset, finding in zip(grid.roots(paper), missing, strict=True):
        assert finding.state == "MISSING"
        assert f"manifest.roots.{dataset}" in finding.text
        assert "http" in finding.text


def look(root):
    """Findings of a root of the toy dataset, of which half may be missing."""
    return [
        *doctor._root("toy", root, TOY, TOY.parts),
        doctor._images("toy", root, TOY, TOY.used, 0.5),
    ]


def test_a_root_is_compared_with_what_was_published(tmp_path):
    findings = look(tmp_path)
    assert states(findings) == ["MISSING"] * 3
    assert all("https://example.org/toy" in f.text for f in findings)

    (tmp_path / "images").mkdir()
    (tmp_path / "toy.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    (tmp_path / "images" / "a.PNG").touch()
    findings = look(tmp_path)
    assert states(findings) == ["note", "ok", "note"]
    assert "2 rows, published 3" in findings[0].text
    assert "1 image files" in findings[2].text and "published 2" in findings[2].text

    (tmp_path / "other.csv").write_text("a\n1\n2\n3\n")
    (tmp_path / "toy.csv.gz").unlink()
    (tmp_path / "images" / "b.png").touch()
    assert states(look(tmp_path)) == ["ok"] * 3

    (tmp_path / "other.csv").unlink()
    (tmp_path / "toy.csv.gz").write_bytes(b"no gzip")
    assert "cannot be read" in look(tmp_path)[0].text
    (tmp_path / "toy.csv.gz").unlink()
    (tmp_path / "toy.csv").mkdir()  # a folder is no table
    assert states(look(tmp_path)) == ["MISSING", "ok", "ok"]


def test_too_few_images_are_missing_and_it_says_what_then_stops(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        (tmp_path / "images" / f"{i}.png").touch()
    found = {w: doctor._images("toy", tmp_path, TOY, w, 0.01) for w in (2, 3)}
    assert (found[2].state, found[3].state) == ("ok", "MISSING")
    assert "shards stops where more than 1 % cannot be read" in found[3].text


def test_a_root_needs_as_many_images_as_its_entries_read(paper):
    wanted = {d: doctor.wanted_images(paper, d) for d in grid.roots(paper)}
    assert wanted["chexpert"] == 223_648  # chexpert-cmitm reads all views
    assert wanted["siim"] == 12_047
    assert wanted["mimic"] == doctor.about_of("mimic").used


def names(parts):
    return {name for part in parts for name in part.names}


def test_a_root_must_hold_what_the_chosen_options_read(paper, tree, write_params):
    chexpert = names(doctor.needed(paper, "chexpert"))
    assert {"CheXpert-v1.0-small/train.csv", "groundtruth.csv", "CheXpert/test"} <= chexpert
    assert "CheXpert-v1.0/train.csv" not in chexpert
    assert {"train_val_list.txt", "test_list.txt"} <= names(doctor.needed(paper, "nih"))
    parts = doctor.needed(paper, "covidx")
    assert len(parts) == 2 and all("CXR-3A" in name for name in names(parts))
    assert "stage_2_test_images" in names(doctor.needed(paper, "rsna"))
    assert "stage_2_detailed_class_info.csv" not in names(doctor.needed(paper, "rsna"))
    assert "section_overrides.txt" not in names(doctor.needed(paper, "mimic"))

    blocks = tree["manifest"]["datasets"]
    blocks["chexpert"] |= {"release": "full", "split": "valid_as_test"}
    blocks["rsna"] |= {"split": "fractions", "negative": "normal"}
    blocks["mimic"]["overrides"] = "drop"
    blocks["covidx"]["list"] = "V9A"
    other = params.load(write_params(tree), "paper")
    found = {d: names(doctor.needed(other, d)) for d in grid.roots(other)}
    assert "CheXpert-v1.0/train.csv" in found["chexpert"]
    assert not {"groundtruth.csv", "CheXpert/test"} & found["chexpert"]
    assert "stage_2_test_images" not in found["rsna"]
    assert "stage_2_detailed_class_info.csv" in found["rsna"]
    assert "section_overrides.txt" in found["mimic"]
    assert "labels/train_COVIDx9A.txt" in found["covidx"]


def test_a_corpus_without_reports_is_missing_them(tmp_path):
    about = doctor.about_of("mimic")
    patient = tmp_path / "files/p10/p10000000"
    patient.mkdir(parents=True)
    (finding,) = doctor._root("mimic", tmp_path, about, ())
    assert finding.state == "MISSING" and "mimic-cxr-reports.zip" in finding.text
    (patient / "s50000000.txt").touch()
    assert states(doctor._root("mimic", tmp_path, about, ())) == ["ok"]
    for name in ("files", "mimic-cxr-reports/files"):
        assert plugins.load("dataset", "mimic").probe(tmp_path) is None
        shutil.rmtree(tmp_path / name)
        assert plugins.load("dataset", "mimic").probe(tmp_path) is not None
        below = tmp_path / "mimic-cxr-reports/files/p11/p11000000"
        below.mkdir(parents=True, exist_ok=True)
        (below / "s51000000.txt").touch()
    (tmp_path / "mimic-cxr-reports.zip").touch()
    assert plugins.load("dataset", "mimic").probe(tmp_path) is None


def test_splits_from_lists_want_the_lists(paper, tree, write_params, tmp_path):
    (finding,) = doctor._lists(paper)
    assert finding.state == "MISSING"
    assert "manifest.lists" in finding.text and "nih, rsna" in finding.text
    assert "MRM" in finding.text
    tree["manifest"]["lists"] = str(tmp_path)
    listed = params.load(write_params(tree), "paper")
    entries = ["nih", "rsna", "chexpert-mrm", "siim-mrm"]
    findings = list(doctor._lists(listed))
    assert states(findings) == ["MISSING"] * len(entries)
    for entry, found in zip(entries, findings, strict=True):
        assert found.text.startswith(f"{entry}: ") and "MRM-pytorch" in found.text
    assert "NIH_ChestX-ray/train_list.txt" in findings[0].text
    assert "CheXpert/val_list.txt" in findings[2].text  # it has no list of training images
    for dataset in lists.FOLDERS:
        for name in lists.names(dataset):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    assert states(doctor._lists(listed)) == ["ok"] * len(entries)
    assert not (tmp_path / "CheXpert/train_list.txt").exists()
    tree["manifest"]["lists"] = str(tmp_path / "nowhere")
    (finding,) = doctor._lists(params.load(write_params(tree), "paper"))
    assert finding.state == "MISSING" and "nowhere" in finding.text


def test_size_of_the_arrays_follows_side_and_views(paper, tree, write_params):
    about = doctor.about_of("chexpert")
    side = paper.shards.side_downstream
    assert doctor.expected_bytes(paper, "chexpert") == about.used * side**2
    assert doctor.expected_bytes(paper, "chexpert-cmitm") == about.images * side**2
    assert doctor.expected_bytes(paper, "mimic") == doctor.about_of("mimic").used * 512**2


def test_too_small_a_disk_is_missing(paper, monkeypatch):
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    finding = next(f for f in doctor._room(paper) if f.topic == "disk")
    assert finding.state == "MISSING" and "larger disk" in finding.text


def test_arrays_that_are_there_need_no_room(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = dict.fromkeys(grid.datasets(paper), 0) | {"nih": 3000, "rsna": 2000}
    monkeypatch.setattr(doctor, "expected_bytes", lambda _, dataset: images[dataset])
    usage = type("Usage", (), {"free": 1100})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert next(doctor._room(paper)).state == "MISSING"
    where = doctor.Paths("paper")
    for place, size in ((where.shards("nih"), 3500), (where.building("rsna"), 1000)):
        place.mkdir(parents=True)
        (place / "images.npy").write_bytes(bytes(size))
    assert next(doctor._room(paper)).state == "ok"


def test_weights_and_gpu_at_scale_paper(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    findings = {f.text.split()[0]: f for f in doctor._weights(paper)}
    name = "weights/bioclinicalbert/vocab.txt"
    assert findings[name].state == "MISSING" and "Bio_ClinicalBERT" in findings[name].text
    (tmp_path / "weights/bioclinicalbert").mkdir(parents=True)
    (tmp_path / name).touch()
    assert {f.text.split()[0]: f.state for f in doctor._weights(paper)}[name] == "note"  # unpinned
    assert doctor._gpu(paper).state == "MISSING"


def test_demo_is_ready_and_paper_is_not(repo, monkeypatch, capsys):
    monkeypatch.chdir(repo)
    assert cli.main(["doctor", "--scale", "demo"]) == 0
    assert "MISSING" not in capsys.readouterr().out
    assert cli.main(["doctor", "--scale", "paper"]) == DataError.exit_code
    printed = capsys.readouterr()
    assert printed.out.count("MISSING") >= 6
    assert printed.err.count("\n") == 1 and "not ready for scale paper" in printed.err


def test_no_credentials_are_asked_for_and_nothing_is_written(repo, tmp_path, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("asked for something")

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setattr(getpass, "getpass", asked)
    shutil.copy(repo / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--scale", "paper"]) == DataError.exit_code
    assert [path.name for path in tmp_path.rglob("*")] == ["params.yaml"]
