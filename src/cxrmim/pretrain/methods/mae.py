"""MAE (He et al., CVPR 2022; protocols §2): restore pixels of randomly masked patches."""

from typing import Annotated, cast

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts import losses, masking
from cxrmim.pretrain.parts.decoders import PatchDecoder, sincos_positions
from cxrmim.pretrain.parts.encoders import build_vit
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
        self.options = cast(Options, setup.options)
        self.encoder = build_vit(setup.vit, setup.image)
        self.encoder.pos_embed = nn.Parameter(
            sincos_positions(setup.vit.width, setup.grid), requires_grad=False
        )
        self.restorer = PatchDecoder(
            setup.vit.width,
            self.options.decoder_width,
            self.options.decoder_depth,
            self.options.decoder_heads,
            setup.grid,
            setup.vit.patch**2 * 3,
        )
        self.apply(_xavier)
        projection = self.encoder.patch_embed.proj.weight
        nn.init.xavier_uniform_(projection.view(len(projection), -1))
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        nn.init.normal_(self.restorer.mask_token, std=0.02)

    @property
    def weights(self) -> dict[str, float]:
        """One term."""
        return {"pixels": 1.0}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Restore randomly masked patches."""
        noise = torch.rand(len(batch.image), self.setup.patches, device=batch.image.device)
        return {"pixels": self.restore(batch.image, noise)}

    def restore(self, image: Tensor, noise: Tensor) -> Tensor:
        """MSE on the masked patches.

        Args:
            image: (B, 3, S, S) normalised.
            noise: (B, N); the patches with the smallest numbers are kept.
        """
        number = int(self.setup.patches * (1 - self.options.ratio))
        kept, masked = masking.keep(noise, number)
        tokens = encode_visible(self.encoder, image, kept)
        predicted = widen(self.restorer(tokens, kept, masked))
        target = losses.patchify(image, self.setup.vit.patch)
        target = target.gather(1, masked[:, :, None].expand(-1, -1, target.shape[2]))
        return losses.patch_error(predicted, target, norm_pix=self.options.norm_pix)


def encode_visible(encoder: VisionTransformer, image: Tensor, kept: Tensor) -> Tensor:
    """Encode CLS and the kept patches only: (B, 3, S, S), (B, K) -> (B, 1 + K, D)."""
    x = encoder.patch_embed(image) + encoder.pos_embed[:, 1:]
    x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
    tokens: Tensor = encoder.norm(encoder.blocks(torch.cat([cls.to(x.dtype), x], 1)))
    return tokens


def _xavier(module: nn.Module) -> None:
    """MAE's initialisation of linear layers (rA models_mae.py:72-84)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


METHOD = MAE
