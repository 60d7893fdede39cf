"""Features of a frozen encoder: one pass over a dataset, shared by all fractions and seeds.

The evaluation view of a dataset is encoded whole, in blocks that follow from its size alone. Where
the grid is cut so that several jobs want it, the first leaves it on disk for the others (`Kept`).
Augmented views are those of a run's own training images, again in blocks of their own (`Views`):
float32 may round a row differently in other company, so no run's features depend on another's.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cxrmim import grid, record
from cxrmim.params import Params, fingerprint
from cxrmim.paths import Paths, atomic
from cxrmim.pretrain.parts import augment as augmentation
from cxrmim.pretrain.parts.noise import Noise
from cxrmim.progress import track
from cxrmim.schema import Augment
from cxrmim.shards.store import Masks

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from cxrmim.pretrain.contract import Method

log = logging.getLogger("cxrmim")
BATCH = 128  # fixed, so that a row's last bits do not depend on the machine's memory
ROUNDING = 1e-12  # share of a feature's square that float32 cannot tell from nothing
POOLS = ("cls", "avg")
TASK = "probe"  # the task that reads features
HEADER = "cxrmim"  # one metadata key: safetensors writes several in random order
SHARED = 4 << 30  # bytes of per-epoch views that a process keeps for its other seeds
View = Callable[[Tensor], Tensor]
Rows = NDArray[np.int64]


def extract(
    encoder: "VisionTransformer",
    images: NDArray[np.uint8],
    view: View,
    device: torch.device,
) -> dict[str, Tensor]:
    """Encode all images of a dataset (protocols.md 3: CLS after the final LayerNorm).

    The encoder runs in eval mode and without gradients whatever mode it is in, and is left in the
    mode it came in.

    Args:
        encoder: ``forward_features: (B, 3, s, s) -> (B, 1 + N, D)``.
        images: (n, S, S) uint8 squares.
        view: (B, S, S) uint8 -> (B, 3, s, s), the evaluation transform.
        device: where the encoder is.

    Returns:
        (n, D) float32 on the device of each pooling: `cls`, and `avg`, the mean over patch tokens.
    """
    parts = range(0, len(images), BATCH)
    stored = (view(block(images, slice(i, i + BATCH), device)) for i in track(parts, "features"))
    return encode(encoder, stored)


def encode(encoder: "VisionTransformer", batches: Iterator[Tensor]) -> dict[str, Tensor]:
    """Both poolings of batches (B, 3, s, s), as `extract` gives them."""
    was_training = encoder.training
    encoder.eval()
    cls, avg = [], []
    with torch.no_grad():
        for batch in batches:
            tokens = encoder.forward_features(batch)
            cls.append(tokens[:, 0].clone())  # a view would keep all tokens
            avg.append(tokens[:, 1:].mean(dim=1))
    encoder.train(was_training)
    return {"cls": torch.cat(cls).float(), "avg": torch.cat(avg).float()}


@dataclass(frozen=True, kw_only=True)
class Picked(Noise):
    """Numbers of some images of a dataset: an image's do not depend on which others are asked for.

    Attributes:
        total: images of the dataset; numbers are drawn for all of them.
        picked: (B,) the images of this batch.
        drawn: (total, ...) each, what was drawn already, in order; shared by the batches of a view.
    """

    total: int
    picked: Rows
    drawn: list[Tensor]
    calls: Iterator[int] = field(default_factory=count)

    def rand(self, rows: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """(rows, *shape) uniform in [0, 1), of this batch's images."""
        call = next(self.calls)
        if call == len(self.drawn):
            self.drawn.append(torch.rand(self.total, *shape, generator=self.generator))
        return self.drawn[call][self.picked].to(device)


class Views:
    """Augmented views of a dataset's training images (protocols.md 3), made when asked for.

    Which crop an image gets in a view follows from the dataset, the view's number and the image: it
    is the same for every checkpoint, fraction and seed.

    Args:
        method: whose encoder, and whose resizing, mean and standard deviation.
        images: (N, S, S) uint8 squares of the whole dataset.
        rule: how training images are augmented; see `rule_of`.
        dataset: its name.
        device: where the encoder is.
        limit: bytes that are kept for later, in main memory; None: all views.
    """

    def __init__(
        self,
        method: "Method",
        images: NDArray[np.uint8],
        rule: Augment,
        dataset: str,
        device: torch.device,
        limit: int | None,
    ) -> None:
        self.method, self.images, self.rule = method, images, rule
        self.dataset, self.device, self.limit = dataset, device, limit
        self.encoded, self.bytes = 0, 0
        self._kept: dict[tuple[int, bytes], dict[str, Tensor]] = {}

    def __call__(self, number: int, rows: Rows, pools: Sequence[str]) -> dict[str, Tensor]:
        """Features of a view of some images.

        Args:
            number: of the view, from 1.
            rows: (n,) images; the same rows share their features.
            pools: the poolings to give, and to keep.

        Returns:
            (n, D) float32 of each pooling, on the device.
        """
        key = number, rows.tobytes()
        if key not in self._kept or not self._kept[key].keys() >= set(pools):
            made = self._make(number, rows)
            found = {pool: made[pool] for pool in pools}
            size = sum(x.nbytes for x in found.values())
            if self.limit is not None and self.bytes + size > self.limit:
                return found
            self._kept[key] = {pool: x.cpu() for pool, x in found.items()}
            self.bytes += size
        return {pool: self._kept[key][pool].to(self.device) for pool in pools}

    def _make(self, number: int, rows: Rows) -> dict[str, Tensor]:
        random, drawn = seeded(self.dataset, number), list[Tensor]()
        self.encoded += len(rows)

        def batches() -> Iterator[Tensor]:
            for i in track(range(0, len(rows), BATCH), f"view {number}"):
                part = rows[i : i + BATCH]
                noise = Picked(random, total=len(self.images), picked=part, drawn=drawn)
                stored = block(self.images, part, self.device)
                yield augmentation.train(stored, self.rule, self.method.setup.image, noise)

        return encode(self.method.encoder, batches())


def seeded(dataset: str, view: int) -> torch.Generator:
    """CPU generator of the random numbers of a view of a dataset."""
    name = f"{dataset}/view {view}"
    return torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1
    )


@dataclass(frozen=True)
class Kept:
    """Features of a dataset on disk, for the other jobs of a checkpoint.

    A file is taken only if it was made of the same checkpoint, shards, code, torch and kind of
    device, and holds the very bytes that were written; any other is made anew. Two jobs that start
    together both encode, as waiting would hold a GPU just as long, and both write the same.

    Attributes:
        path: the file.
        key: hash of all that features depend on.
        shape: (N, D).
    """

    path: Path
    key: str
    shape: tuple[int, int]

    def read(self, device: torch.device) -> dict[str, Tensor] | None:
        """Both poolings on the device, or None if there is no file to trust."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as handle:
                told = json.loads((handle.metadata() or {}).get(HEADER, "{}"))
                found = {name: handle.get_tensor(name) for name in POOLS}
        except (SafetensorError, OSError, ValueError) as error:
            log.info("%s: made anew, it cannot be read (%s)", self.path, error)
            return None
        fits = all(x.shape == self.shape and x.dtype == torch.float32 for x in found.values())
        if not fits or told != self._header(found):
            log.info("%s: made anew, it is stale or damaged", self.path)
            return None
        return {name: tensor.to(device) for name, tensor in found.items()}

    def write(self, features: dict[str, Tensor]) -> None:
        """Keep what `extract` gave."""
        stored = {name: features[name].cpu().contiguous() for name in POOLS}
        with atomic(self.path) as temporary:
            save_file(stored, temporary, {HEADER: json.dumps(self._header(stored))})

    def _header(self, features: dict[str, Tensor]) -> dict[str, str]:
        digest = hashlib.sha256()
        for name in POOLS:
            digest.update(features[name].numpy().data)
        return {"key": self.key, "sha256": digest.hexdigest()}


def kept(
    params: Params,
    checkpoint: str,
    dataset: str,
    method: "Method",
    images: int,
    device: torch.device,
) -> Kept | None:
    """Where features are kept on disk; None where no other job would read them.

    That is so if one job of the grid holds all runs on them, as under ``cut: checkpoint``.

    Args:
        params: all parameters.
        checkpoint: whose encoder.
        dataset: which images.
        method: the checkpoint's.
        images: how many there are.
        device: where they are encoded.
    """
    wanted = (checkpoint, dataset, TASK)
    jobs = [
        job.id
        for job in grid.jobs(params)
        if any((run.checkpoint, run.dataset, run.task) == wanted for run in job.runs)
    ]
    if len(jobs) < 2:
        return None
    paths = Paths(params.scale)
    parts = {
        "checkpoint": record.sha256(paths.record("pretrain", checkpoint)),
        "shards": record.sha256(paths.record("shards", dataset)),
        "code": record.closure((__name__, type(method).__module__)),
        "view": method.evaluation.model_dump(mode="json"),
        "image": method.setup.image,
        "torch": torch.__version__,
        "device": device.type,
    }
    shape = images, method.setup.vit.width
    return Kept(paths.features(checkpoint, dataset), fingerprint(parts), shape)


def effective_rank(features: Tensor) -> float:
    """Directions that features spread over: the participation ratio of their covariance.

        (sum_i l_i)^2 / sum_i l_i^2 = trace(C)^2 / |C|_F^2,  l_i the eigenvalues of C

    D if all directions vary alike, 1 if one varies, 0 if none varies by more than float32 rounds.

    Args:
        features: (n, D).
    """
    values = features.cpu().double()
    centred = values - values.mean(0)
    covariance = centred.T @ centred / len(centred)
    if covariance.trace() <= ROUNDING * values.square().sum(1).mean():
        return 0.0
    return float(covariance.trace() ** 2 / covariance.square().sum())


def views(images: NDArray[np.uint8] | Masks, view: View, device: torch.device) -> Tensor:
    """Transformed images of a dataset, for a task that reads them again and again.

    Args:
        images: (n, S, S) uint8 squares.
        view: (B, S, S) uint8 -> (B, ..., s, s).
        device: where they go.

    Returns:
        (n, ..., s, s) float32 on the device.
    """
    parts = range(0, len(images), BATCH)
    return torch.cat([view(block(images, slice(i, i + BATCH), device)) for i in parts])


def block(
    images: NDArray[Any] | Masks, rows: slice | NDArray[np.int64], device: torch.device
) -> Tensor:
    """(b, S, S) rows of a stored array on the device."""
    return torch.from_numpy(np.array(images[rows])).to(device)
