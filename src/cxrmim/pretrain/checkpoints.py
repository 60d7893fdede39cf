"""Checkpoint files: a method's state as safetensors, which names its record and is named by it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cxrmim import grid, record
from cxrmim import params as settings
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.pretrain.contract import Stored

HEADER = "cxrmim"  # one metadata key: safetensors writes several in random order


def write(
    params: Params, checkpoint: str, method: nn.Module, stored: Stored, inputs: Mapping[str, Path]
) -> Path:
    """Write a method's state, atomically; the same weights give the same bytes.

    The header holds, as JSON below `HEADER`: schema, method, config_hash, stored, and
    record_identity, `record.identity` of the record that is written next.

    Args:
        params: all parameters.
        checkpoint: ``<entry>-s<seed>``.
        method: whose state is written as it is.
        stored: vocabularies and lengths that it was built for.
        inputs: published files that it started from, as its record names them.
    """
    path = Paths(params.scale).checkpoint(checkpoint)
    item = grid.entry_of(checkpoint)
    begun = record.begin(
        params,
        "pretrain",
        checkpoint,
        inputs=inputs,
        parents=grid.parents(params, "pretrain", checkpoint),
        seed=item.seed,
    )
    metadata = {
        "schema": record.SCHEMA,
        "method": params.pretraining(item.entry)[0],
        "config_hash": begun["config_hash"],
        "record_identity": record.identity(begun),
        "stored": asdict(stored),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
    with atomic(path) as temporary:
        save_file(state, temporary, {HEADER: json.dumps(metadata, sort_keys=True)})
    return path


def opened(params: Params, checkpoint: str) -> tuple[Path, dict[str, Any]]:
    """The file of a trained checkpoint and its header, both held to its record.

    Raises:
        CheckError: the record was edited, the weights are missing or not those of the record, or
            they were trained with other parameters.
    """
    where = Paths(params.scale).record("pretrain", checkpoint)
    tree = record.read(where)
    if record.seal(tree) != tree.get("digest"):
        raise CheckError(f"{where}: edited by hand; restore it with git or run it again")
    record.verify(tree, "weights")
    path = Paths(params.scale).checkpoint(checkpoint)
    with safe_open(path, framework="pt") as handle:
        header = handle.metadata() or {}
    metadata: dict[str, Any] = json.loads(header.get(HEADER, "{}"))
    expected = settings.fingerprint(grid.config(params, "pretrain", checkpoint))
    if metadata.get("config_hash") != expected:
        raise CheckError(
            f"{path}: trained with other parameters than params.yaml now holds; run "
            f"`snakemake --cores all` or restore params.yaml"
        )
    if metadata.get("record_identity") != record.identity(tree):
        raise CheckError(
            f"{path}: its header names another record than {where}: other code, seed, inputs or "
            f"parents; run `snakemake --cores all`"
        )
    return path, metadata
