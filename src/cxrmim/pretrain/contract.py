"""What a pretraining method is given and what it must offer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from cxrmim.errors import CxrmimError
from cxrmim.plugins import Strict
from cxrmim.pretrain.parts import augment as augmentation
from cxrmim.pretrain.parts.decoders import ConvDecoder
from cxrmim.pretrain.parts.words import Text
from cxrmim.schema import Augment, TextModel, Vit


class NoTextError(CxrmimError):
    """A method without a text side was asked for a report's embedding or maps."""


@dataclass(frozen=True)
class Batch:
    """A training batch on the device.

    Attributes:
        image: (B, 3, S, S) float, normalised grey replicated to three channels.
        text: tokenised reports (`parts.words.collate`), None for methods that need images alone.
    """

    image: Tensor
    text: Text | None = None


@dataclass(frozen=True)
class Setup:
    """Everything that a method's shape depends on.

    Attributes:
        options: the method's own validated `Options`.
        vit: image encoder dimensions.
        text: text encoder dimensions and switches.
        image: side of the encoder's input in px.
        augment: augmentation; its mean and std define the pixel values that restoration aims at.
        vocab: WordPiece pieces, 0 for methods without text.
        length: stored tokens a caption, before trimming.
    """

    options: Strict
    vit: Vit
    text: TextModel
    image: int
    augment: Augment
    vocab: int
    length: int

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image // self.vit.patch

    @property
    def patches(self) -> int:
        """Patches of an image, N."""
        return self.grid**2


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

    `losses` gives named terms, `weights` their weights; the loop minimises the weighted sum. Random
    draws (masks, sentences) come from torch's global generator, which the loop seeds.

    Attributes:
        encoder: the ViT that goes downstream; ``forward_features(x) -> (B, 1 + N, D)``.
        decoder: the convolutional decoder that goes downstream for segmentation, if there is one.
        needs: fields of `Batch` that the method reads.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    encoder: VisionTransformer

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        self.decoder: ConvDecoder | None = None

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

    def eval_transform(self, images: Tensor) -> Tensor:
        """(B, H, H) stored uint8 squares -> (B, 3, S, S) encoder input, centre crop."""
        return augmentation.evaluate(images, self.setup.augment, self.setup.image)

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
