"""The RO-Crate of a made-up result: complete, the same bytes twice, accepted by the validator."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cxrmim import cli, crate, grid, params
from cxrmim.paths import LEAKAGE
from tests.evidence import Evidence

pytest.importorskip("rocrate", reason="rocrate is not installed")
VALIDATOR = shutil.which("rocrate-validator")
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
# Terms of RO-Crate 1.1's context that are schema.org's own, compared with the published file.
SCHEMA = re.findall(
    r"[A-Za-z]+",
    """
    about additionalType affiliation agent author citation contentSize CreateAction CreativeWork
    ControlAction ComputerLanguage Dataset datePublished description encodingFormat endTime
    exampleOfWork hasPart HowTo HowToStep identifier instrument license mainEntity mentions name
    object OrganizeAction Organization Person position programmingLanguage publisher result
    ScholarlyArticle SoftwareApplication SoftwareSourceCode softwareVersion startTime step url
    valueRequired version workExample
    """,
)
BIO = "https://bioschemas.org/"
OTHERS = {
    "File": "http://schema.org/MediaObject",
    "ComputationalWorkflow": f"{BIO}ComputationalWorkflow",
    "FormalParameter": f"{BIO}FormalParameter",
    "input": f"{BIO}ComputationalWorkflow#input",
    "output": f"{BIO}ComputationalWorkflow#output",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
}
# Puts the context into the validator's cache, as its `cache warm` does where there is a network.
WARM = """
import io, sys, requests, urllib3
from requests.adapters import BaseAdapter
from rocrate_validator.utils.http import HttpRequester
KIND = {"Content-Type": "application/ld+json"}
class Local(BaseAdapter):
    def send(self, request, **options):
        out = requests.Response()
        out.status_code, out.url, out.request = 200, request.url, request
        out.headers.update(KIND)
        body = io.BytesIO(open(sys.argv[2], "rb").read())
        out.raw = urllib3.HTTPResponse(body=body, status=200, headers=KIND, preload_content=False)
        return out
    def close(self):
        pass
HttpRequester.reset()
HttpRequester.initialize_cache(cache_path=sys.argv[3], cache_max_age=-1, offline=False,
                               no_cache=False)
HttpRequester().session.mount("https://", Local())
for accept in ("application/ld+json, application/json", "application/ld+json", "*/*"):
    HttpRequester().get(sys.argv[1], headers={"Accept": accept})
"""


@pytest.fixture
def evidence(tmp_path, monkeypatch, tree) -> Evidence:
    return Evidence(tmp_path / "work", monkeypatch, tree)


def metadata(folder: Path) -> dict[str, dict]:
    tree = json.loads((folder / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in tree["@graph"]}


def test_it_holds_what_git_tracks_and_names_what_dvc_keeps(evidence):
    out = crate.write(params.load(), Path("out"))
    entities = metadata(out)
    for name in ("Snakefile", "params.yaml", "workflow/rules/report.smk", "src/cxrmim/crate.py"):
        assert (out / name).is_file()
    records = sorted(p for p in Path("results/demo/records").rglob("*") if p.is_file())
    assert records
    assert all((out / path).read_bytes() == path.read_bytes() for path in records)
    assert not list((out / "results/demo").rglob("*.safetensors"))
    named = {entity.get("sha256") for entity in entities.values()}
    for weights in Path("results/demo/artifacts/checkpoints").iterdir():
        assert hashlib.sha256(weights.read_bytes()).hexdigest() in named
    for path in out.rglob("*"):
        entity = entities.get(path.relative_to(out).as_posix())
        if entity is not None and path.is_file() and "sha256" in entity:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entity["sha256"]


def test_it_holds_what_the_report_reads_beside_the_records(evidence):
    """Ledger and leakage audit show it: without it `dvc repro` in the crate makes other bytes."""
    LEAKAGE.parent.mkdir(parents=True)
    LEAKAGE.write_text("{}")
    out = crate.write(params.load(), Path("out"))
    assert (out / LEAKAGE).read_text() == "{}"
    assert f"{LEAKAGE.parent.as_posix()}/" in metadata(out)


def test_notes_that_lie_about_are_not_handed_on(evidence):
    """A cluster account in an own profile, or a note beside the records, is nobody's business."""
    code = Path("workflow/profiles")
    code.mkdir(parents=True)
    (code / "config.yaml").write_text("cores: 1")
    shutil.copytree(crate.plugins.PACKAGE.parents[1] / "workflow", "workflow", dirs_exist_ok=True)
    for name in ("Snakefile", "CITATION.cff", "README.md"):
        shutil.copy(crate.plugins.PACKAGE.parents[1] / name, name)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "workflow"], check=True)
    paths = evidence.paths
    notes = [code / "mine.yaml", paths.record("x", "x").parents[1] / "note.txt"]
    notes += [paths.table("note", "txt"), paths.report / "note.png"]
    for path in notes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("account: somebody")
    out = crate.write(params.load(), Path("out"))
    assert (out / code / "config.yaml").is_file()
    assert [path for path in notes if (out / path).exists()] == []


def test_every_process_is_an_action_with_its_times_and_tool(evidence):
    loaded = params.load()
    entities = metadata(crate.write(loaded, Path("out")))
    actions = [e for e in entities.values() if e["@type"] == "CreateAction"]
    others = [unit for unit in grid.units(loaded) if unit[0] != "downstream"]
    assert len(actions) == len(others) + len(grid.jobs(loaded)) + 2  # the report, and the whole
    for action in actions:
        assert action["startTime"] <= action["endTime"]
        assert action["instrument"]["@id"] in entities
    said = entities["./"]["description"]
    assert ("PHANTOM DATA" in said) == (loaded.manifest.source == "phantom")


def test_the_same_repository_gives_the_same_bytes_zipped_or_not(evidence):
    loaded = params.load()
    first, second = (crate.write(loaded, Path(name)) for name in ("one.zip", "two.zip"))
    assert first.read_bytes() == second.read_bytes()
    folder = crate.write(loaded, Path("folder"))
    with zipfile.ZipFile(first) as archive:
        for name in archive.namelist():
            assert archive.read(name) == (folder / name).read_bytes()


def test_a_clone_without_artifacts_gives_the_same_crate(evidence):
    loaded = params.load()
    first = crate.write(loaded, Path("one.zip")).read_bytes()
    shutil.rmtree("results/demo/artifacts")
    shutil.rmtree("results/demo/phantom")
    assert crate.write(loaded, Path("two.zip")).read_bytes() == first


def test_it_is_refused_where_records_contradict_or_the_place_is_taken(evidence, capsys):
    Path("taken").mkdir()
    Path("taken/x").touch()
    assert cli.main(["crate", "taken"]) == 4
    assert "taken: is there already" in capsys.readouterr().err
    path = evidence.paths.record("pretrain", "mae-s0")
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    assert cli.main(["crate", "out"]) == 4
    assert path.as_posix() in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.skipif(VALIDATOR is None, reason="rocrate-validator (roc-validator) is not on PATH")
def test_the_public_validator_accepts_it(evidence):
    """Profile Provenance Run Crate 0.5 and all that it builds on, every MUST."""
    out = crate.write(params.load(), Path("out"))
    words = {term: f"http://schema.org/{term}" for term in SCHEMA} | OTHERS
    Path("context.json").write_text(json.dumps({"@context": words}))
    python = Path(VALIDATOR).read_text().splitlines()[0].removeprefix("#!")
    subprocess.run([python, "-c", WARM, CONTEXT, "context.json", "cache"], check=True)
    command = [VALIDATOR, "-y", "validate", str(out), "--offline", "--cache-path", "cache"]
    command += ["-f", "json", "-o", "told.json", "-p", "provenance-run-crate-0.5"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(Path("told.json").read_text())
    assert told["passed"], told["issues"]
    assert result.returncode == 0, sys.stderr.write(result.stdout)
    broken = json.loads((out / "ro-crate-metadata.json").read_text())
    run = next(e for e in broken["@graph"] if e["@id"] == "#run")
    del run["instrument"]
    (out / "ro-crate-metadata.json").write_text(json.dumps(broken))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0, "the validator must be able to refuse"
