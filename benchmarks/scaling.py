"""What the grid of scale paper costs, and what a hundred times the data would: docs/scaling.md.

    python -m benchmarks.scaling --document

computes the tables from params.yaml, from the methods (counted by torch.utils.flop_counter on the
meta device, at the batch that they train with) and from the figures of results/bench/*.json.

No GPU has been measured. GPU hours are projections:

    hours = FLOPs / (SHARE x peak of the card's data sheet) / 3600

    pretraining   FLOPs of an image, forward and backward, x pairs x epochs
    probing       forward pass F of every image of a dataset once; with a view an epoch also
                  epochs x training images
    fine-tuning   3 F x batch x steps x learning rates, and F x validation images at every
                  validation, F x test images; for each seed
    segmentation  3 S x training images x epochs, S x validation images x epochs; S is the
                  network's forward pass; for each seed. Early stops are not foreseen
    retrieval     F and the report's encoder, T, of every held-out pair

What is measured on a CPU (preparing, reading, ranking) is taken from the newest figures there.
"""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

from benchmarks import document, flops, runner
from benchmarks.schedule import wall
from cxrmim import grid
from cxrmim import params as params_module
from cxrmim.manifest.about import About
from cxrmim.params import Params
from cxrmim.paths import LEAKAGE
from cxrmim.plugins import load

DOCUMENT = runner.REPO / "docs" / "scaling.md"
SHARE = 0.45  # of the peak: the target of `make bench-gpu`, not a measurement
CARDS = {  # dense FLOPs a second by NVIDIA's data sheets, and the precision
    "H100 SXM, bf16": 989.4e12,
    "A100, bf16": 312e12,
    "H100 SXM, fp32": 66.9e12,
}
PROJECTED = "projection, not measured"  # at the end of every row that has hours or days
TRAINED = 3  # forward passes that a training step costs
MORE = 100
# Images of train, valid and test where a public table or the lists' own lengths say so
# (shared/protocols.md 1; the others are read from results/public/leakage.json or follow from
# `fractions`), by entry of params.yaml.
SIZES = {
    "chexpert": (191_027, 202, 500),
    "nih": (78_468, 11_219, 22_433),
    "rsna": (25_184, 1_500, 3_000),
    "covidx": (24_027, 3_003, 3_004),
    "covidx-cmitm": (26_670, 2_964, 400),
    "covidx-released": (23_707, 5_927, 400),
}
VALID_CSV = 234  # images of CheXpert's valid.csv, which chexpert-cmitm tests on
OFFICIAL_TRAIN = 368_960 / 377_110  # share of MIMIC-CXR-JPG's images that its split trains on
SAME = {"chexpert-released": "chexpert"}
# GPU hours that authors state (shared/protocols.md 2): cards, days, card.
STATED = {"mrm": (4, 2, "RTX 3080 Ti"), "mgca": (2, 1, "RTX 3090")}
Line = list[str]


@cache
def params() -> Params:
    """Scale paper."""
    return params_module.load(runner.REPO / "params.yaml", "paper")


@cache
def sizes(dataset: str) -> tuple[int, int, int]:
    """Images of train, valid and test of a dataset entry."""
    dataset = SAME.get(dataset, dataset)
    if dataset in SIZES:
        return SIZES[dataset]
    public = json.loads((runner.REPO / LEAKAGE).read_text(encoding="utf-8"))["rules"]
    rules = {(rule["dataset"], rule["rule"]): rule for rule in public}
    if dataset == "chexpert-cmitm":
        found = rules["chexpert", "valid_as_test, all views"]["sizes"]
        return found["train"], found["valid"], VALID_CSV
    if dataset in ("siim", "siim-released"):
        rule = rules["siim", "mgca" if dataset.endswith("released") else "fractions, by image"]
        train = 2 * rule["figures"]["positive_train"]  # as many negatives as positives
        return train, rule["sizes"]["valid"], rule["sizes"]["test"]
    pairs = about(dataset).used
    split = params().reading(dataset)[1]
    share = OFFICIAL_TRAIN if split["split"] == "mgca" else split["fractions"][0]
    train = round(share * pairs)
    return train, 0, pairs - train


def about(dataset: str) -> About:
    """What the reader of a dataset entry states."""
    found: About = load("dataset", grid.reader(params(), dataset)).ABOUT
    return found


@cache
def step(entry: str) -> tuple[float, int]:
    """FLOPs of an image in a training step of an entry, and its parameters."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks import pretrain_steps
    from cxrmim.pretrain import weights

    stored = pretrain_steps.stored_text(params())
    batch = params().pretraining(entry)[1].batch
    with torch.device("meta"):
        method = weights.build_method(params(), entry, stored).train()
    count = sum(p.numel() for p in method.parameters())
    if not params().pretraining(entry)[1].trains:
        return 0.0, count
    seen = to_meta(pretrain_steps.make_batch(method, stored, batch, "cpu"))
    # autocast knows no meta device; what is counted does not depend on the precision
    plain = mock.patch("torch.autocast", lambda *a, **k: nullcontext())
    with plain, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        method(seen)[0].backward()
    return counter.get_total_flops() / batch, count


def to_meta(tree: Any) -> Any:
    """A dataclass of tensors with all of them on the meta device."""
    from dataclasses import fields, is_dataclass, replace

    import torch

    if isinstance(tree, torch.Tensor):
        return tree.to("meta")
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{f.name: to_meta(getattr(tree, f.name)) for f in fields(tree)})
    return tree


def encoder() -> float:
    """F: FLOPs of the image encoder's forward pass of an image."""
    vit, side = params().pretrain.vit, params().pretrain.image
    patches = (side // vit.patch) ** 2
    embed = flops.linear(patches, 3 * vit.patch**2, vit.width)
    return embed + vit.depth * flops.layer(1, patches + 1, vit.width, vit.mlp * vit.width)


def segmenter() -> float:
    """S: FLOPs of the segmentation network's forward pass of an image."""
    vit = params().pretrain.vit
    side, inside = params().pretrain.image // vit.patch, vit.width
    total = encoder() + flops.linear(side**2, inside, inside)
    for i, channels in enumerate([*params().downstream.segment["decoder"], 1]):
        side *= 2 if i else 1
        total += 2 * (4 if i else 9) * inside * channels * side**2
        inside = channels
    return total


def text() -> float:
    """T: FLOPs of the text encoder's forward pass of a report of the full length."""
    bert = params().pretrain.text
    return bert.layers * flops.layer(1, params().shards.text.length, bert.width, bert.mlp)


@dataclass(frozen=True)
class Work:
    """FLOPs, images that pass an encoder, and bytes read of a job."""

    flops: float
    images: float
    read: float

    def __add__(self, other: "Work") -> "Work":
        """Both."""
        return Work(self.flops + other.flops, self.images + other.images, self.read + other.read)

    def hours(self, card: str) -> float:
        """GPU hours, projected."""
        return self.flops / (SHARE * CARDS[card]) / 3600


def pretraining(entry: str) -> Work:
    """All of a pretraining. Opening the corpus reads every byte of it once for the checksums."""
    block = params().pretraining(entry)[1]
    if not block.trains:
        return Work(0, 0, 0)
    corpus = params().training(entry).pretrain.corpus
    pairs = sizes(corpus)[0]
    images = pairs * block.epochs
    return Work(images * step(entry)[0], images, images * pixels(corpus) + stored(corpus))


def pixels(dataset: str) -> int:
    """Bytes of a stored image."""
    return int(params().side(dataset)) ** 2


def stored(dataset: str) -> float:
    """Bytes of a dataset's images."""
    return sum(sizes(dataset)) * float(pixels(dataset))


def run(item: grid.Run, first: bool) -> Work:
    """A downstream run; of the runs of a job that share features the first one makes them."""
    view = params().testing(item.dataset).downstream
    train, valid, test = sizes(item.dataset)
    part = math.ceil(train * item.percent / 100)
    f, size = encoder(), pixels(item.dataset)
    if item.task == "probe":
        images = float(train + valid + test) if first else 0.0
        if view.probe["views"] == "epoch" and first:
            images += part * view.probe["epochs"]
        return Work(images * f, images, images * size)
    if item.task == "finetune":
        name = grid.reader(params(), item.dataset)
        _, steps, rates = view.finetune["schedule"][name][str(item.percent)]
        tried = len(rates) if isinstance(rates, list) else 1
        checks = math.ceil(steps / math.ceil(part / view.finetune["batch"])) * tried
        learnt, looked = steps * tried * view.finetune["batch"], checks * valid + test
        return Work((TRAINED * learnt + looked) * f, learnt + looked, (learnt + looked) * size)
    if item.task == "segment":
        epochs = view.segment["epochs"]
        learnt, looked = part * epochs, valid * epochs + test
        cost = (TRAINED * learnt + looked) * segmenter()
        return Work(cost, learnt + looked, (learnt + looked) * size)
    if item.task == "retrieve":
        return Work(test * (f + text()), test, test * size)
    return Work(0, 0, 0)  # attention maps of a few pairs


def job(item: grid.Job) -> Work:
    """A downstream job; it opens its datasets and reads them whole for the checksums."""
    total = Work(0, 0, sum(stored(name) for name in item.datasets))
    if item.runs[0].baseline is not None:
        return total
    for number, one in enumerate(item.runs):
        total += run(one, number == 0)
    return total


@cache
def jobs() -> list[tuple[str, str, str, Work, str | None]]:
    """(id, entry, kind, work, the job that it waits for) of every GPU job, in the grid's order."""
    found = []
    for item in grid.pretrainings(params()):
        init = params().pretraining(item.entry)[1].init
        after = f"{init}-s{item.seed}" if init in grid.entries(params()) else None
        work = pretraining(item.entry)
        found.append((item.checkpoint, item.entry, "pretraining", work, after))
    for one in grid.jobs(params()):
        if one.runs[0].baseline is None:
            entry = grid.entry_of(one.checkpoint).entry
            found.append((f"down/{one.id}", entry, one.runs[0].task, job(one), one.checkpoint))
    return found


def figure(benchmark: str, what: str) -> float | None:
    """A measured figure of results/bench: of a row by the start of its words; None without one."""
    row = found_row(benchmark, what)
    return None if row is None else row["value"]


@cache
def found_row(benchmark: str, what: str) -> dict[str, Any] | None:
    """The row of that figure."""
    for path in sorted(document.FOLDER.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8"))["groups"].values():
            for row in group.get(benchmark, {"rows": []})["rows"]:
                if row["what"].startswith(what) and row["value"] is not None:
                    return dict(row)
    return None


def over(total: float, rate: float | None, unit: float = 3600, says: str = "h") -> str:
    """A quantity over a measured rate."""
    return "not measured" if rate is None else f"{runner.number(total / rate / unit)} {says}"


def pretraining_table() -> Iterator[Line]:
    """A line for each trained entry."""
    yield ["entry", "batch", "epochs", "pairs", "GFLOP an image", "EFLOP",
           *(f"GPU h, {card}" for card in CARDS), "images/s, H100", "bytes read",
           "status of the hours"]  # fmt: skip
    for item in grid.pretrainings(params()):
        block, work = params().pretraining(item.entry)[1], pretraining(item.entry)
        if not work.flops:
            continue
        pairs = sizes(params().training(item.entry).pretrain.corpus)[0]
        rate = SHARE * next(iter(CARDS.values())) / step(item.entry)[0]
        yield [item.entry, str(block.batch), str(block.epochs), f"{pairs:,}",
               runner.number(step(item.entry)[0] / 1e9), runner.number(work.flops / 1e18),
               *(runner.number(work.hours(card)) for card in CARDS), runner.number(rate),
               size(work.read), PROJECTED]  # fmt: skip
    yield ["sum", "", "", "", "", *summed("pretraining"), PROJECTED]


def summed(kind: str) -> Line:
    """EFLOP, hours a card, nothing, and bytes of all jobs of a kind."""
    works = [work for _, _, name, work, _ in jobs() if name == kind]
    total = sum(works, Work(0, 0, 0))
    hours = [runner.number(total.hours(card)) for card in CARDS]
    return [runner.number(total.flops / 1e18), *hours, "", size(total.read)]


def stop_table() -> Iterator[Line]:
    """A line for each kind of GPU job, and the sum."""
    yield ["work", "jobs", "runs", "M image passes", "EFLOP",
           *(f"GPU h, {card}" for card in CARDS), "bytes read", "status of the hours"]  # fmt: skip
    runs = [one for one in grid.runs(params()) if one.baseline is None]
    total = Work(0, 0, 0)
    for kind in ("pretraining", "probe", "finetune", "segment", "retrieve", "attend"):
        works = [work for _, _, name, work, _ in jobs() if name == kind]
        part = sum(works, Work(0, 0, 0))
        total += part
        count = len(works) if kind == "pretraining" else sum(r.task == kind for r in runs)
        yield [kind, str(len(works)), str(count), *amounts(part)]
    yield ["sum", str(len(jobs())), "", *amounts(total)]


def amounts(work: Work) -> Line:
    """Image passes, EFLOP, hours a card, bytes."""
    hours = [runner.number(work.hours(card)) for card in CARDS]
    passes = runner.number(work.images / 1e6)
    return [passes, runner.number(work.flops / 1e18), *hours, size(work.read), PROJECTED]


def wall_table() -> Iterator[Line]:
    """Days of the whole grid on some GPUs."""
    yield ["GPUs", *(f"days, {card}" for card in CARDS), "status"]
    for count in (1, 4, 8):
        days = (runner.number(wall(timed(card), count) / 24) for card in CARDS)
        yield [str(count), *days, PROJECTED]
    days = (runner.number(wall(timed(card), len(jobs())) / 24) for card in CARDS)
    yield ["unlimited", *days, PROJECTED]


def timed(card: str) -> list[tuple[str, float, str | None]]:
    """(id, hours, what it waits for) of every GPU job."""
    return [(name, work.hours(card), after) for name, _, _, work, after in jobs()]


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{runner.number(count)} {unit}"
        count /= 1000
    return f"{runner.number(count)} PB"


if __name__ == "__main__":
    from benchmarks import scaling_document

    raise SystemExit(scaling_document.main(sys.argv[1:]))
