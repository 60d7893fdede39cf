"""Decoders: convolutional restoration (MedIM §2.3) and the transformer of masked autoencoders."""

from collections.abc import Sequence
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.pretrain.parts.norms import BatchNorm2d


class ConvDecoder(nn.Module):
    """Blocks of conv 3x3, BatchNorm, ReLU and nearest x2 (MedIM §2.3: "conv-bn-relu-upsample").

    Args:
        width: channels of the tokens that come in, D.
        channels: channels after each block; four blocks turn a patch of 16 px into pixels.
        sync: BatchNorm sees the maps of all processes.
    """

    def __init__(self, width: int, channels: Sequence[int], *, sync: bool = False) -> None:
        super().__init__()
        self.width, self.channels = width, tuple(channels)
        pairs = zip((width, *channels[:-1]), channels, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(BatchNorm2d(c, sync=sync) for c in channels)

    def coarse(self, tokens: Tensor) -> Tensor:
        """All but the last upsampling; `upsampled_conv` of a head makes up for it.

        (B, g * g, D) patch tokens in raster order -> (B, C, s, s) with s = g * 2^(blocks - 1).
        """
        side = int(tokens.shape[1] ** 0.5)
        x = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(upsampled_conv(x, conv) if i else conv(x)))
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, g * g, D) patch tokens in raster order -> (B, C, g * 2^blocks, g * 2^blocks)."""
        return F.interpolate(self.coarse(tokens), scale_factor=2.0, mode="nearest")


def upsampled_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """``conv(nearest_x2(x))`` without the large map between: the same numbers at a lower cost.

    A fine pixel sees only 2x2 coarse ones. What a coarse pixel gives to the fine ones is the 3x3
    kernel shifted to each of its four copies and summed: a 4x4 kernel of a transposed convolution.

    Args:
        x: (B, C, h, w).
        conv: 3x3 convolution with padding 1 and a bias.

    Returns:
        (B, out, 2h, 2w).
    """
    assert isinstance(conv, nn.Conv2d)
    taps = F.pad(conv.weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
    kernel = F.avg_pool2d(taps, 2, 1, divisor_override=1)  # sums of 2x2
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def sincos_positions(width: int, grid: int, form: str = "mae") -> Tensor:
    """Fixed sin-cos positions of MAE (rA util/pos_embed.py): CLS is zero.

    The first half of the channels encodes the column, the second the row. Frequencies run from 1
    down to about 1e-4: omega_k = 10000^(-k / (width / 4)) for k < width / 4. MRM's code divides
    twice in the wrong order, omega_k = 10000^(-k / width), which stops at about 0.1 (exactness.md
    A6).

    Args:
        width: channels, a multiple of 4.
        grid: patches along one side.
        form: mae | released (MRM's).

    Returns:
        (1, 1 + grid * grid, width) float32.
    """
    slowest = {"mae": width / 4, "released": float(width)}[form]
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / slowest)
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    line = torch.cat([angle.sin(), angle.cos()], 1)
    column = line[None, :, :].expand(grid, grid, -1)
    row = line[:, None, :].expand(grid, grid, -1)
    table = torch.cat([column, row], 2).reshape(grid * grid, width)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table])[None].float()


class TokenDecoder(nn.Module):
    """Transformer blocks of a masked autoencoder's decoder and their LayerNorm (eps 1e-6).

    Args:
        width: width of the tokens.
        depth: blocks.
        heads: attention heads.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm)
                for _ in range(depth)
            )
        )
        self.norm = norm(width)
        self.apply(xavier)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, W) -> the same shape."""
        decoded: Tensor = self.norm(self.blocks(tokens))
        return decoded


class PatchDecoder(TokenDecoder):
    """Pixels of the masked patches (rA models_mae.py:164-196).

    Args:
        width: width of the tokens.
        depth: blocks.
        heads: attention heads.
        out: numbers predicted for a patch.
    """

    def __init__(self, width: int, depth: int, heads: int, out: int) -> None:
        super().__init__(width, depth, heads)
        self.predict = nn.Linear(width, out)
        xavier(self.predict)

    def masked(self, tokens: Tensor, number: int) -> Tensor:
        """(B, 1 + N, W), the masked patches last -> (B, number, out) predicted for them."""
        predicted: Tensor = self.predict(self.norm(self.blocks(tokens)[:, -number:]))
        return predicted


def xavier(module: nn.Module) -> None:
    """Uniform Xavier weights and no bias for a linear layer (rA models_mae.py:72-84)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
