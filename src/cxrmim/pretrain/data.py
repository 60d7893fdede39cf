"""What a training reads: a corpus, the order of its batches, and a batch on the device.

Everything random about a step is a function of seed and step number. So a position in the training
is a number, and the batch of a step is the same however many processes and micro-batches share it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from cxrmim.errors import DataError, ParamsError
from cxrmim.params import Params
from cxrmim.pretrain.contract import Batch, Method, Stored
from cxrmim.pretrain.parts import augment, words
from cxrmim.pretrain.parts.noise import Noise
from cxrmim.shards.store import RawReports, Reports, Shards

Rows = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
MASK = "[MASK]"
# Purposes of random streams.
DROPOUT, AUGMENT, ORDER, SHUFFLE, MASKS, SENTENCES, HELD_OUT, VALIDATION = range(1, 9)


def stream(seed: int, purpose: int, *position: int) -> int:
    """Seed of one of a run's independent random streams, at a position of it."""
    return int(np.random.SeedSequence([seed, purpose, *position]).generate_state(1)[0])


@dataclass(frozen=True)
class Pairs:
    """Images that are trained or validated on, and their reports.

    Attributes:
        rows: (P,) image rows in the corpus.
        reports: (P,) report row of each, None where the method reads no reports.
    """

    rows: Rows
    reports: Rows | None

    def of(self, picked: Rows) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.rows[picked], None if self.reports is None else self.reports[picked])


@dataclass(frozen=True)
class Corpus:
    """Images and their reports or classes.

    Attributes:
        name: what a message calls it.
        images: (N, H, H) uint8, a memory map where it is large.
        train: pairs that are trained on.
        valid: pairs for the validation loss, None where it is not asked for.
        source: (N,) what a message calls an image: its row in the dataset's own table.
        reports: tokenised captions.
        raw: tokenised whole reports.
        labels: (N,) classes of the images.
    """

    name: str
    images: Array
    train: Pairs
    valid: Pairs | None
    source: Rows
    reports: Reports | None = None
    raw: RawReports | None = None
    labels: Rows | None = None


def stored_text(shards: Shards | None) -> Stored:
    """Vocabularies and lengths of a corpus' text, zeros where it has none."""
    if shards is None or shards.reports is None:
        return Stored()
    captions, whole = shards.reports, shards.raw
    known = Stored(captions.vocab_size, captions.ids.shape[1], _mask(captions.vocab, shards))
    if whole is None:
        return known
    return Stored(
        known.vocab,
        known.length,
        known.mask,
        whole.vocab_size,
        whole.ids.shape[1],
        _mask(whole.vocab, shards),
    )


def _mask(vocab: dict[str, int], shards: Shards) -> int:
    if MASK not in vocab:
        raise DataError(f"{shards.folder}: its vocabulary lacks {MASK}; remake the shards")
    return vocab[MASK]


def of_shards(
    shards: Shards,
    entry: str,
    needs: frozenset[str],
    seed: int,
    *,
    shuffle: bool = False,
    validated: bool = False,
    share: float = 0.0,
) -> Corpus:
    """The corpus of image-report pairs as a method reads it.

    Args:
        shards: the stored arrays.
        entry: whom a message names.
        needs: fields that the method reads.
        seed: draws the shuffling and the held-out pairs.
        shuffle: control experiment: every report is exchanged for another study's, once and for
            all. The images of a study keep a common report.
        validated: a validation loss is asked for.
        share: of the training patients (studies where the table names no patient) held out for it
            if the corpus has no validation split.

    Raises:
        DataError: reports are needed and the corpus has none.
        ParamsError: the method learns from classes.
    """
    if needs & {"text", "sentence"} and (shards.report is None or shards.reports is None):
        raise DataError(f"{shards.folder}: holds no reports, and {entry} learns from them")
    if "raw" in needs and (shards.report is None or shards.raw is None):
        raise DataError(
            f"{shards.folder}: holds no whole reports, and {entry} learns from them; set "
            f"`shards.text.raw` and remake the shards"
        )
    if "label" in needs:
        raise ParamsError(f"pretrain entry {entry}: learns from classes, and the corpus has none")
    reads = bool(needs & {"text", "sentence", "raw"})

    def pairs(split: str) -> Pairs:
        rows = shards.rows(split)
        if not reads or shards.report is None:
            return Pairs(rows, None)
        found = np.asarray(shards.report[rows], np.int64)
        return Pairs(rows, exchange(found, stream(seed, SHUFFLE)) if shuffle else found)

    train, valid = pairs("train"), None
    if validated and len(shards.rows("valid")):
        valid = pairs("valid")
    elif validated:
        train, valid = hold_out(train, groups(shards)[train.rows], share, seed)
    source = shards.table.column("source_row").astype(np.int64)
    name = shards.folder.name
    return Corpus(name, shards.images, train, valid, source, shards.reports, shards.raw)


def of_method(method: Method, entry: str, seed: int, *, validated: bool, share: float) -> Corpus:
    """The images that a method brings along, with their classes.

    Raises:
        ParamsError: it brings none.
    """
    own = method.own_images()
    if own is None:
        raise ParamsError(
            f"pretrain entry {entry}: is to be trained without the corpus and has no images of "
            f"its own; set its options or `trains: false`"
        )
    images, labels = own
    rows = np.arange(len(images))
    train, valid = Pairs(rows, None), None
    if validated:
        train, valid = hold_out(train, rows, share, seed)
    return Corpus(entry, images, train, valid, rows, labels=np.asarray(labels, np.int64))


def groups(shards: Shards) -> Rows:
    """(N,) number of each image's patient, or of its report where no patient is named."""
    if "patient" in shards.table.columns:
        known = shards.table.column("patient").astype(str)
        return np.unique(known, return_inverse=True)[1].astype(np.int64)
    if shards.report is not None:
        return np.asarray(shards.report, np.int64)
    return np.arange(len(shards.table))


def hold_out(pairs: Pairs, group: Rows, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Split off a share of the groups, at least one, for validation.

    Args:
        pairs: P pairs.
        group: (P,) number of what must not be torn apart.
        share: of the groups.
        seed: draws them.

    Returns:
        What stays, and what was split off.
    """
    known = np.unique(group)
    count = max(1, round(share * len(known)))
    drawn = np.random.default_rng(stream(seed, HELD_OUT)).permutation(known)[:count]
    held = np.isin(group, drawn)
    return pairs.of(np.flatnonzero(~held)), pairs.of(np.flatnonzero(held))


def exchange(reports: Rows, seed: int) -> Rows:
    """Give every report's images another report: one cycle through all, nobody keeps their own."""
    known, inverse = np.unique(reports, return_inverse=True)
    ring = np.random.default_rng(seed).permutation(len(known))
    partner = np.empty_like(ring)
    partner[ring] = np.roll(ring, 1)
    exchanged: Rows = known[partner[inverse]]
    return exchanged


class Order:
    """Which pairs are trained on in which step.

    Every epoch has an order of its own; an incomplete last batch is left out.

    Args:
        count: pairs.
        batch: pairs a step, over all processes and micro-batches.
        epochs: epochs.
        seed: of the run.
    """

    def __init__(self, count: int, batch: int, epochs: int, seed: int) -> None:
        self.count, self.batch = count, batch
        self.per_epoch = count // batch
        self.steps = self.per_epoch * epochs
        self._permuted: Callable[[int], Rows] = lru_cache(1)(
            lambda epoch: np.random.default_rng(stream(seed, ORDER, epoch)).permutation(count)
        )

    def epoch(self, step: int) -> int:
        """Epoch of a step, from 0."""
        return step // self.per_epoch

    def ends(self, step: int) -> bool:
        """Whether a step is the last of its epoch."""
        return (step + 1) % self.per_epoch == 0

    def __getitem__(self, step: int) -> Rows:
        """(batch,) pair numbers of a step."""
        first = step % self.per_epoch * self.batch
        return self._permuted(self.epoch(step))[first : first + self.batch]


@dataclass(frozen=True)
class Share:
    """One of the equal parts that a batch is cut into: micro-batches, and those over processes."""

    part: int
    parts: int

    def of(self, x: Array) -> Array:
        """This part's rows."""
        rows = len(x) // self.parts
        return x[self.part * rows : (self.part + 1) * rows]


def check_batch(params: Params, entry: str, batch: int, processes: int) -> None:
    """Refuse a batch that cannot be cut into equal parts.

    Raises:
        ParamsError: naming the three numbers.
    """
    micro = params.pretrain.accumulate
    if batch % (processes * micro):
        raise ParamsError(
            f"pretrain entry {entry}: batch = {batch} does not divide into {processes} processes "
            f"x {micro} micro-batches; change `batch`, `pretrain.processes` or "
            f"`pretrain.accumulate`"
        )


class Loader:
    """Batches of a corpus on the device.

    Args:
        corpus: what is read.
        method: says what it needs, and how images are cropped.
        device: where batches go.
        seed: of the run.
    """

    def __init__(self, corpus: Corpus, method: Method, device: torch.device, seed: int) -> None:
        self.corpus, self.method, self.device, self.seed = corpus, method, device, seed
        self._augmenting, self._masking = Generator(device), Generator(device)

    def train(self, pairs: Pairs, step: int, share: Share) -> Batch:
        """A process's part of a training batch, augmented.

        Args:
            pairs: the whole batch.
            step: number of the step.
            share: which part.
        """
        self._augmenting.manual_seed(stream(self.seed, AUGMENT, step))
        noise = Noise(self._augmenting, share.part, share.parts)
        own = Pairs(
            share.of(pairs.rows), None if pairs.reports is None else share.of(pairs.reports)
        )
        image = augment.train(
            self._images(own.rows), self.method.setup.augment, self.method.crop, noise
        )
        u = np.random.default_rng(stream(self.seed, SENTENCES, step)).random(len(pairs.rows))
        self._masking.manual_seed(stream(self.seed, MASKS, step))
        return self._batch(image, own, share.of(u), Noise(self._masking, share.part, share.parts))

    def valid(self, pairs: Pairs, number: int) -> Batch:
        """A batch of the validation loss: centre crops, the same random numbers every time.

        Args:
            pairs: the batch.
            number: of the batch.
        """
        side, rule = self.method.crop, self.method.setup.augment
        whole = rule.model_copy(update={"resize": max(rule.resize, side)})  # never beyond its edge
        image = augment.evaluate(self._images(pairs.rows), whole, side)
        u = np.random.default_rng(stream(self.seed, VALIDATION, number)).random(len(pairs.rows))
        self._masking.manual_seed(stream(self.seed, VALIDATION, number))
        return self._batch(image, pairs, u, Noise(self._masking))

    def _images(self, rows: Rows) -> Tensor:
        images = self.corpus.images
        if self.device.type == "cpu":
            return torch.from_numpy(np.asarray(images[rows]))
        sent = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=True)
        # Straight into what is sent: by any mode but the default, numpy writes without a copy.
        np.take(images, rows, axis=0, out=sent.numpy(), mode="clip")
        return sent.to(self.device, non_blocking=True)

    def _batch(
        self, image: Tensor, pairs: Pairs, u: npt.NDArray[np.float64], noise: Noise
    ) -> Batch:
        needs, corpus, device = self.method.needs, self.corpus, self.device
        text = raw = label = None
        if pairs.reports is not None and corpus.reports is not None and "sentence" in needs:
            length: int | None = getattr(self.method, "text_length", None)
            text = words.collate_sentence(corpus.reports, pairs.reports, u, device, length)
        elif pairs.reports is not None and corpus.reports is not None and "text" in needs:
            text = words.collate(
                corpus.reports, pairs.reports, device, released=self.method.released_words
            )
        if pairs.reports is not None and corpus.raw is not None and "raw" in needs:
            raw = words.collate_raw(corpus.raw, pairs.reports, device)
        if corpus.labels is not None and "label" in needs:
            label = words.to_device(torch.from_numpy(corpus.labels[pairs.rows]), device)
        return Batch(image, text, raw, label, noise)
