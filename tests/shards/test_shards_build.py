"""Manifest to arrays: rows, order, faults, determinism, and reading them back."""

from __future__ import annotations

import hashlib
import json
import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrmim.errors import CheckError, DataError
from cxrmim.shards.images import decode, square
from cxrmim.shards.store import open_shards


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """A job that ran before in this process keeps its log from caplog."""
    monkeypatch.setattr(logging.getLogger("cxrmim"), "propagate", True)


def adds_up(metrics):
    unreadable = sum(metrics["unreadable"].values())
    assert metrics["rows"] == metrics["kept"] + metrics["short_reports"] + unreadable
    return metrics


def test_arrays_follow_the_manifest(corpus, setup):
    metrics, details = corpus.build(setup())
    shards = corpus.open()
    assert adds_up(metrics)["kept"] == 12
    assert shards.images.shape == (12, 32, 32)
    assert shards.images.dtype == np.uint8
    for i in range(12):
        content = (corpus.root / f"{i}.png").read_bytes()
        assert (shards.images[i] == square(decode(content, ".png"), 32)).all()
        assert shards.table.loc[i, "sha256"] == hashlib.sha256(content).hexdigest()
    assert shards.masks is None
    joined = "".join(f"{d}\n" for d in sorted(shards.table["sha256"]))
    assert details["raw"]["sha256"] == hashlib.sha256(joined.encode()).hexdigest()
    assert details["raw"]["files"] == 12


def test_reports_are_stored_once_a_study(corpus, setup):
    metrics, _ = corpus.build(setup())
    shards = corpus.open()
    reports = shards.reports
    assert shards.report.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert shards.report.dtype == np.int64
    assert metrics["tokens"]["reports"] == 6
    dtypes = [a.dtype.name for a in (reports.ids, reports.word, reports.sentence, reports.mesh)]
    assert dtypes == ["int32", "int16", "int16", "bool"]
    assert {a.shape for a in (reports.ids, reports.word, reports.sentence, reports.mesh)} == {
        (6, 24)
    }
    assert shards.vocab_size == reports.vocab_size == metrics["tokens"]["vocabulary"]
    assert reports.ids.max() < shards.vocab_size
    assert reports.vocab["[PAD]"] == 0
    # small left pleural effusion | no pneumothorax | finding number a in the lung
    assert reports.sentence[0, :13].tolist() == [0] * 4 + [1] * 2 + [2] * 6 + [-1]
    assert np.flatnonzero(reports.mesh[0]).tolist() == [0, 1, 2, 3, 5, 11]


def test_the_vocabulary_learns_from_the_training_split_only(corpus, setup):
    corpus.build(setup(vocab=300))
    before = corpus.open().reports.vocab
    corpus.table.loc[6:, "findings"] = "Zygomatic zygomatic zygomatic words."
    corpus.build(setup(vocab=300))
    assert corpus.open().reports.vocab == before
    corpus.table.loc[:5, "findings"] = "Zygomatic zygomatic zygomatic words."
    corpus.build(setup(vocab=300))
    assert corpus.open().reports.vocab != before


def test_only_the_corpus_gets_reports(corpus, setup):
    metrics, _ = corpus.build(setup(), dataset="chexpert")
    shards = corpus.open()
    assert shards.reports is None
    assert shards.report is None
    assert shards.vocab_size == 0
    assert "tokens" not in metrics
    assert sorted(p.name for p in corpus.out.iterdir()) == ["images.npy", "table.parquet"]


def test_a_corpus_without_reports_is_named(corpus, setup):
    corpus.table[["impression", "findings"]] = None
    with pytest.raises(DataError, match=r"mimic: the corpus has no reports; set pretrain.corpus"):
        corpus.build(setup())


def test_threads_change_nothing(corpus, setup):
    files = []
    (corpus.root / "5.png").unlink()
    for threads in (1, 3):
        outcome = corpus.build(setup(), threads=threads)
        content = {p.name: p.read_bytes() for p in sorted(corpus.out.iterdir())}
        files.append((outcome, content))
    assert files[0] == files[1]


def test_unreadable_rows_leave_every_array(corpus, setup, caplog):
    (corpus.root / "3.png").write_bytes(b"not an image")
    (corpus.root / "5.png").unlink()
    corpus.table.loc[8, "impression"] = corpus.table.loc[8, "findings"] = "Ok."
    with caplog.at_level("INFO", "cxrmim"):
        metrics, details = corpus.build(setup())
    shards = corpus.open()
    assert adds_up(metrics)["unreadable"] == {"image file is missing": 1, "not an image file": 1}
    assert metrics["short_reports"] == 1
    assert shards.table["source_row"].tolist() == [1, 2, 3, 5, 7, 8, 10, 11, 12]
    assert len(shards.images) == len(shards.report) == 9
    assert details["raw"]["files"] == 10  # the broken one was read, the missing one was not
    content = (corpus.root / "11.png").read_bytes()
    assert (shards.images[8] == square(decode(content, ".png"), 32)).all()
    assert "mimic, source row 4: not an image file" in caplog.text
    assert "3.png" not in caplog.text


def test_too_many_unreadable_rows_stop(corpus, setup):
    (corpus.root / "3.png").write_bytes(b"x")
    corpus.build(setup(limit=0.1))
    expected = (
        r"mimic: 1 of 12 images cannot be read, first source row 4: not an image file.*= 0.01"
    )
    with pytest.raises(DataError, match=expected):
        corpus.build(setup(limit=0.01))


def test_nothing_left_is_an_error(corpus, setup):
    for path in corpus.root.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="mimic: no row of 12 is left"):
        corpus.build(setup(limit=1.0))


def test_masks_have_the_geometry_of_their_images(corpus, setup):
    """A mask that is the bright half of the image stays so after resizing and padding."""
    pixels = np.zeros((64, 48), dtype=np.uint8)
    pixels[:, 24:] = 255
    Image.fromarray(pixels).save(corpus.root / "0.png")
    codes = [[] for _ in range(12)]
    codes[0] = [f"{64 * 24} {64 * 12}", f"{64 * 36} {64 * 12}"]
    corpus.table["rle"] = pd.Series(codes, dtype=object)
    corpus.build(setup(), dataset="siim")
    shards = corpus.open()
    assert shards.masks.shape == (12, 32, 32)
    assert (shards.masks[0] == shards.images[0]).all()
    assert shards.masks[0].max() == 255
    assert shards.masks[1:].max() == 0


@pytest.mark.parametrize("code", ["9999 1", "1 2 3", "4 -1"])
def test_a_bad_mask_is_an_unreadable_row(corpus, setup, code, caplog):
    corpus.table["rle"] = pd.Series([[] if i != 6 else [code] for i in range(12)], dtype=object)
    with caplog.at_level("INFO", "cxrmim"):
        metrics, _ = corpus.build(setup(), dataset="siim")
    assert adds_up(metrics)["kept"] == 11
    assert "siim, source row 7: mask " in caplog.text


def test_rows_and_labels_of_a_split(corpus, setup):
    corpus.build(setup())
    shards = corpus.open()
    assert shards.rows("train").tolist() == [0, 1, 2, 3, 4, 5]
    assert shards.rows("train", 10).tolist() == [0, 1]
    assert shards.rows("train", 1).tolist() == [0]
    assert shards.rows("valid").tolist() == []
    assert shards.rows("test").dtype == np.int64
    with pytest.raises(ValueError, match="only the training split"):
        shards.rows("test", 10)
    assert shards.labels(["Edema"])[:, 0].tolist() == [i % 2 for i in range(12)]
    assert shards.labels(["Edema", "Edema"]).dtype == np.float32
    with pytest.raises(DataError, match=r"no column label_Mass .* label_Edema"):
        shards.labels(["Mass"])


def test_opening_what_is_not_whole(corpus, setup, tmp_path):
    with pytest.raises(CheckError, match="no shards there"):
        open_shards(tmp_path / "nowhere")
    corpus.build(setup())
    np.save(corpus.out / "report.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(CheckError, match=r"report.npy has 3 rows, table.parquet 12"):
        corpus.open()
    (corpus.out / "images.npy").unlink()
    with pytest.raises(CheckError, match=r"images.npy: not there"):
        corpus.open()


def test_the_vocabulary_file_is_a_tokenizers_file(corpus, setup):
    tokenizers = pytest.importorskip("tokenizers")
    corpus.build(setup())
    loaded = tokenizers.Tokenizer.from_file(str(corpus.out / "vocab.json"))
    assert loaded.get_vocab() == corpus.open().reports.vocab
    assert json.loads((corpus.out / "vocab.json").read_text())["model"]["type"] == "WordPiece"
