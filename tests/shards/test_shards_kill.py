"""A build broken off: by a kill at any moment, a full disk, a lost worker, changed raw files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shards_corpus
from PIL import Image
from shards_corpus import Corpus, masked

from cxrmim.errors import CxrmimError
from cxrmim.shards import build as build_module
from cxrmim.shards import journal, pool

DRIVER = Path(shards_corpus.__file__)


@pytest.fixture
def whole(corpus: Corpus, setup, monkeypatch) -> dict[str, bytes]:
    """Files of an uninterrupted build of the corpus, one row of which cannot be read."""
    monkeypatch.setattr(pool, "ROWS", 2)
    masked(corpus)
    (corpus.root / "5.png").write_bytes(b"no image")
    corpus.build(setup())
    found = corpus.bytes()
    assert {"images.npy", "masks.npy", "ids.npy", "table.parquet", "checksums.json"} <= set(found)
    shutil.rmtree(corpus.out)
    return found


def drive(corpus: Corpus, where: str, number: int = 0, threads: int = 1) -> int:
    """Build in a process of its own that kills itself; its exit status."""
    order = [sys.executable, DRIVER, corpus.folder, str(threads), where, str(number)]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    if done.returncode not in (0, -signal.SIGKILL):
        pytest.fail(done.stderr)
    return done.returncode


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def finished(corpus: Corpus) -> int:
    """Number of rows that the journal names."""
    lines = (corpus.building / journal.JOURNAL).read_bytes().splitlines()
    good = [entry for line in lines if (entry := journal._parsed(line + b"\n"))]
    return sum(len(entry["outcomes"]) for entry in good)


def decoded(corpus: Corpus) -> list[int]:
    """Rows that processes decoded since the last call, in their order."""
    log = corpus.folder / "decoded.txt"
    found = [int(line) for line in log.read_text().split()] if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_killed_again_and_again(corpus, whole):
    """Killed at every eighth sync, which is two chunks and a half."""
    kills = done = 0
    while drive(corpus, "sync", 8) != 0:
        kills += 1
        assert not (corpus.folder / "out").exists()
        rows = decoded(corpus)
        assert rows == list(range(done, done + len(rows)))  # none that is in the journal
        assert finished(corpus) > done
        done = finished(corpus)
    assert kills == 3
    assert files(corpus.folder / "out") == whole


@pytest.mark.parametrize(
    ("where", "number", "done"),
    [("array", 1, 0), ("array", 6, 4), ("line", 5, 4), ("seal", 1, 12), ("publish", 3, 12)],
)
def test_killed_in_the_middle_of_a_write(corpus, whole, where, number, done):
    assert drive(corpus, where, number) == -signal.SIGKILL
    assert not (corpus.folder / "out").exists()
    assert finished(corpus) == done
    decoded(corpus)
    assert drive(corpus, "never") == 0
    assert decoded(corpus) == list(range(done, 12))
    assert files(corpus.folder / "out") == whole
    assert not list(corpus.folder.glob(".*out"))  # no half-made folder stays


def test_killed_before_the_record_is_written(corpus, whole):
    """The folder is there, the record is not: the workflow removes the one and starts again."""
    assert drive(corpus, "record", 1) == -signal.SIGKILL
    assert files(corpus.folder / "out") == whole
    shutil.rmtree(corpus.folder / "out")
    decoded(corpus)
    assert drive(corpus, "never") == 0
    assert decoded(corpus) == []
    assert files(corpus.folder / "out") == whole


def processes(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(owner) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes")
def test_workers_end_with_their_killed_parent(corpus, whole):
    order = [sys.executable, DRIVER, corpus.folder, "2", "sync", "4"]
    parent = subprocess.Popen(order, start_new_session=True)
    assert parent.wait(60) == -signal.SIGKILL
    patience = time.monotonic() + 30
    while processes(parent.pid) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not processes(parent.pid)
    assert drive(corpus, "never", threads=2) == 0
    assert files(corpus.folder / "out") == whole


def test_a_worker_that_is_killed(corpus, whole, setup, monkeypatch):
    monkeypatch.setattr(pool, "work", shards_corpus.dying)
    (corpus.folder / "kill").write_text("6.png")
    with pytest.raises(CxrmimError, match=r"^mimic: a worker process died .* run again") as caught:
        corpus.build(setup(), threads=2)
    assert "\n" not in str(caught.value)
    assert not corpus.out.exists()
    corpus.build(setup(), threads=2)
    assert corpus.bytes() == whole


class Interrupted(Exception):
    pass


def interrupt(corpus: Corpus, setup, monkeypatch, rows: int) -> None:
    """Break a build off once `rows` rows are decoded."""
    process, done = pool.process, []

    def process_some(*args, **kwargs):
        if len(done) == rows:
            raise Interrupted
        done.append(1)
        return process(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "process", process_some)
        with pytest.raises(Interrupted):
            corpus.build(setup(), keep=True)
    assert finished(corpus) == rows


def resumed(corpus: Corpus, params, monkeypatch) -> list[str]:
    """Finish a build; the images that it decodes."""
    process, done = pool.process, []

    def noted(item, *args, **kwargs):
        done.append(item.path.stem)
        return process(item, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "process", noted)
        corpus.build(params)
    return done


ALL = [str(i) for i in range(12)]


def test_an_interrupted_build_goes_on(corpus, whole, setup, monkeypatch):
    interrupt(corpus, setup, monkeypatch, 8)
    assert resumed(corpus, setup(), monkeypatch) == ALL[8:]
    assert corpus.bytes() == whole
    assert not corpus.building.exists()


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


SPOILT = {
    "a byte of the fifth image": (lambda b: flip(b / "data/images.npy", 128 + 4 * 1024), 4),
    "a byte of the first mask": (lambda b: flip(b / "data/masks.npy", 128), 0),
    "images cut short": (lambda b: os.truncate(b / "data/images.npy", 128 + 3 * 1024), 2),
    "images lost": (lambda b: (b / "data/images.npy").unlink(), 0),
    "a line of the journal": (lambda b: flip(b / "journal.jsonl", 0), 0),
    "the journal lost": (lambda b: (b / "journal.jsonl").unlink(), 0),
    "the key lost": (lambda b: (b / "key").unlink(), 0),
    "nothing": (lambda b: None, 8),
}


@pytest.mark.parametrize(("spoil", "first"), SPOILT.values(), ids=SPOILT)
def test_what_is_not_whole_is_done_again(corpus, whole, setup, monkeypatch, spoil, first):
    interrupt(corpus, setup, monkeypatch, 8)
    spoil(corpus.building)
    assert resumed(corpus, setup(), monkeypatch) == ALL[first:]
    assert corpus.bytes() == whole


def test_raw_files_that_changed_are_read_again(corpus, whole, setup, monkeypatch):
    interrupt(corpus, setup, monkeypatch, 8)
    Image.new("L", (33, 44), 70).save(corpus.root / "3.png")
    assert resumed(corpus, setup(), monkeypatch) == ALL[2:]
    shards = corpus.open()
    assert shards.images[3].max() == 70
    assert corpus.bytes() != whole


def test_a_build_of_other_parameters_is_discarded(corpus, whole, setup, monkeypatch):
    interrupt(corpus, setup, monkeypatch, 8)
    assert resumed(corpus, setup(side=16), monkeypatch) == ALL
    assert corpus.open().images.shape == (11, 16, 16)
    interrupt(corpus, setup, monkeypatch, 4)
    assert resumed(corpus, setup(decode="full"), monkeypatch) == ALL
    interrupt(corpus, setup, monkeypatch, 4)
    corpus.table = corpus.table.iloc[::-1].reset_index(drop=True)  # another manifest
    assert resumed(corpus, setup(), monkeypatch) == ALL[::-1]


def test_two_processes_do_not_build_the_same(corpus, whole, setup):
    shapes = {"images": (32, 32)}
    with (
        journal.Journal(corpus.building, "key", shapes, "mimic"),
        pytest.raises(CxrmimError, match="mimic: another process is writing"),
    ):
        corpus.build(setup())
    corpus.build(setup())
    assert corpus.bytes() == whole


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def short_write(*_args, **_kwargs):
    raise OSError("98304 requested and 4096 written")  # as numpy says it


@pytest.mark.parametrize("error", [full_disk, short_write])
@pytest.mark.parametrize("place", ["append", "line", "reports", "table", "seal"])
def test_a_disk_that_fills_up(corpus, whole, setup, monkeypatch, place, error):
    targets = {
        "append": (journal.Growing, "sync"),
        "line": (journal, "astuple"),
        "reports": (build_module.reports, "write_reports"),
        "table": (build_module, "write_table"),
        "seal": (build_module, "seal"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*targets[place], error)
        with pytest.raises(CxrmimError, match=r"^mimic: disk full at .* missing; free") as caught:
            corpus.build(setup(), keep=True)
    assert "\n" not in str(caught.value)
    assert not corpus.out.exists()
    rest = ALL if place in ("append", "line") else []
    assert resumed(corpus, setup(), monkeypatch) == rest
    assert corpus.bytes() == whole


def test_room_is_checked_before_anything_is_decoded(corpus, whole, setup, monkeypatch):
    """12 images of 32 x 32, their masks, and 4 kB a row for tables and tokens."""
    usage = shutil._ntuple_diskusage(10**6, 10**6 - 9000, 9000)
    monkeypatch.setattr(journal.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(pool, "process", None)
    with pytest.raises(CxrmimError, match=r"63.0 kB still to write, 9.0 kB free, 54.0 kB missing"):
        corpus.build(setup())


def test_other_errors_are_not_taken_for_a_full_disk(corpus, setup, monkeypatch):
    def denied(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(build_module, "write_table", denied)
    with pytest.raises(PermissionError):
        corpus.build(setup())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB, really full when it is."""
    place = tmp_path / "disk"
    place.mkdir()
    order = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        done = subprocess.run(order, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount program to make a small disk with")
    if done.returncode:
        pytest.skip(f"no small disk without the right to mount one: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(corpus, whole, setup, monkeypatch, small_disk):
    """It looks empty enough at first; other programs then take what was free."""
    corpus.building = small_disk / "building"
    used = journal.shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(build_module.pool, "states", lambda _: "")
        (small_disk / "other").write_bytes(b"x" * 180 * 1024)
        calls = []

        def at_first(place):
            calls.append(place)
            return used("/") if len(calls) == 1 else used(place)

        patch.setattr(journal.shutil, "disk_usage", at_first)
        with pytest.raises(CxrmimError, match=r"mimic: disk full at .* missing") as caught:
            corpus.build(setup(), keep=True)
    assert "0 B missing" not in str(caught.value)
    assert not corpus.out.exists()
    (small_disk / "other").unlink()
    corpus.build(setup())
    assert corpus.bytes() == whole  # copied, for the folder is on another disk


@pytest.mark.parametrize("threads", [1, 2])
def test_an_empty_manifest_ends_cleanly(corpus, setup, threads):
    corpus.table = corpus.table.iloc[:0]
    with pytest.raises(CxrmimError, match="mimic: "):
        corpus.build(setup(), threads=threads)


def test_what_an_earlier_end_left_behind_goes(corpus, setup, monkeypatch):
    """Reports are not in the key: without whole reports, those of a broken-off build must go."""
    corpus.table["report"] = "Whole report of the chest."
    raw = {"tokenizer": "phantom", "vocab": 200, "length": 16}
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "publish", full_disk)
        with pytest.raises(CxrmimError, match="disk full"):
            corpus.build(setup(raw=raw), keep=True)
    assert (corpus.building / "data/raw_ids.npy").exists()
    assert resumed(corpus, setup(), monkeypatch) == []
    assert "raw_ids.npy" not in corpus.bytes()
    corpus.build(setup(raw=raw))
    assert corpus.open().raw.ids.shape == (6, 16)


def test_a_missing_vocabulary_is_found_before_the_images_are_read(corpus, setup, monkeypatch):
    monkeypatch.chdir(corpus.folder)
    monkeypatch.setattr(pool, "process", None)
    with pytest.raises(CxrmimError, match=r"^mimic: .*vocab.txt: no such file; .*shards.text"):
        corpus.build(setup(tokenizer="bioclinicalbert"))


def test_the_journal_names_no_file(corpus, whole, setup, monkeypatch):
    interrupt(corpus, setup, monkeypatch, 8)
    content = (corpus.building / journal.JOURNAL).read_text()
    assert ".png" not in content
    outcomes = [o for line in content.splitlines() for o in json.loads(line)["outcomes"]]
    reasons = Counter(journal.Outcome(*fields).reason for fields in outcomes)
    assert reasons == {"": 7, "not an image file": 1}


def test_growing_arrays_are_npy_files(tmp_path):
    """Any number of rows, none included, whatever was in the file before."""
    path = tmp_path / "a.npy"
    rows = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3)
    for count in (0, 5):
        growing = journal.Growing(path, (2, 3))
        growing.cut(0)
        for row in rows[:count]:
            growing.append(row[None])
        growing.append(rows[:0])
        growing.finish(count)
        growing.close()
        assert (np.load(path) == rows[:count]).all()
        assert np.load(path).shape == (count, 2, 3)
