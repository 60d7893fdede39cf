"""Hostile tables and paths: each is a clear error or a counted fault, and nothing is lost."""

from __future__ import annotations

import csv
import gzip
import io
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.manifest import contract
from cxrmim.manifest.build import build
from cxrmim.manifest.contract import Flow, find, parse_labels, read_table, safe


def packed(content: bytes) -> bytes:
    """gzip without a clock, so that test names are the same in every process."""
    return gzip.compress(content, mtime=0)


HEADER = "id,label,note"


@pytest.fixture
def table(tmp_path):
    """Write bytes as a table and read its columns id and label."""

    def read(content: bytes | str, columns=("id", "label"), name="t.csv", **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_table(path, "toy", columns, **options)

    return read


def rows(found: pd.DataFrame) -> list[list[str]]:
    return found[["id", "label"]].to_numpy().tolist()


# What is read


def test_values_stay_text(table):
    found = table(f"{HEADER}\n00012,1.0,x\n1e5,-1,x\n12345678901234567890, -1 ,x\nNaN,,x\n")
    assert rows(found) == [
        ["00012", "1.0"],
        ["1e5", "-1"],
        ["12345678901234567890", "-1"],
        ["NaN", ""],
    ]
    assert found["source_row"].tolist() == [1, 2, 3, 4]
    assert found["source_row"].dtype == np.int64


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfid,label,note\na,1,x\n",
        b" id , label,note\n a ,\t1,x\n",
        b'"id","label","note"\r\n"a","1","x, y"\r\n',
        b"note,label,id\rx,1,a\r",
        b"\n\nid,label,note\n\na,1,x\n\n\n",
        b"id,label,note\na,1,x,,\n",
        b"id,label,note\na,1,x",
        packed(b"\xef\xbb\xbfid,label,note\na,1,x\n"),
    ],
    ids=["bom", "blanks", "quotes", "cr", "empty lines", "surplus commas", "no end", "gz as csv"],
)
def test_harmless_forms_are_read(table, content):
    found = table(content)
    assert rows(found) == [["a", "1"]]
    assert set(found["broken"]) == {""}


def test_a_header_may_be_replaced(table):
    """A header with unquoted commas, as NIH has."""
    found = table("id,Size[w,h],\na,1,2,\nb,3,4,\n", header=["id", "label", "height", "rest"])
    assert rows(found) == [["a", "1"], ["b", "3"]]


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))] * 3),
        max_size=20,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_comes_back_stripped(tmp_path_factory, content, end):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    writer.writerows([("id", "label", "note"), *content])
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    found = read_table(path, "toy", ["note", "id"])
    assert found[["note", "id"]].to_numpy().tolist() == [
        [note.strip(), name.strip()] for name, _, note in content
    ]


# What stops


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read as a table \(empty\)"),
        (b"id;label;note\na;1;x\n", "separated by semicolons, not by commas; save it with commas"),
        (b"id\tlabel\tnote\na\t1\tx\n", "separated by tabs"),
        (b'"id"|"label"\n"a"|"1"\n', "separated by bars"),
        (b"\xff\xfei\x00d\x00,\x00", r"\(UTF-16 text; save it as UTF-8\)"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "cannot be read as a table"),
        (b"\x00" * 4096, r"\(binary\)"),
        (b"\x00" * (1 << 18), "larger than 131072 characters a line"),
        (b"id,label\n" + b"x" * (1 << 18), "larger than 131072 characters a line"),
        (b'id,label\na,"1\nb,2\n', r"\(unexpected end of data\)"),
        (b'id,label\na,"1\nb,"2\n', "cannot be read as a table"),
        (b'id,label\na,"1\nb",2\n', "a quote that opens 1 lines below the header stays open"),
        (b"id,label,id\na,1,b\n", "column 'id' stands there twice"),
        (b"id,note\na,1\n", "no column 'label'; found id, note"),
        (b"\x1f\x8b\x08\x00broken", "cannot be read as a table"),
        (packed(b"id,label\na,1\n" * 999)[:-20], r"\(EOFError\)"),
        (packed(b"id,label\na,1\n")[:-8] + b"\0" * 8, r"\(BadGzipFile\)"),
        (packed(b"id,label\na,1\n") + b"rubbish", r"\(BadGzipFile\)"),
        (packed(bytes(1 << 22)), "larger when unpacked than 131072 characters a line"),
    ],
)
def test_a_table_that_is_none_stops(table, content, message):
    with pytest.raises(DataError, match=f"toy: .*t.csv.gz: .*{message}") as caught:
        table(content, name="t.csv.gz")
    assert "\n" not in str(caught.value)
    assert "restore" in str(caught.value) or "save it" in str(caught.value)


def test_damage_in_the_middle_of_a_gzip_stops(table):
    content = bytearray(packed(b"id,label\n" + bytes(range(65, 90)) * 5000))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(DataError, match="cannot be read as a table") as caught:
        table(bytes(content))
    assert not isinstance(caught.value.__cause__, zlib.error)


def test_a_bomb_of_rows_stops(table, monkeypatch):
    content = packed(b"id,label\n" + b"a,1\n" * 100_000)
    assert len(table(content)) == 100_000
    monkeypatch.setattr(contract, "LARGEST_TABLE", 1 << 18)
    with pytest.raises(DataError, match="larger when unpacked than"):
        table(content)
    monkeypatch.undo()
    monkeypatch.setattr(contract, "MOST_ROWS", 99_999)
    with pytest.raises(DataError, match="more than 99999 rows"):
        table(content)


def test_a_table_without_a_header_shows_none_of_its_values(table):
    with pytest.raises(DataError, match="no column 'id', nor any other that is") as caught:
        table("patient00001,1\npatient00002,0\n")
    assert "patient0" not in str(caught.value)


# What is counted


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"b,0", "row has too few fields"),
        (b"b,0,x,y", "row has too many fields"),
        (b"b\0,0,x", "row holds characters that are no text"),
        (b"b,\x1b[2J,x", "row holds characters that are no text"),
        (b"b\xff,0,x", "row holds characters that are no text"),
        (b"   ", "row has too few fields"),
    ],
)
def test_a_row_that_cannot_be_read_is_counted(table, row, reason):
    found = table(b"id,label,note\na,1,x\n" + row + b"\nc,1,x\n")
    assert rows(found) == [["a", "1"], ["", ""], ["c", "1"]]
    flow = Flow(found)
    assert flow.counts == {"rows": 3, reason: 1, "kept": 2}
    assert [(fault.source_row, fault.unreadable) for fault in flow.faults] == [(2, True)]
    assert "broken" not in flow.table.columns


def test_characters_of_other_columns_do_not_matter(table):
    found = table(b"id,label,note\na,1,\xff\n")
    assert rows(found) == [["a", "1"]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1", 1.0), ("1.0", 1.0), ("0", 0.0), ("-1", 0.5), (" -1", 0.5)],
        *[(blank, 0.25) for blank in ("", "nan", "NaN", "NA", "N/A", "null", "None")],
        *[(bad, None) for bad in ("2", "yes", "1,0", "+1", "\u22121", "O", "Nan ity")],
    ],
)
def test_the_alphabet_of_labels(table, text, value):
    values = {"1": 1.0, "1.0": 1.0, "0": 0.0, "-1": 0.5, "": 0.25}
    flow = Flow(table(f'id,label\na,"{text}"\nb,1\n'))
    parse_labels(flow, ["label"], {"label": values})
    if value is None:
        assert flow.counts["unknown value in column label"] == 1
        assert flow.table["id"].tolist() == ["b"]
    else:
        assert flow.table["label_label"].tolist() == [value, 1.0]
        assert flow.table["label_label"].dtype == np.float32


def test_a_blank_is_a_fault_where_it_is_no_value(table):
    flow = Flow(table("id,label\na,NaN\nb,\nc,1\n"))
    parse_labels(flow, ["label"], {"label": {"0": 0.0, "1": 1.0}})
    assert flow.counts == {"rows": 3, "unknown value in column label": 2, "kept": 1}


def flow_of(*content: tuple[str, str]) -> Flow:
    table = pd.DataFrame(content, columns=["id", "file"])
    return Flow(table.assign(source_row=range(1, len(table) + 1)))


def test_one_id_of_two_files_loses_both():
    flow = flow_of(("a", "x"), ("b", "y"), ("a", "z"), ("b", "y"), ("c", "y"), ("a", "x"))
    flow.unique("id", {"two files": ["file"]})
    assert flow.table["id"].tolist() == ["b", "c"]
    assert flow.counts == {"rows": 6, "two files": 3, "image listed twice": 1, "kept": 2}
    assert [fault.source_row for fault in flow.faults] == [1, 3, 6, 4]


def test_copies_count_as_negative_drops():
    flow = flow_of(("a", "x"), ("b", "y"), ("c", "z"))
    flow.drop(flow.table["id"] == "c", "gone")
    flow.copy(flow.table["id"] == "b", {"file": "other"}, "twice")
    assert flow.table[["id", "file"]].to_numpy().tolist() == [
        ["a", "x"],
        ["b", "y"],
        ["b", "other"],
    ]
    assert flow.counts == {"rows": 3, "gone": 1, "twice": -1, "kept": 3}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=30))
def test_nothing_is_lost_whatever_stands_twice(content):
    flow = flow_of(*content)
    flow.unique("id", {"two files": ["file"]})
    counts = dict(flow.counts)
    assert counts.pop("rows") == sum(counts.values()) == len(content)
    claimed = {name for name, _ in content}
    clear = {n for n in claimed if len({f for m, f in content if m == n}) == 1}
    assert sorted(flow.table["id"]) == sorted(clear)
    assert len(flow.faults) == len(content) - len(clear)


# Paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.jpg", True),
        ("a b/c (1).jpg", True),
        ("..a/b..jpg", True),
        ("/etc/passwd", False),
        ("a/../../b", False),
        ("..", False),
        ("", False),
        ("a\\..\\b", False),
        ("C:/x", False),
        ("file://x", False),
        ("a\0b", False),
        ("a\nb", False),
        ("a\u202egpj.exe", False),
        ("a\udc80", False),
        ("a//b", False),
        ("./a", False),
        ("a/./b", False),
        ("a/", False),
        ("a/" + "x" * 256, False),
        ("é" * 200, False),
        ("x/" * 600 + "x", False),
    ],
)
def test_safe_paths(path, expected):
    assert safe(path) == expected


@given(st.text())
def test_a_safe_path_never_leaves_its_root(tmp_path_factory, path):
    root = tmp_path_factory.getbasetemp()
    if safe(path):
        inside = (root / path).resolve()
        assert inside != root
        assert inside.is_relative_to(root.resolve())
        assert not inside.exists()  # and asking is no error


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"toy: .*empty, expected a.csv or b.csv there"):
        find(tmp_path, "toy", ["a.csv", "b.csv"])
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "b.csv.gz").touch()
    assert find(tmp_path, "toy", ["a.csv", "b.csv"]).name == "b.csv.gz"


# Through the readers


@pytest.mark.parametrize(
    ("dataset", "file", "column"),
    [
        ("mimic", "mimic-cxr-2.0.0-metadata.csv", "ViewPosition"),
        ("mimic", "mimic-cxr-2.0.0-split.csv", "split"),
        ("chexpert", "CheXpert-v1.0-small/train.csv", "Edema"),
        ("chexpert", "groundtruth.csv", "Study"),
        ("siim", "train-rle.csv", "EncodedPixels"),
    ],
)
@pytest.mark.parametrize("spoil", ["column", "semicolons", "truncated"])
def test_a_reader_names_the_spoilt_table(setup, request, dataset, file, column, spoil):
    layout = request.getfixturevalue(dataset)
    layout.suffix = ".csv"
    path = layout.write() / file
    text = path.read_text()
    if spoil == "column":
        path.write_text(text.replace(column, "Foo", 1))
        message = f"no column '{column}'; found .*Foo"
    elif spoil == "semicolons":
        path.write_text(text.replace(",", ";"))
        message = "fields are separated by semicolons"
    else:
        path.write_bytes(packed(text.encode())[:-9])
        message = r"cannot be read as a table \(EOFError\)"
    with pytest.raises(DataError, match=f"{dataset}: .*{path.name}: {message}"):
        build(dataset, setup(dataset))


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("mimic", "mimic-cxr-2.0.0-metadata.csv"),
        ("chexpert", "CheXpert-v1.0-small/train.csv"),
        ("siim", "train-rle.csv"),
    ],
)
def test_a_reader_survives_a_mark_and_counts_a_ragged_row(made, request, dataset, file):
    layout = request.getfixturevalue(dataset)
    layout.suffix = ".csv"
    path = layout.write() / file
    lines = path.read_bytes().splitlines()
    lines[3] = lines[3].split(b",")[0]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    manifest = made(dataset)
    assert manifest.metrics["faults"] == {"row has too few fields": 1}
    assert 3 not in set(manifest.table["source_row"])
    assert 4 in set(manifest.table["source_row"])
