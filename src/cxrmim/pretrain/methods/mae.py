"""MAE (He et al., CVPR 2022; protocols §2): restore pixels of randomly masked patches."""

from typing import Annotated, cast

from pydantic import Field
from torch import Tensor

from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts import masked, restoration
from cxrmim.pretrain.parts.decoders import PatchDecoder
from cxrmim.pretrain.parts.precision import widen


class Options(Strict):
    """Mask ratio, target and decoder."""

    ratio: Annotated[float, Field(gt=0, lt=1)]
    norm_pix: bool
    decoder_width: Annotated[int, Field(ge=4, multiple_of=4)]
    decoder_depth: Annotated[int, Field(ge=1)]
    decoder_heads: Annotated[int, Field(ge=1)]


class MAE(Method):
    """Encoder on int(N * (1 - ratio)) random patches, decoder on all, MSE on the masked ones."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = o = cast(Options, setup.options)
        self.encoder = masked.build_encoder(setup.vit, setup.image)
        self.fill = masked.MaskTokens(setup.vit.width, o.decoder_width, setup.grid)
        self.restorer = PatchDecoder(
            o.decoder_width, o.decoder_depth, o.decoder_heads, setup.vit.patch**2 * 3
        )

    @property
    def weights(self) -> dict[str, float]:
        """One term."""
        return {"pixels": 1.0}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Restore randomly masked patches."""
        image = batch.image
        noise = batch.noise.rand(len(image), self.setup.patches, device=image.device)
        return {"pixels": self.restore(image, noise)}

    def restore(self, image: Tensor, noise: Tensor) -> Tensor:
        """MSE on the masked patches.

        Args:
            image: (B, 3, S, S) normalised.
            noise: (B, N); the patches with the smallest numbers are kept.
        """
        seen = masked.look(self.encoder, image, noise, self.options.ratio)
        predicted = self.restorer.masked(self.fill(seen), seen.masked.shape[1])
        return restoration.masked_patch_error(
            widen(predicted),
            image,
            seen.masked,
            self.setup.vit.patch,
            norm_pix=self.options.norm_pix,
        )


METHOD = MAE
