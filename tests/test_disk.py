"""A full, read-only or closed disk is told in one line, whichever library meets it."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cxrmim import disk
from cxrmim.paths import Paths, atomic
from tests.needs import declined

DEMO = Paths("demo")
SIZE = 1 << 20  # of the disk; more is written


@pytest.fixture
def small(tmp_path, monkeypatch) -> Iterator[Path]:
    """A disk of its own for results; without root, which CI has, the test is skipped."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(results)]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        why = f"no mount: {tried.stderr.strip()}"
        declined(why)
    yield results
    subprocess.run(["umount", "--lazy", str(results)], check=True)


def by_numpy(path: Path) -> None:
    with path.open("wb") as handle:
        np.zeros(2 * SIZE, np.uint8).tofile(handle)


def by_torch(path: Path) -> None:
    import torch

    torch.save({"x": torch.rand(SIZE)}, path)


def by_safetensors(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.rand(SIZE)}, path)


def by_pyarrow(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": np.random.default_rng(0).random(SIZE)}), path)


def by_pillow(path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2048, 2048), np.uint8)
    Image.fromarray(noise).save(path, format="png")


def by_python(path: Path) -> None:
    path.write_bytes(bytes(2 * SIZE))


@pytest.mark.parametrize(
    "write", [by_numpy, by_torch, by_safetensors, by_pyarrow, by_pillow, by_python]
)
def test_every_writer_tells_a_full_disk_in_one_line(small, write: Callable[[Path], None]):
    goal = DEMO.results / "patient-17" / "file"
    with (
        pytest.raises(disk.DiskError) as error,
        disk.told(DEMO),
        atomic(goal) as temporary,
    ):
        write(temporary)
    text = str(error.value)
    said = "no room left to write|cannot write, as if no room were left,"
    assert re.search(rf"^({said}) below results/demo on {socket.gethostname()} ", text)
    assert " MB in results/demo" in text and "cxrmim doctor" in text
    assert "patient-17" not in text and "\n" not in text
    assert list(goal.parent.iterdir()) == []


def test_a_read_only_disk_is_told_in_one_line(small):
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(disk.DiskError, match="results/demo cannot be written to on"):
        disk.require_writable(DEMO.results)
    told = pytest.raises(disk.DiskError, match="results/demo cannot be written to on")
    with told as error, disk.told(DEMO):
        DEMO.record("phantom", "patient-17").parent.mkdir(parents=True)
    assert "patient-17" not in str(error.value)


def test_a_folder_that_can_be_made_is_writable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disk.require_writable(DEMO.results)
    assert list(tmp_path.iterdir()) == []


def raised(number: int, name: str) -> None:
    raise OSError(number, os.strerror(number), name)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_rights_are_told_of_results_and_of_nothing_else(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(disk.DiskError, match="its rights forbid it"), disk.told(DEMO):
        raised(number, "results/demo/records/x.json")
    with pytest.raises(OSError, match="patient-17"), disk.told(DEMO):
        raised(number, "/data/patient-17.jpg")


@pytest.mark.parametrize("name", ["results", "results/demo"])
def test_a_link_to_a_disk_that_is_not_mounted_is_told(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    link = Path(name)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "patient-17")
    told = f"^{name} is a link to what is not there on {socket.gethostname()}"
    with pytest.raises(disk.DiskError, match=told):
        disk.require_writable(DEMO.results)
    with pytest.raises(disk.DiskError, match=told) as error, disk.told(DEMO):
        DEMO.log("phantom", "mimic").parent.mkdir(parents=True, exist_ok=True)
    assert "patient-17" not in str(error.value)
    (tmp_path / "patient-17").mkdir()
    disk.require_writable(DEMO.results)


def test_a_quota_counts_as_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(disk.DiskError, match="a quota may allow less"), disk.told(DEMO):
        raised(errno.EDQUOT, "results/demo/x")


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "x"), RuntimeError("no")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as passed, disk.told(DEMO):
        raise error
    assert passed.value is error
