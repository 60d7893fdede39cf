"""MRM (Zhou et al., ICLR 2023; protocols §2): restore masked patches and masked reports.

The encoder sees a quarter of a half-size image. From that, a decoder restores the other patches at
full size, and a small BERT completes the report.
"""

from typing import Annotated, Literal, cast

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cxrmim.errors import ParamsError
from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, NoTextError, Setup
from cxrmim.pretrain.parts import masked, restoration
from cxrmim.pretrain.parts.decoders import PatchDecoder
from cxrmim.pretrain.parts.precision import widen
from cxrmim.pretrain.parts.reports import ReportDecoder, mask_tokens
from cxrmim.pretrain.parts.words import Text


class Options(Strict):
    """Masks, targets, and both decoders."""

    ratio: Annotated[float, Field(gt=0, lt=1)]
    upscale: Annotated[int, Field(ge=1)]
    norm_pix: bool
    decoder_width: Annotated[int, Field(ge=4, multiple_of=4)]
    decoder_depth: Annotated[int, Field(ge=1)]
    decoder_heads: Annotated[int, Field(ge=1)]
    positions: Literal["mae", "released"]
    text: Literal["raw", "caption"]
    text_ratio: Annotated[float, Field(gt=0, le=1)]
    text_width: Annotated[int, Field(ge=1)]
    text_layers: Annotated[int, Field(ge=1)]
    text_heads: Annotated[int, Field(ge=1)]
    text_mlp: Annotated[int, Field(ge=1)]
    mask_unit: Literal["word", "token"]
    mlm_scope: Literal["all", "masked"]


class MRM(Method):
    """MSE of masked patches plus cross entropy of the report's pieces."""

    name = "mrm"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.modelling = o = cast(Options, setup.options)
        if masked.visible(setup.patches, o.ratio) < 1:
            raise ParamsError(
                f"pretrain.methods.{self.name}.options.ratio = {o.ratio}: leaves none of "
                f"{setup.patches} patches to encode; lower it"
            )
        self.encoder = masked.build_encoder(setup.vit, setup.image)
        self.build()

    def build(self) -> None:
        """Add what is trained beside the encoder, and say what batches must hold."""
        self.fill = self.build_fill()
        self.build_modelling(self.modelling.text)
        self.needs = frozenset({"image", self.source_field})

    def build_fill(self) -> masked.MaskTokens:
        """The step from encoder to decoder."""
        o, setup = self.modelling, self.setup
        return masked.MaskTokens(
            setup.vit.width, o.decoder_width, setup.grid, o.positions, masks=o.ratio > 0
        )

    def build_modelling(self, source: str) -> None:
        """Add the decoder of patches and, for a `source` of reports, that of reports.

        Args:
            source: raw | caption; ``encoder``: captions, which the method itself completes.
        """
        o, setup = self.modelling, self.setup
        self.source_field = "raw" if source == "raw" else "text"
        self.restorer = PatchDecoder(
            o.decoder_width,
            o.decoder_depth,
            o.decoder_heads,
            (setup.vit.patch * o.upscale) ** 2 * 3,
        )
        stored = setup.stored
        if source == "raw" and not stored.raw_vocab:
            raise ParamsError(
                f"pretrain.methods.{self.name}.options.text = 'raw': the corpus stores no whole "
                f"reports; set shards.text.raw, or text: caption"
            )
        self.length = stored.raw_length if source == "raw" else stored.length
        self.mask_id = stored.raw_mask if source == "raw" else stored.mask
        if source == "encoder":
            return
        self.report_decoder = ReportDecoder(
            setup.vit.width,
            o.text_width,
            o.text_layers,
            o.text_heads,
            o.text_mlp,
            stored.raw_vocab if source == "raw" else stored.vocab,
            self.length,
            setup.text.dropout,
        )

    @property
    def crop(self) -> int:
        """The restored pixels are those of a crop `upscale` times the encoder's input."""
        return self.modelling.upscale * self.setup.image

    @property
    def weights(self) -> dict[str, float]:
        """The sum of both terms."""
        return {"pixels": 1.0, "report": 1.0}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Restore both sides of masked pairs."""
        seen = self.look(batch)
        return self.model(batch, seen, self.fill(seen))

    def look(self, batch: Batch) -> masked.Seen:
        """Mask random patches of the half-size image and encode the others."""
        image = masked.shrink(batch.image, self.setup.image)
        noise = batch.noise.rand(len(image), self.setup.patches, device=image.device)
        return masked.look(self.encoder, image, noise, self.modelling.ratio)

    def model(self, batch: Batch, seen: masked.Seen, filled: Tensor) -> dict[str, Tensor]:
        """Both terms of masked modelling.

        Args:
            batch: images at full size, and reports.
            seen: the encoder's tokens.
            filled: (B, 1 + N, W) what `fill` makes of them.
        """
        predicted = self.restorer.masked(filled, seen.masked.shape[1])
        pixels = restoration.masked_patch_error(
            widen(predicted),
            batch.image,
            seen.masked,
            self.setup.vit.patch * self.modelling.upscale,
            norm_pix=self.modelling.norm_pix,
        )
        return {"pixels": pixels, "report": self.complete(batch, seen.pooled)}

    def complete(self, batch: Batch, image: Tensor) -> Tensor:
        """Mask reports and complete them with what the visible patches show.

        Args:
            batch: with reports.
            image: (B, D) mean over the visible patches.
        """
        o = self.modelling
        ids, word = self.source(batch)
        # as many numbers as a stored report has tokens: they do not depend on the batch's longest
        noise = batch.noise.rand(len(ids), self.length, device=ids.device)
        hidden = mask_tokens(ids, word, noise, o.text_ratio, o.mask_unit, self.length)
        scores = self.predict(ids.masked_fill(hidden, self.mask_id), image)
        scored = hidden if o.mlm_scope == "masked" else None
        return restoration.token_error(widen(scores), ids, scored, joined=self.setup.joined)

    def source(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, L) ids and word numbers of the reports to complete.

        Captions get all their padding back where every position is scored.
        """
        if self.source_field == "raw":
            if batch.raw is None:
                raise ValueError("the method needs whole reports: collate the batch with raw")
            return batch.raw.ids, batch.raw.word
        if batch.text is None:
            raise ValueError("the method needs captions: collate the batch with text")
        ids, word = batch.text.ids, batch.text.word
        if self.modelling.mlm_scope == "masked":
            return ids, word
        extra = self.length - ids.shape[1]
        return F.pad(ids, (0, extra)), F.pad(word, (0, extra), value=-1)

    def predict(self, ids: Tensor, image: Tensor) -> Tensor:
        """(B, L) masked ids, (B, D) -> (B, L, V) scores of the pieces."""
        scores: Tensor = self.report_decoder(ids, image)
        return scores

    def embed_image(self, image: Tensor) -> Tensor:
        """Masked modelling aligns nothing: raises `NoTextError`."""
        raise NoTextError(self._no_space())

    def embed_text(self, text: Text) -> Tensor:
        """Masked modelling aligns nothing: raises `NoTextError`."""
        raise NoTextError(self._no_space())

    def _no_space(self) -> str:
        return (
            f"{type(self).__name__}: masked modelling restores images and reports; it learns no "
            f"space that both are embedded in"
        )


METHOD = MRM
