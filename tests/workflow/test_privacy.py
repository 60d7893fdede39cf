"""Nothing of credentialed data but aggregated metrics leaves the artifacts (docs/privacy.md).

A tiny workflow with ``manifest.source: real`` reads generated raw folders in which identifiers and
sentences are planted. They are looked for in everything that git tracks or would track, the logs,
Snakemake's own folder, what the commands print, and the page.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import lzma
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cxrmim import job, metadata, plugins
from cxrmim import params as params_module
from cxrmim.report.outputs import PARTS
from tests.workflow.canaries import NONCE, PLANT, SECOND, SENTENCE, Search
from tests.workflow.conftest import REPO, Place, copied, place

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]
PATIENTS = dict.fromkeys(PLANT, 60) | {"mimic": 40}
OPEN = ("records", "tables", "figures", "report")  # folders of results that git holds
SHINGLE = 5  # words in a row that no report shares with anything that is tracked
DIGESTS = ("sha256", "pixels", "dhash")  # of single images, columns of a shards table
Told = dict[str, bytes]


@dataclass(frozen=True)
class Real:
    """The built workflow.

    Attributes:
        place: its working folder, a git and DVC repository.
        raw: folder of the raw data, outside.
        planted: name -> identifier.
        printed: what Snakemake printed.
    """

    place: Place
    raw: Path
    planted: dict[str, str]
    printed: str

    @property
    def folder(self) -> Path:
        """The working folder."""
        return self.place.folder

    def tables(self, pattern: str) -> Iterator[pd.DataFrame]:
        """Tables of the artifacts, which may hold identifiers."""
        for path in sorted(self.folder.glob(f"results/demo/artifacts/{pattern}")):
            yield pd.read_parquet(path)

    def tracked(self) -> Told:
        """Everything that git tracks or would track."""
        names = self.place.must("git", "ls-files", "-co", "--exclude-standard").splitlines()
        return {name: (self.folder / name).read_bytes() for name in names}

    def told(self) -> Told:
        """Logs, Snakemake's own files, and what it printed."""
        found = {"output of snakemake": self.printed.encode()}
        for below in ("results/demo/artifacts/logs", ".snakemake"):
            for path in sorted((self.folder / below).rglob("*")):
                if path.is_file():
                    name = path.relative_to(self.folder).as_posix()
                    found[name] = name.encode() + b"\n" + path.read_bytes()
        return found


def settings(raw: Path) -> Any:
    """What turns the tiny workflow into one on real data: all datasets, all tasks, one method."""

    def edit(tree: dict[str, Any]) -> None:
        demo = tree["scales"]["demo"]
        demo["manifest"]["source"] = "real"
        demo["manifest"] |= {"roots": {d: str(raw / d) for d in PLANT}, "max_unreadable": 0.4}
        demo["manifest"]["datasets"] = {
            "rsna": {"split": "fractions", "fractions": [0.4, 0.3, 0.3]}
        }
        demo["manifest"]["lists"] = str(raw / "DatasetsSplits")
        demo["seeds"] = {"downstream": [0]}
        del tree["pretrain"]["methods"]["invented"]
        demo["pretrain"]["methods"]["mgca"]["batch"] = 8
        demo["downstream"]["bootstrap"] = 23
        demo["downstream"]["baselines"] = {task: [] for task in tree["downstream"]["baselines"]}
        demo["downstream"]["finetune"] |= {
            "batch": 8,
            "validate_every": 1,
            "schedule": {d: {"100": [1, 2, 1.0e-2]} for d in ("nih", "rsna")},
        }
        whole = {"percents": [100]}
        demo["grid"] = {
            "medim_table1": {
                "paper": "medim",
                "rows": ["medim"],
                "cells": [
                    whole | {"dataset": "chexpert", "task": "probe"},
                    whole | {"dataset": "covidx", "task": "probe"},
                    whole | {"dataset": "siim", "task": "segment"},
                ],
            },
            "cmitm_table1": {
                "paper": "cmitm",
                "rows": ["medim"],
                "cells": [whole | {"dataset": d, "task": "finetune"} for d in ("nih", "rsna")],
            },
            "medim_table2": tree["grid"]["medim_table2"] | {"rows": ["medim"]},
            "medim_figure2": tree["grid"]["medim_figure2"],
        }
        for name in [n for n, e in tree["manifest"]["entries"].items() if e.get("audit")]:
            del tree["manifest"]["entries"][name]

    return edit


def planted(raw: Path) -> dict[str, str]:
    """Generate raw folders in their real layouts and plant the identifiers."""
    phantom = params_module.load(REPO / "params.yaml", "demo").phantom
    phantom = phantom.model_copy(update={"patients": PATIENTS})
    out: dict[str, str] = {}
    for dataset, plant in PLANT.items():
        (raw / dataset).mkdir(parents=True)
        plugins.load("layout", dataset).write(raw / dataset, phantom, 1)
        out |= plant(raw / dataset)
        for folder in (raw / dataset).glob("DatasetsSplits/*"):
            shutil.copytree(folder, raw / "DatasetsSplits" / folder.name)
    return out


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """The workflow on planted data, built by Snakemake in a repository of its own."""
    base = tmp_path_factory.mktemp("privacy")
    names = planted(base / "raw")
    here = place(base / "work", settings(base / "raw"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPO / name, here.folder / name)
    here.must("git", "init", "-q")
    here.must("git", "add", "-A")
    here.must("git", "commit", "-qm", "before")
    result = here.snakemake()
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return Real(here, base / "raw", names, result.stdout + result.stderr)


@pytest.fixture(scope="module")
def search(real: Real) -> Search:
    """A search for what is planted, and for digests of single images."""
    texts = real.planted | {"a sentence": SENTENCE, "another sentence": SECOND}
    texts |= {f"the word {word}": word for word in NONCE}
    files = {
        name: path
        for name, text in real.planted.items()
        for path in sorted(real.raw.rglob(f"*{text}*"))
        if path.is_file()
    }
    digests = {
        str(value): f"{column} of an image"
        for table in real.tables("shards/*/table.parquet")
        for column in DIGESTS
        for value in table[column]
    }
    assert all(re.fullmatch("[0-9a-f]{16,}", digest) for digest in digests)
    return Search(texts, files, digests)


def leaks(search: Search, files: Told) -> dict[str, list[str]]:
    """File -> what of the planted is found in it or its name."""
    found = {name: search.found(name.encode() + b"\n" + data) for name, data in files.items()}
    return {name: what for name, what in found.items() if what}


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of `SHINGLE` words."""
    found = re.findall("[a-z0-9]+", text.lower())
    return {tuple(found[i : i + SHINGLE]) for i in range(len(found) - SHINGLE + 1)}


def test_what_is_planted_reaches_the_artifacts(real, search):
    """So that it could leak: rows that are kept, rows that are faults, words that were learned."""
    tables = list(real.tables("manifests/*.parquet"))
    held = " ".join(table.to_csv() for table in tables)
    faulty = {"mimic dicom of a broken file", "siim image, bad mask", "chexpert patient, odd path"}
    faulty |= {"covidx file, odd", "nih patient, padded"}
    missing = {name for name, text in real.planted.items() if text not in held}
    assert missing <= faulty
    assert SENTENCE in held
    for folder, datasets in {"manifest": 4, "shards": 6}.items():
        logs = real.folder.glob(f"results/demo/artifacts/logs/{folder}/*.log")
        assert sum("source row" in log.read_text() for log in logs) == datasets
    (pairs,) = real.tables("predictions/medim-s0/mimic-attend-*.parquet")
    assert set(NONCE[:3]) <= {word for row in pairs["words"] for word in row}
    vocabulary = real.folder / "results/demo/artifacts/shards/mimic/vocab.json"
    assert "the word quokkaform" in search.found(vocabulary.read_bytes())


def test_nothing_planted_is_tracked_or_told(real, search):
    tracked = real.tracked()
    assert {Path(n).parts[2] for n in tracked if n.startswith("results/")} == set(OPEN)
    assert leaks(search, tracked | real.told()) == {}


def test_no_identifier_of_any_row_is_tracked_or_told(real):
    """Of all rows, not of the planted alone; short numbers are left out: they are counts too."""
    names = set()
    for table in real.tables("manifests/*.parquet"):
        paths = table["path"].str.lower()
        parts = paths.str.split("/").explode().value_counts()
        names |= set(parts[parts < len(table) / 2].index)  # the others are the release's folders
        names |= set(paths) | set(paths.str.rpartition(".")[0])
        for column in ("image", "patient", "study"):
            names |= set(table[column].str.lower())
    names = {name for name in names if re.search("[0-9]", name) and len(name) >= 7}
    assert len(names) > 500
    found = {}
    for name, data in (real.tracked() | real.told()).items():
        text = data.decode(errors="replace").lower()
        tokens = set(re.findall(r"[a-z0-9._-]+", text)) | set(re.findall(r"[a-z0-9._/-]+", text))
        found[name] = sorted({token.strip(".") for token in tokens} & names)[:3]
    assert {name: what for name, what in found.items() if what} == {}


def test_no_five_words_of_a_report_stand_anywhere(real):
    (reports,) = [t for t in real.tables("manifests/*.parquet") if t["report"].notna().any()]
    known = set().union(*(shingles(text) for text in reports["report"]))
    assert len(known) > 500
    found = {}
    for name, data in (real.tracked() | real.told()).items():
        plain = re.sub(r"<[^>]*>|\\[nt]", " ", data.decode(errors="replace"))
        found[name] = sorted(shingles(plain) & known)[:3]
    assert {name: what for name, what in found.items() if what} == {}


def test_records_keep_aggregates_only(real):
    """A list of numbers is a bootstrap's or a few settings; none has a value for each row."""
    rows = {len(t) for t in real.tables("predictions/*/*.parquet")}
    bootstrap = 23
    assert bootstrap not in rows

    def lists(tree: Any, key: str) -> Iterator[tuple[str, list[Any]]]:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, value in items:
            if isinstance(value, list):
                yield f"{key}.{name}", value
            if isinstance(value, dict | list):
                yield from lists(value, f"{key}.{name}")

    for path in (found := sorted(real.folder.glob("results/demo/records/*/**/*.json"))):
        tree = json.loads(path.read_text())
        for side in ("metrics", "details"):
            for key, values in lists(tree.get(side, {}), side):
                numbers = [v for v in values if isinstance(v, int | float)]
                allowed = bootstrap if "replicates" in key else 4
                if key == "metrics.curve":  # losses of batches and epochs
                    continue
                assert len(numbers) <= allowed, f"{path.name}: {key}"
    (attend,) = [json.loads(p.read_text()) for p in found if p.name == "mimic-attend-100-s0.json"]
    assert "withheld" in attend["details"]["note"]
    assert "pairs" not in attend["details"]


def test_the_report_is_made_of_tracked_files_alone(real, tmp_path, monkeypatch):
    """So that what is drawn, and so beyond any search, cannot hold more than the records do."""
    tracked = real.tracked()
    shown = tuple(f"results/demo/{kind}/" for kind in OPEN if kind != "records")
    for name, data in tracked.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name.startswith(shown) else data)
    monkeypatch.chdir(tmp_path)
    for part in PARTS:
        assert called("report", "--part", part) == 0
    made = {name for name in tracked if name.startswith(shown)}
    assert made
    assert [name for name in made if (tmp_path / name).read_bytes() != tracked[name]] == []


def test_roots_stand_in_params_and_circumstances_alone(real):
    """A folder may bear its user's name."""
    for name, data in real.tracked().items():
        if name != "params.yaml" and not name.endswith(".circumstances.json"):
            assert str(real.raw.parent).encode() not in data, name


def test_git_takes_pointers_and_no_artifact(real, search, tmp_path, monkeypatch):
    """`git add -A` once DVC holds the artifacts; leftovers of a killed job are there, too."""
    here = copied(real.place, tmp_path / "work")
    for leftover in ("phantom", "training", "building", "features", "spare"):
        path = here.folder / "results/demo" / leftover / "mimic" / "left"
        path.parent.mkdir(parents=True)
        path.write_text(SENTENCE)
    monkeypatch.chdir(here.folder)
    here.must("dvc", "init", "-q")
    shutil.copy(REPO / ".dvc/config", here.folder / ".dvc/config")
    artifacts = here.folder / "results/demo/artifacts"
    metadata.pack("demo")
    assert search.found(lzma.decompress(metadata.packed("demo").read_bytes())) == []
    here.must("dvc", "add", "-q", *(str(p) for p in artifacts.iterdir()))
    here.must("git", "add", "-A")
    names = here.must("git", "diff", "--cached", "--name-only").split()
    pattern = rf"(\.dvc/|results/demo/({'|'.join(OPEN)})/|results/demo/artifacts/[a-z]+\.dvc$)"
    assert [name for name in names if not re.match(pattern, name)] == []
    assert sum(name.startswith("results/demo/artifacts/") for name in names) >= 6
    assert leaks(search, {name: (here.folder / name).read_bytes() for name in names}) == {}


def called(stop: str, *arguments: str) -> int:
    """Run a stop in this process; its exit status."""
    return importlib.import_module(f"cxrmim.{stop}.__main__").main([*arguments, "--scale", "demo"])


def refused(real: Real, folder: Path, search: Search, capsys, stop: str, dataset: str) -> str:
    """Run a stop on one dataset, which has to fail; what it printed, when nothing leaks."""
    assert called(stop, "--dataset", dataset) == 3
    out = capsys.readouterr()
    log = folder / f"results/demo/artifacts/logs/{stop}/{dataset}.log"
    assert leaks(search, {"out": out.out.encode(), "err": out.err.encode()}) == {}
    assert search.found(log.read_bytes()) == []
    assert str(real.raw) not in out.err
    return str(out.err)


@pytest.fixture
def strict(real, tmp_path, monkeypatch) -> Path:
    """A copy of the working folder whose parameters let no broken row pass."""
    here = copied(real.place, tmp_path / "work")
    path = here.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["scales"]["demo"]["manifest"]["max_unreadable"] = 0.0
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.chdir(here.folder)
    monkeypatch.setattr(job.log, "handlers", [])
    return here.folder


@pytest.mark.parametrize("dataset", ["mimic", "chexpert", "covidx", "siim"])
def test_a_manifest_that_fails_names_a_row_only(real, strict, search, capsys, dataset):
    told = refused(real, strict, search, capsys, "manifest", dataset)
    assert dataset in told
    assert "source row" in told


@pytest.mark.parametrize("dataset", sorted(PLANT))
def test_shards_that_fail_name_a_row_only(real, strict, search, capsys, dataset):
    told = refused(real, strict, search, capsys, "shards", dataset)
    assert dataset in told
    assert "source row" in told


def test_a_job_that_fails_under_snakemake_names_a_row_only(strict, search):
    out = Place(strict).snakemake("results/demo/records/manifest/mimic.json")
    assert out.returncode != 0
    told = out.stdout + out.stderr
    assert "source row" in told
    assert search.found(told.encode()) == []
    for path in (strict / ".snakemake").rglob("*"):
        assert not path.is_file() or search.found(path.read_bytes()) == [], path


def test_an_unexpected_error_says_nothing_of_what_it_holds(strict, search, capsys):
    """Its message is for `--debug` alone, which the user asks for in the own terminal."""

    def work() -> None:
        try:
            raise ValueError(SENTENCE)
        except ValueError as error:
            error.add_note(NONCE[0])
            raise KeyError(SECOND) from error

    assert job.guarded(work, debug=False, name="job") == 1
    out = capsys.readouterr()
    assert "KeyError" in out.err
    assert search.found((out.out + out.err).encode()) == []


def test_a_leak_would_be_found(real, search):
    """The same texts put into a record that is clean; test_canaries has more forms."""
    clean = next(real.folder.glob("results/demo/records/downstream/**/*.json")).read_bytes()
    assert search.found(clean) == []
    for name, text in search.texts.items():
        for form in (text, text.upper(), base64.b64encode(f"x {text}".encode()).decode()):
            spoiled = json.dumps(json.loads(clean) | {"note": f"see {form}."}).encode()
            assert search.found(spoiled) != [], name
    (table,) = real.tables("shards/siim/table.parquet")
    for column in DIGESTS:
        assert search.found(clean + str(table[column].iloc[0]).encode()) != []
    own = next(path for path in search.files.values() if path.suffix == ".jpg")
    assert search.found(hashlib.sha256(own.read_bytes()).hexdigest()[:12].encode()) != []
