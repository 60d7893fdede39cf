"""Features on disk, which the jobs of a checkpoint hand on to each other."""

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.downstream.conftest import Workspace

from cxrmim import grid, record
from cxrmim.downstream import features, runs
from cxrmim.downstream.contract import Bench
from cxrmim.pretrain.contract import Method

RUN = grid.Run("random-s0", "chexpert", "probe", 10, 0)
ALL = grid.Run("random-s0", "chexpert", "probe", 100, 0)


@pytest.fixture
def cut(workspace: Workspace) -> Iterator[Workspace]:
    """The same folder with a job a fraction; features that runs leave are removed after."""
    found = workspace.changed(cut="fraction")
    yield found
    path_of(found).unlink(missing_ok=True)


def path_of(workspace: Workspace) -> Path:
    return workspace.paths.features("random-s0", "chexpert")


def kept_of(
    workspace: Workspace, device: str = "cpu", method: Method | None = None
) -> features.Kept | None:
    bench = Bench(workspace.params)
    count = len(bench.shards("chexpert").images)
    method = method or bench.method("random-s0")
    where = torch.device(device)
    return features.kept(workspace.params, "random-s0", "chexpert", method, count, where)


def only(workspace: Workspace, percents: list[int]) -> Workspace:
    """A grid with these fractions alone."""
    blocks = workspace.params.grid
    cells = [c.model_copy(update={"percents": percents}) for c in blocks["probes"].cells]
    block = blocks["probes"].model_copy(update={"cells": cells})
    return Workspace(workspace.params.model_copy(update={"grid": blocks | {"probes": block}}))


def test_features_are_kept_where_other_jobs_want_them(workspace: Workspace, cut: Workspace) -> None:
    jobs = {job.id for job in grid.jobs(cut.params) if job.checkpoint == "random-s0"}
    probes = {f"random-s0.chexpert-probe-{percent}" for percent in (10, 100)}
    assert jobs == probes | {"random-s0.siim-segment-100"}
    for whose in (workspace, only(cut, [10]), only(workspace, [10])):
        assert kept_of(whose) is None
        Bench(whose.params).features("random-s0", "chexpert", "cls")
        assert not path_of(whose).exists()
    Bench(cut.params).features("random-s0", "chexpert", "cls")
    assert set(load_file(path_of(cut))) == set(features.POOLS)
    assert [p.name for p in path_of(cut).parent.iterdir()] == ["chexpert.safetensors"]


def test_results_are_the_same_with_and_without_kept_features(
    workspace: Workspace, cut: Workspace
) -> None:
    names = [RUN.id, ALL.id]

    def outcome(whose: Workspace) -> list[tuple[bytes, bytes]]:
        workspace.wipe(*names)
        for job in grid.jobs(whose.params):
            if job.checkpoint == "random-s0":
                runs.do(job, whose.params)
        paths = workspace.paths
        return [
            (paths.prediction(n).read_bytes(), paths.record("downstream", n).read_bytes())
            for n in names
        ]

    together = outcome(workspace)
    assert not path_of(cut).exists()
    first = outcome(cut)
    assert path_of(cut).exists()
    assert outcome(cut) == first == together


def test_a_hit_encodes_nothing(cut: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Bench(cut.params).features("random-s0", "chexpert", "avg").clone()

    def refuse(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(features, "extract", refuse)
    assert torch.equal(Bench(cut.params).features("random-s0", "chexpert", "avg"), found)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    old = path.read_bytes()
    path.write_bytes(old[:-9] + bytes([old[-9] ^ 1]) + old[-8:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"cls": [1.0]}))


def renamed(path: Path) -> None:
    save_file({"other": torch.zeros(3)}, path, header(path))


def reshaped(path: Path) -> None:
    save_file({k: v[:-1].contiguous() for k, v in load_file(path).items()}, path, header(path))


def halved(path: Path) -> None:
    save_file({k: v.half() for k, v in load_file(path).items()}, path, header(path))


def exchanged(path: Path) -> None:
    found = load_file(path)
    save_file({"cls": found["avg"], "avg": found["cls"]}, path, header(path))


def unnamed(path: Path) -> None:
    save_file(load_file(path), path)


def misnamed(path: Path) -> None:
    save_file(load_file(path), path, {features.HEADER: "no json"})


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as handle:
        return dict(handle.metadata())


DAMAGE = [truncated, flipped, emptied, pickled, renamed, reshaped, halved, exchanged]
DAMAGE += [unnamed, misnamed]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_what_was_written_is_made_anew(
    cut: Workspace, damage: Callable[[Path], None]
) -> None:
    want = Bench(cut.params).features("random-s0", "chexpert", "cls").clone()
    path = path_of(cut)
    good = path.read_bytes()
    damage(path)
    assert path.read_bytes() != good
    assert torch.equal(Bench(cut.params).features("random-s0", "chexpert", "cls"), want)
    assert path.read_bytes() == good


@pytest.mark.parametrize("what", ["pretrain", "shards", "code", "torch"])
def test_a_stale_file_is_made_anew(
    cut: Workspace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    Bench(cut.params).features("random-s0", "chexpert", "cls")
    good, kept = path_of(cut).read_bytes(), kept_of(cut)
    real = record.sha256
    if what in ("pretrain", "shards"):
        changed = lambda p: "new" if p.parent.name == what else real(p)  # noqa: E731
        monkeypatch.setattr(features.record, "sha256", changed)
    elif what == "code":
        monkeypatch.setattr(features.record, "closure", lambda modules: f"new {modules}")
    else:
        monkeypatch.setattr(torch, "__version__", "99.0.0")
    now = kept_of(cut)
    assert now.path == kept.path
    assert now.key != kept.key
    assert now.read(torch.device("cpu")) is None
    Bench(cut.params).features("random-s0", "chexpert", "cls")
    assert path_of(cut).read_bytes() != good
    assert now.read(torch.device("cpu")) is not None


def test_another_device_or_crop_has_another_key(cut: Workspace) -> None:
    method = Bench(cut.params).method("random-s0")
    found = [kept_of(cut).key, kept_of(cut, "cuda").key]
    setup = method.setup
    for other in (
        replace(setup, image=32),
        replace(setup, augment=setup.augment.model_copy(update={"mean": 0.4})),
    ):
        method.setup = other
        found.append(kept_of(cut, method=method).key)
    assert len(set(found)) == 4


def test_the_key_names_the_code_of_the_encoder_and_of_the_features(cut: Workspace) -> None:
    """A change of either makes files stale."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.record, "closure", lambda modules: asked.append(modules) or "x")
        kept_of(cut)
    assert asked == [("cxrmim.downstream.features", "cxrmim.pretrain.methods.random")]


def test_two_jobs_at_once_do_not_harm_each_other(
    cut: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes the file while this one does."""
    bench, kept = Bench(cut.params), kept_of(cut)
    other = features.extract(
        bench.method("random-s0").encoder,
        bench.shards("chexpert").images,
        bench.view("random-s0"),
        bench.device,
    )
    real, mine = features.save_file, os.getpid()

    def interrupted(tensors: object, path: Path, told: object) -> None:
        real(tensors, path, told)
        if os.getpid() == mine:
            monkeypatch.setattr(os, "getpid", lambda: mine + 1)
            kept.write(other)
            monkeypatch.setattr(os, "getpid", lambda: mine)
            assert kept.read(torch.device("cpu")) is not None

    monkeypatch.setattr(features, "save_file", interrupted)
    found = bench.features("random-s0", "chexpert", "cls")
    assert torch.equal(found, other["cls"])
    assert torch.equal(kept.read(torch.device("cpu"))["cls"], found)
    assert [p.name for p in kept.path.parent.iterdir()] == ["chexpert.safetensors"]
