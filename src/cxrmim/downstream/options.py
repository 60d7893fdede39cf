"""Options that several tasks share."""

from typing import Annotated

from pydantic import Field

from cxrmim.plugins import Strict


class Trained(Strict):
    """AdamW at a constant rate with early stopping.

    `patience` counts epochs without a lower validation loss.
    """

    batch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    patience: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
