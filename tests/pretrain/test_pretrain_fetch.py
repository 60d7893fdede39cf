"""Published files are fetched once, held to their pins, and leave nothing half-done."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrmim import cli, record
from cxrmim.errors import CheckError, DataError
from cxrmim.pretrain import fetch, places, published
from cxrmim.pretrain.parts.bert import TextEncoder
from cxrmim.pretrain.parts.encoders import build_vit

COMMIT = "c" * 40


class FakeHub:
    """A hub with files in memory; counts what it is asked."""

    def __init__(self, files, sha256=None, commit=COMMIT):
        self.files, self.sha256, self.commit = files, sha256, commit
        self.asked = []

    def describe(self, repo, file, revision):
        self.asked.append((repo, file, revision))
        data = self.files[file]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if file.endswith(".txt"):
            return fetch.Remote(self.commit, None, blob)
        return fetch.Remote(self.commit, self.sha256 or hashlib.sha256(data).hexdigest(), blob)

    def download(self, repo, file, commit, folder):
        assert commit == self.commit
        path = folder / file
        path.write_bytes(self.files[file])
        return path


@pytest.fixture
def params(small, workplace):
    return small(
        {
            "pretrain.methods.mgca.init": "deit",
            "shards.text.tokenizer": "bioclinicalbert",
            "shards.text.vocab": 100,
        }
    )


@pytest.fixture
def vit(params, workplace):
    """Bytes of a ViT of the small scale, as safetensors."""
    own = build_vit(params.pretrain.vit, params.pretrain.image).state_dict()
    save_file({k: torch.randn_like(v) for k, v in own.items()}, workplace / "vit")
    data = (workplace / "vit").read_bytes()
    (workplace / "vit").unlink()
    return data


def pin(monkeypatch, name="deit", **changed):
    item = published.pins()[name]
    item = type(item)(**{**vars(item), **changed})
    others = {**published.pins(), name: item}
    monkeypatch.setattr(published, "pins", lambda: others)
    return item


def left_over():
    return sorted(p.as_posix() for p in places.FOLDER.rglob("*") if p.is_file())


def test_the_pins_are_well_formed_and_name_no_host():
    for item in published.pins().values():
        assert item.sha256 is None or re.fullmatch("[0-9a-f]{64}", item.sha256)
        assert item.revision is None or re.fullmatch("[0-9a-f]{40}", item.revision)
        assert item.licence and item.what and (item.repo or item.origin)
    text = published.PINS.read_text()
    assert "://" not in text and ".co/" not in text and ".com" not in text


def test_what_a_scale_needs(params, paper, demo):
    assert [n.item.name for n in published.needed(params)] == [
        "deit",
        "bioclinicalbert-vocab",
        "bioclinicalbert",
    ]
    names = {n.item.name: n for n in published.needed(paper)}
    assert set(names) == set(published.pins())
    assert published.needed(demo) == []
    assert list(published.listed(demo)) == ["none: everything starts from random weights"]
    lines = "\n".join(published.listed(paper))
    for item in published.pins().values():
        assert item.path.as_posix() in lines and item.licence in lines
    assert "sha256 unpinned" in lines and "no network here?" in lines


def test_a_pinned_file_is_fetched_once_byte_for_byte(params, vit, monkeypatch):
    item = pin(monkeypatch, revision=COMMIT, sha256=hashlib.sha256(vit).hexdigest())
    hub = FakeHub({"model.safetensors": vit})
    assert "as pinned" in fetch.fetch(params, item, hub)
    assert item.path.read_bytes() == vit
    assert published.state(item)[0] == "verified"
    assert hub.asked == [(item.repo, "model.safetensors", COMMIT)]
    assert "is there" in fetch.fetch(params, item, hub)
    assert len(hub.asked) == 1
    assert left_over() == [item.path.as_posix(), places.LOCK.as_posix()]
    places.LOCK.unlink()
    assert published.state(item)[0] == "verified"  # the pin is enough


@pytest.mark.parametrize(
    ("hub", "words"),
    [
        ({}, "the pin says 000000000000"),
        ({"sha256": "1" * 64}, "the pin says 000000000000"),
        ({"commit": "d" * 40}, "the hub gives commit dddd"),
    ],
)
def test_another_file_than_the_pinned_one_is_not_kept(params, vit, monkeypatch, hub, words):
    item = pin(monkeypatch, revision=COMMIT, sha256="0" * 64)
    with pytest.raises(DataError, match=words):
        fetch.fetch(params, item, FakeHub({"model.safetensors": vit}, **hub))
    assert not places.FOLDER.exists() or left_over() == []


def test_an_unpinned_file_is_trusted_once_and_then_held_to(params, vit, monkeypatch):
    item = pin(monkeypatch, revision=None, sha256=None)
    with pytest.raises(DataError, match="the hub says 111111111111; nothing was kept"):
        fetch.fetch(params, item, FakeHub({"model.safetensors": vit}, sha256="1" * 64))
    assert left_over() == []
    hub = FakeHub({"model.safetensors": vit})
    assert "as the hub gives it" in fetch.fetch(params, item, hub)
    assert hub.asked[0][2] == "main"
    noted = json.loads(places.LOCK.read_text())[item.path.as_posix()]
    assert noted["source"]["revision"] == COMMIT
    assert noted["sha256"] == noted["source"]["sha256"] == hashlib.sha256(vit).hexdigest()
    assert item.path.read_bytes() == vit
    item.path.write_bytes(vit[:-1] + b"\7")
    assert published.state(item)[0] == "CHANGED"
    with pytest.raises(DataError, match="nothing was fetched: delete it"):
        fetch.fetch(params, item, hub)
    assert item.path.read_bytes()[-1:] == b"\7"
    with pytest.raises(CheckError, match=r"\d of 3 files are missing or changed"):
        published.verify(params, lambda line: None)


def test_a_file_that_lies_there_already_is_not_replaced(params, vit, monkeypatch):
    item = pin(monkeypatch, sha256=None)
    item.path.parent.mkdir(parents=True)
    item.path.write_bytes(b"somebody's own")
    assert published.state(item)[0] == "unpinned"
    hub = FakeHub({"model.safetensors": vit})
    with pytest.raises(DataError, match="keep it with `cxrmim weights import deit"):
        fetch.fetch(params, item, hub)
    assert not hub.asked and item.path.read_bytes() == b"somebody's own"


@pytest.mark.parametrize("error", [fetch.HubError("cut"), KeyboardInterrupt(), OSError(28, "full")])
def test_an_interrupted_download_leaves_nothing(params, vit, monkeypatch, error):
    item = pin(monkeypatch, revision=COMMIT, sha256=hashlib.sha256(vit).hexdigest())

    class Broken(FakeHub):
        def download(self, repo, file, commit, folder):
            (folder / file).write_bytes(vit[: len(vit) // 2])
            raise error

    with pytest.raises((DataError, KeyboardInterrupt, OSError)):
        fetch.fetch(params, item, Broken({"model.safetensors": vit}))
    assert list(places.FOLDER.iterdir()) == []
    assert published.state(item)[0] == "missing"
    fetch.fetch(params, item, FakeHub({"model.safetensors": vit}))
    assert item.path.read_bytes() == vit


def test_a_pickle_from_the_hub_is_converted_and_the_pin_is_of_the_pickle(
    params, workplace, monkeypatch
):
    bert = TextEncoder(params.pretrain.text, 100).bert.state_dict()
    torch.save({f"bert.{k}": v for k, v in bert.items()}, workplace / "x")
    data = (workplace / "x").read_bytes()
    item = pin(monkeypatch, "bioclinicalbert", revision=COMMIT)
    fetch.fetch(params, item, FakeHub({"pytorch_model.bin": data}))
    written = load_file(item.path)
    assert all(torch.equal(written[k], v) for k, v in bert.items())
    noted = places.read_lock()[item.path.as_posix()]
    assert noted["source"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert noted["sha256"] == record.digest(item.path)["sha256"] != noted["source"]["sha256"]
    assert published.state(item)[0] == "verified"

    class Evil:
        def __reduce__(self):
            return (workplace / "ran").touch, ()

    item.path.unlink()
    torch.save({"bert.x": Evil()}, workplace / "x")
    with pytest.raises(DataError, match="refused"):
        fetch.fetch(params, item, FakeHub({"pytorch_model.bin": (workplace / "x").read_bytes()}))
    assert not item.path.exists() and not (workplace / "ran").exists()


def test_a_small_file_is_held_to_its_git_hash(params, monkeypatch):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]
    data = ("\n".join(words) + "\n").encode()
    item = pin(monkeypatch, "bioclinicalbert-vocab", revision=COMMIT)

    class Swapped(FakeHub):
        def download(self, repo, file, commit, folder):
            self.files = {file: data.replace(b"w1", b"v1")}
            return super().download(repo, file, commit, folder)

    with pytest.raises(DataError, match="git hash"):
        fetch.fetch(params, item, Swapped({"vocab.txt": data}))
    assert not item.path.exists()
    fetch.fetch(params, item, FakeHub({"vocab.txt": data}))
    assert item.path.read_bytes() == data


class Reply(Exception):
    """Stands for whatever the hub's library raises."""


def test_without_network_one_line_a_file_says_what_to_do(params, workplace, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise Reply("a long\nstory")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    assert cli.main(["weights", "fetch"]) == DataError.exit_code
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 3
    for line, need in zip(lines, published.needed(params), strict=True):
        assert line.startswith(f"{need.item.path}: the hub cannot be reached (Reply); ")
        assert f"cxrmim weights import {need.item.name} FILE" in line and need.item.repo in line
    assert "3 of 3" in printed.err and printed.err.count("\n") == 1
    assert not places.FOLDER.exists()


def test_the_hubs_library_is_asked_for_the_pinned_commit_without_a_token(
    params, vit, workplace, monkeypatch, capsys
):
    pin(monkeypatch, revision=COMMIT, sha256=hashlib.sha256(vit).hexdigest())
    calls = []

    def model_info(self, repo, *, revision, files_metadata):
        calls.append((repo, revision, self.token))
        entry = SimpleNamespace(
            rfilename="model.safetensors",
            lfs=SimpleNamespace(sha256=hashlib.sha256(vit).hexdigest()),
            blob_id="x",
        )
        return SimpleNamespace(sha=COMMIT, siblings=[entry])

    def download(repo, file, *, revision, local_dir, token):
        calls.append((repo, revision, token))
        (local_dir / file).write_bytes(vit)
        return str(local_dir / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert cli.main(["weights", "fetch", "deit"]) == 0
    repo = published.pins()["deit"].repo
    assert calls == [(repo, COMMIT, False)] * 2
    assert "fetched, sha256" in capsys.readouterr().out
    assert places.place("deit").read_bytes() == vit
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "model_info",
        lambda *_, **__: SimpleNamespace(sha=COMMIT, siblings=[]),
    )
    places.place("deit").unlink()
    assert cli.main(["weights", "fetch", "deit"]) == DataError.exit_code
    assert "the hub has no model.safetensors" in capsys.readouterr().out


def test_listing_needs_no_torch(repo):
    code = (
        "import sys; from cxrmim import cli; cli.main(['weights', '--scale', 'paper']);"
        "print([m for m in ('torch', 'timm', 'transformers', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repo
    )
    assert out.stdout.splitlines()[-1] == "[]"
