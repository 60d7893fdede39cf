"""Methods by entry: building them, starting them from given weights, loading trained ones."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cxrmim import grid, plugins, record
from cxrmim import params as settings
from cxrmim.errors import CheckError, CxrmimError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.pretrain.contract import Method, Setup
from cxrmim.pretrain.parts.encoders import TextEncoder
from cxrmim.schema import Augment

NAMED = Path("weights")  # folder of published weights, below the working directory
FILE = "model.safetensors"
HEADER = "cxrmim"  # one metadata key: safetensors writes several in random order


def build_method(params: Params, entry: str, vocab: int, length: int) -> Method:
    """An entry's method with fresh weights drawn from torch's global generator.

    Args:
        params: all parameters.
        entry: a pretraining entry.
        vocab: WordPiece pieces of the corpus, 0 for methods without text.
        length: stored tokens a caption.

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
    setup = Setup(options, shared.vit, shared.text, shared.image, augment, vocab, length)
    method: Method = plugins.load("method", name).METHOD(setup)
    return method


def plain_augment(params: Params) -> Augment:
    """Evaluation transform of a method without augmentation: resize to 8/7 of the crop, centre."""
    resize = min(round(params.pretrain.image * 8 / 7), params.shards.side_downstream)
    return Augment(resize=resize, crop="centre", mean=0.5, std=0.5)


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
    paths = Paths(params.scale)
    tree = record.read(paths.record("pretrain", checkpoint))
    record.verify(tree, "weights")
    path = paths.checkpoint(checkpoint)
    with safe_open(path, framework="pt") as handle:
        header = handle.metadata() or {}
    metadata = json.loads(header.get(HEADER, "{}"))
    expected = settings.fingerprint(grid.config(params, "pretrain", checkpoint))
    if metadata.get("config_hash") != expected:
        raise CheckError(
            f"{path}: trained with other parameters than params.yaml now holds; run "
            f"`snakemake --cores all` or restore params.yaml"
        )
    method = build_method(
        params,
        grid.entry_of(checkpoint).entry,
        metadata["vocab"],
        metadata["length"],
    )
    method.load_state_dict(load_file(path))
    return method.to(device).eval()


def save_method(params: Params, checkpoint: str, method: Method) -> Path:
    """Write a method's state as float32 safetensors, atomically; returns the path.

    The same weights give the same bytes. The header holds, as JSON below `HEADER`, schema,
    method, config_hash, vocab and length.
    """
    path = Paths(params.scale).checkpoint(checkpoint)
    metadata = {
        "schema": record.SCHEMA,
        "method": params.pretraining(grid.entry_of(checkpoint).entry)[0],
        "config_hash": settings.fingerprint(grid.config(params, "pretrain", checkpoint)),
        "vocab": method.setup.vocab,
        "length": method.setup.length,
    }
    state = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
    with atomic(path) as temporary:
        save_file(state, temporary, {HEADER: json.dumps(metadata, sort_keys=True)})
    return path


def initialise(method: Method, params: Params, item: grid.Pretraining) -> dict[str, Path]:
    """Start a method from the weights that its `init` and the scale's tokenizer name.

    `init` is ``none``, an entry (that checkpoint's encoder is taken, same seed) or a folder below
    ``weights/`` with a timm ViT. The text encoder starts from ``weights/bioclinicalbert`` where the
    scale uses its tokenizer, else at random.

    Returns:
        The published files that were read, by name.

    Raises:
        CxrmimError: a file is missing or has other shapes.
    """
    init = params.pretraining(item.entry)[1].init
    used: dict[str, Path] = {}
    parent = init_checkpoint(params, item)
    if parent is not None:
        tree = record.read(Paths(params.scale).record("pretrain", parent))
        record.verify(tree, "weights")
        path = Paths(params.scale).checkpoint(parent)
        found = _below(load_file(path), "encoder.")
        _fill(method.encoder, found, path)
    elif init != "none":
        used[init] = _named(
            init, "the ViT in timm's key layout (cls_token, pos_embed, blocks.0...)"
        )
        _fill(method.encoder, load_file(used[init]), used[init])
    text = getattr(method, "text_encoder", None)
    name = params.shards.text.tokenizer
    if isinstance(text, TextEncoder) and name != "phantom":
        used[name] = _named(name, "BertModel weights in transformers' key layout (embeddings...)")
        _fill(text.bert, _bert_keys(load_file(used[name])), used[name])
        text.drop_token_types()
    return used


def init_checkpoint(params: Params, item: grid.Pretraining) -> str | None:
    """The checkpoint that a pretraining starts from, None if its `init` is no entry."""
    init = params.pretraining(item.entry)[1].init
    if init not in grid.entries(params):
        return None
    return grid.Pretraining(grid.target(params, init), item.seed).checkpoint


def _named(name: str, what: str) -> Path:
    path = NAMED / name / FILE
    if not path.is_file():
        raise CxrmimError(f"{path}: no such file; place there {what}, saved as safetensors")
    return path


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _bert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Key layout of BertModel: no ``bert.`` prefix, LayerNorm weights not called gamma and beta."""
    plain = _below(state, "bert.") or dict(state)
    return {
        k.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): v
        for k, v in plain.items()
    }


def _fill(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load all of a module's weights; what the file holds beyond them (heads, layers) is left."""
    own = module.state_dict()
    for key, value in own.items():
        found = state.get(key)
        if found is None:
            raise CxrmimError(f"{path}: lacks the tensor {key!r}; place a file that has it")
        if found.shape != value.shape:
            raise CxrmimError(
                f"{path}: {key} has shape {tuple(found.shape)}, params.yaml asks for "
                f"{tuple(value.shape)}; place fitting weights or change the encoder's dimensions"
            )
    module.load_state_dict({key: state[key] for key in own})
