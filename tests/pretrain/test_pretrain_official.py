"""Official checkpoints come in through key maps; hostile files do not."""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import sys
import types
import zipfile

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cxrmim import cli, grid
from cxrmim import params as settings
from cxrmim.errors import CxrmimError, DataError, ParamsError
from cxrmim.pretrain import official, places, published, untrusted, weights
from cxrmim.pretrain.parts.encoders import build_vit

LIGHTNING = "img_encoder_q.model."


@pytest.fixture
def vit(small, workplace):
    """A ViT's tensors of the small scale."""
    params = small()
    own = build_vit(params.pretrain.vit, params.pretrain.image).state_dict()
    torch.manual_seed(5)
    return {k: torch.randn_like(v) for k, v in own.items()}


def mae(vit):
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 26, 8)}
    blocks = {f"decoder_blocks.{i}.norm1.weight": torch.ones(8) for i in range(2)}
    return {"model": vit | decoder | blocks | {"head.weight": torch.zeros(3, 16)}}


def mrm(vit):
    """As the MRM repository saves: arguments and an optimiser beside the weights."""
    extra = {"bert_mlp.weight": torch.zeros(4, 16), "bert_encoder.model.x.bias": torch.zeros(4)}
    layer = torch.nn.Linear(2, 2)
    return {
        "model": mae(vit)["model"] | extra,
        "optimizer": torch.optim.AdamW(layer.parameters()).state_dict(),
        "epoch": 199,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=1e-4, output_dir="out"),
    }


def mgca(vit):
    """As Lightning saves, old releases with classes as keys."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback
    state = {LIGHTNING + k: v for k, v in vit.items()}
    state |= {"img_encoder_q.global_embed.head.0.weight": torch.zeros(4, 16)}
    state |= {"text_encoder_q.model.embeddings.LayerNorm.weight": torch.ones(16)}
    state |= {"prototype_layer.weight": torch.zeros(6, 8)}
    out = {"state_dict": state, "epoch": 49, "hyper_parameters": {"gpus": 2, "softmax": 0.07}}
    return out | {"callbacks": {callback: {"best_model_score": torch.tensor(1.0)}}}, module


def medim(vit, channels=(8, 6, 4)):
    """MedIM: MGCA's keys plus blocks of convolution and BatchNorm, counted from 1."""
    tree, module = mgca(vit)
    widths = (16, *channels)
    for i in range(len(channels)):
        block = torch.nn.Sequential(
            torch.nn.Conv2d(widths[i], widths[i + 1], 3, padding=1),
            torch.nn.BatchNorm2d(widths[i + 1]),
        )
        name = f"img_decoder_q.model.decoder_{i + 1}."
        tree["state_dict"] |= {name + k: torch.randn_like(v) if v.is_floating_point() else v
                               for k, v in block.state_dict().items()}  # fmt: skip
    tree["state_dict"]["img_decoder_q.model.final_out_word.bias"] = torch.zeros(3)
    return tree, module


def saved(tree, path, **how):
    """torch.save, with classes of a package that is not installed."""
    tree, module = tree if isinstance(tree, tuple) else (tree, None)
    parts = module.__name__.split(".") if module else []
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    for name in names:
        sys.modules[name] = module if name == module.__name__ else types.ModuleType(name)
    try:
        torch.save(tree, path, **how)
    finally:
        for name in names:
            del sys.modules[name]
    return path


@pytest.mark.parametrize("name", list(official.OFFICIAL))
@pytest.mark.parametrize("old", [False, True])
def test_official_checkpoints_become_timm_files(small, workplace, vit, name, old):
    file = saved(globals()[name](vit), workplace / "their.ckpt",
                 _use_new_zipfile_serialization=not old)  # fmt: skip
    brought = official.bring(small(), name, file)
    assert brought.path == places.place(f"{name}-official")
    written = load_file(brought.path)
    assert {k for k in written if not k.startswith("decoder.")} == set(vit)
    assert all(torch.equal(written[k], vit[k]) for k in vit)
    assert len(written) == brought.taken
    assert any(k.startswith("decoder.") for k in written) == (name == "medim")
    assert places.read_lock()[brought.path.as_posix()]["source"]["of"] == name
    text = " ".join(brought.lines())
    assert {"mae": "decoder_blocks (2)", "mrm": "bert_mlp (1)"}.get(
        name, "text_encoder_q (1)"
    ) in text


def test_the_decoder_of_medim_is_taken_in_our_names(small, workplace, vit, stored):
    params = small({"pretrain.methods.medim.init": "medim-official"})
    tree, module = medim(vit)
    file = saved((tree, module), workplace / "last.ckpt")
    brought = official.bring(params, "medim", file)
    assert "img_decoder_q.model.final_out_word.bias" in brought.left
    method = weights.build_method(params, "medim", stored)
    weights.initialise(method, params, grid.Pretraining("medim", 0))
    theirs = tree["state_dict"]
    for i in range(3):
        name = f"img_decoder_q.model.decoder_{i + 1}."
        assert torch.equal(method.decoder.convs[i].weight, theirs[f"{name}0.weight"])
        assert torch.equal(method.decoder.norms[i].running_var, theirs[f"{name}1.running_var"])


def test_an_official_row_is_params_only(write_params, small, workplace, vit, stored):
    small()  # a row is two edits of params.yaml: an entry, and its name in a table
    edited = yaml.safe_load((workplace / "params.yaml").read_text())
    edited["pretrain"]["entries"]["mgca-released"] = {
        "method": "imagenet",
        "set": {
            "init": "mgca-official",
            "trains": False,
            "stand_in": None,
            "options": {"stand_in": None},
        },
    }
    table = edited["grid"]["medim_table1"]
    table["rows"] = ["random", "mgca", "mgca-released"]
    params = settings.load(write_params(edited))
    item = grid.Pretraining("mgca-released", 0)
    assert item in grid.pretrainings(params)
    runs = [run for run in grid.runs(params) if run.checkpoint == item.checkpoint]
    assert {(run.dataset, run.percent) for run in runs} >= {("chexpert", 1), ("chexpert", 100)}
    assert not params.pretraining(item.entry)[1].trains
    need = {need.item.name: need for need in published.needed(params)}["mgca-official"]
    assert published.state(need.item)[0] == "missing"
    assert "--as mgca-official" in published.by_hand(need.item)
    official.bring(params, "mgca", saved(mgca(vit), workplace / "mgca.ckpt"))
    assert published.state(need.item)[0] == "verified"
    method = weights.build_method(params, item.entry, stored)
    assert list(weights.initialise(method, params, item)) == ["mgca-official"]
    assert all(torch.equal(v, vit[k]) for k, v in method.encoder.state_dict().items())


class Evil:
    """Runs a command when it is unpickled without care."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def refused(params, file, words, name="mae"):
    with pytest.raises(DataError, match=words) as error:
        official.bring(params, name, file)
    assert "\n" not in str(error.value)
    assert not places.place(f"{name}-official").exists()
    assert not places.LOCK.exists()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_a_pickle_payload_is_refused_and_nothing_ran(small, workplace, vit, old, deep):
    mark = workplace / "ran"
    tree = mae(vit)
    if deep:
        tree["model"]["blocks.0.norm1.weight"] = Evil(mark)
    else:
        tree = Evil(mark)
    file = workplace / "evil.pth"
    torch.save(tree, file, _use_new_zipfile_serialization=not old)
    refused(small(), file, r"refused: it asks for (posix|nt)\.system.*nothing of it was run")
    assert not mark.exists()
    torch.load(file, weights_only=False)  # the payload works where nobody is careful
    assert mark.exists()


def test_a_stand_in_keeps_nothing_and_calls_nothing(workplace, vit):
    file = saved(mrm(vit), workplace / "a.pth")
    with torch.serialization.safe_globals(untrusted.STAND_INS):
        found = torch.load(file, weights_only=True)
    assert type(found["args"]) is untrusted.Inert and not vars(found["args"])


def test_an_archive_that_grows_is_refused(small, workplace):
    file = workplace / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}.")
        archive.writestr("bomb/data/0", bytes(50_000_000))
    assert file.stat().st_size < 100_000
    refused(small(), file, "refused: its archive is compressed")


def test_a_tensor_larger_than_its_bytes_is_refused(small, workplace, vit):
    tree = mae(vit)
    tree["model"]["cls_token"] = torch.zeros(1).expand(1, 1, 10**12)
    file = workplace / "view.pth"
    torch.save(tree, file)
    assert file.stat().st_size < 10_000_000
    refused(small(), file, "cls_token claims more numbers than the file holds")


def test_an_archive_with_a_short_tensor_is_refused(small, workplace, vit):
    whole, file = workplace / "whole.pth", workplace / "short.pth"
    torch.save(mae(vit), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, data[:8] if entry.filename.endswith("data/3") else data)
    refused(small(), file, "cannot be read as tensors")


def test_damaged_files_and_other_files_are_refused(small, workplace, vit):
    params = small()
    whole = io.BytesIO()
    torch.save(mae(vit), whole)
    data = whole.getvalue()
    file = workplace / "x.pth"
    for cut in (1, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        refused(params, file, "truncated|not a checkpoint")
    for content, words in (
        (b"", "not a checkpoint"),
        (b"<html>404</html>", "not a checkpoint"),
        (b"\x80\x02garbage", "cannot be read as tensors"),
        (b"PK\x03\x04 and no archive", "truncated or damaged"),
        ((100).to_bytes(8, "little") + b"{" + bytes(200), "damaged safetensors"),
    ):
        file.write_bytes(content)
        refused(params, file, words)
    refused(params, workplace / "nowhere.pth", "no such file")
    refused(params, workplace, "no such file")
    for tree in ({"epoch": 3}, [1, 2], {"model": {"a": "text"}}):
        torch.save(tree, file)
        refused(params, file, "holds no weights")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls_token": torch.zeros(1, 1, 12)}, r"cls_token has shape \(1, 1, 12\), scale demo"),
        ({"norm.bias": torch.full((16,), float("inf"))}, "norm.bias has numbers"),
        ({"norm.bias": torch.zeros(16).to_sparse()}, "norm.bias is no plain array"),
        ({"norm.bias": torch.zeros(16, dtype=torch.complex64)}, "norm.bias has numbers of an unus"),
        ({"norm.bias": torch.zeros(16, dtype=torch.int64)}, "norm.bias is torch.int64, a ViT"),
        ({"pos_embed": torch.zeros(1, 8, 16)}, "pos_embed has shape"),
        ({"norm.bias": None}, "lacks 'norm.bias'"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(small, workplace, vit, change, words):
    tree = {"model": {k: v for k, v in (vit | change).items() if v is not None}}
    file = workplace / "x.pth"
    torch.save(tree, file)
    refused(small(), file, words)


@pytest.mark.parametrize(("kind", "bits"), [("F8_E4M3", 8), ("F4", 4)])
def test_numbers_that_torch_cannot_check_are_refused(small, workplace, vit, kind, bits):
    """safetensors knows kinds of numbers that isfinite does not, or that are no weights of ours."""
    size = vit["cls_token"].numel() * bits // 8
    shape = list(vit["cls_token"].shape)
    entry = {"dtype": kind, "shape": shape, "data_offsets": [0, size]}
    head = json.dumps({"cls_token": entry}).encode()
    head += b" " * (-len(head) % 8)
    file = workplace / "odd.safetensors"
    file.write_bytes(struct.pack("<Q", len(head)) + head + bytes(size))
    refused(small(), file, "cls_token has numbers of an unusual kind")


def test_another_methods_checkpoint_is_named(small, workplace, vit):
    file = workplace / "mae.pth"
    torch.save(mae(vit), file)
    refused(small(), file, "not the checkpoint that was named", name="mgca")


@pytest.mark.parametrize("to", ["deit", "medim", "../up", "Upper"])
def test_names_that_are_taken_or_odd_are_refused(small, workplace, vit, to):
    file = saved(mae(vit), workplace / "x.pth")
    with pytest.raises(ParamsError, match=f"--as {to}".replace(".", r"\.")):
        official.bring(small(), "mae", file, to)


def test_a_published_file_by_hand(small, workplace, vit, monkeypatch):
    """A safetensors file as pinned, the known .pth, somebody else's file, and an unpinned one."""
    params = small()
    right, pth, wrong = (workplace / n for n in ("a.safetensors", "their.pth", "b.safetensors"))
    save_file(vit, right)
    torch.save(mae(vit), pth)
    save_file({k: v + 1 for k, v in vit.items()}, wrong)
    digests = {p: official.record.digest(p) for p in (right, pth)}
    pinned = published.Published(
        "deit", "model.safetensors", "vit", "x", "model.safetensors", "y", repo="a/b",
        sha256=digests[right]["sha256"], known={"their.pth": {"md5": digests[pth]["md5"][:6]}},
    )  # fmt: skip
    monkeypatch.setattr(published, "pins", lambda: {"deit": pinned})
    with pytest.raises(DataError, match="not the published deit"):
        official.bring(params, "deit", wrong)
    assert official.bring(params, "deit", right).trust == "sha256 as pinned"
    assert places.place("deit").read_bytes() == right.read_bytes()
    assert published.state(pinned)[0] == "verified"
    assert official.bring(params, "deit", pth).trust == "digest as its publisher gives it"
    assert published.state(pinned)[0] == "verified"
    assert all(torch.equal(v, vit[k]) for k, v in load_file(places.place("deit")).items())
    unpinned = published.Published("deit", "model.safetensors", "vit", "x", "m", "y",
                                   known={"b.safetensors": {"md5": "0" * 32}})  # fmt: skip
    monkeypatch.setattr(published, "pins", lambda: {"deit": unpinned})
    with pytest.raises(DataError, match="not the published deit"):
        official.bring(params, "deit", wrong)  # it bears a known name without its digest
    wrong = wrong.rename(workplace / "c.safetensors")
    assert "trusted on first use" in official.bring(params, "deit", wrong).trust
    with pytest.raises(
        ParamsError, match=r"no published file or official checkpoint .diet.; did you mean deit"
    ):
        official.bring(params, "diet", wrong)
    with pytest.raises(ParamsError, match="its own place"):
        official.bring(params, "deit", wrong, "elsewhere")


def test_bioclinicalbert_by_hand(small, workplace, stored):
    params = small({"shards.text.tokenizer": "bioclinicalbert", "shards.text.vocab": 100})
    bert = official.TextEncoder(params.pretrain.text, 100).bert.state_dict()
    old = {"bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in bert.items()}
    old |= {"bert.pooler.dense.weight": torch.zeros(16, 16), "cls.predictions.bias": torch.zeros(9)}
    file = workplace / "pytorch_model.bin"
    torch.save(old, file)
    brought = official.bring(params, "bioclinicalbert", file)
    assert brought.taken == len(bert) and len(brought.left) == 2
    written = load_file(brought.path)
    assert all(torch.equal(written[k], v) for k, v in bert.items())
    torch.save({k: v for k, v in old.items() if "layer.1" not in k}, file)
    with pytest.raises(DataError, match=r"lacks 'encoder\.layer\.1"):
        official.bring(params, "bioclinicalbert", file)


def test_a_vocabulary_that_is_another_models_is_refused(small, workplace):
    params = small({"shards.text.tokenizer": "bioclinicalbert", "shards.text.vocab": 100})
    file = workplace / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]
    file.write_text("\n".join(words) + "\n")
    official.bring(params, "bioclinicalbert-vocab", file)
    from cxrmim.shards import tokenizer

    assert tokenizer.VOCABULARY.read_bytes() == file.read_bytes()
    file.write_text("\n".join(words[:50]))
    with pytest.raises(CxrmimError, match="50 tokens, not the 100"):
        official.bring(params, "bioclinicalbert-vocab", file)
    assert {published.pins()[n].path for n in ("bioclinicalbert-vocab", "mrm-wordpiece")} == {
        tokenizer.VOCABULARY, tokenizer.RAW_VOCABULARY}  # fmt: skip


def test_command_line(small, workplace, vit, capsys):
    small()
    saved(mae(vit), workplace / "x.pth")
    assert cli.main(["weights", "import", "mae", "x.pth", "--as", "mae-theirs"]) == 0
    assert "weights/mae-theirs/model.safetensors: written" in capsys.readouterr().out
    assert cli.main(["weights", "verify"]) == 0
    assert "verified" in capsys.readouterr().out
    places.place("mae-theirs").write_bytes(b"x")
    assert cli.main(["weights", "verify"]) == 4
    assert capsys.readouterr().out.count("CHANGED") == 1
    assert cli.main(["weights", "import", "mae"]) == ParamsError.exit_code
    torch.save(Evil(workplace / "ran"), workplace / "evil.pth")
    capsys.readouterr()
    assert cli.main(["weights", "import", "mae", "evil.pth"]) == DataError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert not (workplace / "ran").exists()
