"""Snakemake's notes travel with the artifacts, and a note of a later run here stays."""

from __future__ import annotations

import json
import lzma
import os
import shutil
from pathlib import Path

import pytest

from cxrmim import metadata, params, record
from cxrmim.errors import CheckError
from cxrmim.paths import Paths
from cxrmim.plan import lay_out

FILE = "results/demo/tables/a.csv"
LONG = f"results/demo/records/{'x' * 300}/b.json"  # its note's name is cut into folders


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def note(key: str, end: float, state: str) -> None:
    """Leave a note as Snakemake does."""
    from snakemake.persistence.file import FilePersistence

    FilePersistence(path=Path(".snakemake").absolute())._io_write(
        ".snakemake/metadata", {"endtime": end, "params": [state]}, key
    )


def stored(key: str) -> dict[str, object]:
    """What Snakemake reads of a note; nothing if there is none."""
    from snakemake.persistence.file import FilePersistence

    read = FilePersistence(path=Path(".snakemake").absolute())._io_read
    return dict(read(".snakemake/metadata", key))


def state(key: str) -> str | None:
    return stored(key).get("params", [None])[0]


def shipped(notes: object) -> Path:
    file = metadata.packed("demo")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(lzma.compress(json.dumps(notes).encode()))
    return file


def forget() -> None:
    shutil.rmtree(".snakemake")


@pytest.mark.parametrize("key", [FILE, LONG])
def test_a_second_machine_reads_what_the_first_has_noted(here, key):
    note(key, 5.0, "first")
    metadata.pack("demo")
    forget()
    metadata.restore("demo")
    assert state(key) == "first"


def test_only_the_scales_own_notes_travel(here):
    note(FILE, 5.0, "mine")
    note("results/trend/tables/a.csv", 5.0, "other")
    note("elsewhere.csv", 5.0, "other")
    metadata.pack("demo")
    told = json.loads(lzma.decompress(metadata.packed("demo").read_bytes()))
    assert list(told) == [FILE]


def test_equal_notes_give_equal_bytes_whatever_their_order(here):
    packed = []
    for keys in ((FILE, LONG), (LONG, FILE)):
        for key in keys:
            note(key, 5.0, "first")
        metadata.pack("demo")
        packed.append(metadata.packed("demo").read_bytes())
        forget()
        metadata.packed("demo").unlink()
    assert packed[0] == packed[1]


def test_a_later_run_here_keeps_its_note_and_an_older_one_does_not(here):
    note(FILE, 9.0, "here")
    note(LONG, 1.0, "here")
    shipped({FILE: {"endtime": 5.0, "params": ["pulled"]}, LONG: {"endtime": 5.0, "params": ["p"]}})
    metadata.restore("demo")
    assert (state(FILE), state(LONG)) == ("here", "p")


def test_what_a_pull_brought_goes_when_an_older_state_is_checked_out(here):
    shipped({FILE: {"endtime": 9.0, "params": ["new"]}})
    metadata.restore("demo")
    shipped({FILE: {"endtime": 5.0, "params": ["old"]}})
    metadata.restore("demo")
    assert state(FILE) == "old"


def test_a_state_is_laid_back_once(here):
    """A run of the present state that ends by an earlier clock keeps its note, too."""
    shipped({FILE: {"endtime": 9.0, "params": ["pulled"]}})
    metadata.restore("demo")
    note(FILE, 5.0, "here")
    metadata.restore("demo")
    assert state(FILE) == "here"


def test_an_attestation_before_any_run_loses_nothing(here):
    shipped({FILE: {"endtime": 9.0, "params": ["pulled"]}})
    metadata.pack("demo")
    forget()
    metadata.restore("demo")
    assert state(FILE) == "pulled"


def test_snakemake_does_not_take_the_notes_for_an_old_format(here, caplog):
    shipped({FILE: {"endtime": 9.0, "params": ["pulled"], "incomplete": True}})
    metadata.restore("demo")
    assert state(FILE) == "pulled"
    assert not [file for file in Path(".snakemake/incomplete").rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        lzma.compress(b"no notes"),
        lzma.compress(b"[" * 100_000),
        lzma.compress(b'["results/demo/a"]'),
        lzma.compress(b'{"results/demo/a": "text"}'),
        lzma.compress(b'{"results/trend/a": {}}'),
        lzma.compress(b'{"/etc/passwd": {}}'),
        lzma.compress(b'{"results/demo/\\ud800": {}}'),
        lzma.compress(b'{"results/demo/%s": {}}' % (b"x" * 4000)),
        lzma.compress(b"{}")[:-9],
        lzma.compress(b"{}" + b" " * (1 << 24), preset=0),
    ],
    ids=[
        "bytes",
        "text",
        "deep",
        "list",
        "no note",
        "scale",
        "place",
        "half a sign",
        "long",
        "cut short",
        "bomb",
    ],
)
def test_a_foreign_file_is_refused_in_one_line_and_leaves_nothing(here, monkeypatch, data):
    monkeypatch.setattr(metadata, "LIMIT", 1 << 24)
    shipped({}).write_bytes(data)
    with pytest.raises(CheckError) as told:
        metadata.restore("demo")
    assert str(metadata.packed("demo")) in str(told.value)
    assert "\n" not in str(told.value)
    assert not Path(".snakemake").exists()


def test_a_foreign_time_does_not_stop_anything(here):
    note(FILE, 9.0, "here")
    shipped({FILE: {"endtime": 10**400, "params": ["pulled"]}})
    metadata.restore("demo")
    assert state(FILE) == "here"


def test_notes_that_a_dry_run_has_spoilt_travel_as_they_were(here):
    note(FILE, 5.0, "mine")
    metadata.distrust([Path(FILE)])
    metadata.pack("demo")
    told = json.loads(lzma.decompress(metadata.packed("demo").read_bytes()))
    assert told[FILE]["params"] == ["mine"]


def test_a_damaged_note_is_replaced(here):
    note(FILE, 9.0, "here")
    (file,) = (Path(path, name) for path, _, names in os.walk(metadata.FOLDER) for name in names)
    file.write_text('{"endtime": 9')
    shipped({FILE: {"endtime": 5.0, "params": ["pulled"]}})
    metadata.restore("demo")
    assert state(FILE) == "pulled"


@pytest.mark.parametrize("key", ["config_hash", "code"])
def test_a_record_of_another_state_is_made_again_whatever_its_note_says(here, repo, key):
    """As after `git checkout -- results`: the note is of the run here, the file is another's."""
    shutil.copy(repo / "params.yaml", "params.yaml")
    tree = record.begin(params.load("params.yaml", "demo"), "phantom", "siim")
    path = Paths("demo").record("phantom", "siim")
    path.parent.mkdir(parents=True)
    path.write_bytes(record.canonical(tree))
    note(path.as_posix(), 9.0, "present")
    lay_out({"scale": "demo"})
    assert state(path.as_posix()) == "present"
    path.write_bytes(record.canonical(tree | {key: "0"}))
    for _ in range(2):
        lay_out({"scale": "demo"})
        assert stored(path.as_posix())["params"] == []
        assert stored(path.as_posix())["endtime"] == 9.0
    path.write_bytes(record.canonical(tree))
    lay_out({"scale": "demo"})
    assert state(path.as_posix()) == "present"  # a dry run under other parameters leaves no trace


def test_where_there_was_no_note_there_is_none_again(here):
    metadata.distrust([Path(FILE)])
    assert stored(FILE)["params"] == []
    metadata.distrust([])
    assert stored(FILE) == {}


def test_what_was_made_since_stays(here):
    """A note that a job has written after the old one was spoilt is not overwritten with that."""
    metadata.distrust([Path(FILE)])
    note(FILE, 10.0, "made")
    metadata.distrust([])
    assert state(FILE) == "made"
