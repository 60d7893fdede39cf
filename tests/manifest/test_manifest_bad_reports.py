"""Hostile reports and archives of them: counted quarantine, or an error that says what to do."""

from __future__ import annotations

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.manifest import reports
from cxrmim.manifest.build import build
from cxrmim.manifest.reports import LONGEST, Archive, Folder, ReportError, decode

NAME = "files/p10/p10000002/s50000004.txt"
TEXT = "\n FINDINGS: Épanchement à gauche, 5\u00b0.\n"


# Encodings


@pytest.mark.parametrize(
    ("content", "text", "plain"),
    [
        (TEXT.encode(), TEXT, True),
        (TEXT.encode("utf-8-sig"), TEXT, True),
        (TEXT.encode("utf-16"), TEXT, False),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT, False),
        (TEXT.encode("utf-32"), TEXT, False),
        (TEXT.encode("cp1252"), TEXT, False),
        (b"\x93quoted\x94 \x96", "\u201cquoted\u201d \u2013", False),
        (b"caf\xe9 \x81", "café \x81", False),  # \x81 is no character of Windows-1252
        (b"a\r\n \r\nb\rc", "a\n \nb\nc", True),
    ],
)
def test_encodings(content, text, plain):
    assert decode(content) == (text, plain)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "report is empty"),
        (b" \n\t\r\n", "report is empty"),
        (b"\xef\xbb\xbf", "report is empty"),
        (b"\xff\xfe", "report is empty"),
        (b"\x89PNG\r\n\x00\x00", "report is no text"),
        ("text".encode("utf-16-le"), "report is no text"),  # no mark says so
        (b"\xff\xfea", "report is no text"),
        (b"\xff\xfe\x00\xd8", "report is no text"),
    ],
)
def test_what_is_no_text(content, reason):
    with pytest.raises(ReportError, match=reason):
        decode(content)


@given(st.binary(max_size=64))
def test_any_bytes_are_text_or_a_reason(content):
    try:
        text, _ = decode(content)
    except ReportError as error:
        assert str(error) in reports.REASONS
    else:
        assert text.strip()
        assert not {"\0", "\r"} & set(text)
        text.encode()  # no lone surrogates


# Loose files


def test_a_folder_gives_bytes_or_a_reason(tmp_path):
    (tmp_path / "long").write_bytes(b"x" * (LONGEST + 1))
    (tmp_path / "most").write_bytes(b"x" * LONGEST)
    (tmp_path / "folder").mkdir()
    source = Folder(tmp_path)
    assert len(source.read("most")) == LONGEST
    for name, reason in (
        ("long", "report is longer than 1 MiB"),
        ("none", "report is missing"),
        ("folder", "report cannot be read"),
        ("most/below", "report cannot be read"),
    ):
        with pytest.raises(ReportError, match=reason):
            source.read(name)


# Archives


def pack(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    def make(members, method=zipfile.ZIP_DEFLATED):
        return Archive(pack(tmp_path / "r.zip", members, method), "top/", "toy")

    return make


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_looked_up_by_exact_name(archive):
    found = archive(
        [
            (NAME, b"one"),
            ("top/files/a.txt", b"two"),
            ("files/twice.txt", b"x"),
            ("files/twice.txt", b"y"),
            ("files/both.txt", b"x"),
            ("top/files/both.txt", b"x"),
            ("../files/out.txt", b"x"),
            ("/files/root.txt", b"x"),
            ("files/../files/round.txt", b"x"),
            ("files/", b""),
        ]
    )
    assert found.read(NAME) == b"one"
    assert found.read("files/a.txt") == b"two"
    assert found.strange == 3
    for name, reason in (
        ("files/twice.txt", "two files claim this id"),
        ("files/both.txt", "two files claim this id"),
        ("files/out.txt", "report is missing"),
        ("files/root.txt", "report is missing"),
        ("files/round.txt", "report is missing"),
        ("files", "report is missing"),
        (NAME.upper(), "report is missing"),
    ):
        with pytest.raises(ReportError, match=reason):
            found.read(name)


def test_bombs_are_not_unpacked(archive, monkeypatch):
    found = archive(
        [
            ("long", b"x" * (10 << 20)),
            ("dense", b"x" * LONGEST),
            ("sound", b"Lungs are clear. " * 40),
        ]
    )
    assert len(found.read("sound")) == 17 * 40
    opened = []
    monkeypatch.setattr(found._zip, "open", opened.append)
    for name, reason in (("long", "longer than 1 MiB"), ("dense", "cannot be read")):
        with pytest.raises(ReportError, match=reason):
            found.read(name)
    assert not opened


def test_a_directory_that_lies_about_a_size_is_not_believed(tmp_path):
    """The directory says 100 bytes, the member unpacks to 10 MiB."""
    path = pack(tmp_path / "r.zip", [("lie", b"x" * (10 << 20))])
    content = bytearray(path.read_bytes())
    true = (10 << 20).to_bytes(4, "little")
    assert content.count(true) == 2  # in the local header and in the directory
    path.write_bytes(bytes(content).replace(true, (100).to_bytes(4, "little")))
    with pytest.raises(ReportError, match="cannot be read"):
        Archive(path, "", "toy").read("lie")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused_unread(archive, method, monkeypatch):
    found = archive([("a", b"text")], method)
    monkeypatch.setattr(found._zip, "open", lambda member: pytest.fail("was unpacked"))
    with pytest.raises(ReportError, match="cannot be read"):
        found.read("a")


def test_stored_members_are_read(archive):
    assert archive([("a", b"text")], zipfile.ZIP_STORED).read("a") == b"text"


def test_an_encrypted_member_is_named(tmp_path):
    path = pack(tmp_path / "r.zip", [("a", b"text"), ("b", b"text")])
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[6] |= 1  # flag bits of the first local header and of its directory entry
    content[directory + 8] |= 1
    path.write_bytes(content)
    found = Archive(path, "", "toy")
    assert found.read("b") == b"text"
    with pytest.raises(ReportError, match="report is encrypted"):
        found.read("a")


def test_a_damaged_member_is_counted(tmp_path):
    path = pack(tmp_path / "r.zip", [("a", b"text" * 20), ("b", b"text")], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"texttext")] ^= 0xFF
    path.write_bytes(content)
    found = Archive(path, "", "toy")
    assert found.read("b") == b"text"
    with pytest.raises(ReportError, match="cannot be read"):
        found.read("a")


@pytest.mark.parametrize("spoil", ["truncated", "rubbish", "empty", "folder"])
def test_no_whole_archive_stops(setup, mimic, spoil):
    mimic.place = "zip"
    path = mimic.write() / "mimic-cxr-reports.zip"
    content = path.read_bytes()
    spoilt = {"truncated": content[:-200], "rubbish": b"PK\x03\x04" + bytes(99), "empty": b""}
    if spoil == "folder":
        path.unlink()
        path.mkdir()
        with pytest.raises(DataError, match="none of the reports of 20 studies found"):
            build("mimic", setup("mimic", limit=1.0))
        return
    path.write_bytes(spoilt[spoil])
    with pytest.raises(DataError, match=r"mimic: .*reports.zip: no whole zip .*download it again"):
        build("mimic", setup("mimic"))


# Through the reader


@pytest.mark.parametrize("place", ["tree", "folder", "zip"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "report is empty"),
        (b" \n", "report is empty"),
        (b"\x00\x01\x02", "report is no text"),
        (bytes(range(1, 256)) * 41_000, "report is longer than 1 MiB"),  # 10 MB
        (b"nothing here", "report has neither impression nor findings"),
    ],
)
def test_a_bad_report_is_counted(made, mimic, place, content, reason):
    mimic.place = place
    mimic.reports["50000004"] = content
    mimic.write()
    manifest = made("mimic")
    assert manifest.metrics["faults"] == {reason: 1}
    assert set(range(1, 21)) - set(manifest.table["source_row"]) == {5}
    assert manifest.details["reports"]["files"] == 20 - (reason[7:10] != "has")


@pytest.mark.parametrize("place", ["tree", "zip"])
def test_reports_in_other_encodings_are_read_and_counted(made, mimic, place):
    mimic.place = place
    encodings = ("utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1")
    for i, encoding in enumerate(encodings):
        mimic.reports[f"{50000000 + i}"] = TEXT.encode(encoding)
    mimic.write()
    manifest = made("mimic")
    assert manifest.metrics["notes"]["reports not in UTF-8"] == 3
    assert manifest.table["report"].tolist()[:5] == [TEXT] * 5
    assert manifest.table.loc[0, "findings"] == "Épanchement à gauche, 5\u00b0."


def test_an_archive_with_traversal_is_read_around(made, mimic, tmp_path):
    mimic.place = "zip"
    mimic.write()
    with zipfile.ZipFile(mimic.root / "mimic-cxr-reports.zip", "a") as packed:
        packed.writestr("../../evil.txt", "evil")
        packed.writestr("/etc/evil.txt", "evil")
    manifest = made("mimic")
    assert manifest.metrics["notes"]["archive members whose names leave it"] == 2
    assert len(manifest.table) == 20
    assert not [*tmp_path.rglob("evil*")]


def test_no_report_text_reaches_the_log(setup, mimic, caplog):
    mimic.reports["50000004"] = "Jane Doe has nothing"
    mimic.reports["50000005"] = b"Jane Doe\x00"
    mimic.write()
    with caplog.at_level("DEBUG"):
        build("mimic", setup("mimic"))
    assert "source row 5: report has neither" in caplog.text
    assert "source row 6: report is no text" in caplog.text
    assert "Jane" not in caplog.text
    assert "50000004" not in caplog.text
