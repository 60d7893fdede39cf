"""GLoRIA (Huang et al., ICCV 2021; protocols §2): whole images and reports, regions and words.

The official code has no ViT: here CLS is the global feature of an image and its patch tokens are
the regions. BERT is the stock one with its own layers and normal positions, whatever `text` says
of the other methods' (exactness.md A1).
"""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.errors import ParamsError
from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.methods.mgca import text_of
from cxrmim.pretrain.parts import regions, world
from cxrmim.pretrain.parts.bert import TextEncoder
from cxrmim.pretrain.parts.encoders import build_vit
from cxrmim.pretrain.parts.precision import widen
from cxrmim.pretrain.parts.words import PAD, Text, sum_pieces, unpack


class Options(Strict):
    """Shared space, text side and temperatures."""

    dim: Annotated[int, Field(ge=1)]
    text_layers: Annotated[int, Field(ge=1)]
    sum_layers: Annotated[int, Field(ge=1)]
    text_length: Annotated[int, Field(ge=3)]
    t1: Annotated[float, Field(gt=0)]
    t2: Annotated[float, Field(gt=0)]
    t3: Annotated[float, Field(gt=0)]
    full_report: bool
    words: Literal["real", "released"]


class GLoRIA(Method):
    """Global and local contrast, each from images to reports and back; weights 1.

    Attributes:
        text_length: most tokens of a text; sentences are cut to it, whole captions are as stored.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = o = cast(Options, setup.options)
        where = "pretrain.methods.gloria.options"
        if o.dim != setup.text.width:
            raise ParamsError(
                f"{where}.dim = {o.dim}: text is embedded as BERT gives it; set it to "
                f"pretrain.text.width = {setup.text.width}"
            )
        if o.sum_layers > o.text_layers:
            raise ParamsError(
                f"{where}.sum_layers = {o.sum_layers}: BERT has {o.text_layers} layers here; lower "
                f"it or raise text_layers"
            )
        self.needs = frozenset({"image", "text" if o.full_report else "sentence"})
        self.text_length = setup.stored.length if o.full_report else o.text_length
        self.encoder = build_vit(setup.vit, setup.image)
        stock = {"layers": o.text_layers, "positions": "normal"}
        self.text_encoder = TextEncoder(setup.text.model_copy(update=stock), setup.stored.vocab)
        self.image_head = nn.Linear(setup.vit.width, o.dim)
        self.region_head = nn.Linear(setup.vit.width, o.dim, bias=False)

    @property
    def weights(self) -> dict[str, float]:
        """Four terms, weight 1 each."""
        names = ("local_i2t", "local_t2i", "global_i2t", "global_t2i")
        return dict.fromkeys(names, 1.0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropies of t3 times the local and the global scores of all pairs."""
        o, gather = self.options, self.setup.gather
        text = text_of(batch)
        tokens = self.encoder.forward_features(batch.image)
        image, patches = self.image_head(tokens[:, 0]), self.region_head(tokens[:, 1:])
        pieces = self._pieces(text)
        with torch.autocast(image.device.type, enabled=False):
            pieces = widen(pieces)
            words, valid = self._words(pieces, text)
            local = regions.both_ways(
                lambda v, w, real: o.t3 * regions.match_regions(v, w, real > 0, o.t1, o.t2),
                (widen(patches),),
                (words, valid),
                gather,
            )
            whole = regions.both_ways(
                lambda v, t: o.t3 * regions.cosine(v, t),
                (widen(image),),
                (_mean(pieces, text),),
                gather,
            )
        return dict(zip(self.weights, (*local, *whole), strict=True))

    def _pieces(self, text: Text) -> Tensor:
        """(B, L, C) token embeddings: the sum of the last layers' hidden states."""
        states = self.text_encoder.last_states(text.ids, self.options.sum_layers)
        return torch.stack(states).sum(0)

    def _words(self, pieces: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """Words (B, W, C), sums of their pieces, and 1 where a slot holds one (B, W).

        Under `words: released` CLS is the first word; SEP never is one (exactness.md A13). A text
        without a word has one of zeros, which finds nothing anywhere: its scores stay finite.
        Where processes share their pairs, all have the slots of the longest text there can be.
        """
        words = unpack(sum_pieces(pieces, text), text)
        valid = text.valid.to(words.dtype)
        if self.options.words == "released":
            words = torch.cat([pieces[:, :1], words], 1)
            valid = F.pad(valid, (1, 0))
        valid = torch.cat([torch.ones_like(valid[:, :1]), valid[:, 1:]], 1)
        if self.setup.joined and world.size() > 1:
            extra = self.text_length - words.shape[1]
            words, valid = F.pad(words, (0, 0, 0, extra)), F.pad(valid, (0, extra))
        return words, valid

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, dim) unit vectors, global."""
        embedded = self.image_head(self.encoder.forward_features(image)[:, 0])
        return F.normalize(widen(embedded), dim=1)

    def embed_text(self, text: Text) -> Tensor:
        """Texts as they are given -> (B, dim) unit vectors, global."""
        return F.normalize(_mean(widen(self._pieces(text)), text), dim=1)


def _mean(pieces: Tensor, text: Text) -> Tensor:
    """Mean over a text's tokens, CLS and SEP among them: (B, L, C) -> (B, C).

    The official code divides the same sum by all its token slots, empty ones too (exactness.md
    A13): another scale, which the cosine does not see.
    """
    real = (text.ids != PAD).to(pieces.dtype)[:, :, None]
    return (pieces * real).sum(1) / real.sum(1)


METHOD = GLoRIA
