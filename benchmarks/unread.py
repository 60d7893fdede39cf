"""Operations of a step whose results no loss reads: told by the gradient, not by a formula.

A row of a layer's output (a token, a pixel) that gets a gradient of exactly zero could be anything
without a change to the loss. Such are all rows of a module that runs in vain, the padding of
reports, and the tokens of a last layer of which a loss takes CLS alone; of a product that gives
query, key and value at once a row is read if one of them is. Linear layers, convolutions and
attention are looked at; the products of losses, and of what CLS attends to, are not.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.flops import TRAINED


@dataclass
class Layer:
    """What one call of a layer computed.

    Attributes:
        name: of the operation, and its output's shape.
        flops: of the forward pass.
        unread: share of its rows without a gradient; 1 if no gradient came at all.
    """

    name: str
    flops: int
    unread: float = 1.0


def _linear(out: Tensor, inputs: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel() * inputs.shape[-1]


def _conv2d(out: Tensor, _: Tensor, weight: Tensor, *__: Any, **___: Any) -> int:
    return 2 * out.numel() * weight[0].numel()


def _upsampling(out: Tensor, inputs: Tensor, weight: Tensor, *__: Any, **___: Any) -> int:
    return 2 * inputs.numel() * weight[0].numel()


def _attention(out: Tensor, query: Tensor, key: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel() * key.shape[-2] + 2 * query.numel() * key.shape[-2]


COUNTED: dict[Callable[..., Tensor], Callable[..., int]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.conv_transpose2d: _upsampling,
    F.scaled_dot_product_attention: _attention,
}


class Watch(TorchFunctionMode):
    """Notes the layers that are called within, and the gradients that their outputs get later.

    Attributes:
        layers: in the order of their calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call, and note what was called."""
        out = func(*args, **(kwargs or {}))
        if func in COUNTED and out.requires_grad:
            name = f"{func.__name__} {tuple(out.shape)}"
            layer = Layer(name, COUNTED[func](out, *args, **(kwargs or {})))
            self.layers.append(layer)
            channels = 1 if func in (F.conv2d, F.conv_transpose2d) else -1
            out.register_hook(lambda grad: _note(layer, grad.movedim(channels, -1)))
        return out

    @property
    def flops(self) -> float:
        """Of forward and backward, of all layers."""
        return sum(TRAINED * layer.flops for layer in self.layers)

    @property
    def unread(self) -> dict[str, float]:
        """FLOPs of forward and backward of rows that no loss reads, by layer, the most first.

        Backward is counted whole: zeros are multiplied like other numbers.
        """
        found: defaultdict[str, float] = defaultdict(float)
        for layer in self.layers:
            found[layer.name] += TRAINED * layer.flops * layer.unread
        most = sorted(found.items(), key=lambda pair: -pair[1])
        return {name: flops for name, flops in most if flops}


def _note(layer: Layer, grad: Tensor) -> None:
    layer.unread = float((grad == 0).all(-1).double().mean())


def watched(loss: Callable[[], Any]) -> Watch:
    """The layers of a step.

    Args:
        loss: forward and backward.

    Raises:
        ValueError: it calls no layer that is counted.
    """
    with Watch() as watch:
        loss()
    if not watch.layers:
        raise ValueError("no layer was called")
    return watch
