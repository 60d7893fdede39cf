"""Bringing files in: official checkpoints through key maps, published weights placed by hand.

What is written has timm's ViT keys (or BertModel's), float32, and MedIM's decoder below
``decoder.`` in our own names.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cxrmim import grid, record
from cxrmim.errors import DataError, ParamsError
from cxrmim.explain import unknown
from cxrmim.params import Params
from cxrmim.paths import atomic
from cxrmim.pretrain import places, published, untrusted
from cxrmim.pretrain.checkpoints import HEADER
from cxrmim.pretrain.initial import DECODER, bert_keys, fit_positions
from cxrmim.pretrain.parts.bert import TextEncoder
from cxrmim.pretrain.parts.encoders import build_vit
from cxrmim.pretrain.published import Published
from cxrmim.shards import tokenizer

VIT = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
BERT = ("embeddings.", "encoder.layer.")


@dataclass(frozen=True)
class KeyMap:
    """Where a released checkpoint keeps its parts.

    Attributes:
        encoder: prefix of the ViT's keys.
        decoder: pattern of a convolutional decoder's keys: block (from 1), layer (0 convolution, 1
            BatchNorm), rest.
    """

    encoder: str = ""
    decoder: str | None = None


LIGHTNING = "img_encoder_q.model."
OFFICIAL = {
    "mae": KeyMap(),  # {"model": ...}: rA models_mae.py
    "mrm": KeyMap(),  # {"model": ...}: rR model_mrm.py
    "mgca": KeyMap(LIGHTNING),  # {"state_dict": ...}: rG backbones/encoder.py
    "medim": KeyMap(LIGHTNING, r"img_decoder_q\.model\.decoder_(\d)\.([01])\.(.+)"),  # rM decoder
}


@dataclass(frozen=True)
class Brought:
    """A file that was written, how many tensors were taken, and keys that were left."""

    path: Path
    taken: int
    left: tuple[str, ...]
    trust: str

    def lines(self) -> list[str]:
        """The result in words."""
        out = [f"{self.path}: written ({self.trust})"]
        if self.taken:
            counts = Counter(re.split(r"[.]", key)[0] for key in self.left)
            rest = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()))
            out.append(f"{self.taken} tensors taken, {len(self.left)} left: {rest or 'none'}")
        return out


def bring(params: Params, name: str, file: Path, to: str | None = None) -> Brought:
    """Import a file by hand.

    Args:
        params: all parameters; the file must fit the scale's encoder.
        name: a published file (`published.pins`), or the method of an official checkpoint.
        file: the file; a pickle is read for its tensors only.
        to: folder below ``weights/`` of an official checkpoint, ``<name>-official`` by default.

    Raises:
        ParamsError: there is no such name, or the folder's name is taken.
        DataError: the file is not what it should be.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if name in OFFICIAL:
        return _official(params, name, file, to or f"{name}-official")
    if name not in published.pins():
        known = [*published.pins(), *OFFICIAL]
        raise ParamsError(unknown("published file or official checkpoint", name, known))
    if to is not None:
        raise ParamsError(f"{name} has its own place, {published.find(name).path}; leave out --as")
    item = published.find(name)
    trust = published.matches(item, file)
    if trust == "other":
        raise DataError(
            f"{file}: not the published {item.name}: its digest is neither the pinned one nor that "
            f"of {' or '.join(item.known) or 'another publication'}; get it again"
        )
    origin = {"kind": "file", "file": file.name, "sha256": record.digest(file)["sha256"]}
    words = {
        "pinned": "sha256 as pinned",
        "known": "digest as its publisher gives it",
        "unpinned": "unpinned: trusted on first use",
    }
    taken, left = put(params, item, file, origin)
    return Brought(item.path, taken, left, words[trust])


def put(
    params: Params, item: Published, file: Path, origin: Mapping[str, object]
) -> tuple[int, tuple[str, ...]]:
    """Put a published file in its place and note it in the lock; a pickle is converted.

    Returns:
        Tensors that are used and keys that are not; (0, ()) where that was not looked at.

    Raises:
        DataError: it is not what it should be.
    """
    if item.layout == "vocab":
        tokenizer.load(file, params.shards.text.vocab)
    elif item.layout == "wordpiece" and params.shards.text.raw is not None:
        tokenizer.load_raw(file, params.shards.text.raw.vocab)
    if item.layout in ("vocab", "wordpiece") or origin["sha256"] == item.sha256:
        _copy(file, item.path)
        places.write_lock(item.path, dict(origin))
        return 0, ()
    state = untrusted.read(file)
    if item.layout == "bert":
        found = {k: v for k, v in bert_keys(state).items() if k.startswith(BERT)}
        with torch.device("meta"):
            bert = TextEncoder(params.pretrain.text, params.shards.text.vocab).bert
        _fits(found, bert.state_dict(), params, file)
    else:
        found = encoder(params, KeyMap(), state, file)
    rename = bert_keys if item.layout == "bert" else dict
    left = tuple(k for k, v in state.items() if not found.keys() & rename({k: v}).keys())
    if untrusted.is_safetensors(file):
        _copy(file, item.path)
        places.write_lock(item.path, dict(origin))
    else:
        _save(item.path, found, origin)
    return len(found), left


def encoder(
    params: Params, keys: KeyMap, state: Mapping[str, Tensor], file: Path
) -> dict[str, Tensor]:
    """The ViT of a checkpoint in timm's keys, complete and of the scale's dimensions.

    Raises:
        DataError: it lacks a tensor or has other shapes.
    """
    plain = {k.removeprefix(keys.encoder): v for k, v in state.items() if _has(k, keys)}
    with torch.device("meta"):
        own = build_vit(params.pretrain.vit, params.pretrain.image).state_dict()
    fitted = fit_positions(plain, tuple(own["pos_embed"].shape), file)
    _fits(fitted, own, params, file)
    return {k: plain[k] for k in own}


def decoder(keys: KeyMap, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolutional decoder of a checkpoint in our names, empty if it has none."""
    found = {}
    for key, value in state.items():
        match = re.fullmatch(keys.decoder, key) if keys.decoder else None
        if match:
            layer = "convs" if match[2] == "0" else "norms"
            found[f"{DECODER}{layer}.{int(match[1]) - 1}.{match[3]}"] = value
    return found


def _official(params: Params, name: str, file: Path, to: str) -> Brought:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", to):
        raise ParamsError(f"--as {to}: use lower-case letters, digits, - and _")
    if to in published.pins() or to in grid.entries(params):
        raise ParamsError(f"--as {to}: that is the name of a published file or of an entry")
    state, keys = untrusted.read(file), OFFICIAL[name]
    vit, conv = encoder(params, keys, state, file), decoder(keys, state)
    origin = {
        "kind": "official",
        "of": name,
        "file": file.name,
        "sha256": record.digest(file)["sha256"],
    }
    _save(places.place(to), vit | conv, origin)
    used = {f"{keys.encoder}{k}" for k in vit}
    if keys.decoder:
        used |= {k for k in state if re.fullmatch(keys.decoder, k)}
    left = tuple(k for k in state if k not in used)
    return Brought(places.place(to), len(vit) + len(conv), left, "unpinned: trusted on first use")


def _has(key: str, keys: KeyMap) -> bool:
    return key.startswith(keys.encoder) and key.removeprefix(keys.encoder).startswith(VIT)


def _fits(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor], params: Params, file: Path
) -> None:
    for key, value in own.items():
        if key not in found:
            raise DataError(f"{file}: not the checkpoint that was named: it lacks {key!r}")
        if found[key].is_floating_point() != value.is_floating_point():
            raise DataError(f"{file}: {key} is {found[key].dtype}, a ViT or BERT has {value.dtype}")
        if found[key].shape != value.shape:
            raise DataError(
                f"{file}: {key} has shape {tuple(found[key].shape)}, scale {params.scale} asks for "
                f"{tuple(value.shape)}; give the --scale that it is meant for, or another file"
            )


def _save(path: Path, state: Mapping[str, Tensor], origin: Mapping[str, object]) -> None:
    plain = {
        k: (v.float() if v.is_floating_point() else v).detach().clone().contiguous()
        for k, v in state.items()
    }
    with atomic(path) as temporary:
        save_file(plain, temporary, {HEADER: json.dumps(dict(origin), sort_keys=True)})
    places.write_lock(path, dict(origin))


def _copy(file: Path, path: Path) -> None:
    if path.exists() and file.samefile(path):
        return
    with atomic(path) as temporary:
        shutil.copyfile(file, temporary)
