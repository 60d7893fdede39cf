"""The image encoder, and the attention that an encoder's last layer pays from CLS.

Every layer runs through scaled dot product attention and keeps no map. The one row of attention
that MGCA reads, that of the CLS query in the last layer, is computed beside it from the layer's own
queries and keys; it carries no gradient (rG mgca_module.py detaches it).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cxrmim.pretrain.parts.precision import widen
from cxrmim.schema import Vit


def build_vit(vit: Vit, image: int) -> VisionTransformer:
    """A ViT without a classification head.

    Untrained weights are normal with standard deviation 0.02 at any width, timm's default and the
    official code's, or Xavier as in the ViT paper: 0.02 is far too small for the narrow encoders of
    the small scales, which then hardly learn.

    Args:
        vit: dimensions, and ``init``: normal | xavier.
        image: side of its input in px.

    Returns:
        A model with ``forward_features: (B, 3, image, image) -> (B, 1 + N, width)`` after the final
        LayerNorm (eps 1e-6), exact GELU, no dropout, learned positions.
    """
    return VisionTransformer(
        img_size=image,
        patch_size=vit.patch,
        num_classes=0,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        mlp_ratio=vit.mlp,
        global_pool="token",
        class_token=True,
        weight_init={"normal": "", "xavier": "jax"}[vit.init],
    )


@contextmanager
def captured(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Outputs of modules during one forward pass, without gradient, in the order of the calls."""
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        found.append(output.detach())

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def cls_attention(query: Tensor, key: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention that CLS pays: softmax probabilities before dropout, mean over heads.

    Args:
        query: (B, L, C) projected queries; only that of CLS, the first, is used.
        key: (B, L, C) projected keys.
        heads: attention heads.
        mask: (B, L) bool, True for keys that may be attended.

    Returns:
        (B, L), float32 at least.
    """
    with torch.autocast(key.device.type, enabled=False):
        rows, length, _ = key.shape
        asks = widen(query[:, 0]).view(rows, heads, 1, -1)
        keys = widen(key).view(rows, length, heads, -1).transpose(1, 2)
        scores = (asks @ keys.transpose(2, 3)).squeeze(2) / math.sqrt(keys.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        attention: Tensor = scores.softmax(-1).mean(1)
    return attention


def see(vit: VisionTransformer, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encode images and read what CLS attends to in the last block.

    Args:
        vit: the encoder.
        image: (B, 3, S, S) normalised.

    Returns:
        CLS (B, D), patches (B, N, D), attention from CLS to the patches (B, N).
    """
    last = vit.blocks[-1].attn
    with captured(last.qkv) as found:
        tokens = vit.forward_features(image)
    query, key, _ = found[0].chunk(3, -1)
    return tokens[:, 0], tokens[:, 1:], cls_attention(query, key, last.num_heads)[:, 1:]
