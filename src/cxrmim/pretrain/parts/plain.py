"""How images are evaluated that no method has augmented; trivial predictors need no network."""

from cxrmim.params import Params
from cxrmim.schema import Augment


def plain_augment(params: Params) -> Augment:
    """Evaluation transform of a method without augmentation: resize to 8/7 of the crop, centre."""
    resize = min(round(params.pretrain.image * 8 / 7), params.shards.side_downstream)
    return Augment(resize=resize, crop="centre", mean=0.5, std=0.5)
