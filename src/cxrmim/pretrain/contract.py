"""What a pretraining method is given and what it must offer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from cxrmim.errors import CxrmimError
from cxrmim.plugins import Strict
from cxrmim.pretrain.parts import augment as augmentation
from cxrmim.pretrain.parts import world
from cxrmim.pretrain.parts.decoders import ConvDecoder
from cxrmim.pretrain.parts.noise import Noise
from cxrmim.pretrain.parts.words import Raw, Text
from cxrmim.schema import Augment, TextModel, Vit


class NoTextError(CxrmimError):
    """A method without a text side was asked for a report's embedding or maps."""


@dataclass(frozen=True)
class Batch:
    """A training batch on the device; one process's share of it where several train together.

    Attributes:
        image: (B, 3, C, C) float, normalised grey replicated to three channels; C is the method's
            `crop`.
        text: tokenised captions, or one random sentence of each (`parts.words.collate`).
        raw: tokenised whole reports (`parts.words.collate_raw`).
        label: (B,) int64 class of each image.
        noise: the batch's random numbers: masks, sentences.
    """

    image: Tensor
    text: Text | None = None
    raw: Raw | None = None
    label: Tensor | None = None
    noise: Noise = field(default_factory=Noise)


@dataclass(frozen=True)
class Stored:
    """Tokenised text as a corpus stores it; zeros where it has none.

    Attributes:
        vocab: WordPiece pieces of the captions.
        length: stored tokens a caption, before trimming.
        mask: id of [MASK] among the captions' pieces.
        raw_vocab: WordPiece pieces of whole reports.
        raw_length: stored tokens a whole report.
        raw_mask: id of [MASK] among the whole reports' pieces.
    """

    vocab: int = 0
    length: int = 0
    mask: int = 0
    raw_vocab: int = 0
    raw_length: int = 0
    raw_mask: int = 0


@dataclass(frozen=True)
class Setup:
    """Everything that a method's shape depends on.

    Attributes:
        options: the method's own validated `Options`.
        vit: image encoder dimensions.
        text: text encoder dimensions and switches.
        image: side of the encoder's input in px.
        augment: augmentation; its mean and std define the pixel values that restoration aims at.
        stored: vocabularies and lengths of the corpus' text.
        negatives: ``batch``: contrast and BatchNorm see the pairs of all processes; ``shard``: each
            process those of its own.
    """

    options: Strict
    vit: Vit
    text: TextModel
    image: int
    augment: Augment
    stored: Stored = Stored()
    negatives: Literal["batch", "shard"] = "batch"

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image // self.vit.patch

    @property
    def patches(self) -> int:
        """Patches of an image, N."""
        return self.grid**2

    @property
    def joined(self) -> bool:
        """Whether statistics and candidates are shared by all processes."""
        return self.negatives == "batch"

    def gather(self, x: Tensor) -> Tensor:
        """(B, ...) -> rows of all processes in rank order, or `x` where each keeps to its own."""
        return world.gather(x) if self.joined else x


@dataclass(frozen=True)
class Maps:
    """Report-guided attention and the masks it leads to (MedIM figure 2).

    Keys are the strategies: ``kwm`` (MeSH words) and ``sdm`` (one sentence).

    Attributes:
        attention: (B, g, g) float each, MedIM eq. 2 and 5.
        mask: (B, g, g) bool each, True where the token is masked.
    """

    attention: dict[str, Tensor]
    mask: dict[str, Tensor]


class Method(nn.Module, ABC):
    """A pretraining method.

    `losses` gives named terms, `weights` their weights; the loop minimises the weighted sum. Where
    several processes share a batch, each gives its share of every term: the mean over processes is
    the term of the joined batch. Random draws (masks, sentences) come from the batch's `noise`.

    Attributes:
        encoder: the ViT that goes downstream; ``forward_features(x) -> (B, 1 + N, D)``.
        decoder: the convolutional decoder that goes downstream for segmentation, if there is one.
        needs: fields of `Batch` that the method reads; ``sentence`` asks for one random sentence of
            each caption in place of ``text``. Set it in the constructor if it depends on options.
        inherits: prefixes of the weights that are taken from the entry that `init` names.
    """

    needs: frozenset[str] = frozenset({"image"})
    inherits: tuple[str, ...] = ("encoder.",)
    encoder: VisionTransformer

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        self.decoder: ConvDecoder | None = None

    @property
    def crop(self) -> int:
        """Side of the training crop in px."""
        return self.setup.image

    def own_images(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None:
        """(N, H, H) images and (N,) classes of a method that does not learn from the corpus."""
        return None

    @property
    def released_words(self) -> bool:
        """Whether captions are cut into words as the official code does (`words.collate`)."""
        return False

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, and the terms."""
        losses = self.losses(batch)
        return self.total(losses), losses

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar loss terms of a batch, by name."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term that `losses` gives."""
        return {}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the terms."""
        weights = self.weights
        terms = [weights[name] * value for name, value in losses.items()]
        return sum(terms[1:], start=terms[0])

    def after_backward(self, epoch: int) -> None:
        """Hook between backward and the optimiser's step; `epoch` counts from 0."""

    @property
    def evaluation(self) -> Augment:
        """How evaluations resize and normalise; they crop the encoder's input.

        `augment.resize` is meant for the training crop. Where that is larger than the encoder's
        input (MRM, CMITM's first stage), both shrink alike: of 512 px with a crop of 448 become 256
        with one of 224.
        """
        rule = self.setup.augment
        if rule.resize < self.crop:
            return rule
        return rule.model_copy(update={"resize": rule.resize * self.setup.image // self.crop})

    def eval_transform(self, images: Tensor) -> Tensor:
        """(B, H, H) stored uint8 squares -> (B, 3, S, S) encoder input, centre crop."""
        return augmentation.evaluate(images, self.evaluation, self.setup.image)

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, dim) L2-normalised, comparable with `embed_text`.

        Raises:
            NoTextError: the method has no space shared with text.
        """
        raise NoTextError(f"{type(self).__name__}: has no image-text space to embed images in")

    def embed_text(self, text: Text) -> Tensor:
        """Reports -> (B, dim) L2-normalised, comparable with `embed_image`.

        Raises:
            NoTextError: the method has no text side.
        """
        raise NoTextError(f"{type(self).__name__}: has no text encoder; it cannot embed reports")

    def report_maps(self, batch: Batch, generator: Generator | None = None) -> Maps:
        """Report-guided attention maps and masks of a batch.

        Args:
            batch: images and their reports.
            generator: draws the sentence of SDM; torch's global one if None.

        Raises:
            NoTextError: the method has no report-guided masks.
        """
        raise NoTextError(f"{type(self).__name__}: draws no report-guided masks")
