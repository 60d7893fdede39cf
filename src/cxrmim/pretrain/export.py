"""An encoder as plain timm loads it, with a model card."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from cxrmim import grid, record
from cxrmim.errors import ParamsError
from cxrmim.explain import unknown
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.pretrain import weights
from cxrmim.pretrain.checkpoints import HEADER
from cxrmim.pretrain.places import FILE

CARD = "README.md"
FIRST = "---\nlibrary_name: timm\n"  # how a card begins
BASE = "vit_base_patch16_224"  # its dimensions in timm; only what differs is spelt out
DIMENSIONS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
}


def export(params: Params, checkpoint: str, folder: Path) -> list[Path]:
    """Write ``model.safetensors`` with exactly timm's ViT keys and a card ``README.md``.

    Args:
        params: all parameters.
        checkpoint: ``<entry>-s<seed>``.
        folder: where they go; an earlier export is replaced, files of others are not.

    Raises:
        ParamsError: the grid has no such checkpoint, or the folder has files of these names that
            are no export.
        CheckError: its record or its weights are missing or do not agree.
    """
    known = [item.checkpoint for item in grid.pretrainings(params)]
    if checkpoint not in known:
        raise ParamsError(f"export {checkpoint}: {unknown('checkpoint', checkpoint, known)}")
    _refuse_others(folder)
    method = weights.load_method(params, checkpoint)
    where = Paths(params.scale).record("pretrain", checkpoint)
    tree = record.read(where)
    told = {
        "checkpoint": checkpoint,
        "scale": params.scale,
        "source": tree["source"],
        "config_hash": tree["config_hash"],
        "record_sha256": record.sha256(where),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in method.encoder.state_dict().items()}
    with atomic(folder / FILE) as temporary:
        save_file(state, temporary, {HEADER: json.dumps(told, sort_keys=True)})
    augment = method.setup.augment
    card = "\n".join(_card(params, tree, told, (augment.mean, augment.std)))
    with atomic(folder / CARD) as temporary:
        temporary.write_text(card + "\n", encoding="utf-8")
    return [folder / FILE, folder / CARD]


def _refuse_others(folder: Path) -> None:
    """Assert that nothing but an earlier export would be replaced."""
    there = [name for name in (FILE, CARD) if (folder / name).exists()]
    card = folder / CARD
    if there and not (card.is_file() and card.read_bytes().startswith(FIRST.encode())):
        raise ParamsError(
            f"{folder / there[0]}: is there and is no export; give another folder with --to"
        )


def call(params: Params) -> str:
    """The call of timm that builds the encoder of a scale and loads it from its folder."""
    vit = params.pretrain.vit
    own = {
        "img_size": params.pretrain.image,
        "patch_size": vit.patch,
        "embed_dim": vit.width,
        "depth": vit.depth,
        "num_heads": vit.heads,
        "mlp_ratio": vit.mlp,
    }
    other = [f"{key}={value}" for key, value in own.items() if value != DIMENSIONS[key]]
    arguments = [f'"{BASE}"', *other, "num_classes=0", f'checkpoint_path="{FILE}"']
    return f"timm.create_model({', '.join(arguments)})"


def _card(
    params: Params, tree: dict[str, Any], told: dict[str, Any], grey: tuple[float, float]
) -> Iterator[str]:
    item = grid.entry_of(told["checkpoint"])
    name, block = params.pretraining(item.entry)
    phantom = tree["source"] == "phantom"
    mean, std = grey
    yield from (*FIRST.splitlines(), "license: other", "tags: [chest-radiograph]", "---")
    yield f"# {told['checkpoint']}{' (PHANTOM DATA)' if phantom else ''}"
    yield ""
    kind = f"trained with {name}" if block.trains else f"of {name}, not trained here"
    yield f"Image encoder (vision transformer) {kind}, entry {item.entry}, seed {item.seed}, scale "
    yield f"{told['scale']} of cxrmim, a reproduction of MedIM and CMITM (MICCAI 2023)."
    if block.stand_in is not None:
        yield ""
        yield f"A stand-in ({block.stand_in}): these are not the weights that its name stands for."
    yield ""
    yield from _data(params, tree, phantom)
    yield ""
    yield "## Load"
    yield ""
    yield from ("```python", "import timm", "", f"model = {call(params)}", "```")
    yield ""
    side = params.pretrain.image
    yield f"Input: grey radiographs of {side}x{side} px, the same in three channels, in [0, 1],"
    yield f"minus {mean}, divided by {std}. `model.forward_features` gives CLS and patch tokens."
    yield ""
    yield "## Provenance"
    yield ""
    yield f"- config sha256 {told['config_hash']}"
    yield f"- record sha256 {told['record_sha256']}"
    for kind, entries in (("input", tree["inputs"]), ("parent", tree["parents"])):
        for key, value in entries.items():
            yield f"- {kind} {key} sha256 {value['sha256'] if kind == 'input' else value}"
    yield ""
    yield "## Results"
    yield ""
    rows = list(_results(params, told["checkpoint"]))
    if not rows:
        yield "None are recorded for this checkpoint."
        return
    mark = " Phantom data: they say nothing about patients." if phantom else ""
    yield f"From the records, x100, mean over the downstream seeds.{mark}"
    yield ""
    yield from ("| dataset | task | labels | metric | value | runs |", "|---|---|---|---|---|---|")
    yield from rows


def _data(params: Params, tree: dict[str, Any], phantom: bool) -> Iterator[str]:
    corpus = params.pretrain.corpus
    learnt = f"shards/{corpus}" in tree["parents"] or any(
        parent.startswith("pretrain/") for parent in tree["parents"]
    )
    yield "## Data and licence"
    yield ""
    if phantom:
        yield "Everything it has seen of radiographs and reports was generated (PHANTOM). It is of"
        yield "no use on real radiographs."
    elif learnt:
        yield f"Trained on {corpus}, which is credentialed. Weights derived from MIMIC data may not"
        yield "be shared without its data use agreement: pass them on only to people who have"
        yield "signed it, and not in public."
    else:
        yield "It has seen no credentialed data."
    if tree["inputs"]:
        yield ""
        yield f"It started from published weights ({', '.join(tree['inputs'])}); their licences and"
        yield "terms hold for it too."


def _results(params: Params, checkpoint: str) -> Iterator[str]:
    """Rows of the recorded results, a mean over seeds each."""
    paths = Paths(params.scale)
    found: dict[tuple[str, str, int, str], list[float]] = {}
    for run in grid.runs(params):
        path = paths.record("downstream", run.id)
        if run.checkpoint != checkpoint or not path.is_file():
            continue
        metrics = record.read(path)["metrics"]
        if metrics.get("value") is not None:
            key = (run.dataset, run.task, run.percent, str(metrics.get("metric", "")))
            found.setdefault(key, []).append(float(metrics["value"]))
    for (dataset, task, percent, metric), values in found.items():
        mean = 100 * float(np.mean(values))
        yield f"| {dataset} | {task} | {percent} % | {metric} | {mean:.2f} | {len(values)} |"
