"""Manifest to arrays: rows, order, faults, determinism, and reading them back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shards_files import dicom

from cxrmim.errors import DataError
from cxrmim.shards import pool
from cxrmim.shards.build import check_splits
from cxrmim.shards.images import decode, square
from cxrmim.shards.journal import Outcome
from cxrmim.shards.store import Table


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
        assert (shards.images[i] == square(decode(content).pixels, 32)).all()
        assert shards.table.column("sha256")[i] == hashlib.sha256(content).hexdigest()
    assert shards.masks is None
    joined = "".join(f"{d}\n" for d in sorted(shards.table.column("sha256")))
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
    files = ["checksums.json", "images.npy", "table.parquet"]
    assert sorted(p.name for p in corpus.out.iterdir()) == files


def test_a_corpus_without_reports_is_named(corpus, setup):
    corpus.table[["impression", "findings"]] = None
    with pytest.raises(DataError, match=r"mimic: the corpus has no reports; set pretrain.corpus"):
        corpus.build(setup())


def test_worker_processes_change_nothing(corpus, setup, monkeypatch):
    monkeypatch.setattr(pool, "ROWS", 2)
    files = []
    (corpus.root / "5.png").unlink()
    for threads in (1, 3):
        outcome = corpus.build(setup(), threads=threads)
        content = {p.name: p.read_bytes() for p in sorted(corpus.out.iterdir())}
        files.append((outcome, content))
    assert files[0] == files[1]
    assert len(corpus.open().images) == 11


def test_unreadable_rows_leave_every_array(corpus, setup, caplog):
    (corpus.root / "3.png").write_bytes(b"not an image")
    (corpus.root / "5.png").unlink()
    short = corpus.table["study"] == corpus.table.loc[8, "study"]  # two images, one report
    corpus.table.loc[short, ["impression", "findings"]] = "Ok."
    with caplog.at_level("INFO", "cxrmim"):
        metrics, details = corpus.build(setup())
    shards = corpus.open()
    assert adds_up(metrics)["unreadable"] == {"image file is missing": 1, "not an image file": 1}
    assert metrics["short_reports"] == short.sum() == 2
    assert shards.table.column("source_row").tolist() == [1, 2, 3, 5, 7, 8, 11, 12]
    assert len(shards.images) == len(shards.report) == 8
    assert details["raw"]["files"] == 9  # the broken one was read, the missing one was not
    content = (corpus.root / "11.png").read_bytes()
    assert (shards.images[7] == square(decode(content).pixels, 32)).all()
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
    assert not corpus.out.exists()


def test_a_wrong_root_is_found_at_once(corpus, setup, monkeypatch):
    """The images that are left are not decoded once too many are missing."""
    monkeypatch.setattr(pool, "ROWS", 3)
    for i in range(3):
        (corpus.root / f"{i}.png").unlink()
    done = []
    process = pool.process
    monkeypatch.setattr(pool, "process", lambda *a, **k: done.append(1) or process(*a, **k))
    expected = r"mimic: 3 of 12 images \(3 read so far\) cannot be read, first source row 1"
    with pytest.raises(DataError, match=expected):
        corpus.build(setup(limit=0.1))
    assert len(done) == 3


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
    assert np.load(corpus.out / "masks.npy").shape == (12, 32, 4)  # 8 px a byte


@pytest.mark.parametrize("decode_at", ["scaled", "full"])
def test_masks_follow_a_jpeg_whatever_the_scale_it_is_decoded_at(corpus, setup, decode_at):
    """Masks are drawn on the image of the file, not on the reduced one."""
    pixels = np.zeros((640, 480), dtype=np.uint8)
    pixels[:, 240:] = 255
    Image.fromarray(pixels).save(corpus.root / "0.png", "JPEG", quality=95)
    codes = [[] for _ in range(12)]
    codes[0] = [f"{640 * 240} {640 * 240}"]
    corpus.table["rle"] = pd.Series(codes, dtype=object)
    corpus.build(setup(decode=decode_at), dataset="siim")
    shards = corpus.open()
    assert ((shards.images[0] > 127) == (shards.masks[0] > 0)).all()
    assert (shards.masks[0] > 0).mean() == 12 / 32


def test_a_mask_is_foreground_where_half_of_a_pixel_is(corpus, setup):
    """64 x 64 to 32 x 32: each pixel of the mask covers 2 x 2 of the image."""
    Image.fromarray(np.full((64, 64), 9, dtype=np.uint8)).save(corpus.root / "0.png")
    codes = [[] for _ in range(12)]
    codes[0] = ["0 1", "128 1 63 1", "256 2 62 1"]  # 1, 2 and 3 of the four, in columns 0, 2, 4
    corpus.table["rle"] = pd.Series(codes, dtype=object)
    corpus.build(setup(), dataset="siim")
    assert np.argwhere(corpus.open().masks[0]).tolist() == [[0, 1], [0, 2]]


def test_the_decoding_of_jpegs_is_a_switch(corpus, setup):
    smooth = np.add.outer(np.arange(600), np.arange(500)) / 5
    noise = np.random.default_rng(0).normal(0, 20, smooth.shape)
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(corpus.root / "0.png", "JPEG", quality=90)
    found = []
    for decode_at in ("scaled", "full"):
        corpus.build(setup(decode=decode_at), dataset="chexpert")
        found.append(np.array(corpus.open().images))
    assert (found[0][1:] == found[1][1:]).all()
    difference = np.abs(found[0][0].astype(int) - found[1][0])
    assert 0 < difference.mean() <= 0.5


def test_the_corpus_and_the_others_have_their_own_side(corpus, setup):
    params = setup(side=24, side_downstream=40)
    for dataset, side in (("mimic", 24), ("chexpert", 40)):
        _, details = corpus.build(params, dataset=dataset)
        assert details["images"] == [12, side, side]
        assert corpus.open().images.shape == (12, side, side)


def test_text_stays_out_of_the_table(corpus, setup):
    corpus.table["report"] = "SECRETREPORT of a patient with an effusion and more words."
    corpus.table["rle"] = pd.Series([["0 1"]] * 12, dtype=object)
    corpus.build(setup())
    columns = set(corpus.open().table.columns)
    assert not columns & {"impression", "findings", "report", "rle", "sentences"}
    assert {"image", "path", "source_row", "sha256", "pixels", "dhash", "label_Edema"} <= columns
    assert {"height", "width"} <= columns
    for path in corpus.out.iterdir():
        if path.name != "vocab.json":
            assert b"SECRETREPORT" not in path.read_bytes()


def test_what_a_dicom_says_about_a_patient_is_in_no_output(corpus, setup, caplog):
    secrets = {"PatientName": "Doe^Jane", "PatientID": "PID4711", "InstitutionName": "SECRETCLINIC"}
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    whole = dicom(pixels, **secrets)
    (corpus.root / "0.png").write_bytes(whole)
    (corpus.root / "1.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level("DEBUG"):
        outcome = corpus.build(setup())
    assert outcome[0]["kept"] == 11
    content = [p.read_bytes() for p in corpus.out.iterdir()]
    content += [json.dumps(outcome).encode(), caplog.text.encode()]
    for secret in secrets.values():
        assert secret.encode() in whole
        assert not any(secret.encode() in part for part in content)


def test_an_image_in_two_splits_is_stored_for_each(corpus, setup):
    again = corpus.table.iloc[:2].assign(split="test")
    corpus.table = pd.concat([corpus.table, again], ignore_index=True)
    metrics, details = corpus.build(setup())
    shards = corpus.open()
    assert metrics["kept"] == len(shards.images) == 14
    assert (shards.images[12:] == shards.images[:2]).all()
    assert details["raw"]["files"] == 12
    assert metrics["audit"]["pixels"] == {"train-test": 0, "train": 0, "test": 0}  # equal ids


def test_pixels_under_two_ids_are_counted(corpus, setup):
    (corpus.root / "7.png").write_bytes((corpus.root / "1.png").read_bytes())
    with Image.open(corpus.root / "2.png") as image:
        image.save(corpus.root / "3.png", "TIFF")  # other bytes, the same pixels
    metrics, _ = corpus.build(setup())
    assert metrics["audit"] == {
        "pixels": {"train-test": 1, "train": 1, "test": 0},
        "similar": {"train-test": 1, "train": 1, "test": 0},
    }


@pytest.mark.parametrize("code", ["9999 1", "1 2 3", "4 -1"])
def test_a_bad_mask_is_an_unreadable_row(corpus, setup, code, caplog):
    corpus.table["rle"] = pd.Series([[] if i != 6 else [code] for i in range(12)], dtype=object)
    with caplog.at_level("INFO", "cxrmim"):
        metrics, _ = corpus.build(setup(), dataset="siim")
    assert adds_up(metrics)["kept"] == 11
    assert "siim, source row 7: mask " in caplog.text


def test_rows_and_labels_of_a_split(corpus, setup, tmp_path):
    corpus.build(setup())
    shards = corpus.open()
    assert shards.rows("train").tolist() == [0, 1, 2, 3, 4, 5]
    assert shards.rows("train", 10).tolist() == [0, 1]
    assert shards.rows("train", 1).tolist() == [0]
    assert shards.rows("valid").tolist() == []
    assert shards.rows("test").dtype == np.int64
    assert shards.rows("train", 10, seed=1).tolist() == [0, 1]  # one draw for all seeds
    drawn = shards.table.read().assign(in_10_s1=[0] * 3 + [1] * 9)
    drawn.to_parquet(tmp_path / "table.parquet")
    own = dataclasses.replace(shards, table=Table(tmp_path / "table.parquet"))
    assert own.rows("train", 10, seed=1).tolist() == [3, 4, 5]
    assert own.rows("train", 10, seed=2).tolist() == own.rows("train", 10).tolist() == [0, 1]
    with pytest.raises(ValueError, match="only the training split"):
        shards.rows("test", 10)
    assert shards.labels(["Edema"])[:, 0].tolist() == [i % 2 for i in range(12)]
    assert shards.labels(["Edema", "Edema"]).dtype == np.float32
    with pytest.raises(DataError, match=r"no column label_Mass .* label_Edema"):
        shards.labels(["Mass"])


def test_the_vocabulary_file_is_a_tokenizers_file(corpus, setup):
    tokenizers = pytest.importorskip("tokenizers")
    corpus.build(setup())
    loaded = tokenizers.Tokenizer.from_file(str(corpus.out / "vocab.json"))
    assert loaded.get_vocab() == corpus.open().reports.vocab
    assert json.loads((corpus.out / "vocab.json").read_text())["model"]["type"] == "WordPiece"


def test_a_split_that_is_lost_stops_the_build_however_small_it_is() -> None:
    splits = pd.Series(["train"] * 1000 + ["test"] * 5)
    fine, lost = Outcome(sha256="x"), Outcome(reason="image file is missing")
    check_splits("chexpert", splits, [fine] * 1004 + [lost], 0.01)  # one always may
    outcomes = [fine] * 1001 + [lost] * 4
    with pytest.raises(DataError, match=r"4 of the 5 images of split test cannot be read"):
        check_splits("chexpert", splits, outcomes, 0.01)
    check_splits("chexpert", splits, outcomes, 0.8)
