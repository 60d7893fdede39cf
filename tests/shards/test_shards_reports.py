"""A corpus' reports as files: both sides of the switches, counts, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrmim.errors import DataError, ParamsError
from cxrmim.params import Params
from cxrmim.schema import ShardText
from cxrmim.shards import reports, tokenizer

FINDINGS = [
    "Heart size is normal.",
    "Small left effusion. No pneumothorax.",
    "Lungs are clear now.",
]
FILES = {"ids", "word", "sentence", "mesh", "report"}


@pytest.fixture
def kept() -> pd.DataFrame:
    """Five images of three studies; the third is for testing."""
    study = [0, 1, 1, 0, 2]
    table = pd.DataFrame(
        {
            "study": [f"s{i}" for i in study],
            "split": ["train" if i < 2 else "test" for i in study],
            "impression": "No acute process.",
            "findings": [FINDINGS[i] for i in study],
            "report": [f" FINAL REPORT\n HISTORY: ___M\n {FINDINGS[i]}\n" for i in study],
        }
    )
    table["sentences"] = reports.captions(table, "mimic")
    return table


@pytest.fixture
def setting(demo: Params):
    """`shards.text` of the demo, shortened and changed."""

    def make(raw: dict | str | None = "demo", mesh: dict | None = None, **changes) -> ShardText:
        tree = demo.shards.text.model_dump(mode="json") | {"vocab": 200, "length": 24} | changes
        tree["mesh"] |= mesh or {}
        if raw != "demo":
            tree["raw"] = None if raw is None else tree["raw"] | raw
        return ShardText.model_validate(tree)

    return make


def read(out: Path, *names: str) -> list[np.ndarray]:
    return [np.load(out / f"{name}.npy", allow_pickle=False) for name in names]


def stems(out: Path) -> set[str]:
    return {file.stem for file in out.iterdir()}


def test_a_study_is_stored_once(kept, setting, tmp_path):
    metrics, details = reports.write_reports(kept, setting(), tmp_path)
    report, ids, word, sentence, flags = read(tmp_path, "report", "ids", "word", "sentence", "mesh")
    assert report.tolist() == [0, 1, 1, 0, 2]
    assert report.dtype == np.int64
    assert {a.shape for a in (ids, word, sentence, flags)} == {(3, 24)} == {tuple(details["ids"])}
    names = [a.dtype.name for a in (ids, word, sentence, flags)]
    assert names == ["int32", "int16", "int16", "bool"]
    # no acute process | heart size is normal
    assert sentence[0, :8].tolist() == [0, 0, 0, 1, 1, 1, 1, -1]
    assert np.flatnonzero(flags[0]).tolist() == [1, 3]
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())["model"]["vocab"]
    assert ids.max() < len(vocabulary) == metrics["vocabulary"]
    assert (metrics["reports"], metrics["words"]) == (3, 7 + 8 + 7)
    assert metrics["unknown_words"] == metrics["truncated"] == metrics["words_cut"] == 0
    assert metrics["mesh_words"] == flags.sum() == 2 + 5 + 1
    assert metrics["reports_without_mesh"] == 0


def test_cuts_are_counted(kept, setting, tmp_path):
    metrics, _ = reports.write_reports(kept, setting(length=8, raw={"length": 8}), tmp_path)
    assert metrics["truncated"] == metrics["raw"]["truncated"] == 3
    assert metrics["words_cut"] > 0
    ids, raw = read(tmp_path, "ids", "raw_ids")
    assert (ids[:, -1] == 3).all()  # [SEP]
    assert (raw[:, 0] == 2).all()
    assert (raw > 0).all()


def test_whole_reports(kept, setting, tmp_path):
    metrics, details = reports.write_reports(kept, setting(raw={"length": 60}), tmp_path)
    ids, word = read(tmp_path, "raw_ids", "raw_word")
    assert stems(tmp_path) == FILES | {"vocab", "raw_ids", "raw_word", "raw_vocab"}
    assert details["raw_ids"] == [3, 60] == list(ids.shape) == list(word.shape)
    assert (ids.dtype.name, word.dtype.name) == ("int32", "int16")
    vocabulary = json.loads((tmp_path / "raw_vocab.json").read_text())["model"]["vocab"]
    names = {i: token for token, i in vocabulary.items()}
    assert metrics["raw"]["vocabulary"] == len(vocabulary)
    for row, study in enumerate(FINDINGS):
        spelt: dict[int, str] = {}
        for token, owner in zip(ids[row], word[row], strict=True):
            spelt[owner] = spelt.get(owner, "") + names[token].removeprefix("##")
        outside = spelt.pop(-1)
        assert outside == "[CLS]" + "[PAD]" * (60 - 1 - int((word[row] >= 0).sum()))
        report = f"final report history : ___m {study}".lower().replace(".", " .")
        assert list(spelt.values()) == report.split()
        assert list(spelt) == list(range(len(spelt)))
    assert metrics["raw"]["words"] == 10 + 12 + 10
    assert metrics["raw"]["unknown_words"] == metrics["raw"]["truncated"] == 0


def test_no_whole_reports_if_none_are_asked_for(kept, setting, tmp_path):
    kept["report"] = None
    metrics, details = reports.write_reports(kept, setting(raw=None), tmp_path)
    assert stems(tmp_path) == FILES | {"vocab"}
    assert "raw" not in metrics
    assert "raw_ids" not in details


def test_whole_reports_that_are_missing_are_an_error(kept, setting, tmp_path):
    kept.loc[kept["study"] == "s1", "report"] = None
    expected = r"1 of 3 studies of the corpus have no whole report; set shards.text.raw: null"
    with pytest.raises(DataError, match=expected):
        reports.write_reports(kept, setting(), tmp_path)


def test_vocabularies_learn_from_the_training_split_only(kept, setting, tmp_path):
    def made():
        reports.write_reports(kept, setting(raw={"vocab": 300}), tmp_path)
        return [(tmp_path / f"{n}.json").read_text() for n in ("vocab", "raw_vocab")]

    before = made()
    for row in (4, 3, 0):  # the test study, a second image of study 0, its first image
        here = kept.index == row
        kept["sentences"] = kept["sentences"].mask(here, pd.Series([[["zygomatic"] * 9]] * 5))
        kept["report"] = kept["report"].mask(here, "Zygomatic " * 9)
        changed = made() != before
        assert changed == (row == 0)
    assert all(new != old for new, old in zip(made(), before, strict=True))


def test_published_vocabularies(kept, setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    params = setting(tokenizer="bioclinicalbert", vocab=100, raw={"tokenizer": "mrm", "vocab": 110})
    assert reports.inputs(params) == {
        "vocabulary": Path("weights/bioclinicalbert/vocab.txt"),
        "raw_vocabulary": Path("weights/mrm/mimic_wordpiece.json"),
    }
    with pytest.raises(DataError, match=r"bioclinicalbert/vocab.txt: no such file"):
        reports.write_reports(kept, params, tmp_path / "out")
    letters = [*tokenizer.LETTERS, *(f"##{c}" for c in tokenizer.LETTERS)]
    for file in reports.inputs(params).values():
        file.parent.mkdir(parents=True)
    lines = [*tokenizer.SPECIAL, *letters]
    lines += [f"[unused{i}]" for i in range(100 - len(lines))]
    Path("weights/bioclinicalbert/vocab.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"mimic_wordpiece.json: no such file"):
        reports.write_reports(kept, params, tmp_path / "out")
    tokens = [*tokenizer.RAW_SPECIAL, *letters, ":", *(f"unused{i}" for i in range(33))]
    made = tokenizer.raw_wordpiece(tokens)
    Path("weights/mrm/mimic_wordpiece.json").write_text(made.to_str(pretty=True))
    metrics, _ = reports.write_reports(kept, params, tmp_path / "out")
    assert (metrics["vocabulary"], metrics["raw"]["vocabulary"]) == (100, 110)
    assert metrics["unknown_words"] == 0
    # each report has "___m"; full stops: one, two, one
    assert metrics["raw"]["unknown_words"] == 3 + 4


def test_the_mesh_switch(kept, setting, tmp_path):
    """Flags are those of the list that the details name."""
    assert reports.inputs(setting(raw=None)) == {}
    _, own = reports.write_reports(kept, setting(raw=None), tmp_path)
    assert own["mesh"]["source"] == "radiology"
    before = read(tmp_path, "mesh")[0]
    file = tmp_path / "d2024.bin"
    file.write_text("*NEWRECORD\nRECTYPE = D\nMH = Clear, Size\nMN = C01\n")
    params = setting(raw=None, mesh={"source": "nlm", "file": str(file)})
    assert reports.inputs(params) == {"mesh": file}
    metrics, nlm = reports.write_reports(kept, params, tmp_path)
    flags = read(tmp_path, "mesh")[0]
    assert nlm["mesh"]["source"] == "nlm"
    assert nlm["mesh"]["words"] == 2
    assert nlm["mesh"]["sha256"] != own["mesh"]["sha256"]
    assert [np.flatnonzero(row).tolist() for row in flags] == [[4], [], [5]]
    assert (flags != before).any()
    assert (metrics["mesh_words"], metrics["reports_without_mesh"]) == (2, 1)
    with pytest.raises(ParamsError, match=r"shards.text.mesh.file = null"):
        reports.write_reports(kept, setting(mesh={"source": "nlm"}), tmp_path)


def test_captions_of_rows(kept):
    short = kept["study"] == "s1"
    kept.loc[short, ["impression", "findings"]] = "Ok.", None
    found = reports.captions(kept, "mimic")
    assert found[0] == [["no", "acute", "process"], ["heart", "size", "is", "normal"]]
    assert found[2] is None
    assert found.isna().tolist() == short.tolist() == [False, True, True, False, False]
    kept[["impression", "findings"]] = None
    with pytest.raises(DataError, match=r"mimic: the corpus has no reports; set pretrain.corpus"):
        reports.captions(kept, "mimic")


def test_equal_reports_give_equal_files(kept, setting, tmp_path):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = reports.write_reports(kept, setting(), tmp_path / name)
        made.append((found, {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()}))
    assert made[0] == made[1]
