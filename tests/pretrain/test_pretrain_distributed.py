"""Two processes that share a batch give the terms, gradients and statistics of one with all of it.

One pair of gloo processes computes every entry, with shared statistics and candidates and without.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from batches import KINDS, PARAMS, build, make_batch
from torch import Tensor, nn
from torch.multiprocessing import spawn

from cxrmim.pretrain.contract import Method
from cxrmim.pretrain.parts import norms, world

# What a released entry contrasts is each process's own: it is not to equal the joined batch.
JOINED = [e for e in KINDS if PARAMS.training(e).pretrain.negatives == "batch"]
CONTRASTIVE = [e for e in ("mgca", "medim", "gloria", "cmitm", "cmitm-joint") if e in KINDS]
ROWS = (1, 2, 11, 4, 0, 6)  # 11 fills all tokens, 0 has no MeSH word
SIZE = 2
SINKHORN = "pretrain.methods.mgca.options.sinkhorn"
SIDES = {
    "batch": {},
    "shard": {"pretrain.negatives": "shard", SINKHORN: "shard"},
    "own plan": {SINKHORN: "shard"},
}


def computed(method: Method, batch) -> dict[str, Tensor]:
    """Terms, gradients and BatchNorm statistics of one process after a backward pass."""
    terms = method.losses(batch)
    method.total(terms).backward()
    out = {f"term {name}": value.detach() for name, value in terms.items()}
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            out[f"gradient {name}"] = parameter.grad
    return out | {f"buffer {k}": v.double() for k, v in method.named_buffers() if "running" in k}


def normalised(norm: nn.Module, x: Tensor, rows: slice, weight: Tensor) -> dict[str, Tensor]:
    """Output, gradients and running statistics of a BatchNorm for some of the rows of x."""
    x = x.clone().requires_grad_()
    out = torch.zeros_like(x).index_put((torch.arange(len(x))[rows],), norm(x[rows]))
    (out * weight).sum().backward()
    found = {"out": out.detach(), "x": x.grad}
    found |= {name: p.grad for name, p in norm.named_parameters()}
    return found | {f"buffer {name}": b.double() for name, b in norm.named_buffers()}


def norm_case(dims: int) -> tuple[Tensor, Tensor]:
    """Numbers far from zero, where a plain sum of squares loses its digits, and weights."""
    generator = torch.Generator().manual_seed(dims)
    shape = (7, 5) if dims == 1 else (7, 5, 2, 3)
    x = torch.randn(shape, generator=generator) + torch.arange(5.0).view(-1, *shape[2:] and (1, 1))
    return 0.1 * x + 30, torch.randn(shape, generator=generator)


NORMS = {
    "1d": (lambda **k: norms.BatchNorm1d(5, **k), 1),
    "plain 1d": (lambda **k: norms.BatchNorm1d(5, affine=False, **k), 1),
    "2d": (lambda **k: norms.BatchNorm2d(5, **k), 2),
}


def work(rank: int, folder: Path, jobs, stored, reports, raw) -> None:
    """One process: its share of every job's batch, then the mean over processes."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=SIZE
    )
    done = {}
    for (side, entry), loaded in jobs.items():
        method = build(loaded, entry, stored)
        batch = make_batch(method, reports, raw, ROWS, share=(rank, SIZE))
        found = computed(method, batch)
        for value in found.values():
            dist.all_reduce(value)
        done[side, entry] = {name: value / SIZE for name, value in found.items()}
    for name, (make, dims) in NORMS.items():
        x, weight = norm_case(dims)
        found = normalised(make(sync=True), x, (slice(0, 2), slice(2, 7))[rank], weight)
        for value in found.values():
            dist.all_reduce(value)
        done["norm", name] = found
    if rank == 0:
        torch.save(done, folder / "done.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def kept():
    """What two processes computed, by (side, entry)."""
    return {}


@pytest.fixture
def pair(kept, small, stored, reports, raw, tmp_path, monkeypatch):
    """Run the pair once for all tests of this file."""
    if not kept:
        jobs = {
            (side, entry): small(changes)
            for side, changes in SIDES.items()
            for entry in (JOINED if side == "batch" else CONTRASTIVE)
        }
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
        spawn(work, (tmp_path, jobs, stored, reports, raw), nprocs=SIZE)
        kept.update(torch.load(tmp_path / "done.pt"))
    return kept


def same(got, want, rtol=1e-9, atol=1e-10):
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(
            got[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_one_process_is_its_own_world():
    x = torch.rand(3, 2)
    assert (world.size(), world.rank()) == (1, 0)
    assert world.gather(x) is x and world.total(x) is x
    assert x[world.own(3)].equal(x)


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_sees_the_rows_of_both_processes(pair, name):
    """2 rows here and 5 there, in float32, equal torch's BatchNorm of all 7 in float64."""
    make, dims = NORMS[name]
    x, weight = norm_case(dims)
    plain = (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1](5, affine=name != "plain 1d")
    assert list(make(sync=True).state_dict()) == list(plain.state_dict())
    want = normalised(plain.double(), x.double(), slice(None), weight.double())
    got = {k: (v / SIZE if "buffer" in k else v).double() for k, v in pair["norm", name].items()}
    same(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("entry", JOINED)
def test_two_processes_equal_one_with_the_joined_batch(pair, small, stored, reports, raw, entry):
    method = build(small(), entry, stored)
    same(pair["batch", entry], computed(method, make_batch(method, reports, raw, ROWS)))


@pytest.mark.parametrize("entry", CONTRASTIVE)
def test_under_shard_each_process_contrasts_its_own_pairs(pair, small, stored, reports, raw, entry):
    """The mean over processes is that of two batches that know nothing of each other."""
    halves = []
    for half in range(SIZE):
        method = build(small(SIDES["shard"]), entry, stored)
        halves.append(computed(method, make_batch(method, reports, raw, ROWS, share=(half, SIZE))))
    want = {name: (halves[0][name] + halves[1][name]) / SIZE for name in halves[0]}
    same(pair["shard", entry], want)
    joined = pair["batch", entry]
    assert any(abs(float(want[n] - joined[n])) > 1e-6 for n in want if n.startswith("term"))


def test_sinkhorn_has_a_switch_of_its_own(pair):
    own, joined = pair["own plan", "mgca"], pair["batch", "mgca"]
    changed = {n for n in own if n.startswith("term") and abs(float(own[n] - joined[n])) > 1e-6}
    assert changed == {"term proto"}
