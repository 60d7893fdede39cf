"""MGCA (Wang et al., NeurIPS 2022; protocols §2): alignment at pair, token and prototype level.

Paper side: padding never takes part. BatchNorm statistics, softmaxes and the candidates of the
local alignment are over real words; under `padding: released` zero pad slots, as many as a stored
caption has, are in the statistics and among the candidates, as in the official code (exactness.md
B). Where several processes share a batch, BatchNorm, contrast and prototypes see all of it.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts import losses, world
from cxrmim.pretrain.parts.bert import TextEncoder
from cxrmim.pretrain.parts.encoders import build_vit, see
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
    sinkhorn: Literal["batch", "shard"]
    padding: Literal["none", "released"]
    weight_ita: Annotated[float, Field(ge=0)]
    weight_local: Annotated[float, Field(ge=0)]
    weight_proto: Annotated[float, Field(ge=0)]
    freeze_prototypes: Annotated[int, Field(ge=0)]
    clip_weights: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


@dataclass(frozen=True)
class Aligned:
    """What the alignment of a batch leaves for a method that builds on it.

    Attributes:
        terms: the three losses.
        patches: (B, N, D) patch tokens after the final LayerNorm.
        words: (M, C) packed word features of the text encoder.
        text: the reports, in as many word slots as `attention` has.
        attention: (B, W, N) attention of words over patches, without gradient.
    """

    terms: dict[str, Tensor]
    patches: Tensor
    words: Tensor
    text: Text
    attention: Tensor


class MGCA(Method):
    """Image-text alignment, token-wise alignment and prototype alignment."""

    needs = frozenset({"image", "text"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.alignment = cast(Options, setup.options)
        o, image, text = self.alignment, setup.vit.width, setup.text.width
        self.encoder = build_vit(setup.vit, setup.image)
        self.text_encoder = TextEncoder(setup.text, setup.stored.vocab)
        self.image_head, self.patch_head, self.text_head, self.word_head = (
            Head(width, o.hidden, o.dim, sync=setup.joined) for width in (image, image, text, text)
        )
        self.prototypes = nn.Linear(o.dim, o.prototypes, bias=False)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the three terms, 1 each by default."""
        o = self.alignment
        return {"ita": o.weight_ita, "local": o.weight_local, "proto": o.weight_proto}

    @property
    def released_words(self) -> bool:
        """SEP is a word and a full caption loses its last, where attention is shifted."""
        return self.setup.text.attn_shift == "released"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The three alignment terms."""
        return self.align(batch).terms

    def align(self, batch: Batch) -> Aligned:
        """Encode both sides and compute the three alignment terms."""
        text = text_of(batch)
        o, gather = self.alignment, self.setup.gather
        pads = o.padding == "released"
        if pads:
            text = with_pads(text, self.setup.stored.length - 1)
        cls, patches, patch_attention = see(self.encoder, batch.image)
        hidden, text_attention = self.text_encoder(text.ids)
        words = sum_pieces(hidden, text)
        image = self.image_head(cls)
        report = self.text_head(hidden[:, 0])
        patch = self.patch_head(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        if pads:
            slots = unpack(words, text)
            word = self.word_head(slots.flatten(0, 1)).unflatten(0, slots.shape[:2])
        else:
            word = unpack(self.word_head(words), text)
        with torch.autocast(cls.device.type, enabled=False):
            word_weight, patch_weight = self._importance(text_attention, patch_attention, text)
            local, attention = losses.align(
                word, patch, text.valid, word_weight, patch_weight, o.tau_local, pads=pads
            )
            table = self._unit_prototypes()
            terms = {
                "ita": losses.contrast(image, report, o.tau_global, gather),
                "local": local,
                "proto": losses.swap(
                    image @ table.T,
                    report @ table.T,
                    o.tau_proto,
                    o.sinkhorn_eps,
                    o.sinkhorn_rounds,
                    world.gather if o.sinkhorn == "batch" else losses.own_rows,
                ),
            }
        return Aligned(terms, patches, words, text, attention)

    def _importance(self, read: Tensor, seen: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """Weights of words (B, W) and patches (B, N) from what CLS attends to."""
        if self.setup.text.attn_shift == "released":
            read = shift(read)
        words = unpack(sum_pieces(read, text), text)
        clip = self.alignment.clip_weights
        return (
            losses.importance(words, text.valid & (words > 0), clip),
            losses.importance(seen, torch.ones_like(seen, dtype=torch.bool), clip),
        )

    def _unit_prototypes(self) -> Tensor:
        """(K, d) prototypes of unit length; in training they are put back to it in place."""
        if not self.training:
            return F.normalize(self.prototypes.weight, dim=1)
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


def with_pads(text: Text, slots: int) -> Text:
    """The same reports in `slots` word slots each, most of them empty.

    Args:
        text: reports trimmed to the longest.
        slots: as many as a stored caption has tokens after CLS.
    """
    width = text.sentence.shape[1]
    extra = slots - width
    moved = text.slots.div(width, rounding_mode="floor") * extra + text.slots
    return replace(
        text,
        sentence=F.pad(text.sentence, (0, extra), value=-1),
        mesh=F.pad(text.mesh, (0, extra)),
        slots=moved,
    )


def text_of(batch: Batch) -> Text:
    """The reports of a batch.

    Raises:
        ValueError: the batch was collated without them.
    """
    if batch.text is None:
        raise ValueError("the method needs reports: collate the batch with text")
    return batch.text


METHOD = MGCA
