"""The blind zip holds what git tracks, names nobody, and is the same bytes for the same commit."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from cxrmim import cli

NAME, MAIL = "Ada Lovelace", "ada@engine.example"
HOW = "results/demo/records/manifest/x.circumstances.json"


def git(*args: str) -> None:
    subprocess.run(["git", *args], check=True, capture_output=True)


def commit() -> None:
    git("add", "-A", "-f")
    git("commit", "-qm", "state")


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


@pytest.fixture
def here(repo, tmp_path, monkeypatch) -> Path:
    """A small checkout with the files that name people."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody-else")
    git("init", "-q")
    git("config", "user.name", NAME)
    git("config", "user.email", MAIL)
    for name in ("params.yaml", "LICENSE", "CITATION.cff", "pyproject.toml", ".dvc/config"):
        write(name, (repo / name).read_text(encoding="utf-8"))
    for name, old in (("LICENSE", "The cxrmim developers"), ("pyproject.toml", "The cxrmim dev")):
        write(name, Path(name).read_text().replace(old, NAME))
    write("CITATION.cff", Path("CITATION.cff").read_text().replace("The cxrmim developers", NAME))
    write("run", "#!/bin/sh\n")
    Path("run").chmod(0o755)
    write(HOW, json.dumps({"roots": {"mimic": "/home/ada/mimic"}, "commit": "c"}))
    commit()
    return tmp_path


def pack(capsys, *args: str, status: int = 0) -> str:
    """Call the command; what it said."""
    Path("out").mkdir(exist_ok=True)
    assert cli.main(["pack", "out/blind.zip", *args]) == status
    told = capsys.readouterr()
    return told.out if status == 0 else told.err


def packed() -> dict[str, bytes]:
    with zipfile.ZipFile("out/blind.zip") as archive:
        return {n.removeprefix("cxrmim/"): archive.read(n) for n in archive.namelist()}


def test_it_names_nobody(here, capsys):
    told = pack(capsys)
    files = packed()
    assert {NAME.encode(), MAIL.encode(), b"Ada", b"ada"} & set(
        b" ".join(files.values()).split()
    ) == set()
    assert not any(NAME.encode() in data or b"/home/ada" in data for data in files.values())
    for name in ("LICENSE", "CITATION.cff", "pyproject.toml"):
        assert b"Anonymous authors" in files[name]
        assert name in told
    citation = yaml.safe_load(files["CITATION.cff"])
    assert [len(paper["authors"]) for paper in citation["references"]] == [
        6,
        5,
    ]  # papers keep theirs
    assert json.loads(files[HOW])["roots"] == {}
    assert json.loads(files[HOW])["commit"] == "c"
    config = files[".dvc/config"].decode()
    assert "no_scm = true" in config
    assert "remote" not in config


def test_the_rest_is_as_committed(here, capsys):
    write("untracked.txt", "x")
    pack(capsys)
    files = packed()
    assert "untracked.txt" not in files
    assert not any(name.startswith(".git/") for name in files)
    for name in ("params.yaml", "run"):
        assert files[name] == Path(name).read_bytes()


def test_the_same_commit_gives_the_same_bytes(here, capsys):
    pack(capsys)
    first = Path("out/blind.zip").read_bytes()
    with zipfile.ZipFile("out/blind.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.getinfo("cxrmim/run").external_attr >> 16 == 0o100755
        assert archive.namelist() == sorted(archive.namelist())
    shutil.rmtree("out")
    for path in (Path("LICENSE"), Path("run")):
        path.touch()
    pack(capsys)
    assert Path("out/blind.zip").read_bytes() == first


def test_data_roots_leave_params(here, capsys):
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["manifest"]["roots"]["mimic"] = "/home/ada/mimic"
    tree["manifest"]["lists"] = "/home/ada/mimic lists"
    tree["scales"]["paper"] = {"manifest": {"roots": {"nih": "/ada/nih"}}}
    tree["shards"]["text"]["mesh"]["file"] = "/mnt/home/ada/mimic"  # ends as a root does
    write("params.yaml", yaml.safe_dump(tree))
    commit()
    pack(capsys)
    files = packed()
    tree["manifest"] |= {"lists": None, "roots": dict.fromkeys(tree["manifest"]["roots"])}
    tree["scales"]["paper"]["manifest"]["roots"]["nih"] = None
    assert yaml.safe_load(files["params.yaml"]) == tree


@pytest.mark.parametrize("text", [f"by {NAME}", f"mail {MAIL.upper()}", "see lovelace/engine"])
def test_a_name_that_git_knows_is_found_with_its_line(here, capsys, text):
    git("remote", "add", "origin", "git@host.example:Lovelace/engine.git")
    write("docs/a.md", f"one\n\n{text}\n")
    commit()
    told = pack(capsys, status=4)
    assert "docs/a.md, line 3" in told
    assert told.count("\n") == 1
    assert not Path("out/blind.zip").exists()


def test_a_given_word_is_found(here, capsys):
    write("docs/a.md", "the cluster of UCL\n")
    write("docs/ucl-enigma.md", "")
    commit()
    pack(capsys)
    Path("out/blind.zip").unlink()
    assert "docs/a.md, line 1" in pack(capsys, "--word", "UCL", status=4)
    assert "docs/ucl-enigma.md, its name" in pack(capsys, "--word", "enigma", status=4)


@pytest.mark.parametrize("name", ["Émile Łoś", "E\u0301mile Łoś", "ÉMILE ŁOŚ"])
def test_a_name_with_accents_is_found_however_it_is_written(here, capsys, name):
    git("config", "user.name", "Émile Łoś")
    write("docs/a.md", f"by {name}\n")
    commit()
    assert "docs/a.md, line 1" in pack(capsys, status=4)


def test_account_and_partition_leave_the_profile(here, repo, capsys):
    text = (repo / "slurm/config.yaml").read_text()
    write("slurm/config.yaml", text)
    commit()
    pack(capsys)
    assert packed()["slurm/config.yaml"].decode() == text
    Path("out/blind.zip").unlink()
    mine = text.replace("partition: main", "partition: lovelace").replace("t: default", "t: ada")
    write("slurm/config.yaml", mine)
    commit()
    pack(capsys)
    assert packed()["slurm/config.yaml"].decode() == text


@pytest.mark.parametrize(
    "path",
    [
        "results/paper/artifacts/predictions/a.parquet",
        "results/paper/phantom/a.png",
        "results/demo/local/a.csv",
        "results/demo/a.parquet",
    ],
)
def test_an_artifact_that_git_tracks_is_refused(here, capsys, path):
    write(path, "x")
    commit()
    assert path in pack(capsys, status=4)


def test_pointers_and_results_are_no_artifacts(here, capsys):
    kept = [
        "results/paper/artifacts/predictions.dvc",
        "results/paper/artifacts/.gitignore",
        "results/paper/records/pretrain/a.json",
        "results/public/leakage.md",
    ]
    for path in kept:
        write(path, "x")
    commit()
    pack(capsys)
    assert set(kept) <= packed().keys()


def test_a_file_that_is_not_as_committed_stops_it(here, capsys):
    write("LICENSE", "x")
    told = pack(capsys, status=1)
    assert "LICENSE" in told
    assert told.count("\n") == 1


def test_a_link_is_refused(here, capsys):
    Path("link").symlink_to("/etc/passwd")
    commit()
    assert "link" in pack(capsys, status=4)


def test_a_zip_is_not_overwritten(here, capsys):
    pack(capsys)
    assert "already" in pack(capsys, status=4)


@pytest.mark.parametrize("without", ["repository", "program", "root"])
def test_it_needs_the_root_of_a_checkout(here, capsys, monkeypatch, without):
    if without == "repository":
        shutil.rmtree(".git")
    elif without == "program":
        monkeypatch.setenv("PATH", str(here))
    else:
        shutil.copy("params.yaml", "out.yaml")
        write("below/params.yaml", Path("params.yaml").read_text())
        monkeypatch.chdir("below")
    told = pack(capsys, status=1)
    assert "checkout" in told
    assert told.count("\n") == 1
