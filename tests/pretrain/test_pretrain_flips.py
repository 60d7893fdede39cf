"""Switches of the loop, flipped in the methods that the ledger names: what comes out differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import KINDS, make_batch
from safetensors.torch import save_file

from cxrmim import grid
from cxrmim.errors import DataError
from cxrmim.pretrain import data, loop, places, weights
from cxrmim.pretrain.validation import Validation

M, E = "pretrain.methods.", "pretrain.entries."
WHOLE = data.Share(0, 1)
VALIDATED = ("mgca", "medim", "cmitm", "gloria")
FOR_VALIDATION = {"pretrain.loader": {"valid": 0.5, "drop_val": False}}


def key(entry, tail):
    """The key of params that sets `tail` for a method or for one of its variants."""
    return f"{E}{entry}.set.{tail}" if "-" in entry else f"{M}{entry}.{tail}"


def training(params, shards, entry):
    item = grid.Pretraining(entry, 0)
    torch.manual_seed(0)
    return loop.Training(params, item, loop.prepare(params, item, shards), shards)


def run(params, shards, entry):
    item = grid.Pretraining(entry, 0)
    torch.manual_seed(0)
    return loop.train(params, item, loop.prepare(params, item, shards), shards)


def equal(one, two):
    """Whether two methods have the same weights."""
    theirs = two.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in one.state_dict().items())


# What a training starts from: `init`


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("mgca", "deit"),
        ("medim", "deit"),
        ("gloria", "deit"),
        ("mae", "mae-imagenet"),
        ("mrm", "mae-imagenet"),
        ("imagenet", "deit"),
        ("cmitm-s1", "mae-imagenet"),
        ("cmitm-joint", "mae-imagenet"),
        ("cmitm-nomitm", "mae-imagenet"),
    ],
)
def test_init_gives_the_encoder_and_nothing_else(small, workplace, stored, paper, entry, name):
    assert paper.pretraining(entry)[1].init == name  # the ledger's default
    began = {}
    for init in ("none", name):
        params = small({key(entry, "init"): init})
        torch.manual_seed(0)
        method = weights.build_method(params, entry, stored)
        if init != "none":
            theirs = {k: torch.randn_like(v) for k, v in method.encoder.state_dict().items()}
            places.place(name).parent.mkdir(parents=True)
            save_file(theirs, places.place(name))
        used = weights.initialise(method, params, grid.Pretraining(entry, 0))
        assert list(used) == [name] * (init != "none")
        began[init] = {k: v.clone() for k, v in method.state_dict().items()}
    for k, v in began[name].items():
        inside = k.startswith("encoder.")
        want = theirs[k.removeprefix("encoder.")] if inside else began["none"][k]
        assert torch.equal(v, want), k
    assert not torch.equal(began["none"]["encoder.cls_token"], began[name]["encoder.cls_token"])


# How long and with how many: `batch`, `epochs`


@pytest.mark.parametrize("entry", ["cmitm", "mgca", "gloria", "mae"])
def test_batch_and_epochs_are_those_of_params(small, corpus, entry):
    shards, steps = None, {}
    for batch, epochs in ((4, 1), (8, 1), (4, 3)):
        init = {key(entry, "init"): "none"}
        stop = {key(entry, "stop"): {"patience": 0}}
        params = small(init | stop | {key(entry, "batch"): batch, key(entry, "epochs"): epochs})
        shards = shards or corpus(params)
        made = training(params, shards, entry)
        seen = []
        made.method.register_forward_pre_hook(lambda m, a, s=seen: s.append(len(a[0].image)))
        for step in range(made.order.steps):
            made.step(step)
        steps[batch, epochs] = seen
    assert steps == {(4, 1): [4] * 4, (8, 1): [8] * 2, (4, 3): [4] * 12}


# When it ends, and what is kept: `stop`, `loader`


def judged(monkeypatch, losses):
    """Let the validation losses of the next run be these."""
    given = iter(losses)
    monkeypatch.setattr(Validation, "_mean", lambda self: next(given))


@pytest.mark.parametrize("entry", VALIDATED)
def test_select_decides_which_weights_are_kept(small, corpus, monkeypatch, entry):
    """The first of two epochs has the lower loss: `best` keeps it, `last` the second."""
    base = FOR_VALIDATION | {key(entry, "init"): "none", key(entry, "epochs"): 2}
    shards, kept = None, {}
    for select in ("last", "best"):
        params = small(base | {key(entry, "stop"): {"patience": 5, "select": select}})
        shards = shards or corpus(params)
        judged(monkeypatch, [0.0, 1.0])
        kept[select] = run(params, shards, entry).method
    first = training(params, shards, entry)
    for step in range(first.order.per_epoch):
        first.step(step)
    assert equal(kept["best"], first.method) and not equal(kept["last"], first.method)


@pytest.mark.parametrize("entry", VALIDATED)
def test_patience_ends_a_training(small, corpus, monkeypatch, entry):
    """Two epochs without a lower loss end it, unless params never stop."""
    base = FOR_VALIDATION | {key(entry, "init"): "none", key(entry, "epochs"): 5}
    shards, epochs = None, {}
    for patience in (0, 2):
        stop = {"patience": patience, "select": "best"}  # validated on both sides
        params = small(base | {key(entry, "stop"): stop})
        shards = shards or corpus(params)
        judged(monkeypatch, [1.0, 0.0, 2.0, 2.0, 2.0])
        epochs[patience] = run(params, shards, entry).metrics["epochs"]
    assert epochs == {0: 5, 2: 4}


@pytest.mark.parametrize("entry", ["mgca", "cmitm"])
def test_drop_val_leaves_out_the_last_batch(small, corpus, entry):
    """The same weights on the same pairs give another loss; too few pairs are an error."""
    base = {key(entry, "init"): "none", key(entry, "stop"): {"patience": 5}}
    shards, losses, seen = None, {}, {}
    for drop in (False, True):
        params = small(base | {"pretrain.loader": {"valid": 0.5, "drop_val": drop}})
        shards = shards or corpus(params)
        made = training(params, shards, entry)
        pairs = len(made.validation.pairs.rows)
        assert pairs > 4 and pairs % 4  # an incomplete batch is at the end
        sizes = []
        made.method.register_forward_pre_hook(lambda m, a, s=sizes: s.append(len(a[0].image)))
        losses[drop], seen[drop] = made.validation.look(), sizes
    assert seen[False] == [4] * (pairs // 4) + [pairs % 4]
    assert seen[True] == [4] * (pairs // 4)
    assert losses[True] != pytest.approx(losses[False], rel=1e-6)
    few = {"pretrain.loader": {"valid": 0.01, "drop_val": True}}
    with pytest.raises(DataError, match="do not fill a batch"):
        training(small(base | few), shards, entry)


# What a batch shows: `augment`


@pytest.mark.parametrize(
    ("entry", "tail", "sides"),
    [
        ("medim", "augment.resize", (44, 48)),
        ("mgca", "augment.resize", (44, 48)),
        ("cmitm", "augment.resize", (44, 48)),
        ("gloria", "augment.resize", (44, 48)),
        ("cmitm", "augment.crop", ("random", "resized")),
        ("cmitm-s1", "augment.crop", ("resized", "random")),
        ("mae", "augment.flip", (0.0, 1.0)),
        ("mrm", "augment.area", ([0.2, 1.0], [0.9, 1.0])),
        ("medim", "augment.jitter_p", (0.0, 1.0)),
        ("medim", "augment.blur_p", (0.0, 1.0)),
        ("mgca", "augment.mean", (0.5, 0.4)),
    ],
)
def test_augmentation_is_that_of_params(small, corpus, entry, tail, sides):
    """The same random numbers, the other side of one switch: other pixels, the same pairs."""
    base = {key(entry, "init"): "none"}
    if tail == "augment.jitter_p":
        base[key(entry, "augment.jitter")] = [0.4, 0.4, 0.4, 0.1]
    if entry in ("mrm", "cmitm-s1"):
        base[M + "mrm.options.upscale"] = 1  # what is stored is too small for more
    shards, images = None, []
    for side in sides:
        params = small(base | {key(entry, tail): side})
        shards = shards or corpus(params)
        made = training(params, shards, entry)
        batch = made.loader.train(made.corpus.train.of(made.order[0]), 0, WHOLE)
        assert batch.image.shape == (4, 3, 40, 40)
        images.append(batch.image)
    assert float((images[0] - images[1]).abs().max()) > 1e-2
    again = training(params, shards, entry)
    twin = again.loader.train(again.corpus.train.of(again.order[0]), 0, WHOLE)
    assert torch.equal(twin.image, images[1])


def test_a_smaller_resize_shows_more_of_an_image(small, corpus):
    """240 against 256 px in the papers: a crop is a larger share of the smaller square."""
    rule = {"pretrain.methods.mgca.augment.resize": 42}
    shards, shares = corpus(small(rule)), []
    ramp = np.broadcast_to(np.arange(48, dtype=np.uint8) * 5, shards.images.shape)
    for resize in (42, 48):
        made = training(small({"pretrain.methods.mgca.augment.resize": resize}), shards, "mgca")
        made.loader.corpus = replace(made.corpus, images=ramp)
        image = made.loader.train(made.corpus.train.of(made.order[0]), 0, WHOLE).image
        shares.append(float((image.amax(3) - image.amin(3)).mean()))
    assert shares[0] / shares[1] == pytest.approx(48 / 42, rel=0.03)


# How it learns: `schedule`, `optim`, `text.layers`, `precision`


@pytest.mark.parametrize("entry", ["medim", "cmitm"])
def test_warmup_and_betas_change_the_steps_that_are_taken(small, corpus, entry):
    base = {key(entry, "init"): "none", key(entry, "epochs"): 2}
    shards, found = None, []
    for change in (
        {key(entry, "schedule.warmup"): 0.0},
        {key(entry, "schedule.warmup"): 1.0},
        {key(entry, "schedule.warmup"): 0.0, key(entry, "optim.betas"): [0.5, 0.6]},
    ):
        params = small(base | change)
        shards = shards or corpus(params)
        made = training(params, shards, entry)
        for step in range(3):
            made.step(step)
        found.append(made.method)
    assert not any(equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(("entry", "changes"), [("mgca", True), ("cmitm", True), ("gloria", False)])
def test_text_layers_are_those_of_all_methods_but_gloria(small, stored, reports, entry, changes):
    """Two encoders that share what both have embed reports differently, unless a method has its own
    number of layers."""
    one, two = (
        weights.build_method(small({"pretrain.text.layers": n}), entry, stored).eval()
        for n in (1, 2)
    )
    own, theirs = one.state_dict(), two.state_dict()
    two.load_state_dict(theirs | {k: v for k, v in own.items() if k in theirs})
    text = make_batch(one, reports).text
    with torch.no_grad():
        apart = (one.embed_text(text) - two.embed_text(text)).abs().max()
    assert (float(apart) > 1e-4) is changes


@pytest.mark.parametrize("entry", KINDS)
def test_half_precision_changes_the_terms_and_keeps_them_finite(small, stored, make, raw, entry):
    """As autocast runs it on a GPU: losses are in float32, near those of float32, and not equal."""
    params, found = small(), []
    for half in (False, True):
        torch.manual_seed(0)
        method = weights.build_method(params, entry, stored).train()
        batch = make_batch(method, make(8), raw, range(8))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total, terms = method(batch)
        total.backward()
        assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
        assert all(v.dtype == torch.float32 for v in terms.values())
        found.append(float(total.detach()))
    assert found[1] == pytest.approx(found[0], rel=0.1) and found[1] != found[0]
