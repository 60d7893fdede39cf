"""An exported encoder is what timm loads; its card says what it is."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from safetensors.torch import load_file

from cxrmim import cli, grid, record
from cxrmim.errors import CheckError, ParamsError
from cxrmim.paths import Paths
from cxrmim.pretrain import export, weights


@pytest.fixture
def exported(small, corpus, stored):
    """Parameters, and a function that writes a checkpoint with its record."""
    params = small()
    corpus(params)

    def train(checkpoint="mae-s0"):
        item = grid.entry_of(checkpoint)
        torch.manual_seed(3)
        method = weights.build_method(params, item.entry, stored).eval()
        record.write(
            params,
            "pretrain",
            checkpoint,
            outputs={"weights": weights.save_method(params, checkpoint, method)},
            parents=grid.parents(params, "pretrain", checkpoint),
            seed=item.seed,
        )
        return method

    return params, train


@pytest.mark.parametrize("checkpoint", ["mae-s0", "mgca-s0"])
def test_the_call_on_the_card_gives_the_same_features(exported, workplace, monkeypatch, checkpoint):
    params, train = exported
    method = train(checkpoint)
    files = export.export(params, checkpoint, workplace / "out")
    assert [file.name for file in files] == ["model.safetensors", "README.md"]
    assert set(load_file(files[0])) == set(method.encoder.state_dict())
    code = re.search(r"```python\n(.*?)```", files[1].read_text(), re.DOTALL)[1]
    monkeypatch.chdir(workplace / "out")
    space = {}
    exec(code, space)
    model = space["model"].eval()
    image = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(model.forward_features(image), method.encoder.forward_features(image))
        assert torch.equal(model(image), method.encoder(image))


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_files_of_others_are_not_replaced(exported, workplace, name):
    """`--to .` must not cost a project its README, nor `--to weights/deit` published weights."""
    params, train = exported
    train()
    folder = workplace / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(ParamsError, match=f"{name}: is there and is no export"):
        export.export(params, "mae-s0", folder)
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [(name, "mine")]
    export.export(params, "mae-s0", workplace / "out")
    export.export(params, "mae-s0", workplace / "out")  # an earlier export is replaced


def test_the_call_for_vit_b_is_timms_own_name(paper):
    call = export.call(paper)
    assert call == (
        'timm.create_model("vit_base_patch16_224", num_classes=0, '
        'checkpoint_path="model.safetensors")'
    )
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
        method = weights.build_method(paper, "random")
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in method.encoder.state_dict().items()}


def test_the_card_says_what_it_is(exported, workplace):
    params, train = exported
    train()
    run = next(r for r in grid.runs(params) if r.checkpoint == "mae-s0" and r.percent == 10)
    seeds = [r for r in grid.runs(params) if r.id.rsplit("-s", 1)[0] == run.id.rsplit("-s", 1)[0]]
    for r, value in zip(seeds, (0.5, 0.6, 0.73), strict=True):
        record.write(params, "downstream", r.id, metrics={"metric": "mAUC", "value": value})
    card = export.export(params, "mae-s0", workplace / "out")[1].read_text()
    tree = record.read(Paths("demo").record("pretrain", "mae-s0"))
    assert "# mae-s0 (PHANTOM DATA)" in card and "no use on real radiographs" in card
    assert tree["config_hash"] in card
    assert record.sha256(Paths("demo").record("pretrain", "mae-s0")) in card
    assert f"| {run.dataset} | {run.task} | 10 % | mAUC | 61.00 | 3 |" in card
    assert "data use agreement" not in card
    first = (workplace / "out" / "model.safetensors").read_bytes()
    export.export(params, "mae-s0", workplace / "out")
    assert (workplace / "out" / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ({"shards/mimic": "x"}, "may not"),
        ({"pretrain/cmitm-s1-s0": "x"}, "may not"),
        ({}, "no credentialed data"),
    ],
)
def test_weights_of_real_data_carry_their_terms(paper, parents, words):
    tree = {"parents": parents, "inputs": {"deit": {"sha256": "x"}}}
    text = "\n".join(export._data(paper, tree, phantom=False))
    assert words in text and "published weights (deit)" in text
    assert ("data use agreement" in text) is bool(parents)


def test_unknown_checkpoints_and_wrong_files_are_refused(exported, workplace, capsys):
    params, train = exported
    for name in ("mae-s7", "maee-s0", "nothing"):
        with pytest.raises(ParamsError, match="no checkpoint"):
            export.export(params, name, workplace / "out")
    with pytest.raises(CheckError, match="no such record"):
        export.export(params, "mae-s0", workplace / "out")
    train()
    path = Paths("demo").checkpoint("mae-s0")
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\0\1\2\3")
    assert cli.main(["export", "mae-s0"]) == CheckError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert not (workplace / "out").exists() and not (workplace / "exports").exists()
    path.write_bytes(data)
    assert cli.main(["export", "mae-s0"]) == 0
    assert "exports/demo-mae-s0/model.safetensors" in capsys.readouterr().out
    assert cli.main(["export", "mae-s0", "--to", "elsewhere"]) == 0
    assert (workplace / "elsewhere" / "README.md").is_file()


def test_the_card_of_a_stand_in_says_so(exported, workplace):
    params, train = exported
    for checkpoint, said in (("imagenet-s0", True), ("mae-s0", False)):
        train(checkpoint)
        _, card = export.export(params, checkpoint, workplace / checkpoint)
        told = card.read_text(encoding="utf-8")
        assert ("A stand-in (generated shapes): these are not the weights" in told) is said
