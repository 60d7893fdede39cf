"""Floating-point operations that a training step needs by the method's definition, as formulae.

A multiply-add is two. Counted are matrix products and convolutions; what works on single elements
(norms, activations, softmax, dropout, the optimiser) is not. With B images, t tokens of width w:

    linear    n rows from i to o numbers                     2 n i o
    layer     query, key, value, out: linear(B t, w, 4 w)
              feed-forward of width m: linear(B t, w, 2 m)
              attention: two products, 4 B t^2 w
    backward  twice the forward pass (gradients of weights and of inputs), once for the patch
              embedding, whose input needs no gradient

A ViT embeds and encodes the k patches that it may see and CLS: t = k + 1. BERT encodes a batch
trimmed to its longest report: t = L. Stored whole reports (MRM) are not trimmed, since their
padding is scored. A 3x3 convolution has 9 taps; after a nearest x2 upsampling each fine pixel sees
4 coarse ones, so 4 taps are enough. All layers are counted for all their tokens, the last ones
too, of which a loss may read CLS alone.

    mgca    ViT (all patches) + BERT + heads (CLS, patches, CLS of reports, words)
            + what CLS attends to (2 B t w a side, forward only) + losses:
            words x patches, twice with what words attend to: 3 products with W words and N patches,
            one words x words, one patches x patches, of width d; pairs; prototypes
    medim   mgca + decoder (of as many restored images as strategies) + a 3-channel head each
            + the map of each strategy, W x N
    mrm     ViT (visible patches) + decoder over all patches + pixels of the masked ones
            + the report decoder over all stored tokens and its vocabulary
    cmitm   second stage: ViT (visible patches) + representation decoder over all patches
            + BERT + heads + pairs

They are all that torch.utils.flop_counter counts of a step, to the last operation
(tests/benchmarks/test_flops.py).
"""

from dataclasses import dataclass
from typing import Any

from cxrmim.pretrain.contract import Batch, Method
from cxrmim.pretrain.methods.mrm import MRM
from cxrmim.pretrain.parts import masked

Parts = dict[str, float]
TRAINED, FIRST, FORWARD = 3, 2, 1  # passes that a product is part of


def linear(rows: float, inside: float, outside: float) -> float:
    """Forward pass of a linear layer."""
    return 2 * rows * inside * outside


def layer(batch: int, tokens: int, width: int, mlp: float) -> float:
    """Forward pass of a transformer layer."""
    rows = batch * tokens
    return linear(rows, width, 4 * width) + linear(rows, width, 2 * mlp) + 4 * rows * tokens * width


@dataclass(frozen=True)
class Sizes:
    """What a method and a batch are made of, as the formulae need it.

    Attributes:
        method: with its setup.
        batch: of one step.
    """

    method: Method
    batch: Batch

    @property
    def options(self) -> Any:
        """The method's own options."""
        return self.method.setup.options

    @property
    def rows(self) -> int:
        """B."""
        return len(self.batch.image)

    @property
    def patches(self) -> int:
        """N."""
        return self.method.setup.patches

    @property
    def kept(self) -> int:
        """Patches that the encoder sees."""
        ratio = self.options.ratio if isinstance(self.method, MRM) else 0.0
        return masked.visible(self.patches, ratio)

    @property
    def tokens(self) -> int:
        """L, of the batch's longest report."""
        assert self.batch.text is not None
        return self.batch.text.ids.shape[1]

    def vit(self) -> float:
        """Patch embedding and layers of the image encoder, over the patches that it sees."""
        vit = self.method.setup.vit
        embed = linear(self.rows * self.kept, 3 * vit.patch**2, vit.width)
        layers = vit.depth * layer(self.rows, self.kept + 1, vit.width, vit.mlp * vit.width)
        return FIRST * embed + TRAINED * layers

    def bert(self) -> float:
        """Layers of the text encoder."""
        text = self.method.setup.text
        return TRAINED * text.layers * layer(self.rows, self.tokens, text.width, text.mlp)

    def head(self, rows: int, inside: int) -> float:
        """A projection head."""
        o = self.options
        return TRAINED * (linear(rows, inside, o.hidden) + linear(rows, o.hidden, o.dim))

    def pairs(self) -> float:
        """All images with all reports, twice."""
        return TRAINED * 2 * linear(self.rows, self.options.dim, self.rows)


def needed(method: Method, batch: Batch) -> Parts:
    """Operations of a step, forward and backward, by part.

    Raises:
        KeyError: no formula is stated for the method.
    """
    return {"mgca": _mgca, "medim": _medim, "mrm": _mrm, "cmitm": _cmitm}[_name(method)](
        Sizes(method, batch)
    )


def _name(method: Method) -> str:
    return type(method).__name__.lower()


def _mgca(s: Sizes) -> Parts:
    o, vit, text = s.options, s.method.setup.vit, s.method.setup.text
    report = s.batch.text
    assert report is not None
    words, packed = report.sentence.shape[1], len(report.slots)
    across, own = s.rows * words * s.patches, s.rows * (words**2 + s.patches**2)
    seen = 2 * s.rows * ((s.patches + 1) * vit.width + s.tokens * text.width)
    return {
        "image encoder": s.vit(),
        "text encoder": s.bert(),
        "heads": s.head(s.rows, vit.width)
        + s.head(s.rows * s.patches, vit.width)
        + s.head(s.rows, text.width)
        + s.head(packed, text.width),
        "what CLS attends to": FORWARD * seen,
        "losses": s.pairs()
        + TRAINED * 2 * o.dim * (3 * across + own)
        + TRAINED * 2 * linear(s.rows, o.dim, o.prototypes),
    }


def _medim(s: Sizes) -> Parts:
    strategies, report = len(s.method.strategies), s.batch.text  # type: ignore[attr-defined]
    assert report is not None
    maps = strategies * linear(s.rows, report.sentence.shape[1], s.patches)
    side, inside, convs = s.method.setup.grid, s.method.setup.vit.width, 0.0
    for block, channels in enumerate([*s.options.decoder, 3]):
        taps, side = (4, 2 * side) if block else (9, side)
        convs += linear(strategies * s.rows * side**2, taps * inside, channels)
        inside = channels
    return _mgca(s) | {"maps": FORWARD * maps, "decoder": TRAINED * convs}


def _mrm(s: Sizes) -> Parts:
    o, setup, raw = s.options, s.method.setup, s.batch.raw
    assert raw is not None
    width, tokens, vocab = o.decoder_width, raw.ids.shape[1], setup.stored.raw_vocab
    pixels = (setup.vit.patch * o.upscale) ** 2 * 3
    hidden = s.rows * (s.patches - s.kept)
    layers = o.decoder_depth * layer(s.rows, s.patches + 1, width, 4 * width)
    text = o.text_layers * layer(s.rows, tokens, o.text_width, o.text_mlp)
    scores = linear(s.rows * tokens, o.text_width, o.text_width + vocab)
    return {
        "image encoder": s.vit(),
        "patch decoder": TRAINED * (_fill(s) + layers + linear(hidden, width, pixels)),
        "report decoder": TRAINED * (linear(s.rows, setup.vit.width, o.text_width) + text + scores),
    }


def _fill(s: Sizes) -> float:
    """From the encoder's width to the decoder's, forward."""
    return linear(s.rows * (s.kept + 1), s.method.setup.vit.width, s.options.decoder_width)


def _cmitm(s: Sizes) -> Parts:
    o, setup = s.options, s.method.setup
    if o.stage != "second" or not o.rep_decoder:
        raise KeyError(f"stage {o.stage}, rep_decoder {o.rep_decoder}")
    width = o.decoder_width
    layers = o.rep_depth * layer(s.rows, s.patches + 1, width, 4 * width)
    return {
        "image encoder": s.vit(),
        "representation decoder": TRAINED * (_fill(s) + layers),
        "text encoder": s.bert(),
        "heads": s.head(s.rows, width) + s.head(s.rows, setup.text.width),
        "losses": s.pairs(),
    }
