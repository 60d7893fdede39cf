"""Opening shards: checksums, masks as bits, whole reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_corpus import Corpus, masked

from cxrmim.errors import CheckError
from cxrmim.shards import store
from cxrmim.shards.bits import pack, unpack
from cxrmim.shards.store import Masks, check, open_shards, seal


@pytest.fixture
def built(corpus: Corpus, setup) -> Corpus:
    masked(corpus).build(setup())
    return corpus


def test_every_file_has_checksums(built):
    tree = json.loads((built.out / "checksums.json").read_text())
    names = {path.name for path in built.out.iterdir()} - {"checksums.json"}
    assert set(tree["files"]) == names
    assert {"images.npy", "masks.npy", "table.parquet", "ids.npy", "vocab.json"} <= names
    for name, entry in tree["files"].items():
        assert entry["bytes"] == (built.out / name).stat().st_size
        assert len(entry["sha256"]) == 1
    check(built.out)


@pytest.mark.parametrize(
    "name", ["images.npy", "masks.npy", "table.parquet", "ids.npy", "mesh.npy"]
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_bit_is_found_on_opening(built, name, place):
    path = built.out / name
    content = bytearray(path.read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckError, match=rf"{name}: block 0 \(bytes 0 to 67108864\) has another"):
        open_shards(built.out)


def test_the_damaged_block_is_named(built, monkeypatch):
    """Blocks of 1,000 bytes: the images are 12,416 bytes, and byte 7,000 begins the eighth."""
    monkeypatch.setattr(store, "BLOCK", 1000)
    monkeypatch.setattr(store, "PIECE", 300)
    seal(built.out)
    assert (
        len(json.loads((built.out / "checksums.json").read_text())["files"]["images.npy"]["sha256"])
        == 13
    )
    check(built.out)
    path = built.out / "images.npy"
    content = bytearray(path.read_bytes())
    content[7000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckError, match=r"images.npy: block 7 \(bytes 7000 to 8000\)"):
        open_shards(built.out)
    assert len(open_shards(built.out, verify=False).images) == 12


def test_a_block_s_checksum_is_plain_sha256(built, monkeypatch):
    import hashlib

    monkeypatch.setattr(store, "BLOCK", 5000)
    seal(built.out)
    content = (built.out / "images.npy").read_bytes()
    expected = [
        hashlib.sha256(content[i : i + 5000]).hexdigest() for i in range(0, len(content), 5000)
    ]
    tree = json.loads((built.out / "checksums.json").read_text())
    assert tree["files"]["images.npy"]["sha256"] == expected


def test_opening_what_is_not_whole(built, tmp_path):
    with pytest.raises(CheckError, match="no shards there"):
        open_shards(tmp_path / "nowhere")
    images = built.out / "images.npy"
    content = images.read_bytes()
    images.write_bytes(content[:-1])
    with pytest.raises(CheckError, match=r"images.npy: 12415 bytes, 12416 bytes were written"):
        open_shards(built.out)
    images.unlink()
    with pytest.raises(CheckError, match=r"images.npy: not there, 12416 bytes were written"):
        open_shards(built.out)
    with pytest.raises(CheckError, match=r"images.npy: not there; `dvc pull`"):
        open_shards(built.out, verify=False)
    images.write_bytes(content)
    np.save(built.out / "report.npy", np.zeros(3, dtype=np.int64))
    seal(built.out)
    with pytest.raises(CheckError, match=r"report.npy has 3 rows, table.parquet 12"):
        open_shards(built.out)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"block": 67108864}', '{"block": 5, "files": {}}']
)
def test_checksums_that_are_missing_or_damaged(built, text):
    path = built.out / "checksums.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CheckError, match=r"checksums.json: "):
        open_shards(built.out)


@given(
    side=st.integers(1, 40),
    count=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_masks_come_back_from_their_bits(side, count, seed):
    rng = np.random.default_rng(seed)
    covered = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
    expected = np.where(covered >= 128, 255, 0)
    bits = np.stack([pack(mask) for mask in covered])
    assert bits.shape == (count, side, -(-side // 8))
    assert (unpack(bits, side) == expected).all()
    masks = Masks(bits)
    assert masks.shape == (count, side, side)
    assert len(masks) == count
    assert masks.dtype == np.uint8
    assert (np.array(masks) == expected).all()
    assert np.asarray(masks, dtype=np.float32).dtype == np.float32
    rows = rng.integers(0, count, 7)
    for picked in (0, count - 1, slice(None), slice(1, None), rows, rows.tolist()):
        assert (masks[picked] == expected[picked]).all()
        assert masks[picked].dtype == np.uint8
    assert (np.array(masks[rows]) == expected[rows]).all()


def test_arrays_are_maps_and_not_copies(built):
    shards = built.open()
    assert isinstance(shards.images, np.memmap)
    assert not shards.images.flags.writeable
    rows = np.array([5, 0, 5])
    assert np.asarray(shards.images[rows]).shape == shards.masks[rows].shape == (3, 32, 32)
    assert shards.images[2:4].shape == shards.masks[2:4].shape == (2, 32, 32)
    assert shards.images[3, 4:9, 5:7].shape == (5, 2)
    assert shards.raw is None


def test_whole_reports_are_read(built):
    vocab = {"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "heart": 1}}}
    np.save(built.out / "raw_ids.npy", np.ones((6, 4), dtype=np.int32))
    np.save(built.out / "raw_word.npy", np.zeros((6, 4), dtype=np.int16))
    (built.out / "raw_vocab.json").write_text(json.dumps(vocab))
    seal(built.out)
    raw = built.open().raw
    assert raw.ids.shape == raw.word.shape == (6, 4)
    assert raw.vocab == {"[PAD]": 0, "heart": 1}
    assert raw.vocab_size == 2
    (built.out / "raw_vocab.json").unlink()
    with pytest.raises(CheckError, match=r"raw_vocab.json: not there"):
        open_shards(built.out, verify=False)
