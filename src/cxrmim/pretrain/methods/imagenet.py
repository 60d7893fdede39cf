"""ImageNet: supervised weights from everyday pictures, or a stand-in for them (protocols §2).

The papers start from DeiT's published weights, which `init` names. A scale that has none learns to
tell generated shapes and textures apart instead (`cxrmim.phantom.natural`): classes that owe
nothing to radiographs.
"""

from functools import cached_property
from typing import Annotated, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cxrmim.errors import ParamsError
from cxrmim.phantom import natural
from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts.encoders import build_vit
from cxrmim.pretrain.parts.precision import widen

WHERE = "pretrain.methods.imagenet"
KEYS = ("images", "side", "seed")


class Options(Strict):
    """The stand-in: `images` pictures of `side` px from `seed`; none where weights are given."""

    stand_in: dict[str, Annotated[int, Field(ge=0)]] | None


class ImageNet(Method):
    """An encoder with given weights, or one that learns to name generated pictures from its CLS."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.stand_in = cast(Options, setup.options).stand_in
        self.encoder = build_vit(setup.vit, setup.image)
        if self.stand_in is not None:
            _check(self.stand_in, setup.augment.resize)
            self.needs = frozenset({"image", "label"})
            self.head = nn.Linear(setup.vit.width, len(natural.CLASSES))

    @property
    def weights(self) -> dict[str, float]:
        """One term where there is a stand-in."""
        return {} if self.stand_in is None else {"classes": 1.0}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the classes.

        Raises:
            ParamsError: there are no classes to learn.
        """
        if batch.label is None or self.stand_in is None:
            raise ParamsError(
                f"{WHERE}: nothing to learn from; set options.stand_in, or trains: false"
            )
        return {"classes": F.cross_entropy(widen(self.name(batch.image)), batch.label)}

    def name(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, classes) logits."""
        logits: Tensor = self.head(self.encoder.forward_features(image)[:, 0])
        return logits

    def own_images(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None:
        """The stand-in's pictures and classes, drawn once; None where weights are given."""
        return None if self.stand_in is None else self._drawn

    @cached_property
    def _drawn(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        assert self.stand_in is not None
        pictures, label, _ = natural.draw(**self.stand_in)
        return pictures, label


def _check(stand_in: dict[str, int], resize: int) -> None:
    """Refuse a stand-in that cannot be drawn or that training would have to enlarge."""
    if sorted(stand_in) != sorted(KEYS):
        raise ParamsError(
            f"{WHERE}.options.stand_in = {stand_in}: give {', '.join(KEYS)} and nothing else"
        )
    if stand_in["images"] < 1:
        raise ParamsError(f"{WHERE}.options.stand_in.images = 0: draw one at least")
    if stand_in["side"] < resize:
        raise ParamsError(
            f"{WHERE}.options.stand_in.side = {stand_in['side']}: smaller than augment.resize = "
            f"{resize}; raise it"
        )


METHOD = ImageNet
