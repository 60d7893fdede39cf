"""COVIDx on a hand-made root, each switch both ways, and the real pictures of a collection."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.manifest.build import build
from cxrmim.manifest.contract import CONTRADICTION, Raw, write_table
from cxrmim.manifest.datasets import covidx
from cxrmim.shards.images import decode

CLASSES = ("normal", "pneumonia", "COVID-19")
# Source rows of a training list of 20 lines that scikit-learn holds out at 80/20, random_state 0:
# RandomState(0).permutation(20) begins 18, 1, 19, 8 (counted from 0).
HELD_OUT = {19, 2, 20, 9}


class Covidx:
    """Twenty training images of ten patients (p0 has the first and the eleventh), five to test."""

    def __init__(self, root: Path) -> None:
        self.root, self.lists = root, root
        self.names = ("train_COVIDx_CXR-3A.txt", "test_COVIDx_CXR-3A.txt")
        self.train = [f"p{i % 10} t{i}.png {CLASSES[i % 3]} rsna" for i in range(20)]
        self.test = [f"q{i} e{i}.jpg {CLASSES[i % 3]} cohen" for i in range(5)]
        self.images = {f"t{i}.png": "train" for i in range(20)}
        self.images |= {f"e{i}.jpg": "test" for i in range(5)}

    def write(self) -> Raw:
        self.lists.mkdir(parents=True, exist_ok=True)
        for name, lines in zip(self.names, (self.train, self.test), strict=True):
            (self.lists / name).write_text("".join(f"{line}\n" for line in lines))
        for name, folder in self.images.items():
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            (self.root / folder / name).touch()
        return Raw(self.root)


@pytest.fixture
def layout(tmp_path):
    return Covidx(tmp_path / "raw")


def options(**changed):
    given = {
        "list": "CXR-3A",
        "split": "pooled",
        "unit": "patient",
        "fractions": (0.6, 0.2, 0.2),
        "seed": 0,
    }
    return covidx.Options.model_validate(given | changed)


def read(layout, **changed):
    reading = covidx.read(layout.write(), options(**changed))
    flow = dict(reading.flow)
    assert flow.pop("rows") == sum(flow.values())
    assert flow["kept"] == len(reading.table)
    return reading


def reasons(reading):
    return {fault.source_row: fault.reason for fault in reading.faults}


def split_of(reading):
    return dict(zip(reading.table["source_row"], reading.table["split"], strict=True))


def test_a_line_becomes_an_image(layout):
    table = read(layout).table
    assert len(table) == 25
    row = table.set_index("image").loc["t11.png"]
    assert (row["path"], row["patient"], row["source_row"]) == ("train/t11.png", "p1", 12)
    assert [row[f"label_{name}"] for name in CLASSES] == [0, 0, 1]
    assert table.set_index("image").loc["e4.jpg", "source_row"] == 25
    assert (table[[f"label_{name}" for name in CLASSES]].sum(axis=1) == 1).all()
    assert [table[f"label_{name}"].sum() for name in CLASSES] == [9, 9, 7]


def test_pooled_cuts_both_lists_by_patient_or_by_image(layout):
    reading = read(layout)
    table = reading.table
    assert reading.unit == "patient"
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert table["split"].value_counts().to_dict() == {"train": 15, "valid": 5, "test": 5}
    assert set(table.loc[table["split"] == "train", "image"].str[0]) == {"t", "e"}
    assert split_of(read(layout, seed=1)) != split_of(reading)
    loose = [read(layout, unit="image", seed=seed).table for seed in range(3)]
    assert max(part.groupby("patient")["split"].nunique().max() for part in loose) == 2


def test_official_keeps_the_test_list_and_carves_the_other(layout):
    reading = read(layout, split="official", fractions=(0.9, 0.1, 0.0))
    found = split_of(reading)
    assert {row for row, split in found.items() if split == "test"} == {21, 22, 23, 24, 25}
    assert list(found.values()).count("valid") == 2  # one patient of two images
    assert reading.table.groupby("patient")["split"].nunique().max() == 1
    carved = {tuple(split_of(read(layout, split="official", seed=s)).items()) for s in range(4)}
    assert len(carved) > 1


def test_official_leaves_out_training_images_of_the_tests_patients(layout):
    layout.test[0] = "p3 e0.jpg normal cohen"
    layout.test[1] = "q1 t5.png COVID-19 rsna"
    reading = read(layout, split="official")
    assert reading.flow["image is in the official test list"] == 1
    assert reading.flow["patient is in the official test list"] == 2  # t3 and t13
    assert reading.faults == []
    found = dict(zip(reading.table["image"], reading.table["split"], strict=True))
    assert found["t5.png"] == found["e0.jpg"] == "test"
    assert not {"t3.png", "t13.png"} & set(found)
    loose = read(layout, split="official", unit="image")
    assert {"t3.png", "t13.png"} <= set(loose.table["image"])
    assert "patient is in the official test list" not in loose.flow


def test_mgca_replays_the_released_rule_line_by_line(layout):
    layout.images.pop("t0.png")  # what is lost on the way does not move the draw
    layout.train[4] = "p4 t4.png unheard-of rsna"
    reading = read(layout, split="mgca")
    found = split_of(reading)
    assert {row for row, split in found.items() if split == "valid"} == HELD_OUT
    assert {row for row, split in found.items() if split == "test"} == set(range(21, 26))
    assert set(reasons(reading)) == {1, 5}
    assert reading.unit is None
    assert reading.table.groupby("patient")["split"].nunique().max() == 2  # it leaks
    assert split_of(read(layout, split="mgca", seed=7)) == found


def test_mgca_keeps_an_image_that_its_rule_has_in_two_splits(layout):
    layout.train[1] = layout.train[0]  # rows 1 (train) and 2 (held out)
    reading = read(layout, split="mgca")
    assert reading.faults == []
    assert [split_of(reading)[row] for row in (1, 2)] == ["train", "valid"]
    assert reasons(read(layout)) == {2: "image listed twice"}


def test_the_binary_list_has_its_own_classes(layout):
    layout.names = ("train_COVIDx_CXR-3B.txt", "test_COVIDx_CXR-3B.txt")
    for lines in (layout.train, layout.test):
        lines[:] = [
            line.replace("COVID-19", "positive").replace("normal", "negative") for line in lines
        ]
        lines[:] = [line.replace("pneumonia", "negative") for line in lines]
    reading = read(layout, list="CXR-3B")
    marks = [c for c in reading.table.columns if c.startswith("label_")]
    assert marks == ["label_negative", "label_positive"]
    assert list(reading.table[marks].sum()) == [18, 7]
    assert covidx.labels(options(list="CXR-3B")) == ("negative", "positive")
    assert covidx.labels(options(list="V9A")) == covidx.labels(options()) == CLASSES


def test_each_list_is_its_own_file(layout):
    layout.names = ("train_COVIDx9A.txt", "test_COVIDx9A.txt")
    layout.lists = layout.root / "labels"
    assert len(read(layout, list="V9A").table) == 25
    with pytest.raises(DataError, match=r"train_COVIDx_CXR-3A\.txt.*lindawangg/COVID-Net"):
        read(layout)


def test_kaggles_own_lists_are_not_taken(layout):
    layout.names = ("train.txt", "test.txt")
    with pytest.raises(DataError, match="Kaggle does not ship this list"):
        read(layout)


@pytest.mark.parametrize(
    "places", [("train", "test"), ("test", "train"), ("val", "test"), ("data", "data")]
)
def test_an_image_may_lie_in_any_folder(layout, places):
    layout.images = {
        name: places[0] if name.startswith("t") else places[1] for name in layout.images
    }
    table = read(layout).table.set_index("image")
    assert table.loc["t7.png", "path"] == f"{places[0]}/t7.png"
    assert table.loc["e2.jpg", "path"] == f"{places[1]}/e2.jpg"


def test_a_merged_copy_beside_the_folders_is_not_read(layout):
    layout.write()
    (layout.root / "data").mkdir()
    (layout.root / "data/t0.png").touch()
    assert read(layout).faults == []


@pytest.mark.parametrize(
    ("line", "row", "reason"),
    [
        ("p1 t1.png COVID rsna", 2, "unknown class"),
        ("p1 t1.png covid-19 rsna", 2, "unknown class"),
        ("p1 t1.png positive rsna", 2, "unknown class"),
        ("p1 t1.png NaN rsna", 2, "unknown class"),
        ("p1 pneumonia rsna", 2, "line has no patient, file name, class and source"),
        ("t1.png,pneumonia,rsna", 2, "line has no patient, file name, class and source"),
        ("p1 ../t1.png pneumonia rsna", 2, "path leaves the root"),
        ("p1 train/t1.png pneumonia rsna", 2, "path leaves the root"),
        ("p1 /etc/passwd pneumonia rsna", 2, "path leaves the root"),
        ("p1 t1.PNG pneumonia rsna", 2, "image is missing"),
        ("p1 t1.jpg pneumonia rsna", 2, "image is missing"),
        (b"p1 t\xff1.png pneumonia rsna", 2, "path leaves the root"),
        (b"p\xff t1.png pneumonia rsna", 2, "row holds characters that are no text"),
        (b"p\x07 t1.png pneumonia rsna", 2, "row holds characters that are no text"),
    ],
)
def test_a_bad_line_is_counted_and_named_by_its_number(layout, line, row, reason):
    layout.write()
    lines = [text.encode() for text in layout.train]
    lines[1] = line if isinstance(line, bytes) else line.encode()
    (layout.root / layout.names[0]).write_bytes(b"\n".join(lines))
    reading = covidx.read(Raw(layout.root), options())
    assert [fault.source_row for fault in reading.faults] == [row]
    assert reading.faults[0].reason.startswith(reason)
    assert len(reading.table) == 24


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("p1   t1.png\tpneumonia  rsna  ", "t1.png"),
        ("p1 COVID-19 (1).png pneumonia sirm\r", "COVID-19 (1).png"),
        ("p1 two  blanks.png pneumonia sirm", "two  blanks.png"),
    ],
)
def test_blanks_may_stand_around_and_in_names(layout, line, name):
    layout.train[1] = line
    layout.images[name] = "train"
    table = read(layout).table
    assert list(table.loc[table["source_row"] == 2, "image"]) == [name]
    assert table["label_pneumonia"].sum() == 9


@given(lines=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
@settings(
    max_examples=60,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ],
)
def test_whatever_a_line_holds_it_is_kept_or_counted(layout, tmp_path, lines):
    layout.write()
    extra = [line.translate(None, b"\0\n") for line in lines]
    given_ = [*(text.encode() for text in layout.train), *extra]
    (layout.root / layout.names[0]).write_bytes(b"\n".join(given_))
    reading = covidx.read(Raw(layout.root), options())
    found = sum(bool(line.decode("utf-8", "surrogateescape").strip()) for line in extra)
    assert reading.flow["rows"] == 25 + found
    assert len(reading.table) == 25
    assert len(reading.faults) == found
    write_table(reading.table[["image", "patient", "study"]], tmp_path / "kept")


def test_lines_of_one_image(layout):
    layout.train[12] = layout.train[2]
    assert reasons(read(layout)) == {13: "image listed twice"}
    layout.train[12] = "p2 t2.png normal rsna"
    wrong = CONTRADICTION
    assert reasons(read(layout)) == {3: wrong, 13: wrong}
    layout.train[12] = layout.train[2].replace("p2", "p9")
    assert reasons(read(layout)) == {3: wrong, 13: wrong}


def test_names_that_differ_in_their_suffix_are_two_images(layout):
    layout.train[12] = layout.train[2].replace(".png", ".jpg")
    layout.images["t2.jpg"] = "train"
    assert {"t2.png", "t2.jpg"} <= set(read(layout).table["image"])


def test_two_files_of_one_name_are_nobodys(layout):
    layout.write()
    (layout.root / "test/t3.png").touch()
    assert reasons(read(layout)) == {4: "two files claim this id"}


def test_images_without_a_line_are_noted(layout):
    layout.images |= {"more.jpeg": "train", "readme.txt": "train"}
    assert read(layout).notes == {"images without a row": 1}


def test_a_root_without_images_says_so(layout):
    layout.images = {}
    with pytest.raises(DataError, match="no folder train, test or data"):
        read(layout)


def test_the_manifest_is_built(layout, setup):
    layout.write()
    manifest = build("covidx", setup("covidx"))
    assert manifest.details["classes"] == list(CLASSES)
    assert not any(manifest.metrics["audit"]["patients"].values())
    leaky = build("covidx", setup("covidx", split="mgca"))
    assert leaky.metrics["audit"]["patients"]["train-valid"] > 0


def test_the_binary_manifest_is_built_with_its_own_classes(layout, setup):
    layout.names = ("train_COVIDx_CXR-3B.txt", "test_COVIDx_CXR-3B.txt")
    layout.train = [f"p{i} t{i}.png {('negative', 'positive')[i % 2]} rsna" for i in range(20)]
    layout.test = [f"q{i} e{i}.jpg {('negative', 'positive')[i % 2]} rsna" for i in range(5)]
    layout.write()
    manifest = build("covidx", setup("covidx", list="CXR-3B"))
    assert manifest.details["classes"] == ["negative", "positive"]
    assert manifest.table["label_positive"].sum() == 12


def test_every_real_picture_opens(repo, tmp_path):
    folder = repo.parent / "shared/real/covid_collection"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real pictures are not part of the repository")
    rows = [line.split() for line in (folder / "labels.txt").read_text().splitlines()]
    (tmp_path / "data").symlink_to(folder)
    for name, splits in zip(covidx.TABLES["CXR-3B"], (("train", "val"), ("test",)), strict=True):
        lines = [
            f"{i} {file} {('negative', 'positive')[int(label)]} cohen\n"
            for i, (file, label, split) in enumerate(rows)
            if split in splits
        ]
        (tmp_path / name).write_text("".join(lines))
    reading = covidx.read(Raw(tmp_path), options(list="CXR-3B", split="official"))
    assert reading.faults == []
    assert reading.notes == {"images without a row": 0}
    assert len(reading.table) == len(rows) == 40
    for path in reading.table["path"]:
        assert min(decode((tmp_path / path).read_bytes()).pixels.shape) > 100
