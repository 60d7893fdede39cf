"""Methods by entry: building them, saving and loading trained ones."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from cxrmim import grid, plugins
from cxrmim import params as settings
from cxrmim.errors import ParamsError
from cxrmim.params import Params
from cxrmim.pretrain import checkpoints
from cxrmim.pretrain.contract import Method, Setup, Stored
from cxrmim.pretrain.initial import init_checkpoint, initialise
from cxrmim.pretrain.parts.plain import plain_augment

__all__ = [
    "build_method",
    "init_checkpoint",
    "initialise",
    "load_method",
    "save_method",
]
NO_TEXT = Stored()


def build_method(params: Params, entry: str, stored: Stored = NO_TEXT) -> Method:
    """An entry's method with fresh weights drawn from torch's global generator.

    Args:
        params: all parameters.
        entry: a pretraining entry.
        stored: vocabularies and lengths of the corpus' text.

    Raises:
        ParamsError: the method has no code, or a parameter does not fit it.
    """
    name, block = params.pretraining(entry)
    if plugins.source("method", name) is None:
        raise ParamsError(f"pretrain.methods.{name}: this method has no code yet")
    options = settings.plugin_options(
        "method", name, block.options, f"pretrain.methods.{name}.options"
    )
    assert options is not None
    shared = params.pretrain
    if shared.image % shared.vit.patch:
        raise ParamsError(
            f"pretrain.image = {shared.image}: not a multiple of pretrain.vit.patch = "
            f"{shared.vit.patch}; change either"
        )
    augment = block.augment or plain_augment(params)
    if augment.resize < shared.image:
        raise ParamsError(
            f"pretrain.methods.{name}.augment.resize = {augment.resize}: smaller than "
            f"pretrain.image = {shared.image}; raise it"
        )
    setup = Setup(options, shared.vit, shared.text, shared.image, augment, stored, shared.negatives)
    method: Method = plugins.load("method", name).METHOD(setup)
    return method


def load_method(params: Params, checkpoint: str, device: str | torch.device = "cpu") -> Method:
    """A trained method in eval mode.

    Args:
        params: all parameters.
        checkpoint: ``<entry>-s<seed>``.
        device: where it goes.

    Raises:
        CheckError: the weights are missing, are not those of the record, or were trained with other
            parameters.
    """
    path, header = checkpoints.opened(params, checkpoint)
    entry = grid.entry_of(checkpoint).entry
    method = build_method(params, entry, Stored(**header["stored"]))
    method.load_state_dict(load_file(path))
    return method.to(device).eval()


def save_method(
    params: Params, checkpoint: str, method: Method, inputs: Mapping[str, Path] | None = None
) -> Path:
    """Write a method's state as float32 safetensors, atomically; returns the path.

    Args:
        params: all parameters.
        checkpoint: ``<entry>-s<seed>``.
        method: the trained method.
        inputs: what `initialise` returned; the record that is written next must name the same.
    """
    return checkpoints.write(params, checkpoint, method, method.setup.stored, inputs or {})
