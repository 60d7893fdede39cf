"""NIH ChestX-ray14 on a hand-made root, each switch both ways, and its real table."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrmim.errors import DataError, ParamsError
from cxrmim.manifest.build import build
from cxrmim.manifest.contract import CONTRADICTION, Raw
from cxrmim.manifest.datasets import nih
from cxrmim.manifest.files import Files
from cxrmim.shards.images import decode

# The publisher's header: its commas make eleven columns of nine names.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
OLDER, NEWER = "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"
LISTS = "NIH_ChestX-ray"


class Nih:
    """Eight patients; patient k (1 to 8) has image k_000, and k_001 if k is even."""

    def __init__(self, root: Path) -> None:
        self.root, self.lists = root, root.parent / "lists"
        ids = [(k, n) for k in range(1, 9) for n in range(2 if k % 2 == 0 else 1)]
        self.names = [f"{k:08d}_{n:03d}.png" for k, n in ids]
        # name, findings, follow-up, patient, view
        self.rows = [
            [name, "Edema|Mass" if k % 3 == 0 else "No Finding", f"{n}", f"{k}", "PA"]
            for name, (k, n) in zip(self.names, ids, strict=True)
        ]
        self.tables = (OLDER, NEWER)
        self.images = {name: f"images_{i % 3 + 1:03d}/images" for i, name in enumerate(self.names)}
        self.official = {"train_val_list.txt": self.names[:9], "test_list.txt": self.names[9:]}
        self.bits = dict.fromkeys(self.names, "0 0 0 0 0 0 0 0 0 0 0 0 0 1")
        self.mrm = {
            "train_list.txt": self.names[:6],
            "val_list.txt": self.names[6:9],
            "test_list.txt": self.names[9:],
            "train_1.txt": self.names[3:4],
            "train_10.txt": self.names[:3],
        }

    def write(self) -> Raw:
        self.root.mkdir(exist_ok=True)
        lines = [HEADER, *(f"{n},{f},{u},{p},60,M,{v},9,9,0.1,0.1" for n, f, u, p, v in self.rows)]
        for table in self.tables:
            (self.root / table).write_text("\n".join(lines) + "\n")
        for name, folder in self.images.items():
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            (self.root / folder / name).touch()
        for name, listed in self.official.items():
            (self.root / name).write_text("".join(f"{image}\n" for image in listed))
        (self.lists / LISTS).mkdir(parents=True, exist_ok=True)
        for name, listed in self.mrm.items():
            text = "".join(f"{image} {self.bits.get(image, '')}\n" for image in listed)
            (self.lists / LISTS / name).write_text(text)
        return Raw(self.root, self.lists)


@pytest.fixture
def layout(tmp_path):
    return Nih(tmp_path / "raw")


def options(**changed):
    given = {
        "split": "fractions",
        "labels": "v2020",
        "unit": "patient",
        "fractions": (0.5, 0.25, 0.25),
        "seed": 0,
    }
    return nih.Options.model_validate(given | changed)


def read(layout, **changed):
    reading = nih.read(layout.write(), options(**changed))
    flow = dict(reading.flow)
    assert flow.pop("rows") == sum(flow.values())
    assert flow["kept"] == len(reading.table)
    return reading


def reasons(reading):
    return {fault.source_row: fault.reason for fault in reading.faults}


def split_of(reading):
    return dict(zip(reading.table["image"] + ".png", reading.table["split"], strict=True))


def test_a_row_becomes_an_image(layout):
    table = read(layout).table
    assert len(table) == 12
    row = table.set_index("image").loc["00000006_001"]
    assert row["path"] == "images_003/images/00000006_001.png"
    assert (row["patient"], row["study"], row["view"]) == ("00000006", "00000006_1", "PA")
    assert row["source_row"] == 9
    marked = {name for name in nih.LABELS if row[f"label_{name}"] == 1}
    assert marked == {"Edema", "Mass"}
    assert all(table[f"label_{name}"].isin([0, 1]).all() for name in nih.LABELS)
    assert table["label_Edema"].sum() == 3  # patients 3 and 6
    assert table["label_Hernia"].sum() == 0


def test_fractions_keep_a_patient_together_unless_the_unit_is_the_image(layout):
    table = read(layout).table
    assert table.groupby("patient")["split"].nunique().max() == 1
    counts = table["split"].value_counts()
    for split, wanted in {"train": 6, "valid": 3, "test": 3}.items():
        assert abs(counts[split] - wanted) <= 1  # a patient has up to two images
    assert read(layout).unit == "patient"
    loose = [read(layout, unit="image", seed=seed) for seed in range(3)]
    assert max(r.table.groupby("patient")["split"].nunique().max() for r in loose) == 2
    assert loose[0].unit == "image"
    assert split_of(read(layout)) == split_of(read(layout))
    assert split_of(read(layout)) != split_of(read(layout, seed=1))


def test_a_fraction_may_be_nothing(layout):
    assert set(read(layout, fractions=(0.8, 0.0, 0.2)).table["split"]) == {"train", "test"}


def test_the_official_split_takes_the_test_list_and_carves_the_other(layout):
    reading = read(layout, split="official", fractions=(0.7, 0.1, 0.9))
    found = split_of(reading)
    assert {name for name, split in found.items() if split == "test"} == set(layout.names[9:])
    assert list(found.values()).count("valid") in (1, 2)  # of 9 images at 7 to 1
    assert list(found.values()).count("train") in (7, 8)
    carved = {tuple(split_of(read(layout, split="official", seed=s)).items()) for s in range(4)}
    assert len(carved) > 1
    assert [file.name for file in reading.raw] == [NEWER, "train_val_list.txt", "test_list.txt"]


def test_official_lists_and_table_need_not_agree(layout):
    layout.official["train_val_list.txt"] = [*layout.names[1:9], "00000099_000.png"]
    layout.official["test_list.txt"] = layout.names[8:]
    reading = read(layout, split="official")
    assert reading.flow["image is in no official list"] == 1
    assert reasons(reading) == {9: "image is in both official lists"}
    assert reading.notes["train_val_list.txt: image has no row"] == 1
    assert len(reading.table) == 10


def test_mrms_list_is_not_taken_for_nihs(layout):
    layout.write()
    text = (layout.lists / LISTS / "test_list.txt").read_text()
    (layout.root / "test_list.txt").write_text(text)
    with pytest.raises(DataError, match="MRM's list, not NIH's"):
        nih.read(Raw(layout.root, layout.lists), options(split="official"))


def test_the_mrm_split_is_imported_with_its_subsets(layout):
    reading = read(layout, split="mrm", labels="list")
    found = split_of(reading)
    assert [found[name] for name in layout.names] == ["train"] * 6 + ["valid"] * 3 + ["test"] * 3
    table = reading.table.set_index("image")
    assert list(table.index[table["in_1"]] + ".png") == layout.names[3:4]
    assert list(table.index[table["in_10"]] + ".png") == layout.names[:3]
    assert list(reading.table["source_row"]) == list(range(1, 13))
    assert table.loc["00000006_001", "patient"] == "00000006"
    assert reading.raw[-1].name == OLDER
    assert reading.raw[0].name == "train_list.txt"


def test_labels_come_from_the_lists_or_from_either_table(layout):
    layout.write()
    newer = (layout.root / NEWER).read_text()
    (layout.root / NEWER).write_text(newer.replace("Edema|Mass", "Pneumonia"))
    raw = Raw(layout.root, layout.lists)
    sums = {}
    for source in ("list", "csv2017", "v2020", "table"):
        table = nih.read(raw, options(split="mrm", labels=source)).table
        sums[source] = {n: int(table[f"label_{n}"].sum()) for n in nih.LABELS}
    assert {s: {n: k for n, k in found.items() if k} for s, found in sums.items()} == {
        "list": {"Hernia": 12},
        "csv2017": {"Edema": 3, "Mass": 3},
        "v2020": {"Pneumonia": 3},
        "table": {"Edema": 3, "Mass": 3},  # both are there, the older goes first
    }
    (layout.root / OLDER).unlink()
    table = nih.read(raw, options(split="official", labels="table")).table
    assert int(table["label_Pneumonia"].sum()) > 0


def test_labels_of_the_lists_need_the_split_of_the_lists(layout):
    with pytest.raises(ParamsError, match=r"labels: list.*split: mrm"):
        read(layout, labels="list")


def test_lines_and_rows_without_each_other_are_counted(layout):
    layout.rows = [row for row in layout.rows if row[0] != layout.names[0]]
    layout.mrm["test_list.txt"] = layout.names[10:]
    layout.bits[layout.names[1]] = "0 1"
    reading = read(layout, split="mrm", labels="list")
    assert reasons(reading) == {
        1: "image has no row in the table",
        2: "line has not 14 bits of 0 or 1",
    }
    assert reading.notes["rows of the table in no list"] == 1
    assert reading.notes["images without a row"] == 1
    assert len(reading.table) == 9


def test_an_image_of_two_lists_stops_the_build(layout, setup):
    layout.mrm["test_list.txt"] = [*layout.names[9:], layout.names[0]]
    layout.write()
    with pytest.raises(DataError, match="share"):
        build("nih", with_lists(setup("nih"), layout))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (0, "00000001_000.PNG", "image name does not state patient and number"),
        (0, "../00000001_000.png", "image name does not state patient and number"),
        (0, "/etc/00000001_000.png", "image name does not state patient and number"),
        (0, "00000001_009.png", "image is missing"),
        (0, "", "image name does not state patient and number"),
        (1, "Lung Cancer", "unknown value in column Finding Labels"),
        (1, "Edema|", "unknown value in column Finding Labels"),
        (1, "No Finding|Edema", "unknown value in column Finding Labels"),
        (1, "NaN", "unknown value in column Finding Labels"),
        (1, "", "unknown value in column Finding Labels"),
        (2, "x", "unknown value in column Follow-up #"),
        (2, "-1", "unknown value in column Follow-up #"),
        (3, "2", "patient is not the one of the image name"),
        (3, "1.0", "patient is not the one of the image name"),
        (3, "", "patient is not the one of the image name"),
    ],
)
def test_a_bad_row_is_counted_and_named_by_its_number(layout, column, value, reason):
    layout.rows[0][column] = value
    reading = read(layout)
    assert reasons(reading) == {1: reason}
    assert len(reading.table) == 11


@pytest.mark.parametrize("patient", ["1", "00000001", " 1"])
def test_a_patient_that_looks_like_a_number_is_one_patient(layout, patient):
    layout.rows[0][3] = patient
    assert read(layout).table["patient"].iloc[0] == "00000001"


def test_rows_of_one_image(layout):
    layout.rows.append(list(layout.rows[0]))
    assert reasons(read(layout)) == {13: "image listed twice"}
    layout.rows[-1][1] = "Hernia"
    wrong = CONTRADICTION
    assert reasons(read(layout)) == {1: wrong, 13: wrong}


def test_two_files_of_one_name_are_nobodys(layout):
    layout.write()
    (layout.root / "images_001/images" / layout.names[4]).touch()
    assert reasons(read(layout)) == {5: "two files claim this id"}


@pytest.mark.parametrize("folder", ["images", "images_001", "images_012/images"])
def test_images_may_lie_in_any_of_the_released_ways(layout, folder):
    layout.images = dict.fromkeys(layout.names, folder)
    assert set(read(layout).table["path"]) == {f"{folder}/{name}" for name in layout.names}


def test_the_older_table_has_commas_at_the_ends(layout):
    layout.write()
    text = (layout.root / OLDER).read_text().replace("\n", ",\r\n")
    (layout.root / OLDER).write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = nih.read(Raw(layout.root), options(labels="csv2017"))
    assert len(found.table) == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: (root / NEWER).unlink(), f"expected {NEWER}"),
        (lambda root: (root / NEWER).write_text("Image Index,Finding Labels\n"), "no column"),
        (lambda root: [p.rename(root / f"x{p.name}") for p in root.glob("images_*")], "no folder"),
    ],
)
def test_a_root_that_is_not_nihs_says_what_is_missing(layout, change, says):
    raw = layout.write()
    change(layout.root)
    with pytest.raises(DataError, match=says):
        nih.read(raw, options())


def test_an_official_list_that_is_missing_is_named(layout):
    raw = layout.write()
    (layout.root / "train_val_list.txt").unlink()
    with pytest.raises(DataError, match=r"train_val_list\.txt"):
        nih.read(raw, options(split="official"))


def with_lists(params, layout):
    manifest = params.manifest.model_copy(update={"lists": str(layout.lists)})
    return params.model_copy(update={"manifest": manifest})


def test_the_default_manifest_is_built_with_the_lists_subsets_or_ours(layout, setup):
    layout.write()
    found = {}
    for kept in (True, False):
        params = with_lists(setup("nih", subset={"lists": kept}), layout)
        table = build("nih", params).table.set_index("image")
        found[kept] = {c: set(table.index[table[c]] + ".png") for c in ("in_1", "in_10")}
    assert found[True] == {"in_1": set(layout.names[3:4]), "in_10": set(layout.names[:3])}
    assert found[False]["in_1"] <= found[False]["in_10"]


def test_the_manifest_is_built(layout, setup):
    layout.write()
    manifest = build("nih", setup("nih", split="official", labels="v2020"))
    assert manifest.details["classes"] == list(nih.LABELS)
    assert not any(manifest.metrics["audit"]["patients"].values())
    assert len(manifest.table) == 12


def test_the_real_table(tmp_path, monkeypatch):
    spec = util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision is not installed (extra `test`)")
    shipped = Path(spec.origin).parent / "data/Data_Entry_2017_v2020.csv.gz"
    (tmp_path / "images").mkdir()
    (tmp_path / f"{NEWER}.gz").symlink_to(shipped)
    names = pd.read_csv(shipped, usecols=["Image Index"])["Image Index"]
    # 112,120 empty files would take longer to make than all else here.
    there = Files({name: f"images/{name}" for name in names}, frozenset())
    monkeypatch.setattr(nih, "scan", lambda *args: there)
    weights = (0.7, 0.1, 0.2)
    reading = nih.read(Raw(tmp_path), options(fractions=weights))
    assert reading.faults == []
    table = reading.table
    assert len(table) == reading.flow["rows"] == 112_120
    assert table["patient"].nunique() == 30_805
    assert table.groupby("patient")["split"].nunique().max() == 1
    shares = table["split"].value_counts(normalize=True)
    for split, share in zip(("train", "valid", "test"), weights, strict=True):
        assert abs(shares[split] - share) < 0.002
    # The data set's published counts that both releases share, and images without any finding.
    labels = table[[f"label_{name}" for name in nih.LABELS]].to_numpy()
    assert int((labels.sum(1) == 0).sum()) == 60_361
    assert int(table["label_Hernia"].sum()) == 227
    assert np.isin(labels, [0, 1]).all()
    assert set(table["view"]) == {"PA", "AP"}


def test_every_real_radiograph_opens(repo, tmp_path):
    folder = repo.parent / "shared/real/nih"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real radiographs are not part of the repository")
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names
    (tmp_path / "images").symlink_to(folder)
    rows = "".join(f"{n},No Finding,{int(n[9:12])},{int(n[:8])},60,M,PA,9,9,1,1\n" for n in names)
    (tmp_path / NEWER).write_text(f"{HEADER}\n{rows}")
    reading = nih.read(Raw(tmp_path), options())
    assert reading.faults == []
    assert sorted(reading.table["image"] + ".png") == names
    for path in reading.table["path"]:
        assert min(decode((tmp_path / path).read_bytes()).pixels.shape) > 100
