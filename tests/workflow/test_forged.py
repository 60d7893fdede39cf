"""`cxrmim check` and `trace` on a real tiny result that was forged: each forgery names its file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxrmim import cli, grid, params, record, trace
from cxrmim.errors import CheckError
from cxrmim.paths import Paths
from tests.workflow.conftest import Place, copied

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]
Tree = dict[str, Any]
PATHS = Paths("demo")
RUN, OTHER = "medim-s0/chexpert-probe-100-s0", "mae-s0/chexpert-probe-100-s0"
CELL = "medim_table1:medim:chexpert_100"


@pytest.fixture(scope="module")
def place(attested: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return copied(attested, tmp_path_factory.mktemp("forged") / "work")


class Forger:
    """Edits files of a result and puts them back."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.kept: dict[Path, bytes | None] = {}
        self.capsys = capsys

    def write(self, path: Path, content: bytes) -> None:
        self.kept.setdefault(path, path.read_bytes() if path.is_file() else None)
        path.write_bytes(content)

    def unlink(self, path: Path) -> None:
        self.kept.setdefault(path, path.read_bytes())
        path.unlink()

    def edit(self, path: Path, change: Callable[[Tree], Any], *, seal: bool = True) -> None:
        """Change a record and, like a forger who has read the code, seal it again."""
        tree = json.loads(path.read_bytes())
        change(tree)
        if seal:
            tree["digest"] = record.seal(tree)
        self.write(path, record.canonical(tree))

    def adopt(self, changed: tuple[str, str]) -> None:
        """Seal again every record that builds on a changed one, and what builds on those."""
        loaded = params.load()
        stale = [changed]
        for kind, unit in grid.units(loaded):
            known = {f"{k}/{u}": PATHS.record(k, u) for k, u in stale}
            path = PATHS.record(kind, unit)
            if known.keys() & json.loads(path.read_bytes())["parents"].keys():
                sums = {name: record.sha256(file) for name, file in known.items()}
                self.edit(
                    path,
                    lambda tree, sums=sums: tree["parents"].update(
                        {name: sums[name] for name in sums if name in tree["parents"]}
                    ),
                )
                stale.append((kind, unit))

    def remake_report(self) -> None:
        """As `cxrmim report` does, pictures left out."""
        from cxrmim.report import build

        for path, content in build.contents(params.load()).items():
            self.write(path, content)

    def call(self, *arguments: str) -> tuple[int, str]:
        self.capsys.readouterr()
        status = cli.main(arguments)
        told = self.capsys.readouterr()
        assert len(told.err.splitlines()) <= 1, told.err
        return status, told.out + told.err

    def caught(self, path: Path, *words: str, full: bool = False) -> str:
        """Assert that `check` exits with 4 and names a file and some words."""
        status, text = self.call("check", *(["--full"] if full else []))
        assert status == CheckError.exit_code, text
        assert path.as_posix() in text
        for word in words:
            assert word in text
        return text


@pytest.fixture
def forger(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Forger]:
    monkeypatch.chdir(place.folder)
    out = Forger(capsys)
    yield out
    for path, content in out.kept.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)


def downstream(run: str = RUN) -> Path:
    return PATHS.record("downstream", run)


def test_an_honest_result_passes_and_says_what_was_measured_again(forger):
    status, text = forger.call("check", "--full")
    assert status == 0, text
    count = len(grid.runs(params.load()))
    assert f"metrics of {count} of {count} runs measured again" in text


def test_a_forged_metric(forger):
    forger.edit(downstream(), lambda tree: tree["metrics"].update(value=0.999), seal=False)
    forger.caught(downstream(), "edited by hand", "metrics.value = 0.999 (was 0.")


RECORDS: dict[str, tuple[Callable[[Tree], Any], str]] = {
    "config": (lambda t: t["config"].update(percent=10), "config.percent = 10"),
    "config and its hash": (
        lambda t: t.update(config=t["config"] | {"x": None}, config_hash="0" * 64),
        "config_hash = '000",
    ),
    "code": (lambda t: t.update(code="0" * 64), "made by other code"),
    "seed": (lambda t: t.update(seed=7), "seed = 7, but it must be 0"),
    "id": (lambda t: t.update(id=OTHER), f"id = '{OTHER}'"),
    "scale": (lambda t: t.update(scale="paper"), "scale = 'paper'"),
    "source": (lambda t: t.update(source="real"), "source = 'real'"),
    "parent": (
        lambda t: t["parents"].update({"pretrain/medim-s0": "0" * 64}),
        "parents.pretrain/medim-s0 is not the sha256",
    ),
    "further parent": (
        lambda t: t["parents"].update({"pretrain/mae-s0": "0" * 64}),
        "parents.pretrain/mae-s0: it is not made from that",
    ),
    "place": (
        lambda t: t["outputs"]["predictions"].update(path="../elsewhere.parquet"),
        "outputs.predictions.path = '../elsewhere.parquet'",
    ),
    "another run's file": (
        lambda t: t["outputs"]["predictions"].update(path=PATHS.prediction(OTHER).as_posix()),
        "outputs.predictions.path",
    ),
    "further output": (
        lambda t: t["outputs"].update(x={"path": "x", "bytes": 0, "sha256": "0" * 64}),
        "outputs.x.path",
    ),
    "input from nowhere": (
        lambda t: t["inputs"].update(
            x={"path": "results/demo/x.npy", "bytes": 0, "sha256": "0" * 64}
        ),
        "inputs.x is no output of its parents",
    ),
    "further key": (lambda t: t.update(note="trust me"), "note: unknown key"),
    "lost key": (lambda t: t.pop("details"), "details: missing"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_forged_record(forger, name):
    change, words = RECORDS[name]
    forger.edit(downstream(), change)
    forger.caught(downstream(), words)


def test_another_runs_record(forger):
    forger.write(downstream(), downstream(OTHER).read_bytes())
    forger.caught(downstream(), f"id = '{OTHER}'")


def test_a_key_given_twice(forger):
    text = downstream().read_bytes()
    forger.write(downstream(), text.replace(b'"metrics": {', b'"metrics": {},\n "metrics": {', 1))
    forger.caught(downstream(), "a key given twice")


def test_no_number(forger):
    text = downstream().read_bytes()
    forger.write(downstream(), text.replace(b'"n": ', b'"n": NaN, "was": ', 1))
    forger.caught(downstream(), "not finite")


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"schema": 1}'])
def test_lost_circumstances(forger, content):
    path = PATHS.circumstances("pretrain", "medim-s0")
    if content is None:
        forger.unlink(path)
    else:
        forger.write(path, content)
    forger.caught(path, "which commit")
    status, text = forger.call("trace", CELL)
    assert status == CheckError.exit_code
    assert "[BAD] record pretrain/medim-s0" in text


def test_a_forged_manifest_below_shards(forger):
    path = PATHS.record("manifest", "chexpert")
    forger.edit(path, lambda t: t["outputs"]["manifest"].update(sha256="0" * 64))
    text = forger.caught(PATHS.record("shards", "chexpert"), "inputs.manifest is no output")
    assert "parents.manifest/chexpert" in text


def test_a_swapped_checkpoint(forger):
    weights = PATHS.checkpoint("medim-s0")
    forger.write(weights, PATHS.checkpoint("mae-s0").read_bytes())
    forger.caught(weights, PATHS.record("pretrain", "medim-s0").as_posix())


def test_a_swapped_checkpoint_whose_record_was_rewritten(forger):
    """The forger names the new bytes, seals the record again and every record that builds on it."""
    weights, path = PATHS.checkpoint("medim-s0"), PATHS.record("pretrain", "medim-s0")
    forger.write(weights, PATHS.checkpoint("mae-s0").read_bytes())
    forger.edit(path, lambda t: t["outputs"]["weights"].update(record.digest(weights)))
    forger.adopt(("pretrain", "medim-s0"))
    forger.caught(weights, "its header names another record")


def test_swapped_predictions(forger):
    forger.write(PATHS.prediction(RUN), PATHS.prediction(OTHER).read_bytes())
    forger.caught(PATHS.prediction(RUN), "its bytes are not the outputs.predictions")


def test_copied_predictions_with_record_and_metrics(forger):
    forger.write(PATHS.prediction(RUN), PATHS.prediction(OTHER).read_bytes())
    other = json.loads(downstream(OTHER).read_bytes())
    made = record.digest(PATHS.prediction(OTHER))

    def change(tree: Tree) -> None:
        tree["metrics"] = other["metrics"]
        tree["outputs"]["predictions"].update(made)

    forger.edit(downstream(), change)
    forger.caught(downstream(), RUN, OTHER, "its predictions are those of")


def test_a_forged_pointer_and_an_output_that_no_pointer_names(forger):
    pointer = PATHS.artifacts / "predictions.dvc"
    forger.edit(downstream(), lambda t: t["outputs"]["predictions"].update(md5="0" * 32))
    forger.caught(pointer, "outs.md5")


def cells_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as handle:
        return list(csv.reader(handle))


@pytest.mark.parametrize("name", ["medim_table1", "medim_table1_pairs", "claims", "ledger"])
def test_a_stale_table(forger, name):
    path = PATHS.table(name, "csv")
    head, first = cells_of(path)[:2]
    column = next(i for i, text in enumerate(first) if text and i > 1)
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace(first[column], "98.76", 1)
    forger.write(path, "".join(lines).encode())
    text = forger.caught(path, "line 2, ", "--part tables`")
    assert any(f"{title} = " in text for title in head)


def test_a_stale_summary_names_the_cell(forger):
    path = PATHS.summary
    tree = json.loads(path.read_bytes())
    tree["cells"][CELL]["value"] = 0.999
    forger.write(path, record.canonical(tree))
    forger.caught(path, f"cells.{CELL}.value = 0.999, but the records give 0.")


@pytest.mark.parametrize(
    "path", [PATHS.table("medim_table1", "md"), PATHS.table("medim_table1", "tex")]
)
def test_a_stale_text(forger, path):
    forger.write(path, path.read_bytes().replace(b"PHANTOM DATA", b"Real data", 1))
    forger.caught(path, "has '", "PHANTOM DATA")


def test_a_stale_page_and_a_stale_figures_data(forger):
    page, figure = PATHS.report / "index.html", PATHS.figure("label_efficiency", "csv")
    forger.write(page, page.read_bytes().replace(b"PHANTOM", b"REAL", 1))
    forger.write(figure, figure.read_bytes() + b"x\n")
    text = forger.caught(page, "--part page`")
    assert figure.as_posix() in text and "--part figures`" in text


def test_a_lost_table_and_one_that_nothing_makes(forger):
    forger.unlink(PATHS.table("medim_table1", "md"))
    forger.write(PATHS.table("medim_table9", "csv"), b"x\n")
    text = forger.caught(PATHS.table("medim_table1", "md"), "not there")
    assert "medim_table9.csv: no part of the report makes it" in text


FORGED: dict[str, Callable[[Tree], Any]] = {
    "metrics.value": lambda m: m.update(value=0.999),
    "metrics.replicates": lambda m: m.update(replicates=[0.99] * len(m["replicates"])),
    "metrics.per_class": lambda m: m["per_class"].update(Edema=0.999),
}


def test_a_forged_number_of_test_images(forger):
    forger.edit(downstream(), lambda tree: tree["metrics"].update(n=tree["metrics"]["n"] + 1))
    forger.caught(downstream(), "not tested on the same images")


@pytest.mark.parametrize("key", FORGED)
def test_metric_record_and_report_forged_together(forger, key):
    """The records alone cannot tell; the predictions can."""
    forger.edit(downstream(), lambda tree: FORGED[key](tree["metrics"]))
    if key == "metrics.value":
        text = forger.caught(PATHS.summary, f"cells.{CELL}.")
        assert f"{downstream().as_posix()}: not as committed" in text
    forger.caught(downstream(), key, "but the predictions give", full=True)
    forger.remake_report()
    status, text = forger.call("check")
    assert status == 0, text
    forger.caught(downstream(), key, "but the predictions give", full=True)


def test_without_predictions_full_says_that_nothing_was_measured(forger):
    for run in grid.runs(params.load()):
        forger.unlink(PATHS.prediction(run.id))
    status, text = forger.call("check", "--full")
    assert status == 0, text
    assert "metrics of 0 of" in text and "`dvc pull`" in text
    status, text = forger.call("trace", CELL)
    assert status == 0
    assert "[not pulled] output predictions" in text


def test_predictions_forged_as_well_are_beyond_check(forger):
    """As docs/provenance.md says: whoever forges all of it is only found by running again."""
    frame = pd.read_parquet(PATHS.prediction(RUN))
    score = next(name for name in frame if name.startswith("score"))
    frame[score] = 1 - frame[score]
    frame.to_parquet(forged := Path("forged.parquet"))
    forger.write(PATHS.prediction(RUN), forged.read_bytes())
    forged.unlink()
    from cxrmim.downstream import recompute

    loaded = params.load()
    run = grid.Run.parse(RUN)

    def change(tree: Tree) -> None:
        tree["outputs"]["predictions"].update(record.digest(PATHS.prediction(RUN)))
        tree["metrics"] = recompute.metrics(grid.view(loaded, run), run)

    forger.edit(downstream(), change)
    forger.remake_report()
    forger.caught(PATHS.artifacts / "predictions.dvc", "outs.md5")  # the pointer still tells
    status, text = forger.call("check", "--full", "--stop", "downstream", "artifacts", "report")
    assert status == 0, text


def test_trace_reaches_dvc(forger):
    status, text = forger.call("trace", CELL)
    assert status == 0, text
    assert "[ok] dvc.lock on results/demo/records/downstream - md5 " in text
    for name in ("checkpoints", "predictions", "shards", "manifests"):
        assert f"[ok] pointer results/demo/artifacts/{name}.dvc" in text
    assert "BAD" not in text
    for word in ("raw:chexpert/", "phantom/chexpert", "circumstances - commit"):
        assert word in text


def test_trace_prints_whole_hashes_if_asked(forger):
    _, short = forger.call("trace", CELL)
    _, long = forger.call("trace", "--long", CELL)
    digest = record.sha256(downstream())
    assert digest in long
    assert digest not in short
    assert digest[:12] in short
    assert [line[:40] for line in short.splitlines()] == [line[:40] for line in long.splitlines()]


def test_trace_tells_a_state_that_was_not_attested(forger):
    forger.edit(downstream(), lambda tree: tree["details"].update(x=1))
    links = trace.follow(params.load(), [grid.Run.parse(RUN)])
    lock = next(link for link in links if link.what.endswith("records/downstream"))
    assert lock.state == "not attested"
    assert "`cxrmim attest`" in lock.note


@pytest.mark.parametrize(
    "address",
    [
        "medim_table1:MedIM:CheXpert 100%",
        "MEDIM_TABLE1:medim:CHEXPERT_100",
        "medim_tabel1:medmi:chexpert 100",
        "medim-table-1 : Med : chexpert_100",
    ],
)
def test_near_misses_are_completed(forger, address):
    status, text = forger.call("trace", address)
    assert status == 0, text
    assert f"{CELL} = " in text


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("medim_table1:m:chexpert_100", "it may stand for mae, medim"),
        ("medim_table1:medim:chexpert", "it may stand for chexpert_10, chexpert_100"),
        ("nothing:medim:chexpert_100", "no table 'nothing'"),
        ("medim_table1:medim", "TABLE:ROW:COLUMN"),
    ],
)
def test_what_stands_for_no_cell_or_several_is_refused(forger, address, words):
    status, text = forger.call("trace", address)
    assert status == 2
    assert words in text
