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

    A fine pixel sees only 2x2 coarse ones, through sums of rows and columns of the 3x3 kernel. One
    2x2 convolution gives the four fine pixels of every place, which are then woven together.

    Args:
        x: (B, C, h, w).
        conv: 3x3 convolution with padding 1 and a bias.

    Returns:
        (B, out, 2h, 2w).
    """
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    high, wide = x.shape[2:]
    kernel = _fold(_fold(conv.weight, 2, 1), 4, 2)  # (out, row phase, column phase, C, 2, 2)
    maps = F.conv2d(x, kernel.flatten(0, 2), conv.bias.repeat_interleave(4), padding=1)
    phases = maps.view(len(x), -1, 2, 2, high + 1, wide + 1)
    rows = [
        torch.stack([phases[:, :, a, b, a : a + high, b : b + wide] for b in (0, 1)], -1)
        for a in (0, 1)
    ]
    return torch.stack(rows, 3).reshape(len(x), -1, 2 * high, 2 * wide)


def _fold(kernel: Tensor, along: int, phase: int) -> Tensor:
    """Three taps as the two that the first and the second fine pixel see, stacked along `phase`."""
    before, middle, after = kernel.unbind(along)
    first = torch.stack([before, middle + after], along)
    return torch.stack([first, torch.stack([before + middle, after], along)], phase)


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
