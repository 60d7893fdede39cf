"""Reading checkpoints that others made: tensors come out, no code of theirs ever runs.

Pickles go through torch's restricted unpickler (``weights_only``) alone. What trainers commonly
store beside the tensors (arguments, callbacks) becomes an empty stand-in.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cxrmim.errors import DataError

INSIDE = ("model", "state_dict")  # where trainers keep the weights
NUMBERS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
NUMBERS |= {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
LIGHTNING = "pytorch_lightning.callbacks"


class Inert:
    """Stands in for an object of a trainer: takes whatever it is given and keeps nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        del args, kwargs

    def __setstate__(self, state: object) -> None:
        del state


STAND_INS: list[Any] = [
    (Inert, "argparse.Namespace"),
    (Inert, f"{LIGHTNING}.model_checkpoint.ModelCheckpoint"),
    (Inert, f"{LIGHTNING}.early_stopping.EarlyStopping"),
    (Inert, f"{LIGHTNING}.lr_monitor.LearningRateMonitor"),
]


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth, .pt, .bin or .ckpt file, by name.

    Raises:
        DataError: it is no such file, is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if is_safetensors(path):
        return _checked(_safetensors(path), path)
    with path.open("rb") as handle:
        head = handle.read(2)
    if head == b"PK":
        _plain_zip(path, path.stat().st_size)
    elif head[:1] != b"\x80":
        raise DataError(f"{path}: not a checkpoint (neither safetensors nor a file of torch)")
    return _checked(_inside(_unpickled(path), path), path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: the length of a JSON header, and the header."""
    with path.open("rb") as handle:
        head = handle.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: damaged safetensors file ({error}); get it again") from None
    return state


def _plain_zip(path: Path, size: int) -> None:
    """Refuse an archive that unpacks to more than its own size; torch never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    # ValueError and NotImplementedError: a damaged directory, a version that no zip has
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise DataError(f"{path}: truncated or damaged; get it again") from None
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise DataError(
            f"{path}: refused: its archive is compressed or unpacks to more than its own size, "
            f"which torch never writes"
        )


def _unpickled(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(STAND_INS):
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file may bring about any
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise DataError(
                f"{path}: refused: it asks for {named[1]}, and a checkpoint may hold tensors and "
                f"plain values only; nothing of it was run"
            ) from None
        raise DataError(
            f"{path}: cannot be read as tensors ({type(error).__name__}): truncated, damaged or no "
            f"checkpoint; get it again"
        ) from None
    return found


def _inside(found: object, path: Path) -> dict[str, Tensor]:
    """The weights of what a trainer stored; nested ``module.`` prefixes are taken off."""
    if isinstance(found, Mapping):
        found = next((found[k] for k in INSIDE if isinstance(found.get(k), Mapping)), found)
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"{path}: holds no weights: no table of tensors, nor one below {INSIDE}")
    state = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _checked(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Refuse tensors that are no plain arrays, claim more than their bytes, or are not finite."""
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise DataError(f"{path}: refused: {key} is no plain array")
        if value.dtype not in NUMBERS:
            raise DataError(f"{path}: refused: {key} has numbers of an unusual kind, {value.dtype}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise DataError(f"{path}: refused: {key} claims more numbers than the file holds")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(f"{path}: {key} has numbers that are not finite; get it again")
    return state
