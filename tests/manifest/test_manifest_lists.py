"""Lists of the MRM repository: their format, and every way in which one can be unusable."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.manifest import lists
from cxrmim.manifest.contract import CONTRADICTION, Flow, Raw
from cxrmim.manifest.files import scan


def packed(content: bytes) -> bytes:
    """gzip without a clock, so that test names are the same in every process."""
    return gzip.compress(content, mtime=0)


def write(folder, name, text):
    path = folder / lists.FOLDERS["rsna"] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Raw(folder, folder)


def read(raw, name="train_list.txt"):
    return lists.read_list(raw, "rsna", lists.FOLDERS["rsna"], name)


@pytest.mark.parametrize(
    "text",
    [
        "a/b.dcm 0 1\nc.dcm 1 1\n",
        "a/b.dcm 0 1 \nc.dcm 1 1 ",
        "a/b.dcm 0 1 \r\n\r\nc.dcm 1 1\r\n",
        "\ufeffa/b.dcm\t0  1\n\n  c.dcm 1 1\n",
        packed(b"a/b.dcm 0 1\nc.dcm 1 1\n"),
    ],
)
def test_a_list_is_read_in_whichever_way_it_was_saved(tmp_path, text):
    found = read(write(tmp_path, "train_list.txt", text))
    assert list(found["name"]) == ["a/b.dcm", "c.dcm"]
    assert list(found["bits"]) == [("0", "1"), ("1", "1")]
    assert list(found["line"]) == [1, 2]


@given(
    rows=st.lists(
        st.tuples(
            st.text("abc01./-_", min_size=1, max_size=8),
            st.lists(st.sampled_from("01"), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    between=st.sampled_from([" ", "  ", "\t", " \t"]),
    end=st.sampled_from(["\n", " \n", "\r\n", "\n\n", "\n \n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
@settings(
    max_examples=60,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ],
)
def test_what_is_written_is_read(tmp_path, rows, between, end, mark):
    text = mark + "".join(between.join([name, *bits]) + end for name, bits in rows)
    found = read(write(tmp_path, "train_list.txt", text))
    assert list(zip(found["name"], found["bits"], strict=True)) == [(n, tuple(b)) for n, b in rows]


def test_a_list_may_have_names_only(tmp_path):
    found = read(write(tmp_path, "train_list.txt", "1.2.3\n1.2.4\n"))
    assert list(found["name"]) == ["1.2.3", "1.2.4"]
    assert list(found["bits"]) == [(), ()]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n \r\n", "empty"),
        ("a 1\n".encode("utf-16"), "binary or UTF-16"),
        (b"a\0b 1\n", "binary or UTF-16"),
        (packed(b"a 1\n")[:-6], "EOFError"),
        (b"x" * 65, "larger than"),
        (packed(b"x" * 65), "larger than"),
    ],
)
def test_what_is_no_list_is_an_error_that_says_so(tmp_path, monkeypatch, content, says):
    raw = write(tmp_path, "train_list.txt", content)
    if "larger" in says:
        monkeypatch.setattr(lists, "LARGEST", 64)
    with pytest.raises(DataError, match=says) as caught:
        read(raw)
    assert "train_list.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_list_says_where_lists_come_from(tmp_path):
    for raw in (Raw(tmp_path), write(tmp_path, "train_list.txt", "a 1\n")):
        with pytest.raises(DataError, match=r"val_list\.txt.*MRM-pytorch") as caught:
            read(raw, "val_list.txt")
        assert "manifest.lists" in str(caught.value)


def test_bits_become_labels_and_other_bits_are_faults():
    bits = [("0", "1"), ("1", "1"), ("1",), (), ("0", "1", "0"), ("0", "2"), ("-1", "0"), ("1", "")]
    table = pd.DataFrame({"bits": pd.Series(bits, dtype=object)})
    flow = Flow(table.assign(source_row=np.arange(1, 9)))
    lists.parse_bits(flow, ("A", "B"))
    assert list(flow.table["source_row"]) == [1, 2]
    assert list(flow.table["label_A"]) == [0, 1]
    assert list(flow.table["label_B"]) == [1, 1]
    assert flow.table["label_A"].dtype == np.float32
    assert [fault.source_row for fault in flow.faults] == [3, 4, 5, 6, 7, 8]


def test_bits_of_no_row_at_all_are_no_rows():
    flow = Flow(pd.DataFrame({"bits": pd.Series([()], dtype=object), "source_row": [1]}))
    lists.parse_bits(flow, ("A", "B"))
    assert list(flow.table.columns) == ["bits", "source_row", "label_A", "label_B"]
    assert flow.counts["kept"] == 0


def test_the_splits_are_imported_as_they_are(tmp_path):
    write(tmp_path, "train_list.txt", "a 0\nb 1\nc 0\nb 1\nd 0\nd 1\n")  # b twice, d contradicts
    write(tmp_path, "val_list.txt", "e 0\na 0\n")  # a again: stays in both
    write(tmp_path, "test_list.txt", "f 1\n")
    write(tmp_path, "train_1.txt", "c 0\nf 1\n")  # f is no training image
    raw = write(tmp_path, "train_10.txt", "a 0\nb 1\n")  # not nested: c is missing
    flow, files, notes = lists.read_splits(raw, "rsna")
    table = flow.table
    assert list(zip(table["name"], table["split"], strict=True)) == [
        ("a", "train"),
        ("b", "train"),
        ("c", "train"),
        ("e", "valid"),
        ("a", "valid"),
        ("f", "test"),
    ]
    assert list(table["source_row"]) == [1, 2, 3, 7, 8, 9]
    assert list(table["name"][table["in_1"]]) == ["c"]
    assert list(table["name"][table["in_10"]]) == ["a", "b"]
    assert {fault.source_row: fault.reason for fault in flow.faults} == {
        4: "image listed twice",
        5: CONTRADICTION,
        6: CONTRADICTION,
    }
    assert notes == {
        "train_1.txt: not in train_list.txt": 1,
        "train_10.txt: not in train_list.txt": 0,
    }
    assert [file.name for file in files] == [*lists.FILES.values(), *lists.SUBSETS.values()]


def test_files_are_found_by_name_and_two_of_one_name_are_nobodys(tmp_path):
    for path in ("a/x.png", "a/y.PNG", "b/x.png", "b/z.png", "b/notes.txt", "b/deep/w.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    files = scan(tmp_path, "nih", ["a", "b"], (".png",))
    names = [
        "x.png",
        "y.PNG",
        "y.png",
        "z.png",
        "w.png",
        "../b/z.png",
        "/etc/hosts",
        "",
        "notes.txt",
    ]
    flow = Flow(pd.DataFrame({"name": names, "source_row": np.arange(1, 10)}))
    files.attach(flow, "name")
    assert list(flow.table["path"]) == ["a/y.PNG", "b/z.png"]
    assert {fault.source_row: fault.reason for fault in flow.faults} == {
        1: "two files claim this id",
        3: "image is missing",
        5: "image is missing",
        6: "path leaves the root",
        7: "path leaves the root",
        8: "path leaves the root",
        9: "image is missing",
    }
    assert files.unused(names) == 0
    assert files.unused(["x.png"]) == 2


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(DataError, match="FileNotFoundError"):
        scan(tmp_path, "nih", ["images"], (".png",))
