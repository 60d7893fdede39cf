"""Random: the untrained image encoder, the floor of every table (protocols §2)."""

from torch import Tensor

from cxrmim.plugins import Strict
from cxrmim.pretrain.contract import Batch, Method, Setup
from cxrmim.pretrain.parts.encoders import build_vit


class Options(Strict):
    """No options."""


class Random(Method):
    """An encoder as it is initialised; the loop takes no step with it."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.encoder = build_vit(setup.vit, setup.image)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing is learned: no terms."""
        return {}


METHOD = Random
