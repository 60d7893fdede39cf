"""The doctor says in plain words what is missing and where to get it, and changes nothing."""

from __future__ import annotations

import gzip

import pytest

from cxrmim import cli, doctor, grid, params
from cxrmim.errors import DataError
from cxrmim.manifest.about import About, Part

TOY = About(
    title="Toy 1.0",
    source="https://example.org/toy (register there)",
    parts=(
        Part("the table", ("toy.csv", "other.csv"), rows=3),
        Part("the images", ("images",)),
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
        assert about.parts and about.images > 0


def test_roots_that_are_not_set_are_named_with_their_source(paper):
    missing = [f for f in doctor.diagnose(paper) if f.topic == "data"]
    assert len(missing) == 6
    for dataset, finding in zip(grid.roots(paper), missing, strict=True):
        assert finding.state == "MISSING"
        assert f"manifest.roots.{dataset}" in finding.text
        assert "http" in finding.text


def test_a_root_is_compared_with_what_was_published(tmp_path):
    findings = list(doctor._root("toy", tmp_path, TOY))
    assert states(findings) == ["MISSING"] * 3
    assert all("https://example.org/toy" in f.text for f in findings)

    (tmp_path / "images").mkdir()
    (tmp_path / "toy.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    (tmp_path / "images" / "a.PNG").touch()
    findings = list(doctor._root("toy", tmp_path, TOY))
    assert states(findings) == ["note", "ok", "note"]
    assert "2 rows, published 3" in findings[0].text
    assert "1 image files" in findings[2].text and "published 2" in findings[2].text

    (tmp_path / "other.csv").write_text("a\n1\n2\n3\n")
    (tmp_path / "toy.csv.gz").unlink()
    (tmp_path / "images" / "b.png").touch()
    assert states(doctor._root("toy", tmp_path, TOY)) == ["ok"] * 3

    (tmp_path / "other.csv").unlink()
    (tmp_path / "toy.csv.gz").write_bytes(b"no gzip")
    assert "cannot be read" in next(iter(doctor._root("toy", tmp_path, TOY))).text


def test_splits_from_lists_want_the_lists(paper, tree, write_params, tmp_path):
    (finding,) = doctor._lists(paper)
    assert finding.state == "MISSING"
    assert "manifest.lists" in finding.text and "nih, rsna" in finding.text
    assert "MRM" in finding.text
    tree["manifest"]["lists"] = str(tmp_path)
    (finding,) = doctor._lists(params.load(write_params(tree), "paper"))
    assert finding.state == "ok"
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


def test_weights_and_gpu_at_scale_paper(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    findings = {f.text.split()[0]: f for f in doctor._weights(paper)}
    name = "weights/bioclinicalbert/vocab.txt"
    assert findings[name].state == "MISSING" and "Bio_ClinicalBERT" in findings[name].text
    (tmp_path / "weights/bioclinicalbert").mkdir(parents=True)
    (tmp_path / name).touch()
    assert {f.text.split()[0]: f.state for f in doctor._weights(paper)}[name] == "ok"
    assert doctor._gpu(paper).state == "MISSING"


def test_demo_is_ready_and_paper_is_not(repo, monkeypatch, capsys):
    monkeypatch.chdir(repo)
    assert cli.main(["doctor", "--scale", "demo"]) == 0
    assert "MISSING" not in capsys.readouterr().out
    assert cli.main(["doctor", "--scale", "paper"]) == DataError.exit_code
    printed = capsys.readouterr()
    assert printed.out.count("MISSING") >= 6
    assert printed.err.count("\n") == 1 and "not ready for scale paper" in printed.err


@pytest.mark.parametrize("word", ["password", "api key", "log in"])
def test_no_credentials_are_asked_for(repo, monkeypatch, capsys, word):
    monkeypatch.chdir(repo)
    cli.main(["doctor", "--scale", "paper"])
    assert word not in capsys.readouterr().out.lower()
