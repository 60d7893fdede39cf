"""The search for planted texts finds them in every form, and nothing where there is nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest

from tests.workflow.canaries import HASHES, Search

TEXTS = {
    "sentence": "Quokkaform zibellinic opacity obscures the recess.",
    "subject": "13870653",
    "patient": "27183",
    "dicom": "c0ffee42-5eedfeed-0badcafe-deadbeef-feedc0de",
    "file": "sub-S00016_ses-E70638_run-1.png",
}


def chunked(kind: bytes, content: bytes) -> bytes:
    """A PNG with one chunk."""
    body = struct.pack(">I", len(content)) + kind + content
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", zlib.crc32(kind + content))


def zipped(text: str) -> bytes:
    """An archive with one member."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member.txt", text)
    return out.getvalue()


FORMS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "upper case": lambda text: text.upper().encode(),
    "in a sentence of JSON": lambda text: json.dumps({"note": f"see {text}."}).encode(),
    "escaped for JSON": lambda text: "".join(f"\\u{ord(c):04x}" for c in text).encode(),
    "escaped for HTML": lambda text: "".join(f"&#{ord(c)};" for c in text).encode(),
    "in an address": lambda text: "".join(f"%{ord(c):02x}" for c in text).encode(),
    "base64": lambda text: base64.b64encode(f"x{text}".encode()),
    "within base64": lambda text: base64.b64encode(f"an image {text} and more".encode()),
    "hexadecimal": lambda text: text.encode().hex().encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "PNG": lambda text: chunked(b"tEXt", b"Comment\0" + text.encode()),
    "packed in PNG": lambda text: chunked(b"zTXt", b"Comment\0\0" + zlib.compress(text.encode())),
    "md5": lambda text: hashlib.md5(text.encode()).hexdigest().encode(),
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest().encode(),
    "zip": zipped,
    "gzip in base64": lambda text: base64.b64encode(gzip.compress(f"of {text}.".encode())),
    "list of words": lambda text: json.dumps(text.split(), indent=1).encode(),
    "short sha256": lambda text: hashlib.sha256(text.encode()).hexdigest()[:12].encode(),
    "sha256 in base64": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()),
}


@pytest.fixture(scope="module")
def search() -> Search:
    return Search(TEXTS)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_text_is_found_in_every_form(search, form, name):
    assert any(name in what for what in search.found(FORMS[form](TEXTS[name])))


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("name", sorted(TEXTS))
def test_base64_is_found_wherever_it_begins(search, start, name):
    """In a long run that holds other bytes, too, which are no text."""
    content = bytes(range(200, 200 + start)) + TEXTS[name].encode() + b"\xff\xfe"
    packed = base64.b64encode(content)
    assert any(name in what for what in search.found(b'{"pixels": "' + packed + b'"}'))
    assert any(name in what for what in search.found(b"A" + packed))


@pytest.mark.parametrize("kind", HASHES)
def test_a_digest_of_an_id_is_found_shortened_and_within_a_line(search, kind):
    for seed in ("13870653", "p13870653", "13870653\n", '"13870653"'):
        digest = hashlib.new(kind, seed.encode()).hexdigest()[:12]
        assert any("subject" in what for what in search.found(f"sha {digest}, ok".encode()))


def test_short_numbers_are_found_alone_only(search):
    assert search.found(b'{"patient": 27183}') == ["patient"]
    assert search.found(b"patient 27183.") == ["patient"]
    for clean in (b"0.27183", b"1271839", b"ab27183", b"27183f"):
        assert search.found(clean) == []


def test_known_digests_and_files_are_found(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(b"pixels")
    found = Search({}, {"image": path}, {"0123456789abcdef0123": "stored pixels"})
    assert found.found(b"see 0123456789abcdef0123") == ["stored pixels"]
    assert found.found(hashlib.sha256(b"pixels").hexdigest().encode()) != []
    assert found.found(hashlib.sha256(b"others").hexdigest().encode()) == []


def test_what_is_clean_is_clean(search):
    rows = {f"row{i}": hashlib.sha256(f"{i}".encode()).hexdigest() for i in range(500)}
    assert search.found(json.dumps(rows).encode()) == []
    assert search.found(b"quokkas form sable opacity") == []
