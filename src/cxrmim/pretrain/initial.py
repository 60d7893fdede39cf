"""What a method starts from: an earlier checkpoint, published weights, or nothing."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cxrmim import grid
from cxrmim.errors import CxrmimError
from cxrmim.params import Params
from cxrmim.pretrain import checkpoints, places
from cxrmim.pretrain.contract import Method
from cxrmim.pretrain.untrusted import NUMBERS

if TYPE_CHECKING:
    from cxrmim.pretrain.parts.bert import TextEncoder

log = logging.getLogger("cxrmim")
DECODER = "decoder."  # prefix of a convolutional decoder in a file whose other keys are timm's
TABLE = "pos_embed"


def initialise(method: Method, params: Params, item: grid.Pretraining) -> dict[str, Path]:
    """Start a method from the weights that its `init` and the scale's tokenizer name.

    `init` is one of

    - ``none``: the weights stay as they were drawn;
    - an entry: of its checkpoint of the same seed everything below the method's `inherits`;
    - a folder below ``weights/`` with a ViT in timm's keys, and maybe a decoder below ``decoder.``.
      A position table of another image size is resampled.

    A text encoder that is not inherited starts from ``weights/bioclinicalbert`` where the scale
    uses its tokenizer, else at random.

    Returns:
        The published files that were read, by name.

    Raises:
        CxrmimError: a file is missing, damaged, not the one that was fetched, or has other shapes.
    """
    init = params.pretraining(item.entry)[1].init
    used: dict[str, Path] = {}
    parent = init_checkpoint(params, item)
    if parent is not None:
        path, _ = checkpoints.opened(params, parent)
        _inherit(method, load_file(path), path)
    elif init != "none":
        used[init] = _named(init, "the ViT in timm's key layout (cls_token, pos_embed, blocks.0..)")
        _publish(method, _read(used[init]), used[init])
    text: TextEncoder | None = getattr(method, "text_encoder", None)
    name = params.shards.text.tokenizer
    own = parent is None or not any(p.startswith("text_encoder") for p in method.inherits)
    if text is not None and name != "phantom" and own:
        used[name] = _named(name, "BertModel weights in transformers' key layout (embeddings...)")
        _fill(text.bert, bert_keys(_read(used[name])), used[name])
        text.drop_token_types()
    return used


def init_checkpoint(params: Params, item: grid.Pretraining) -> str | None:
    """The checkpoint that a pretraining starts from, None if its `init` is no entry."""
    init = params.pretraining(item.entry)[1].init
    if init not in grid.entries(params):
        return None
    return grid.Pretraining(grid.target(params, init), item.seed).checkpoint


def bert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Key layout of BertModel: no ``bert.`` prefix, LayerNorm weights not called gamma and beta."""
    plain = _below(state, "bert.") or dict(state)
    return {
        k.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): v
        for k, v in plain.items()
    }


def fit_positions(
    state: Mapping[str, Tensor], wanted: tuple[int, ...], path: Path
) -> dict[str, Tensor]:
    """A ViT's state with its position table resampled to another number of patches.

    Bicubic with anti-aliasing, as timm does it; the CLS row stays. A table that fits, or whose grid
    is not square, is left as it is.

    Args:
        state: timm's keys.
        wanted: shape of the table that the encoder has, (1, 1 + g * g, D).
        path: the file that it comes from, for the log.
    """
    out = dict(state)
    table = out.get(TABLE)
    if table is None or table.ndim != 3 or tuple(table.shape) == tuple(wanted):
        return out
    old, new = (math.isqrt(max(n - 1, 0)) for n in (table.shape[1], wanted[1]))
    if table.shape[2] == wanted[2] and old * old == table.shape[1] - 1 and old > 0:
        log.info("%s: position table resampled from %dx%d to %dx%d", path, old, old, new, new)
        out[TABLE] = resample_abs_pos_embed(table, new_size=[new, new], old_size=[old, old])
    return out


def _inherit(method: Method, state: Mapping[str, Tensor], path: Path) -> None:
    """Load what the method inherits; a module that it has must be complete in the parent."""
    own = method.state_dict()
    wanted = {k: v for k, v in own.items() if k.startswith(tuple(method.inherits))}
    _compare(wanted, state, path)
    method.load_state_dict(own | {k: state[k] for k in wanted})


def _publish(method: Method, state: dict[str, Tensor], path: Path) -> None:
    """Load a published ViT, and the decoder if both the file and the method have one."""
    table = method.encoder.pos_embed
    assert table is not None
    _fill(method.encoder, fit_positions(state, tuple(table.shape), path), path)
    decoder = _below(state, DECODER)
    if decoder and method.decoder is not None:
        _fill(method.decoder, decoder, path)


def _named(name: str, what: str) -> Path:
    path = places.place(name)
    if not path.is_file():
        raise CxrmimError(
            f"{path}: no such file; place there {what}, saved as safetensors, or see `cxrmim "
            f"weights list`"
        )
    places.check(path)
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CxrmimError(
            f"{path}: no safetensors file ({error}); convert it with `cxrmim weights import`"
        ) from None
    return state


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load all of a module's weights; what the file holds beyond them (heads, layers) is left."""
    own = module.state_dict()
    _compare(own, state, path)
    module.load_state_dict({key: state[key] for key in own})


def _compare(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Assert that a file has all that is wanted, in its shapes and finite."""
    for key, value in wanted.items():
        found = state.get(key)
        if found is None:
            raise CxrmimError(f"{path}: lacks the tensor {key!r}; place a file that has it")
        if found.shape != value.shape:
            raise CxrmimError(
                f"{path}: {key} has shape {tuple(found.shape)}, params.yaml asks for "
                f"{tuple(value.shape)}; place fitting weights or change the encoder's dimensions"
            )
        plain = found.dtype in NUMBERS
        if not plain or found.is_floating_point() != value.is_floating_point():
            raise CxrmimError(f"{path}: {key} is {found.dtype}, not {value.dtype}; save it so")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise CxrmimError(f"{path}: {key} has numbers that are not finite; get it again")
