"""MIMIC-CXR: rows, paths, reports from three places, and each switch both ways."""

from __future__ import annotations

import gzip

import pytest

from cxrmim.errors import DataError
from cxrmim.manifest.build import build

FORM = "an id is not of the released form"
FORMS = [("tree", ""), ("folder", ""), ("zip", ""), ("zip", "mimic-cxr-reports/")]


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv"])
def test_rows_paths_and_reports(made, mimic, suffix):
    mimic.suffix = suffix
    mimic.rows[1][3], mimic.rows[2][3], mimic.rows[3][3] = "AP", "LATERAL", ""
    mimic.write()
    manifest = made("mimic")
    row = manifest.table.iloc[0]
    assert row["path"] == "files/p10/p10000000/s50000000/d000.jpg"
    assert (row["patient"], row["study"], row["view"]) == ("10000000", "s50000000", "PA")
    assert (row["impression"], row["findings"]) == ("No acute process.", "Lungs are clear.")
    assert row["report"] == mimic.reports["50000000"]  # the whole text, headers and all
    assert manifest.metrics["flow"] == {
        "rows": 20,
        "an id is not of the released form": 0,
        "two files claim this id": 0,
        "rows of this image contradict each other": 0,
        "image listed twice": 0,
        "one study of two patients": 0,
        "view is neither PA nor AP": 2,
        "the split table names two splits": 0,
        "not in the split table": 0,
        "unknown value in column split": 0,
        "report is missing": 0,
        "report cannot be read": 0,
        "report is longer than 1 MiB": 0,
        "report is encrypted": 0,
        "report is no text": 0,
        "report is empty": 0,
        "report has neither impression nor findings": 0,
        "kept": 18,
    }
    assert manifest.details["reports"]["files"] == 18


@pytest.mark.parametrize(("place", "prefix"), FORMS)
def test_reports_are_read_where_they_lie(made, mimic, place, prefix):
    """Equal reports give equal rows and digests, from loose files or from the archive."""
    mimic.place, mimic.prefix = place, prefix
    mimic.reports["50000003"] = "\n FINDINGS: Only here.\n"
    del mimic.reports["50000004"]
    before = sorted(path.name for path in mimic.write().iterdir())
    manifest = made("mimic")
    assert manifest.table.loc[3, "findings"] == "Only here."
    assert manifest.metrics["faults"] == {"report is missing": 1}
    assert manifest.details["reports"]["files"] == 19
    assert manifest.details["reports"]["from"] == (
        "mimic-cxr-reports.zip" if place == "zip" else "tree"
    )
    assert ("mimic-cxr-reports.zip" in manifest.raw) == (place == "zip")
    assert sorted(path.name for path in mimic.root.iterdir()) == before  # nothing is unpacked


def test_the_archive_goes_before_loose_files(made, mimic):
    mimic.write()
    mimic.place = "zip"
    mimic.reports = dict.fromkeys(mimic.reports, "\n FINDINGS: packed\n")
    root = mimic.root
    loose = made("mimic").table
    mimic.root = root
    for path in mimic.tables:
        path.unlink()
    mimic.write()
    assert set(loose["findings"]) == {"Lungs are clear."}
    assert set(made("mimic").table["findings"]) == {"packed"}


def test_views_switch(made, mimic):
    mimic.rows[2][3] = "LATERAL"
    mimic.write()
    assert len(made("mimic", views="all").table) == 20
    assert len(made("mimic", views="frontal").table) == 19


def test_split_switch(made, mimic):
    for i in (0, 1):
        mimic.rows[i][4] = "validate"
    for i in (2, 3):
        mimic.rows[i][4] = "test"
    mimic.write()
    expected = {"official": ["valid"] * 2 + ["test"] * 2, "mgca": ["test"] * 4}
    for split, first in expected.items():
        assert made("mimic", split=split).table["split"].tolist() == first + ["train"] * 16
    table = made("mimic", split="fractions").table
    assert table["split"].value_counts().to_dict() == {"train": 16, "test": 4}


def test_fractions_switch(made, mimic):
    mimic.write()
    for weights, expected in (
        ((0.8, 0.0, 0.2), {"train": 16, "test": 4}),
        ((3, 1, 1), {"train": 12, "valid": 4, "test": 4}),
    ):
        table = made("mimic", fractions=weights).table
        assert table["split"].value_counts().to_dict() == expected


def test_unit_switch(made, mimic):
    """By patient nobody is on both sides; by image, patients and studies with two images are."""
    for i in range(0, 20, 2):
        mimic.rows[i + 1][2] = mimic.rows[i][2]
    mimic.write()
    shared = {unit: made("mimic", unit=unit).metrics["audit"] for unit in ("patient", "image")}
    assert shared["patient"]["patients"] == {"train-test": 0}
    assert shared["image"]["patients"]["train-test"] > 0
    assert shared["image"]["studies"]["train-test"] > 0


def test_unit_study(made, mimic):
    mimic.write()
    found = made("mimic", unit="study").metrics["audit"]
    assert found["studies"] == {"train-test": 0}
    assert found["patients"]["train-test"] > 0


def test_fallback_switch(made, mimic):
    mimic.reports["50000004"] = "\n INDICATION: cough\n \n Lungs are clear."
    mimic.write()
    table = made("mimic", fallback="last_paragraph").table
    assert table.loc[4, "findings"] == "Lungs are clear."
    faults = made("mimic", fallback="none").metrics["faults"]
    assert faults == {"report has neither impression nor findings": 1}


def test_overrides_switch(made, mimic):
    root = mimic.write()
    text = "# sections set by hand\r\ns50000004\r\n\r\n 50000007 \r\ns1\r\n"
    (root / "section_overrides.txt").write_text(text, encoding="utf-8-sig")
    assert len(made("mimic", overrides="keep").table) == 20
    manifest = made("mimic", overrides="drop")
    assert manifest.metrics["flow"]["sections are set by hand"] == 2
    assert not {5, 8} & set(manifest.table["source_row"])
    assert manifest.metrics["notes"]["override studies not among the images"] == 1
    assert "section_overrides.txt" in manifest.raw


def test_overrides_need_their_list(setup, mimic):
    root = mimic.write()
    params = setup("mimic", overrides="drop")
    with pytest.raises(DataError, match=r"section_overrides.txt: no such file.*MIT-LCP.*keep"):
        build("mimic", params)
    (root / "section_overrides.txt").write_text("s50000001\nJane Doe\n")
    with pytest.raises(DataError, match="line 2 is no study id") as caught:
        build("mimic", params)
    assert "Jane" not in str(caught.value)


def test_a_report_without_sections_is_counted_but_stops_nothing(made, mimic, caplog):
    mimic.reports |= {row[2]: "nothing here" for row in mimic.rows[:10]}
    mimic.write()
    with caplog.at_level("INFO", "cxrmim"):
        manifest = made("mimic", limit=0.0)
    assert len(manifest.table) == 10
    assert "mimic, source row 1: report has neither impression nor findings" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "reason", "rows"),
    [
        (lambda m: m.rows[4].__setitem__(1, "../../etc"), FORM, [5]),
        (
            lambda m: m.rows[4].__setitem__(1, "10000002.0"),
            "an id is not of the released form",
            [5],
        ),
        (
            lambda m: m.rows[4].__setitem__(0, "/etc/passwd"),
            "an id is not of the released form",
            [5],
        ),
        (lambda m: m.rows[4].__setitem__(0, "d" * 99), FORM, [5]),
        (lambda m: m.rows[4].__setitem__(2, ""), FORM, [5]),
        (lambda m: m.rows[4].__setitem__(0, "d003"), "two files claim this id", [4, 5]),
        (lambda m: m.rows[4].__setitem__(2, "50000006"), "one study of two patients", [5, 7]),
        (lambda m: m.rows[4].__setitem__(4, "dev"), "unknown value in column split", [5]),
        (lambda m: m.reports.pop("50000004"), "report is missing", [5]),
    ],
)
def test_a_bad_row_is_dropped_and_named(made, setup, mimic, spoil, reason, rows):
    spoil(mimic)
    mimic.write()
    manifest = made("mimic")
    assert manifest.metrics["faults"] == {reason: len(rows)}
    assert set(range(1, 21)) - set(manifest.table["source_row"]) == set(rows)
    message = f"mimic: {len(rows)} of 20 rows .* source row {rows[0]}: {reason}.*= 0.01"
    with pytest.raises(DataError, match=message):
        build("mimic", setup("mimic", limit=0.01))


def test_a_row_that_stands_twice_is_kept_once(made, mimic):
    mimic.rows.insert(5, list(mimic.rows[4]))
    mimic.write()
    manifest = made("mimic")
    assert manifest.metrics["faults"] == {"image listed twice": 1}
    assert len(manifest.table) == 20
    assert set(range(1, 22)) - set(manifest.table["source_row"]) == {6}


def test_an_image_of_two_official_splits_is_in_neither(made, mimic):
    mimic.write()
    split = mimic.tables[1]
    text = gzip.decompress(split.read_bytes()).decode() + "d004,50000004,10000002,test\r\n"
    split.write_bytes(gzip.compress(text.encode()))
    manifest = made("mimic", split="official")
    assert manifest.metrics["faults"] == {"the split table names two splits": 1}
    assert 5 not in set(manifest.table["source_row"])


def test_rows_without_an_official_split_are_counted(made, mimic):
    mimic.rows[7][4] = ""
    mimic.rows[8][4] = "NaN"
    mimic.write()
    assert made("mimic").metrics["flow"]["not in the split table"] == 2


def test_nothing_left_is_an_error(setup, mimic):
    mimic.reports = {row[2]: "nothing" for row in mimic.rows}
    mimic.write()
    with pytest.raises(DataError, match="no row is left of 20 rows, 20 report has neither"):
        build("mimic", setup("mimic"))


def test_no_report_at_all_names_the_places(setup, mimic):
    mimic.reports = {}
    mimic.write()
    with pytest.raises(DataError, match="none of the reports of 20 studies found") as caught:
        build("mimic", setup("mimic", limit=1.0))
    for place in ("mimic-cxr-reports.zip", "below mimic-cxr-reports", "beside the images"):
        assert place in str(caught.value)
    assert "5000" not in str(caught.value)


def test_a_folder_of_reports_counts_only_if_it_holds_files(made, mimic):
    (mimic.write() / "mimic-cxr-reports").mkdir()
    assert len(made("mimic").table) == 20
    (mimic.root / "mimic-cxr-reports/files").mkdir()
    with pytest.raises(DataError, match="none of the reports"):
        made("mimic")
