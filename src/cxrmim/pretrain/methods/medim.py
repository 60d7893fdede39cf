"""MedIM (Xie et al., MICCAI 2023 §2; protocols §2): MGCA plus report-guided masked restoration.

Image tokens that attend to the report's MeSH words (KWM) or to one of its sentences (SDM) are
masked in the encoder's output; a convolutional decoder restores the whole image from what is left.
"""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cxrmim.errors import ParamsError
from cxrmim.pretrain.contract import Batch, Maps, Setup
from cxrmim.pretrain.methods.mgca import MGCA, Aligned
from cxrmim.pretrain.methods.mgca import Options as MGCAOptions
from cxrmim.pretrain.parts import augment, losses, masking
from cxrmim.pretrain.parts.decoders import ConvDecoder, upsampled_conv
from cxrmim.pretrain.parts.noise import Noise
from cxrmim.pretrain.parts.precision import widen
from cxrmim.pretrain.parts.words import unpack


class Options(MGCAOptions):
    """MGCA's options, the masking strategies and the decoder."""

    alpha: Annotated[float, Field(ge=0)]
    kwm: bool
    sdm: bool
    ratio: Annotated[float, Field(ge=0, le=1)]
    mask_mode: Literal["high", "low", "random", "none", "diverse"]
    empty_mesh: Literal["random", "released"]
    mask_token: Literal["zero", "learned"]
    att_space: Literal["projected", "raw"]
    sentence_words: Annotated[int, Field(ge=1)]
    tanh: bool
    decoder: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class MedIM(MGCA):
    """Alignment plus alpha * (MSE of KWM's restoration + MSE of SDM's) (eq. 6, L_MedIM)."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = o = cast(Options, setup.options)
        if not (o.kwm or o.sdm):
            raise ParamsError(
                "pretrain.methods.medim.options: kwm and sdm are both false; use mgca"
            )
        if 2 ** len(o.decoder) != setup.vit.patch:
            raise ParamsError(
                f"pretrain.methods.medim.options.decoder = {o.decoder}: each block doubles the "
                f"side, which must lead from 1 to pretrain.vit.patch = {setup.vit.patch} px"
            )
        if o.att_space == "raw" and setup.vit.width != setup.text.width:
            raise ParamsError(
                "pretrain.methods.medim.options.att_space = 'raw': compares image and text "
                f"features, so pretrain.vit.width = {setup.vit.width} must equal "
                f"pretrain.text.width = {setup.text.width}"
            )
        self.decoder = ConvDecoder(setup.vit.width, o.decoder, sync=setup.joined)
        self.restore_heads = nn.ModuleDict(
            {name: nn.Conv2d(o.decoder[-1], 3, 3, padding=1) for name in self.strategies}
        )
        self.mask_token: nn.Parameter | None = None
        if o.mask_token == "learned":
            self.mask_token = nn.Parameter(torch.randn(setup.vit.width) * 0.02)

    @property
    def strategies(self) -> tuple[str, ...]:
        """Masking strategies in use: ``kwm``, ``sdm``."""
        return tuple(name for name in ("kwm", "sdm") if getattr(self.options, name))

    @property
    def weights(self) -> dict[str, float]:
        """MGCA's weights, and alpha for each restoration: alpha is on the sum of both."""
        return super().weights | dict.fromkeys(self.strategies, self.options.alpha)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """MGCA's three terms and one restoration error for each strategy."""
        aligned = self.align(batch)
        _, masks = self._guide(aligned, batch.noise)
        target = augment.pixels(batch.image, self.setup.augment)
        restored = self.restore(aligned.patches, masks)
        return aligned.terms | {
            name: F.mse_loss(widen(image), target) for name, image in restored.items()
        }

    def restore(self, patches: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images restored from masked tokens (eq. 3, §2.3).

        The strategies share one decoder batch, hence BatchNorm statistics; each has its own head.

        Args:
            patches: (B, N, D) tokens of the full image.
            masks: (B, N) bool for each strategy, True where masked.

        Returns:
            (B, 3, S, S) for each strategy.
        """
        kept = [patches * ~mask[:, :, None] for mask in masks.values()]
        if self.mask_token is not None:
            token = self.mask_token.to(patches.dtype)
            kept = [
                x + mask[:, :, None] * token for x, mask in zip(kept, masks.values(), strict=True)
            ]
        assert self.decoder is not None
        maps = self.decoder.coarse(torch.cat(kept)).chunk(len(masks))
        heads = self.restore_heads
        out = {n: upsampled_conv(m, heads[n]) for n, m in zip(masks, maps, strict=True)}
        return {n: x.tanh() if self.options.tanh else x for n, x in out.items()}

    @torch.no_grad()
    def _guide(self, aligned: Aligned, noise: Noise) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Attention maps (eq. 2, 5) and masks, (B, N) for each strategy."""
        o, text, attention = self.options, aligned.text, aligned.attention
        device = attention.device
        if o.att_space == "raw":  # the paper's E_img . E_text, without temperature
            words = unpack(widen(aligned.words.detach()), text)
            attention = losses.attend(words, widen(aligned.patches.detach()), 1.0)
        rows, tokens = len(attention), attention.shape[2]
        flags = {"kwm": text.mesh}
        if o.sdm:
            u = noise.rand(rows, device=device)
            flags["sdm"] = masking.draw_sentence(text.sentence, o.sentence_words, u)
        maps, masks = {}, {}
        for name in self.strategies:
            flag = flags[name]
            drawn = noise.rand(rows, tokens, device=device)
            maps[name] = (flag[:, None].to(attention.dtype) @ attention).squeeze(1)
            masks[name] = masking.guided(
                maps[name], flag.any(1), o.ratio, o.mask_mode, o.empty_mesh, drawn
            )
        return maps, masks

    @torch.no_grad()
    def report_maps(self, batch: Batch, generator: Generator | None = None) -> Maps:
        """Attention maps and masks of a batch, (B, g, g) for each strategy."""
        noise = batch.noise if generator is None else Noise(generator)
        maps, masks = self._guide(self.align(batch), noise)
        grid = self.setup.grid
        return Maps(
            {name: x.reshape(-1, grid, grid) for name, x in maps.items()},
            {name: x.reshape(-1, grid, grid) for name, x in masks.items()},
        )


METHOD = MedIM
