"""MGCA (Wang et al., NeurIPS 2022; protocols §2): alignment at pair, token and prototype level.

Paper side: padding never takes part. BatchNorm statistics, softmaxes and the candidates of the
local alignment are over real words; the official code lets zero pad slots into all three
(exactness.md B).
"""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts import losses
from cxrmim.pretrain.parts.encoders import TextEncoder, build_vit, see
from cxrmim.pretrain.parts.heads import Head
from cxrmim.pretrain.parts.words import Text, shift, sum_pieces, unpack


class Options(Strict):
    """Shared space, temperatures, prototypes and weights of the three terms."""

    dim: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    prototypes: Annotated[int, Field(ge=2)]
    tau_global: Annotated[float, Field(gt=0)]
    tau_local: Annotated[float, Field(gt=0)]
    tau_proto: Annotated[float, Field(gt=0)]
    sinkhorn_eps: Annotated[float, Field(gt=0)]
    sinkhorn_rounds: Annotated[int, Field(ge=1)]
    weight_ita: Annotated[float, Field(ge=0)]
    weight_local: Annotated[float, Field(ge=0)]
    weight_proto: Annotated[float, Field(ge=0)]
    freeze_prototypes: Annotated[int, Field(ge=0)]
    clip_weights: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


class Aligned:
    """What the alignment of a batch leaves for a method that builds on it.

    Attributes:
        terms: the three losses.
        patches: (B, N, D) patch tokens after the final LayerNorm.
        words: (M, C) packed word features of the text encoder.
        attention: (B, W, N) attention of words over patches, without gradient.
    """

    def __init__(
        self, terms: dict[str, Tensor], patches: Tensor, words: Tensor, attention: Tensor
    ) -> None:
        self.terms, self.patches, self.words, self.attention = terms, patches, words, attention


class MGCA(Method):
    """Image-text alignment, token-wise alignment and prototype alignment."""

    needs = frozenset({"image", "text"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.alignment = cast(Options, setup.options)
        o, image, text = self.alignment, setup.vit.width, setup.text.width
        self.encoder = build_vit(setup.vit, setup.image)
        self.text_encoder = TextEncoder(setup.text, setup.vocab)
        self.image_head, self.patch_head = (Head(image, o.hidden, o.dim) for _ in range(2))
        self.text_head, self.word_head = (Head(text, o.hidden, o.dim) for _ in range(2))
        self.prototypes = nn.Linear(o.dim, o.prototypes, bias=False)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the three terms, 1 each by default."""
        o = self.alignment
        return {"ita": o.weight_ita, "local": o.weight_local, "proto": o.weight_proto}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The three alignment terms."""
        return self.align(batch).terms

    def align(self, batch: Batch) -> Aligned:
        """Encode both sides and compute the three alignment terms."""
        text = text_of(batch)
        o = self.alignment
        cls, patches, patch_attention = see(self.encoder, batch.image)
        hidden, text_attention = self.text_encoder(text.ids)
        words = sum_pieces(hidden, text)
        image = self.image_head(cls)
        report = self.text_head(hidden[:, 0])
        patch = self.patch_head(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        word = self.word_head(words)
        with torch.autocast(cls.device.type, enabled=False):
            if self.setup.text.attn_shift == "released":
                text_attention = shift(text_attention)
            word_weight = losses.importance(
                unpack(sum_pieces(text_attention, text), text), text.valid, o.clip_weights
            )
            everywhere = torch.ones_like(patch_attention, dtype=torch.bool)
            patch_weight = losses.importance(patch_attention, everywhere, o.clip_weights)
            local, attention = losses.align(
                word, patch, text, word_weight, patch_weight, o.tau_local
            )
            table = self._unit_prototypes()
            terms = {
                "ita": losses.contrast(image, report, o.tau_global),
                "local": local,
                "proto": losses.swap(
                    image @ table.T,
                    report @ table.T,
                    o.tau_proto,
                    o.sinkhorn_eps,
                    o.sinkhorn_rounds,
                ),
            }
        return Aligned(terms, patches, words, attention)

    def _unit_prototypes(self) -> Tensor:
        """(K, d) prototypes, their rows put back to unit length in place, training or not."""
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        return self.prototypes.weight

    def after_backward(self, epoch: int) -> None:
        """Hold the prototypes in the first epochs: no gradient at all, so no decay or moments."""
        if epoch < self.alignment.freeze_prototypes:
            self.prototypes.weight.grad = None

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, dim) unit vectors."""
        embedded: Tensor = self.image_head(self.encoder.forward_features(image)[:, 0])
        return embedded

    def embed_text(self, text: Text) -> Tensor:
        """Reports -> (B, dim) unit vectors."""
        embedded: Tensor = self.text_head(self.text_encoder(text.ids)[0][:, 0])
        return embedded


def text_of(batch: Batch) -> Text:
    """The reports of a batch.

    Raises:
        ValueError: the batch was collated without them.
    """
    if batch.text is None:
        raise ValueError("the method needs reports: collate the batch with text")
    return batch.text


METHOD = MGCA
