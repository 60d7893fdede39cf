"""RSNA Pneumonia on a hand-made root, each switch both ways, its real table and real DICOMs."""

from __future__ import annotations

import zipfile
from importlib import util
from pathlib import Path

import pytest

from cxrmim.errors import DataError
from cxrmim.manifest.build import build
from cxrmim.manifest.contract import Raw
from cxrmim.manifest.datasets import rsna
from cxrmim.shards.images import decode

HEADER = "patientId,x,y,width,height,Target"
NORMAL, OTHER, OPAQUE = "Normal", "No Lung Opacity / Not Normal", "Lung Opacity"
TRAIN, TEST = "stage_2_train_images", "stage_2_test_images"
LISTS = "RSNA_Pneumonia"
LABEL = "label_Pneumonia"


class Rsna:
    """Ten labelled images a to j: c and f positive, c with two boxes; k to n are Kaggle's test."""

    def __init__(self, root: Path) -> None:
        self.root, self.lists = root, root.parent / "lists"
        self.rows = [
            [p, "1.0" if p in "cf" else "", "1" if p in "cf" else "0"] for p in "abcdefghij"
        ]
        self.rows.insert(3, ["c", "5.0", "1"])  # source rows: a 1, b 2, c 3 and 4, d 5, ... j 11
        self.classes = [
            [row[0], OPAQUE if row[2] == "1" else OTHER if row[0] in "ab" else NORMAL]
            for row in self.rows
        ]
        self.images = {f"{p}.dcm": TRAIN for p in "abcdefghij"} | {f"{p}.dcm": TEST for p in "klmn"}
        self.mrm = {
            "train_list.txt": [f"{TRAIN}/{p}.dcm {int(p in 'cf')} " for p in "abcdef"],
            "val_list.txt": [f"{TRAIN}/{p}.dcm 0 " for p in "ghij"],
            "test_list.txt": [f"{TEST}/{p}.dcm {int(p in 'kn')} " for p in "klmn"],
            "train_1.txt": [f"{TRAIN}/b.dcm 0 "],
            "train_10.txt": [f"{TRAIN}/a.dcm 0 ", f"{TRAIN}/c.dcm 1 "],
        }

    def write(self) -> Raw:
        self.root.mkdir(exist_ok=True)
        lines = [HEADER, *(f"{p},{x},{x},{x},{x},{t}" for p, x, t in self.rows)]
        (self.root / "stage_2_train_labels.csv").write_text("\n".join(lines) + "\n")
        lines = ["patientId,class", *(f"{p},{c}" for p, c in self.classes)]
        (self.root / "stage_2_detailed_class_info.csv").write_text("\n".join(lines) + "\n")
        for folder in (TRAIN, TEST):
            (self.root / folder).mkdir(exist_ok=True)
        for name, folder in self.images.items():
            (self.root / folder / name).touch()
        (self.lists / LISTS).mkdir(parents=True, exist_ok=True)
        for name, lines in self.mrm.items():
            (self.lists / LISTS / name).write_text("".join(f"{line}\n" for line in lines))
        return Raw(self.root, self.lists)


@pytest.fixture
def layout(tmp_path):
    return Rsna(tmp_path / "raw")


def options(**changed):
    given = {
        "split": "fractions",
        "negative": "all",
        "unit": "patient",
        "fractions": (0.6, 0.2, 0.2),
        "seed": 0,
    }
    return rsna.Options.model_validate(given | changed)


def read(layout, **changed):
    reading = rsna.read(layout.write(), options(**changed))
    flow = dict(reading.flow)
    assert flow.pop("rows") == sum(flow.values())
    assert flow["kept"] == len(reading.table)
    assert reading.unit == "patient"
    return reading


def reasons(reading):
    return {fault.source_row: fault.reason for fault in reading.faults}


def split_of(reading):
    return dict(zip(reading.table["image"], reading.table["split"], strict=True))


def test_boxes_become_one_labelled_image(layout):
    reading = read(layout)
    table = reading.table
    assert "".join(table["image"]) == "abcdefghij"
    assert "".join(table.loc[table[LABEL] == 1, "image"]) == "cf"
    assert list(table["source_row"]) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert table.set_index("image").loc["c", "path"] == f"{TRAIN}/c.dcm"
    assert reading.flow["further row of an image"] == 1
    assert reading.notes == {"images without a row": 4}


def test_the_label_is_the_largest_target(layout):
    layout.rows[2][2] = "0"
    assert read(layout).table.set_index("image").loc["c", LABEL] == 1
    layout.rows[3][2] = "0"
    assert read(layout).table.set_index("image").loc["c", LABEL] == 0


def test_fractions_are_drawn_by_the_seed(layout):
    found = split_of(read(layout))
    counts = {name: list(found.values()).count(name) for name in ("train", "valid", "test")}
    assert counts == {"train": 6, "valid": 2, "test": 2}
    assert split_of(read(layout)) == found
    assert split_of(read(layout, seed=1)) != found
    assert set(split_of(read(layout, fractions=(0.5, 0.0, 0.5))).values()) == {"train", "test"}


def test_mgca_replays_the_released_rule_on_all_patients_of_the_table(layout):
    # RandomState(0).permutation(10) is 2 8 4 9 1 6 7 3 0 5: the first three are held out, then
    # RandomState(0).permutation(3) is 2 1 0: two of the three (the ceiling of a half) validate.
    layout.images.pop("a.dcm")
    layout.rows.reverse()  # the released code sorts them
    found = split_of(read(layout, split="mgca"))
    assert {p: s for p, s in found.items() if s != "train"} == {
        "c": "test",
        "e": "valid",
        "i": "valid",
    }
    assert len(found) == 9
    assert split_of(read(layout, split="mgca", seed=5)) == found


def test_the_mrm_split_is_imported_with_its_subsets_and_test_labels(layout):
    reading = read(layout, split="mrm")
    table = reading.table
    assert "".join(table["image"]) == "abcdefghijklmn"
    assert list(table["split"]) == ["train"] * 6 + ["valid"] * 4 + ["test"] * 4
    assert "".join(table.loc[table[LABEL] == 1, "image"]) == "cfkn"
    assert table.set_index("image").loc["k", "path"] == f"{TEST}/k.dcm"
    assert "".join(table.loc[table["in_1"], "image"]) == "b"
    assert "".join(table.loc[table["in_10"], "image"]) == "ac"
    assert list(table["source_row"]) == list(range(1, 15))
    assert reading.notes["labels unlike the table's"] == 0
    assert [file.name for file in reading.raw][-1] == "stage_2_train_labels.csv"


def test_labels_of_lists_and_table_are_compared(layout):
    layout.mrm["train_list.txt"][0] = f"{TRAIN}/a.dcm 1 "
    reading = read(layout, split="mrm")
    assert reading.notes["labels unlike the table's"] == 1
    assert reading.table.set_index("image").loc["a", LABEL] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{TRAIN}/a.dcm", "line has not 1 bits of 0 or 1"),
        (f"{TRAIN}/a.dcm 2 ", "line has not 1 bits of 0 or 1"),
        (f"{TRAIN}/a.dcm 0 0 ", "line has not 1 bits of 0 or 1"),
        ("a.dcm 0 ", "line names no image of the challenge"),
        (f"{TRAIN}/../a.dcm 0 ", "line names no image of the challenge"),
        (f"/{TRAIN}/a.dcm 0 ", "line names no image of the challenge"),
        (f"{TRAIN}/a.png 0 ", "line names no image of the challenge"),
        (f"{TRAIN}/z.dcm 0 ", "image is missing"),
        (f"{TEST}/a.dcm 0 ", "image is in another folder"),
        (f"{TRAIN}/b.dcm 0 ", None),
    ],
)
def test_a_bad_line_is_counted_and_named_by_its_number(layout, line, reason):
    layout.mrm["train_list.txt"][0] = line
    reading = read(layout, split="mrm")
    assert reasons(reading) == ({1: reason} if reason else {2: "image listed twice"})
    assert len(reading.table) == 13


def test_negatives_are_all_or_normal_ones(layout):
    assert read(layout).table[LABEL].value_counts().to_dict() == {0: 8, 1: 2}
    reading = read(layout, negative="normal")
    assert reading.table[LABEL].value_counts().to_dict() == {0: 6, 1: 2}
    assert reading.flow["negative is not normal"] == 2
    assert reading.faults == []
    assert not {"a", "b"} & set(reading.table["image"])


def test_negatives_of_the_lists_need_classes_of_the_test(layout):
    with pytest.raises(DataError, match="negative: all"):
        read(layout, split="mrm", negative="normal")
    layout.classes += [["k", OPAQUE], ["l", NORMAL], ["m", OTHER], ["n", OPAQUE]]
    reading = read(layout, split="mrm", negative="normal")
    assert "".join(reading.table["image"]) == "cdefghijkln"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("Healthy", "image has no class, or several"),
        ("", "image has no class, or several"),
        (OPAQUE, "class and label contradict"),
    ],
)
def test_a_class_must_be_known_and_fit_the_label(layout, given, reason):
    layout.classes[4][1] = given  # d
    assert reasons(read(layout, negative="normal")) == {5: reason}
    layout.classes[4][1] = NORMAL
    layout.classes.append(["d", OTHER])
    assert reasons(read(layout, negative="normal")) == {5: "image has no class, or several"}


@pytest.mark.parametrize(
    ("row", "column", "value", "reason", "rows"),
    [
        (0, 2, "2", "unknown value in column Target", [1]),
        (0, 2, "", "unknown value in column Target", [1]),
        (0, 2, "-1", "unknown value in column Target", [1]),
        (2, 2, "yes", "unknown value in column Target", [3, 4]),
        (0, 0, "z", "image is missing", [1]),
        (0, 0, "", "image is missing", [1]),
        (0, 0, "../a", "path leaves the root", [1]),
        (0, 0, "/etc/a", "path leaves the root", [1]),
        (0, 0, f"{TRAIN}/a", "path leaves the root", [1]),
    ],
)
def test_a_bad_row_is_counted_and_named_by_its_number(layout, row, column, value, reason, rows):
    layout.rows[row][column] = value
    reading = read(layout)
    assert reasons(reading) == dict.fromkeys(rows, reason)
    assert len(reading.table) == 9


def test_two_files_of_one_id_are_nobodys(layout):
    layout.write()
    (layout.root / TEST / "b.dcm").touch()
    assert reasons(read(layout)) == {2: "two files claim this id"}


@pytest.mark.parametrize(
    ("missing", "given"),
    [
        ("stage_2_train_labels.csv", {}),
        (TRAIN, {}),
        (TEST, {"split": "mrm"}),
        ("stage_2_detailed_class_info.csv", {"negative": "normal"}),
    ],
)
def test_a_root_that_lacks_something_names_it(layout, missing, given):
    raw = layout.write()
    (layout.root / missing).rename(layout.root / "elsewhere")
    with pytest.raises(DataError, match=missing):
        rsna.read(raw, options(**given))


def test_the_default_manifest_is_built_with_the_lists_subsets_or_ours(layout, setup):
    layout.write()
    found = {}
    for kept in (True, False):
        params = setup("rsna", subset={"lists": kept})
        manifest = params.manifest.model_copy(update={"lists": str(layout.lists)})
        table = build("rsna", params.model_copy(update={"manifest": manifest})).table
        found[kept] = {c: "".join(table.loc[table[c], "image"]) for c in ("in_1", "in_10")}
    assert found[True] == {"in_1": "b", "in_10": "ac"}
    assert set(found[False]["in_1"]) <= set(found[False]["in_10"])


def test_the_manifest_is_built(layout, setup):
    layout.write()
    manifest = build("rsna", setup("rsna", split="fractions"))
    assert manifest.details["classes"] == ["Pneumonia"]
    assert len(manifest.table) == 10
    with pytest.raises(DataError, match=r"manifest\.lists"):
        build("rsna", setup("rsna"))


@pytest.fixture
def real(tmp_path):
    spec = util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision is not installed (extra `test`)")
    packed = Path(spec.origin).parent / "data/kaggle_stage_2_train_labels.csv.zip"
    with zipfile.ZipFile(packed) as archive:
        archive.extract("stage_2_train_labels.csv", tmp_path)
    (tmp_path / TRAIN).mkdir()
    rows = (tmp_path / "stage_2_train_labels.csv").read_text().splitlines()[1:]
    for patient in {row.split(",")[0] for row in rows}:
        (tmp_path / TRAIN / f"{patient}.dcm").touch()
    return Raw(tmp_path)


def test_the_real_table(real):
    reading = rsna.read(real, options(split="mgca"))
    assert reading.faults == []
    assert reading.flow["rows"] == 30_227
    assert len(reading.table) == 26_684
    assert int(reading.table[LABEL].sum()) == 6_012
    counts = reading.table["split"].value_counts().to_dict()
    assert counts == {"train": 18_678, "valid": 4_003, "test": 4_003}
    ours = rsna.read(real, options(fractions=(0.7, 0.15, 0.15))).table
    assert abs((ours["split"] == "train").sum() - 18_679) <= 1
    assert (ours["split"] != reading.table["split"]).any()


def test_every_real_dicom_opens(repo, tmp_path):
    folder = repo.parent / "shared/real/rsna"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real radiographs are not part of the repository")
    names = sorted(path.stem for path in folder.glob("*.dcm"))
    assert names
    (tmp_path / TRAIN).symlink_to(folder)
    rows = "".join(f"{name},,,,,0\n" for name in names)
    (tmp_path / "stage_2_train_labels.csv").write_text(f"{HEADER}\n{rows}")
    reading = rsna.read(Raw(tmp_path), options())
    assert reading.faults == []
    assert sorted(reading.table["image"]) == names
    for path in reading.table["path"]:
        assert min(decode((tmp_path / path).read_bytes()).pixels.shape) > 100
