"""The training loop: shards -> a trained method and its numbers."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrmim import grid, record
from cxrmim.errors import CxrmimError, DataError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Batch, Method
from cxrmim.pretrain.parts import augment, words
from cxrmim.pretrain.schedule import build_optimiser, check, learning_rate
from cxrmim.progress import track
from cxrmim.shards.store import Shards, open_shards

log = logging.getLogger("cxrmim")
Rows = npt.NDArray[np.int64]
POINTS = 50  # points of the recorded loss curve
WATCH = 25  # steps between looks at the losses; each look waits for the device


class DivergedError(CxrmimError):
    """The loss is no finite number."""


@dataclass(frozen=True)
class Trained:
    """A trained method and what its record tells.

    Attributes:
        method: the method, on the device that it was trained on.
        metrics: final losses by term, loss curve, steps, images seen.
    """

    method: Method
    metrics: dict[str, object]


@dataclass(frozen=True)
class Pairs:
    """The training rows of a corpus.

    Attributes:
        rows: (P,) image rows in the shards.
        reports: (P,) report row of each, None where the corpus has none.
    """

    rows: Rows
    reports: Rows | None


def run(params: Params, checkpoint: str) -> None:
    """Train one checkpoint, write its weights and its record.

    Raises:
        CxrmimError: shards or weights to start from are missing, or training diverged.
    """
    item = grid.entry_of(checkpoint)
    block = params.pretraining(item.entry)[1]
    shards: Shards | None = None
    if block.trains:
        corpus = params.pretrain.corpus
        tree = record.read(Paths(params.scale).record("shards", corpus))
        record.verify(tree, "checksums")  # of the other files, which opening holds to them
        shards = open_shards(Paths(params.scale).shards(corpus))
    torch.manual_seed(item.seed)
    method = prepare(params, item, shards)
    used = weights.initialise(method, params, item)
    trained = train(params, item, method, shards)
    path = weights.save_method(params, checkpoint, trained.method)
    record.write(
        params,
        "pretrain",
        checkpoint,
        inputs=used,
        outputs={"weights": path},
        parents=grid.parents(params, "pretrain", checkpoint),
        metrics=trained.metrics,
        seed=item.seed,
    )


def prepare(params: Params, item: grid.Pretraining, shards: Shards | None) -> Method:
    """Build an item's method for a corpus; an untrained one needs none."""
    reports = None if shards is None else shards.reports
    vocab, length = (0, 0) if reports is None else (reports.vocab_size, reports.ids.shape[1])
    return weights.build_method(params, item.entry, vocab, length)


def train(params: Params, item: grid.Pretraining, method: Method, shards: Shards | None) -> Trained:
    """Train a method; one that is not trained is handed back as it is.

    The same parameters, seed and shards give the same weights bit by bit on a CPU thread.

    Raises:
        ParamsError: an optimiser, schedule or augmentation is missing.
        DataError: the corpus has too few pairs or no reports.
        DivergedError: a loss is not finite; names the source rows of the batch.
    """
    block = params.pretraining(item.entry)[1]
    if not block.trains or shards is None:
        return Trained(method, {"steps": 0, "images": 0})
    if block.optim is None or block.schedule is None or block.augment is None:
        raise ParamsError(f"pretrain entry {item.entry}: needs optim, schedule and augment")
    check(block.schedule, item.entry)
    pairs = find_pairs(shards, item, needs_text="text" in method.needs, shuffle=block.shuffle_pairs)
    per_epoch = len(pairs.rows) // block.batch
    if per_epoch == 0:
        raise DataError(
            f"{params.pretrain.corpus}: {len(pairs.rows)} training pairs do not fill a batch of "
            f"{block.batch}; lower `batch` of {item.entry}"
        )
    steps = per_epoch * block.epochs
    device = pick_device(params.pretrain.device)
    method = method.to(device).train()
    optimiser = build_optimiser(method, block.optim)
    half = params.pretrain.precision == "bf16" and device.type == "cuda"
    torch.manual_seed(stream(item.seed, 1))  # dropout, masks, sentences
    augmenting = torch.Generator(device).manual_seed(stream(item.seed, 2))
    watch = Watch(shards, per_epoch, steps)
    order = shuffled(pairs, block.batch, block.epochs, stream(item.seed, 3))
    for step, picked in enumerate(track(order, item.checkpoint, steps)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, block.optim.lr, block.schedule)
        batch = load_batch(params, method, shards, pairs, picked, device, augmenting)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = method.losses(batch)
        total = method.total(losses)
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        method.after_backward(step // per_epoch)
        if block.optim.clip > 0:
            torch.nn.utils.clip_grad_norm_(method.parameters(), block.optim.clip)
        optimiser.step()
        watch.note(step, pairs.rows[picked], {**losses, "total": total})
    return Trained(method.eval(), watch.metrics() | {"steps": steps, "images": steps * block.batch})


def find_pairs(shards: Shards, item: grid.Pretraining, *, needs_text: bool, shuffle: bool) -> Pairs:
    """The training rows and their reports.

    Args:
        shards: the corpus.
        item: whose seed shuffles.
        needs_text: the method reads reports.
        shuffle: control experiment: every report is exchanged for another study's, once and for
            all. The images of a study keep a common report.

    Raises:
        DataError: reports are needed and the corpus has none.
    """
    rows = shards.rows("train")
    if not needs_text:
        return Pairs(rows, None)
    if shards.report is None or shards.reports is None:
        raise DataError(f"{shards.folder}: holds no reports, and {item.entry} learns from them")
    reports = np.asarray(shards.report[rows], np.int64)
    if shuffle:
        known, inverse = np.unique(reports, return_inverse=True)
        ring = np.random.default_rng(stream(item.seed, 4)).permutation(len(known))
        partner = np.empty_like(ring)
        partner[ring] = np.roll(ring, 1)  # one cycle through all: nobody keeps their own
        reports = known[partner[inverse]]
    return Pairs(rows, reports)


def shuffled(pairs: Pairs, size: int, epochs: int, seed: int) -> Iterator[Rows]:
    """Batches of pair numbers, reshuffled every epoch; an incomplete last batch is dropped."""
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(pairs.rows))
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def load_batch(
    params: Params,
    method: Method,
    shards: Shards,
    pairs: Pairs,
    picked: Rows,
    device: torch.device,
    generator: torch.Generator,
) -> Batch:
    """Gather pairs, move them to the device and augment them there."""
    stored = torch.from_numpy(np.asarray(shards.images[pairs.rows[picked]]))
    image = augment.train(
        words.to_device(stored, device), method.setup.augment, params.pretrain.image, generator
    )
    if pairs.reports is None or shards.reports is None:
        return Batch(image)
    released = params.pretrain.text.attn_shift == "released"
    return Batch(
        image, words.collate(shards.reports, pairs.reports[picked], device, released=released)
    )


class Watch:
    """Losses of a run: kept on the device, looked at every few steps."""

    def __init__(self, shards: Shards, per_epoch: int, steps: int) -> None:
        self.shards, self.per_epoch, self.steps = shards, per_epoch, steps
        self.names: list[str] = []
        self.recent: list[tuple[Rows, Tensor]] = []
        self.values: list[npt.NDArray[np.float64]] = []

    def note(self, step: int, rows: Rows, losses: dict[str, Tensor]) -> None:
        """Take in a step's terms.

        Raises:
            DivergedError: a recent step's loss is not finite.
        """
        self.names = list(losses)
        self.recent.append((rows, torch.stack([x.detach().float() for x in losses.values()])))
        if len(self.recent) == WATCH or step + 1 == self.steps:
            self._look(step + 1 - len(self.recent))
        if (step + 1) % self.per_epoch == 0:
            self._report(step)

    def _look(self, first: int) -> None:
        values = torch.stack([v for _, v in self.recent]).double().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            rows = self.recent[bad[0]][0]
            source = self.shards.table["source_row"].to_numpy()[rows].tolist()
            raise DivergedError(
                f"step {first + int(bad[0])}: the loss is not finite; lower the learning rate, or "
                f"look at source rows {source} of {self.shards.folder.name}"
            )
        self.values.extend(values)
        self.recent.clear()

    def _report(self, step: int) -> None:
        if self.values:
            mean = np.mean(self.values[-self.per_epoch :], 0)
            terms = ", ".join(f"{n} {v:.4f}" for n, v in zip(self.names, mean, strict=True))
            log.info("epoch %d: %s", step // self.per_epoch, terms)

    def metrics(self) -> dict[str, object]:
        """Means of the last epoch by term, and the total over about 50 stretches of the run."""
        values = np.array(self.values)
        final = values[-self.per_epoch :].mean(0)
        total = values[:, self.names.index("total")]
        curve = [float(x.mean()) for x in np.array_split(total, min(POINTS, len(total)))]
        return {
            "losses": {n: _rounded(v) for n, v in zip(self.names, final.tolist(), strict=True)},
            "curve": [_rounded(v) for v in curve],
        }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") if math.isfinite(value) else value


def stream(seed: int, purpose: int) -> int:
    """Seed of one of a run's independent random streams."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0])


def pick_device(name: str) -> torch.device:
    """Device that params name; ``auto`` takes a GPU if there is one.

    Raises:
        ParamsError: a GPU is asked for and there is none.
    """
    has = torch.cuda.is_available()
    if name == "cuda" and not has:
        raise ParamsError("pretrain.device = 'cuda': torch sees no GPU; set it to auto or cpu")
    return torch.device("cuda" if has and name != "cpu" else "cpu")
