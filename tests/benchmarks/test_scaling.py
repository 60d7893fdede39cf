"""docs/scaling.md says what benchmarks/scaling.py computes, and its formulae count right."""

from __future__ import annotations

import itertools

import pytest
import torch
from benchmarks.schedule import wall
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import scaling, scaling_document
from cxrmim import grid
from cxrmim.downstream.segmentation import Segmenter
from cxrmim.pretrain import weights

JOBS = [
    ("a", 3.0, None),
    ("b", 2.0, None),
    ("c", 2.0, "a"),
    ("d", 1.0, "b"),
    ("e", 4.0, "b"),
    ("f", 1.0, None),
    ("g", 1.5, None),
]


def test_document_is_what_is_computed() -> None:
    text = scaling_document.DOCUMENT.read_text(encoding="utf-8")
    assert scaling_document.filled(text) == text


def test_hours_are_marked_as_projections_in_every_row() -> None:
    for table in (scaling.stop_table, scaling.wall_table, scaling_document.stated_table):
        lines = list(table())[1:]
        assert lines and all(line[-1] == "projection, not measured" for line in lines)


def counted(model: torch.nn.Module, image: torch.Tensor) -> float:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    return float(counter.get_total_flops()) / len(image)


def test_formulae_of_networks_are_what_torch_counts() -> None:
    params = scaling.params()
    with torch.device("meta"):
        encoder = weights.build_method(params, "random").encoder
        network = Segmenter(encoder, None, params.downstream.segment["decoder"], False)
        image = torch.empty(2, 3, params.pretrain.image, params.pretrain.image)
    tokens = torch.nn.Identity()
    tokens.forward = encoder.forward_features  # type: ignore[method-assign]
    assert counted(tokens, image) == scaling.encoder()
    # The code's folded convolutions also compute a border that is dropped.
    assert scaling.segmenter() <= counted(network, image) <= 1.1 * scaling.segmenter()


def test_every_dataset_has_its_sizes() -> None:
    for dataset in grid.datasets(scaling.params()):
        assert min(scaling.sizes(dataset)) >= 0 and sum(scaling.sizes(dataset)) > 1000, dataset


def slow(jobs: list[tuple[str, float, str | None]], gpus: int) -> float:
    """The least over all orders in which jobs can be started."""
    best = float("inf")
    for order in itertools.permutations(jobs):
        free, ended = [0.0] * gpus, dict[str | None, float]({None: 0.0})
        for name, time, before in order:
            if before not in ended:
                break
            at = free.index(min(free))
            free[at] = ended[name] = max(free[at], ended[before]) + time
        else:
            best = min(best, max(free))
    return best


@pytest.mark.parametrize("gpus", [1, 2, 3, 5])
def test_wall_time_is_that_of_the_best_order(gpus: int) -> None:
    assert wall(JOBS, gpus) == slow(JOBS, gpus)
