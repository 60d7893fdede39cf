"""What a downstream task is given (`Bench`) and what it gives back (`Result`).

A task is a module of ``tasks`` with

    Options                                      its block of params.yaml
    run(run, bench) -> Result                    predictions of the test set
    measure(predictions, options, draws) -> dict  metrics, from the predictions alone

`measure` reads nothing but the stored predictions, so that anyone can recompute a record's metrics.
It returns ``value`` (the main metric, in [0, 1]), ``metric`` (its name), ``n`` (test size),
``replicates`` (bootstrap values) and whatever else the task has.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrmim import plugins, record
from cxrmim.downstream import rle
from cxrmim.errors import DataError
from cxrmim.params import Params, plugin_options
from cxrmim.paths import Paths
from cxrmim.shards.store import Masks, Reports, Shards, open_shards

if TYPE_CHECKING:
    import torch

    from cxrmim.downstream.features import Views
    from cxrmim.pretrain.contract import Method
    from cxrmim.schema import Augment

    View = Callable[[torch.Tensor], torch.Tensor]

Tree = dict[str, Any]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes:
        predictions: one row a test image, query or pair, with `image`, `patient` and `source_row`.
        details: facts that an identical rerun reproduces; nothing that names a patient or an image.
    """

    predictions: pd.DataFrame
    details: Tree = field(default_factory=dict)


class Bench:
    """Data and weights that the runs of one process share; each is read once.

    What it hands out depends on the asked-for dataset and checkpoint alone, never on earlier calls.
    """

    def __init__(self, params: Params):
        self.params = params
        self.paths = Paths(params.scale)
        self._shards: dict[str, Shards] = {}
        self._methods: dict[str, Method] = {}  # the latest only
        self._features: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self._augmented: dict[tuple[str, str], Views] = {}
        self._scenes: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def device(self) -> "torch.device":
        """Where networks run: ``pretrain.device``."""
        import torch

        name = self.params.pretrain.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)

    def shards(self, dataset: str) -> Shards:
        """Arrays of a dataset, their bytes checked against the record.

        Raises:
            CheckError: they are missing or not those of the record.
        """
        if dataset not in self._shards:
            tree = record.read(self.paths.record("shards", dataset))
            record.verify(tree, "checksums")  # of the other files, which opening holds to them
            self._shards[dataset] = open_shards(self.paths.shards(dataset))
        return self._shards[dataset]

    def method(self, checkpoint: str) -> "Method":
        """Pretrained method in eval mode, on `device`. Copy what you mean to train."""
        if checkpoint not in self._methods:
            from cxrmim.pretrain.weights import load_method

            held = bool(self._methods)
            self._methods.clear()
            self._features.clear()
            self._augmented.clear()
            self._scenes.clear()
            if held:
                gc.collect()
            self._methods[checkpoint] = load_method(self.params, checkpoint, self.device)
        return self._methods[checkpoint].eval()

    def features(self, checkpoint: str, dataset: str, pool: str) -> "torch.Tensor":
        """(N, D) features of all images of a dataset, in shard order, on `device`.

        Other jobs of the checkpoint find them on disk (`features.kept`).

        Args:
            checkpoint: whose encoder.
            dataset: which images.
            pool: `cls`, or `avg` for the mean over patch tokens; one pass gives both.
        """
        key = (checkpoint, dataset)
        if key not in self._features:
            from cxrmim.downstream import features

            method, images = self.method(checkpoint), self.shards(dataset).images
            kept = features.kept(self.params, checkpoint, dataset, method, len(images), self.device)
            found = kept.read(self.device) if kept else None
            if found is None:
                view = self.view(checkpoint)
                found = features.extract(method.encoder, images, view, self.device)
                if kept:
                    kept.write(found)
            self._features[key] = found
        return self._features[key][pool]

    def augmented(
        self, checkpoint: str, dataset: str, rule: "Augment", limit: int | None
    ) -> "Views":
        """Features of augmented views of a dataset; arguments as `features.Views`."""
        key = (checkpoint, dataset)
        if key not in self._augmented:
            from cxrmim.downstream.features import Views

            method, images = self.method(checkpoint), self.shards(dataset).images
            self._augmented[key] = Views(method, images, rule, dataset, self.device, limit)
        return self._augmented[key]

    def view(self, checkpoint: str) -> "View":
        """Evaluation transform: (B, S, S) stored uint8 -> (B, 3, s, s) encoder input."""
        return self.method(checkpoint).eval_transform

    def plain(self, checkpoint: str | None, *, whole: bool = False) -> "View":
        """Resize and crop of `view` alone: (B, S, S) uint8 -> (B, s, s) in [0, 1], for masks.

        Args:
            checkpoint: whose method's transform; None for that of methods without augmentation.
            whole: resize the square to s instead, and crop nothing off it.
        """
        from cxrmim.pretrain.parts.augment import evaluate
        from cxrmim.pretrain.parts.plain import plain_augment

        own = (
            plain_augment(self.params) if checkpoint is None else self.method(checkpoint).evaluation
        )
        size = self.params.pretrain.image
        resize = size if whole else own.resize
        unchanged = own.model_copy(update={"resize": resize, "mean": 0.0, "std": 1.0})
        return lambda stored: evaluate(stored, unchanged, size)[:, 0]

    def scenes(self, checkpoint: str, dataset: str) -> "tuple[torch.Tensor, torch.Tensor]":
        """Images (N, s, s), one channel, normalised as the method's, and masks (N, s, s) in [0, 1].

        ``downstream.segment.frame`` says whether they are resized whole, so that all methods are
        held against the same truth, or cropped as each method crops.
        """
        key = (checkpoint, dataset)
        if key not in self._scenes:
            from cxrmim.downstream.features import views

            plain = self.plain(checkpoint, whole=self.whole)
            own, masks = self.method(checkpoint).evaluation, self.masks(dataset)
            images = self.shards(dataset).images
            self._scenes[key] = (
                views(images, lambda stored: (plain(stored) - own.mean) / own.std, self.device),
                views(masks, plain, self.device),
            )
        return self._scenes[key]

    @property
    def whole(self) -> bool:
        """Whether the segmenter sees whole images, without a crop."""
        return bool(self.params.downstream.segment["frame"] == "whole")

    def content(self, dataset: str) -> NDArray[np.float32]:
        """(N, 2) height and width of each image inside its padded square, in stored px."""
        return self.shards(dataset).content

    def masks(self, dataset: str) -> Masks:
        """(N, S, S) masks of a dataset, 255 where all of a pixel is foreground.

        Raises:
            DataError: it has none.
        """
        found = self.shards(dataset).masks
        if found is None:
            raise DataError(f"{dataset}: its shards hold no masks.npy; it cannot be segmented")
        return found

    def reports(self, dataset: str) -> tuple[Reports, Rows]:
        """Tokenised reports of a corpus, and (N,) the report of each image.

        Raises:
            DataError: it has none.
        """
        shards = self.shards(dataset)
        if shards.reports is None or shards.report is None:
            raise DataError(f"{dataset}: its shards hold no reports; take the pretraining corpus")
        return shards.reports, np.asarray(shards.report)

    def labels(self, dataset: str) -> NDArray[np.float32]:
        """(N, K) labels 1/0/NaN of all images, columns in the order of `classes`."""
        return self.shards(dataset).labels(self.classes(dataset)).copy()

    def rows(self, dataset: str, split: str, percent: int = 100, seed: int | None = None) -> Rows:
        """Row numbers of a split; `seed` picks a run's own label subset where they are reseeded.

        Raises:
            DataError: it is empty.
        """
        found = self.shards(dataset).rows(split, percent, seed)
        if found.size == 0:
            raise DataError(
                f"{dataset}: no images in split {split} at {percent} % of the labels; "
                f"check the manifest's record"
            )
        return found

    def identity(self, dataset: str, rows: Rows) -> pd.DataFrame:
        """`image`, `patient` and `source_row` of rows: the first columns of predictions."""
        return self.shards(dataset).table.read(IDENTITY).iloc[rows].reset_index(drop=True)

    def classes(self, dataset: str) -> tuple[str, ...]:
        """Class names of a dataset, in the order of its reader."""
        reader = self._reader(dataset)
        decide = getattr(reader, "labels", None)
        if decide is None:
            names: tuple[str, ...] = reader.LABELS
            return names
        name, tree = self.params.reading(dataset)
        return tuple(decide(plugin_options("dataset", name, tree, f"manifest.datasets.{name}")))

    def multiclass(self, dataset: str) -> bool:
        """Whether each image of a dataset has exactly one class."""
        return bool(getattr(self._reader(dataset), "MULTICLASS", False))

    def _reader(self, dataset: str) -> ModuleType:
        return plugins.load("dataset", self.params.reading(dataset)[0])


IDENTITY = ["image", "patient", "source_row"]


def scores(
    identity: pd.DataFrame,
    names: Sequence[str],
    truth: NDArray[np.float32],
    score: NDArray[np.floating[Any]],
    multiclass: bool,
) -> pd.DataFrame:
    """Predictions of a classifier.

    Args:
        identity: n rows of `Bench.identity`.
        names: K class names.
        truth: (n, K) labels 1/0/NaN.
        score: (n, K).
        multiclass: each row of `truth` is one-hot; its class is kept as column `class`.
    """
    columns: Mapping[str, Any] = {f"label_{n}": truth[:, k] for k, n in enumerate(names)} | {
        f"score_{n}": score[:, k].astype(np.float32) for k, n in enumerate(names)
    }
    out = identity.assign(**columns)
    return out.assign(**{"class": truth.argmax(axis=1)}) if multiclass else out


def truths(
    predictions: pd.DataFrame,
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """(class names, truth (n, K), score (n, K)) of what `scores` made."""
    names = [c.removeprefix("label_") for c in predictions.columns if c.startswith("label_")]
    truth = predictions[[f"label_{n}" for n in names]].to_numpy(np.float32)
    return names, truth, predictions[[f"score_{n}" for n in names]].to_numpy(np.float32)


def masks(
    identity: pd.DataFrame,
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    score: NDArray[np.floating[Any]] | None = None,
) -> pd.DataFrame:
    """Predictions of a segmenter: the mask as SIIM run lengths, and what Dice is made of.

    Args:
        identity: n rows of `Bench.identity`.
        predicted: (n, s, s).
        truth: (n, s, s).
        score: (n,) highest pixel probability of each image; None = 0 for all.

    Returns:
        `rle`, pixel counts `area` (predicted), `truth_area` and `overlap`, and `score` (float32).
    """
    area, truth_area, overlap = (
        m.sum(axis=(1, 2)).astype(np.int64) for m in (predicted, truth, predicted & truth)
    )
    runs = [rle.encode(mask) for mask in predicted]
    kept = np.zeros(len(identity)) if score is None else score
    return identity.assign(
        rle=runs,
        area=area,
        truth_area=truth_area,
        overlap=overlap,
        score=kept.astype(np.float32),
    )
