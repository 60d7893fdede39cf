"""The encoder half of masked autoencoders: MAE, MRM and CMITM encode the patches they see."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.pretrain.parts import masking
from cxrmim.pretrain.parts.decoders import sincos_positions, xavier
from cxrmim.pretrain.parts.encoders import build_vit
from cxrmim.schema import Vit


@dataclass(frozen=True)
class Seen:
    """What an encoder made of the patches that it saw; K kept and n masked ones.

    Attributes:
        tokens: (B, 1 + K, D) CLS and the kept patches after the final LayerNorm.
        kept: (B, K) int64 places of the kept patches.
        masked: (B, n) int64 places of the others.
    """

    tokens: Tensor
    kept: Tensor
    masked: Tensor

    @property
    def pooled(self) -> Tensor:
        """(B, D) mean over the kept patches, CLS left out."""
        return self.tokens[:, 1:].mean(1)


def build_encoder(vit: Vit, image: int) -> VisionTransformer:
    """A ViT with MAE's initialisation and fixed sin-cos positions (rA models_mae.py:53-84).

    Args:
        vit: dimensions.
        image: side of its input in px.
    """
    encoder = build_vit(vit, image)
    table = sincos_positions(vit.width, image // vit.patch)
    encoder.pos_embed = nn.Parameter(table, requires_grad=False)
    encoder.apply(xavier)
    projection = encoder.patch_embed.proj.weight
    nn.init.xavier_uniform_(projection.view(len(projection), -1))
    nn.init.normal_(encoder.cls_token, std=0.02)
    return encoder


def visible(patches: int, ratio: float) -> int:
    """Patches that a mask ratio leaves: int(N * (1 - ratio)), as in rA models_mae.py."""
    return int(patches * (1 - ratio))


def look(encoder: VisionTransformer, image: Tensor, noise: Tensor, ratio: float) -> Seen:
    """Mask random patches and encode the others.

    Args:
        encoder: a ViT with CLS.
        image: (B, 3, S, S) normalised.
        noise: (B, N) uniform; the patches with the smallest numbers are kept.
        ratio: share that is masked.
    """
    kept, masked = masking.keep(noise, visible(noise.shape[1], ratio))
    return Seen(encode_visible(encoder, image, kept), kept, masked)


def look_at_all(encoder: VisionTransformer, image: Tensor) -> Seen:
    """Encode all patches, none masked: (B, 3, S, S)."""
    tokens: Tensor = encoder.forward_features(image)
    kept = torch.arange(tokens.shape[1] - 1, device=image.device).expand(len(image), -1)
    return Seen(tokens, kept, kept[:, :0])


def encode_visible(encoder: VisionTransformer, image: Tensor, kept: Tensor) -> Tensor:
    """Encode CLS and the kept patches only: (B, 3, S, S), (B, K) -> (B, 1 + K, D)."""
    embed = encoder.patch_embed.proj.weight
    rows, patch, side = len(image), embed.shape[-1], image.shape[-1] // embed.shape[-1]
    x = image.reshape(rows, -1, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(rows, side * side, -1)
    x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
    # The convolution of the stem, as a product over the kept patches alone.
    x = (
        F.linear(x, embed.flatten(1), encoder.patch_embed.proj.bias)
        + encoder.pos_embed[0, 1:][kept]
    )
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
    tokens: Tensor = encoder.norm(encoder.blocks(torch.cat([cls.to(x.dtype), x], 1)))
    return tokens


def shrink(image: Tensor, side: int) -> Tensor:
    """Bicubic resize without anti-aliasing (a = -0.75; exactness.md A7).

    Args:
        image: (B, 3, C, C) grey replicated to three channels; one is computed.
        side: S, of the result.

    Returns:
        (B, 3, S, S), a view.
    """
    if image.shape[-1] == side:
        return image
    grey = F.interpolate(
        image[:, :1], (side, side), mode="bicubic", align_corners=False, antialias=False
    )
    return grey.expand(-1, 3, -1, -1)


class MaskTokens(nn.Module):
    """From the encoder's tokens to those of a decoder: Linear, mask tokens, positions.

    Args:
        inside: width of the encoder's tokens.
        width: width of the decoder.
        grid: patches along one side.
        positions: sin-cos table, mae | released.
        masks: False where nothing is ever masked; there is no mask token then.
    """

    def __init__(
        self, inside: int, width: int, grid: int, positions: str = "mae", *, masks: bool = True
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inside, width)
        self.positions = nn.Parameter(sincos_positions(width, grid, positions), requires_grad=False)
        xavier(self.embed)
        self.mask_token: nn.Parameter | None = None
        if masks:
            self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, seen: Seen) -> Tensor:
        """CLS, kept, then masked patches with their positions, (B, 1 + N, W).

        Attention does not care for order, so that the tokens need not go back to their places.
        """
        x = self.embed(seen.tokens)
        number = seen.masked.shape[1]
        if number:
            assert self.mask_token is not None
            x = torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), number, -1)], 1)
        places = torch.cat([torch.zeros_like(seen.kept[:, :1]), seen.kept + 1, seen.masked + 1], 1)
        filled: Tensor = x + self.positions[0][places]
        return filled
