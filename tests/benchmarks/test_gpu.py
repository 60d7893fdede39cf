"""Steps on a GPU, measured on the CPU at toy size: the same functions run."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.waits import SPAN, Fetches, Spy, waiting, waits
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import corpus, flops, gpu, pagecache, shards_read
from cxrmim import grid
from cxrmim.pretrain import loop
from cxrmim.pretrain.contract import Method
from cxrmim.pretrain.watch import WATCH

CPU = torch.device("cpu")
MEMORY = ("tmpfs", "ramfs")
IMAGES = 64  # the largest batch of scale demo


def filesystem(path):
    words = ["stat", "--file-system", "--format=%T", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    return gpu.edited(tmp_path_factory.mktemp("params"), gpu.TOY)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, params):
    return corpus.write(tmp_path_factory.mktemp("corpus") / "shards", params, IMAGES)


@pytest.fixture(scope="module")
def rows():
    return {row.what: row for row in gpu.measure(toy=True)}


def test_all_figures_are_measured(rows):
    assert len(rows) == 1 + 7 * len(gpu.ENTRIES)
    for row in rows.values():
        assert row.values or row.why == pagecache.STAYS  # on a machine without a disk
    targets = {w: (r.target, r.bound) for w, r in rows.items() if r.target is not None}
    for name in gpu.ENTRIES.values():
        found = {what.removeprefix(f"{name}: "): t for what, t in targets.items() if name in what}
        assert found.pop("useful FLOPs over the card's bf16 rate") == (0.45, ">=")
        assert found.pop("host synchronisations, warned of or in a profile") == (0, "<=")
        assert found.pop("step with loading over a cached batch, page cache warm") == (1.05, "<=")
        assert len(found) == 1  # the host's


def test_utilisation_is_useful_flops_over_time_and_rate(rows, params, shards):
    rate = rows["bf16 product of 64 x 64 matrices"].values
    for number, (entry, name) in enumerate(gpu.ENTRIES.items()):
        use = rows[f"{name}: useful FLOPs over the card's bf16 rate"].values
        milliseconds = rows[f"{name}: step of 4, bf16"].values
        found = [u * ms * rate[number] * 1e9 for u, ms in zip(use, milliseconds, strict=True)]
        assert len(found) == gpu.TOY.steps
        case = gpu.Case(params, entry, shards)
        needed = sum(flops.needed(case.training.method, case.batch()).values())
        # another batch of the same reports: they differ in their longest alone
        assert found == pytest.approx([found[0]] * len(found))
        assert found[0] == pytest.approx(needed, rel=0.3)


def test_the_host_is_held_to_the_card_s_time(rows):
    for name in gpu.ENTRIES.values():
        (row,) = [r for what, r in rows.items() if what.startswith(f"{name}: host reads 4 images")]
        assert row.unit == "ms"
        useful = row.details["useful TFLOP of a step"]
        assert row.target == pytest.approx(1e3 * useful / 0.45 / 989.4)


def test_compiled_steps_have_the_same_losses(rows):
    for name in gpu.ENTRIES.values():
        plain, compiled = rows[f"{name}: useful FLOPs over the card's bf16 rate"].details[
            "last losses, as it is and compiled"
        ]
        assert plain == pytest.approx(compiled, rel=1e-4)


def test_without_a_card_its_rows_say_what_measures_them(rows, monkeypatch, repo):
    monkeypatch.setattr(gpu, "PAPER", gpu.TOY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = gpu.measure()
    assert [row.what for row in found] == list(rows)
    missing = [row for row in found if row.value is None]
    assert len(missing) == 1 + 6 * len(gpu.ENTRIES)
    assert all("`make bench-gpu`" in row.why for row in missing)
    assert {row.what: row.target for row in missing}.items() <= {
        what: row.target for what, row in rows.items()
    }.items()
    assert "\nbench-gpu:" in (repo / "Makefile").read_text(encoding="utf-8")


def kinds(params):
    """An entry of each code that training runs."""
    found = {}
    for entry in grid.trained(params):
        name, block = params.pretraining(entry)
        options = {k: v for k, v in block.options.items() if k not in ("ratio", "mask_mode")}
        found.setdefault(f"{name} {sorted(options.items())}", entry)
    return sorted(found.values())


def test_no_step_of_any_method_waits(params, shards):
    """The whole of `Training.step`: reading, augmentation, optimiser, schedule and watch too."""
    tried = kinds(params)
    assert {"gloria", "mae", "mgca", "imagenet", "cmitm-s1", "cmitm-joint", *gpu.ENTRIES} <= {
        *tried
    }
    for entry in tried:
        reads = grid.reads_corpus(params.pretraining(entry)[1])
        case = gpu.Case(params, entry, shards if reads else None)
        assert waits(case.step, 1, CPU) == Counter(), entry


@pytest.mark.parametrize("spoil", [lambda x: x.item(), lambda x: x[x > 0], lambda x: x.cpu()])
def test_a_step_that_waits_is_seen(params, shards, monkeypatch, spoil):
    total = Method.total

    def spoilt(self, losses):
        out = total(self, losses)
        spoil(out)
        return out

    monkeypatch.setattr(Method, "total", spoilt)
    case = gpu.Case(params, "mrm", shards)
    assert waits(case.step, 2, CPU).total() >= 2


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.max()),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: x.tolist(),
    ],
)
def test_the_spies_see_what_waits(wait):
    with Spy() as spy, Fetches(spy.found):
        wait(torch.arange(3.0))
    assert spy.found


def event(name, start, end=None, device=DeviceType.CPU):
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=start if end is None else end),
        device_type=device,
    )


def test_of_a_profile_what_waits_within_steps_counts():
    steps = [event(SPAN, 0, 10), event(SPAN, 20, 30)]
    others = [
        event("cudaStreamSynchronize", 5),
        event("cudaStreamSynchronize", 15),  # between steps
        event("cudaDeviceSynchronize", 31),  # the profile's own end
        event(SPAN, 24, 40, DeviceType.CUDA),  # the last step's kernels, while the host has gone on
        event("cudaLaunchKernel", 6),
        event("Memcpy HtoD (Pinned -> Device)", 7),
        event("Memcpy HtoD (Pageable -> Device)", 12),  # on the card, later than the call
        event("Memcpy DtoH (Device -> Pageable)", 25),
        event("Memcpy DtoH (Device -> Pinned)", 26),
    ]
    assert waiting([*others, *steps]) == {
        "cudaStreamSynchronize": 1,
        "Memcpy HtoD (Pageable -> Device)": 1,
        "Memcpy DtoH (Device -> Pageable)": 1,
        "Memcpy DtoH (Device -> Pinned)": 1,
    }
    with pytest.raises(ValueError, match="no step"):
        waiting(others)


def test_a_real_profile_can_be_read(params, shards):
    case = gpu.Case(params, "mrm", shards)
    with profile(activities=[ProfilerActivity.CPU]) as seen, record_function(SPAN):
        case.step()
    assert waiting(seen.events()) == Counter()


def test_a_cached_batch_is_read_once_and_augmented_every_time(params, shards):
    case = gpu.Case(params, "medim", shards)
    training = case.training
    pairs = training.corpus.train.of(training.order[0])
    read = training.loader.train(pairs, 3, loop.data.Share(0, 1))
    cached = gpu.Cached(training.loader, pairs)
    cached.corpus = replace(training.corpus, images=None, reports=None)
    first, second = (cached.train(pairs, step, loop.data.Share(0, 1)) for step in (3, 4))
    assert torch.equal(first.image, read.image)
    assert torch.equal(first.text.ids, read.text.ids)
    assert not torch.equal(first.image, second.image)
    training.loader = cached
    assert len(case.run(2)) == 2
    training.loader = gpu.Copied(cached)
    with pytest.raises((TypeError, AttributeError)):
        case.step()


def test_what_the_host_reads_is_what_training_reads(params, shards):
    case = gpu.Case(params, "mrm", shards)
    corpus_, method = case.training.corpus, case.training.method
    loader = gpu.Reading(corpus_, method, CPU, 0)
    for step in (0, 1):
        pairs = corpus_.train.of(case.training.order[step])
        batch = loader.read(pairs)
        assert np.array_equal(batch.image.numpy(), shards.images[pairs.rows])
        assert np.array_equal(batch.raw.ids.numpy(), shards.raw.ids[pairs.reports])


def test_forgotten_images_are_read_from_disk_again(tmp_path, params):
    if filesystem(tmp_path) in MEMORY:
        pytest.skip(f"{tmp_path} lies on no disk")
    shards = corpus.write(tmp_path / "shards", params, 512)
    images = shards.folder / "images.npy"

    def total():
        return int(np.asarray(shards.images).sum(dtype=np.int64))

    once = total()
    assert pagecache.resident(images) == 1
    assert gpu.forget(shards)
    assert pagecache.resident(images) <= pagecache.LITTLE
    assert total() == once


def test_what_has_no_disk_is_not_dropped():
    if filesystem("/dev/shm") not in MEMORY:
        pytest.skip("/dev/shm is no file system of memory here")
    with NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(1 << 20))
        file.flush()
        assert not pagecache.forget(Path(file.name))


def test_what_cannot_be_dropped_is_not_said_to_be():
    found = gpu.Found([1.0], [1.0], Counter(), [1.0], [1.0], [], {})
    unmeasured = [row for row in gpu.card("x", gpu.TOY, found) if row.value is None]
    assert [row.why for row in unmeasured] == [pagecache.STAYS]
    assert gpu.card("x", gpu.TOY, None)[-1].why == gpu.WHY
    assert shards_read.dropped(2.0, gone=False).value is None
    assert shards_read.dropped(2.0, gone=True).value == 2.0


def test_a_run_is_shorter_than_the_watch_s_look(params, shards):
    with pytest.raises(ValueError, match="Watch looks"):
        gpu.Case(params, "mrm", shards).run(WATCH)
