"""CMITM (Chen et al., MICCAI 2023 §2; protocols §2): masked modelling, then masked contrast.

Stage 1 is masked image-text modelling as in MRM. Stage 2 goes on from it: a representation decoder
recovers what the mask hides, and masked images are aligned with full reports.
"""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cxrmim.errors import ParamsError
from cxrmim.pretrain.contract import Batch
from cxrmim.pretrain.methods.mgca import text_of
from cxrmim.pretrain.methods.mrm import MRM
from cxrmim.pretrain.methods.mrm import Options as MRMOptions
from cxrmim.pretrain.parts import losses, masked
from cxrmim.pretrain.parts.bert import TextEncoder
from cxrmim.pretrain.parts.decoders import TokenDecoder
from cxrmim.pretrain.parts.heads import Head
from cxrmim.pretrain.parts.reports import TokenClassifier, read
from cxrmim.pretrain.parts.words import Text


class Options(MRMOptions):
    """Stages, alignment and the text side of stage 1.

    Under ``s1_text: bert`` the text encoder completes captions, whatever `text` says.
    """

    ratio: Annotated[float, Field(ge=0, lt=1)]
    stage: Literal["first", "second", "joint"]
    tau: Annotated[float, Field(gt=0)]
    dim: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    rep_decoder: bool
    rep_depth: Annotated[int, Field(ge=1)]
    rep_heads: Annotated[int, Field(ge=1)]
    s1_text: Literal["mrm", "bert"]
    text_init: Literal["fresh", "stage1"]


class CMITM(MRM):
    """``first``: eq. 2 and 3; ``second``: eq. 1; ``joint``: all three on one masked view."""

    name = "cmitm"

    @property
    def options(self) -> Options:
        """The method's own options."""
        return cast(Options, self.setup.options)

    def build(self) -> None:
        """Add what the stage trains beside the encoder, and no more."""
        o, setup = self.options, self.setup
        self._check()
        needs = {"image"}
        if self.models or o.rep_decoder:
            self.fill = self.build_fill()
        if self.models:
            self.build_modelling("encoder" if o.s1_text == "bert" else o.text)
            needs.add(self.source_field)
        if self.aligns or o.s1_text == "bert":
            self.text_encoder = TextEncoder(setup.text, setup.stored.vocab)
        if self.models and o.s1_text == "bert":
            self.classify = TokenClassifier(setup.text.width, setup.stored.vocab)
        if self.aligns:
            needs.add("text")
            width = setup.vit.width
            if o.rep_decoder:
                width = o.decoder_width
                self.rep_decoder = TokenDecoder(width, o.rep_depth, o.rep_heads)
            self.image_head = Head(width, o.hidden, o.dim, sync=setup.joined)
            self.text_head = Head(setup.text.width, o.hidden, o.dim, sync=setup.joined)
        if o.stage == "second":
            self.inherits = ("encoder.", "fill.")
            if o.text_init == "stage1":
                self.inherits += ("text_encoder.",)
        self.needs = frozenset(needs)

    def _check(self) -> None:
        o, setup = self.options, self.setup
        here = "pretrain.methods.cmitm.options"
        if o.text_init == "stage1" and o.s1_text != "bert":
            raise ParamsError(
                f"{here}.text_init = 'stage1': stage 1 trains a text encoder only under s1_text: "
                f"bert; set that, or text_init: fresh"
            )
        if self.models and o.ratio == 0:
            raise ParamsError(
                f"{here}.ratio = 0: stage {o.stage!r} has no patch to restore; raise it"
            )
        if self.models and o.s1_text == "bert" and setup.text.width != setup.vit.width:
            raise ParamsError(
                f"{here}.s1_text = 'bert': adds image tokens to text tokens, but pretrain.vit.width"
                f" = {setup.vit.width} is not pretrain.text.width = {setup.text.width}; make them "
                f"equal, or set s1_text: mrm"
            )

    @property
    def models(self) -> bool:
        """Whether the stage restores masked images and reports."""
        return self.options.stage != "second"

    @property
    def aligns(self) -> bool:
        """Whether the stage contrasts images with reports."""
        return self.options.stage != "first"

    @property
    def crop(self) -> int:
        """Restoration wants a larger crop than the encoder's input; contrast alone does not."""
        return super().crop if self.models else self.setup.image

    @property
    def weights(self) -> dict[str, float]:
        """The plain sum of the stage's terms."""
        return (super().weights if self.models else {}) | ({"ita": 1.0} if self.aligns else {})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The stage's terms; images are masked and encoded once, in validation too."""
        seen = self.look(batch)
        filled = self.fill(seen) if self.models or self.options.rep_decoder else None
        terms: dict[str, Tensor] = {}
        if self.models:
            assert filled is not None
            terms |= self.model(batch, seen, filled)
        if self.aligns:
            image, report = self._project(seen, filled), self.embed_text(text_of(batch))
            with torch.autocast(image.device.type, enabled=False):
                terms["ita"] = losses.contrast(image, report, self.options.tau, self.setup.gather)
        return terms

    def look(self, batch: Batch) -> masked.Seen:
        """Mask and encode; without a mask, the patches stay as they are."""
        if self.options.ratio > 0:
            return super().look(batch)
        return masked.look_at_all(self.encoder, batch.image)

    def predict(self, ids: Tensor, image: Tensor) -> Tensor:
        """Scores by MRM's report decoder or by the text encoder (§2.2)."""
        if self.options.s1_text == "mrm":
            return super().predict(ids, image)
        text = self.text_encoder
        zero = torch.zeros_like(ids[:1]) if text.positions == "zero" else None
        scores: Tensor = self.classify(read(text.bert, ids, image, zero))
        return scores

    def _project(self, seen: masked.Seen, filled: Tensor | None) -> Tensor:
        """h_v(AvgPool(D_r(.))) of §2.1, (B, dim) unit vectors.

        CLS goes through the representation decoder and is left out of the mean. Without that
        decoder the mean is over the visible patches.
        """
        pooled = seen.pooled
        if self.options.rep_decoder:
            assert filled is not None
            pooled = self.rep_decoder(filled)[:, 1:].mean(1)
        embedded: Tensor = self.image_head(pooled)
        return embedded

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, dim) unit vectors of unmasked images.

        All patches go through the representation decoder, as under a mask ratio of 0.
        """
        if not self.aligns:
            return super().embed_image(image)
        seen = masked.look_at_all(self.encoder, image)
        return self._project(seen, self.fill(seen) if self.options.rep_decoder else None)

    def embed_text(self, text: Text) -> Tensor:
        """Reports -> (B, dim) unit vectors."""
        if not self.aligns:
            return super().embed_text(text)
        embedded: Tensor = self.text_head(self.text_encoder.last_states(text.ids, 1)[0][:, 0])
        return embedded


METHOD = CMITM
