"""MeSH headings: our own list, and the NLM's descriptor files in both forms, whole and broken."""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
import tracemalloc
from pathlib import Path

import pytest

from cxrmim.errors import CxrmimError, DataError, ParamsError
from cxrmim.schema import Mesh
from cxrmim.shards import mesh, nlm
from cxrmim.shards.mesh import headings

# name, tree numbers, entry terms
RECORDS = [
    ("Heart", ["A07.541"], ["Hearts"]),
    ("Pleural Effusion", ["C08.528.652"], ["Effusion, Pleural", "Effusions, Pleural"]),
    ("Thoracentesis", ["E02.800", "E04.858"], ["Thoracocentesis"]),
    ("Calcimycin", ["D03.633.100.221.173"], ["A-23187", "Antibiotic A23187"]),
    ("Guillain-Barré Syndrome", ["C10.114.750", "C20.111.258"], ["Polyneuropathy, Acute"]),
    ("Neoplasms & Growth", ["C04"], ["Tumor", "Growth, Large, Right"]),
    ("Ménière", ["C09.218"], []),  # no word of a caption has an accent
    ("Female", [], ["Girls"]),
]
WORDS = {"heart", "hearts", "effusion", "effusions", "pleural", "thoracentesis", "thoracocentesis"}
WORDS |= {"polyneuropathy", "acute", "tumor", "growth", "large", "right"}
DOCTYPE = '<!DOCTYPE DescriptorRecordSet SYSTEM "https://www.nlm.nih.gov/databases/dtd/set.dtd">'
DECLARATION = '<?xml version="1.0"?>\n'


def escape(text: str) -> str:
    return text.replace("&", "&amp;")


def xml_record(name: str, numbers: list[str], entries: list[str]) -> str:
    """A record with what surrounds the wanted elements in the real file, other names included."""
    terms = "".join(
        f"<Term><TermUI>T1</TermUI><String>{escape(t)}</String></Term>" for t in entries
    )
    trees = "".join(f"<TreeNumber>\n {n}</TreeNumber>" for n in numbers)
    trees = f"<TreeNumberList>{trees}</TreeNumberList>" if numbers else ""
    other = "<DescriptorName><String>Elsewhere</String></DescriptorName>"
    return f"""<DescriptorRecord DescriptorClass = "1">
  <DescriptorUI>D000001</DescriptorUI>
  <DescriptorName><String>{escape(name)}</String></DescriptorName>
  <AllowableQualifiersList><AllowableQualifier><QualifierReferredTo>
    <QualifierName><String>administration</String></QualifierName>
  </QualifierReferredTo></AllowableQualifier></AllowableQualifiersList>
  <SeeRelatedList><SeeRelatedDescriptor><DescriptorReferredTo>{other}</DescriptorReferredTo>
  </SeeRelatedDescriptor></SeeRelatedList>
  {trees}
  <ConceptList><Concept PreferredConceptYN="Y">
    <ConceptName><String>Conceptual</String></ConceptName>
    <ScopeNote>Lungs, opacity.</ScopeNote>
    <TermList>{terms}</TermList></Concept></ConceptList>
</DescriptorRecord>
"""


def xml(records=RECORDS, doctype: str = DOCTYPE, root: str = "DescriptorRecordSet") -> str:
    body = "".join(xml_record(*record) for record in records)
    return f'{DECLARATION}{doctype}\n<{root} LanguageCode = "eng">\n{body}</{root}>\n'


def ascii_file(records=RECORDS, kind: str = "D") -> str:
    out = ""
    for name, numbers, entries in records:
        out += f"*NEWRECORD\nRECTYPE = {kind}\nMH = {name}\nAQ = AD AE\n"
        for i, entry in enumerate(entries):
            key = "PRINT ENTRY" if i == 0 else "ENTRY"
            out += f"{key} = {entry}|T109|T195|LAB|NRW|NLM (1991)|900308|abbcdef\n"
        out += "".join(f"MN = {n}\n" for n in numbers)
        out += f"FX = Elsewhere\nMS = Lungs, opacity. {'long ' * 5000}\nUI = D000001\n\n"
    return out


def params(file: Path | None, *trees: str) -> Mesh:
    return Mesh(source="nlm", file=str(file) if file else None, trees=list(trees or "ACE"))


@pytest.fixture
def written(tmp_path):
    """Write a file and return its path."""

    def write(content: str | bytes, name: str = "desc2024.xml") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


FORMS = {
    "xml": xml().encode(),
    "xml without a doctype": xml(doctype="").encode(),
    "xml with a byte-order mark": b"\xef\xbb\xbf" + xml().encode(),
    "xml in UTF-16": xml().replace('"1.0"', '"1.0" encoding="UTF-16"').encode("utf-16"),
    "xml behind blank lines": b"\n \n" + xml().replace(DECLARATION, "").encode(),
    "ascii": ascii_file().encode(),
    "ascii, other line ends": ascii_file().replace("\n", "\r\n").encode(),
    "ascii in latin-1": ascii_file().encode("latin-1"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_give_the_same_words(written, form, packed):
    """The form is told by the content: names lie on purpose."""
    content = gzip.compress(FORMS[form]) if packed else FORMS[form]
    found = headings(params(written(content, "list.dat")))
    assert found.words == WORDS
    assert (found.source, found.trees) == ("nlm", ("A", "C", "E"))


def test_what_is_read_of_a_record(written):
    """Names and entry terms, comma parts, none of the other elements; parts with blanks count."""
    found = headings(params(written(xml())))
    others = {"pleural effusion", "guillain-barré syndrome", "neoplasms & growth", "ménière"}
    assert found.parts == len(WORDS | others)
    assert not found.words & {"elsewhere", "conceptual", "administration", "lungs", "opacity"}
    assert not found.words & {"calcimycin", "girls", "female"}


@pytest.mark.parametrize(
    ("trees", "expected"),
    [
        (["A"], {"heart", "hearts"}),
        (["C08"], {"effusion", "effusions", "pleural"}),
        (["C20", "E04.858"], {"polyneuropathy", "acute", "thoracentesis", "thoracocentesis"}),
        (["D"], {"calcimycin"}),
    ],
)
@pytest.mark.parametrize("form", ["xml", "ascii"])
def test_the_trees_switch(written, form, trees, expected):
    found = headings(params(written(FORMS[form]), *trees))
    assert found.words == expected
    assert found.trees == tuple(trees)


def test_only_the_beginning_of_a_long_line_is_a_key(written):
    trap = "MS = " + "x" * (nlm.LONGEST - 5) + "MH = Trap\n"
    assert headings(params(written(ascii_file() + trap))).words == WORDS
    trapped = ascii_file().replace("FX = Elsewhere\n", trap)
    assert headings(params(written(trapped))).words == WORDS


def test_facts_say_which_list_it_was(written):
    facts = headings(params(written(xml()))).facts()
    joined = "".join(f"{word}\n" for word in sorted(WORDS)).encode()
    assert facts == {
        "source": "nlm",
        "trees": ["A", "C", "E"],
        "parts": len(WORDS) + 4,
        "words": len(WORDS),
        "sha256": hashlib.sha256(joined).hexdigest(),
    }
    own = headings(Mesh(source="radiology", file=None, trees=["A"])).facts()
    assert own["source"] == "radiology"
    assert own["trees"] is None
    assert own["words"] == own["parts"] > 1100
    assert own["sha256"] != facts["sha256"]


def fails(file: Path | None, *trees: str, error: type[CxrmimError] = DataError) -> str:
    with pytest.raises(error) as caught:
        headings(params(file, *trees))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_file_is_named():
    message = fails(None, error=ParamsError)
    assert re.search(r"mesh.file = null.*desc20XX.xml or d20XX.bin.*source: radiology", message)


def test_a_missing_file(tmp_path):
    message = fails(tmp_path / "desc.xml")
    assert re.search(r"desc.xml: no such file.*nlmpubs.nlm.nih.gov.*source: radiology", message)
    assert re.search(r"cannot be read .*\(IsADirectoryError\)", fails(tmp_path))


def test_nothing_in_the_trees(written):
    message = fails(written(xml()), "B", "Z01")
    assert "none of its 8 descriptors stands in the trees B, Z01" in message


WRONG = {
    "empty": (b"", "neither XML nor"),
    "text": (b"Heart\nLung\n", "neither XML nor"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "neither XML nor"),
    "gz in gz": (gzip.compress(gzip.compress(b"x")), "neither XML nor"),
    "half xml": (xml().encode()[:-200], r"cannot be read as MeSH descriptors \(ExpatError\)"),
    "half gz": (gzip.compress(xml().encode())[:-30], "cannot be read as MeSH descriptors"),
    "spoilt gz": (gzip.compress(xml().encode())[:-8] + b"\0" * 8, "cannot be read"),
    "html": (b"<html><body>Not found</body></html>", "its root is not DescriptorRecordSet"),
    "supplement xml": (xml(root="SupplementalRecordSet").encode(), "its root is not Descriptor"),
    "no record xml": (xml([]).encode(), "holds no MeSH descriptor"),
    "supplement ascii": (ascii_file(kind="C").encode(), "holds no MeSH descriptor"),
    "deep": (b"<DescriptorRecordSet>" + b"<a>" * 10**6, "nested deeper than 32"),
    "long term": (xml([("a" * 20000, ["A01"], [])]).encode(), "a term has more than"),
    "long line": (ascii_file([("a" * 20000, ["A01"], [])]).encode(), "a term has more than"),
    "many terms": (xml([("a", ["A01"], ["b"] * 17000)]).encode(), "a descriptor has more than"),
    "many numbers": (ascii_file([("a", ["A01"] * 17000, [])]).encode(), "a descriptor has more"),
    "unknown encoding": (b'<?xml version="1.0" encoding="x-none"?><a/>', "an encoding that"),
    "other encoding": (b'<?xml version="1.0" encoding="utf-7"?><a/>', "an encoding that"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file(written, name):
    content, expected = WRONG[name]
    message = fails(written(content, "list.xml"))
    assert re.search(expected, message)
    assert message.startswith(str(written(content, "list.xml")))
    assert "nlmpubs.nlm.nih.gov" in message


BOMB = "".join(f'<!ENTITY l{i} "&l{i - 1};&l{i - 1};&l{i - 1};">' for i in range(1, 30))
ENTITIES = {
    "a bomb": f'[<!ENTITY l0 "ha">{BOMB}]',
    "one of its own": '[<!ENTITY a "heart">]',
    "a file": '[<!ENTITY a SYSTEM "file:///etc/passwd">]',
    "an address": '[<!ENTITY a PUBLIC "x" "http://127.0.0.1:9/x">]',
    "a parameter entity": '[<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]',
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_are_refused(written, name):
    doctype = DOCTYPE.replace(">", f" {ENTITIES[name]}>")
    body = xml(doctype=doctype).replace("Thoracentesis", "&l29;" if name == "a bomb" else "&a;")
    assert "declares or uses an entity" in fails(written(body))


def test_an_entity_that_only_the_dtd_could_declare_is_refused(written):
    assert "declares or uses an entity" in fails(written(xml().replace("Hearts", "&heart;")))


def test_the_dtd_is_never_fetched(written, tmp_path, monkeypatch):
    """A DOCTYPE line is accepted; the file or address that it names is not looked at."""

    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    trap = tmp_path / "trap.dtd"
    trap.write_text('<!ENTITY a "heart"> this is no DTD <<<')
    for address in (trap.as_uri(), str(trap), "http://127.0.0.1:9/x.dtd", DOCTYPE.split('"')[1]):
        doctype = f'<!DOCTYPE DescriptorRecordSet SYSTEM "{address}">'
        assert headings(params(written(xml(doctype=doctype)))).words == WORDS


def test_a_file_that_unpacks_without_end(written, monkeypatch):
    monkeypatch.setattr(nlm, "LARGEST", 1 << 20)
    filler = "<!-- " + "x" * (2 << 20) + " -->"
    packed = gzip.compress(xml().replace("</DescriptorRecordSet>", filler).encode())
    assert len(packed) < 10000
    assert "GiB when unpacked" in fails(written(packed))
    assert "GiB when unpacked" in fails(written(gzip.compress(ascii_file().encode() * 50)))


@pytest.mark.parametrize("form", [xml, ascii_file])
def test_more_terms_than_can_be_kept(written, monkeypatch, form):
    monkeypatch.setattr(nlm, "MOST", 10)
    assert "more than 10 terms" in fails(written(form()))


@pytest.mark.parametrize("form", [xml, ascii_file])
def test_memory_does_not_grow_with_the_file(written, form):
    """Descriptors outside the trees leave nothing behind."""
    peaks = []
    for count in (50, 1500):
        records = [(f"Calcimycin {i}", ["D03.633"], ["x" * 1000] * 3) for i in range(count)]
        file = written(form([*records, *RECORDS]))
        tracemalloc.start()
        assert headings(params(file)).words == WORDS
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)


OWN = headings(Mesh(source="radiology", file=None, trees=["A", "C", "E"]))


def test_our_list_behaves_as_the_official_one():
    inside = "heart lung pulmonary pleural effusion effusions pneumothorax cardiomegaly edema"
    inside += " pneumonia right left small acute human"
    assert OWN.words.issuperset(inside.split())
    outside = ["atelectasis", "consolidation", "opacity", "chest", "lungs", "normal", "no", "the"]
    assert OWN.words.isdisjoint([*outside, "_"])


def test_our_list_is_what_a_chest_report_names():
    """Places, diseases, procedures and devices that reports of the chest speak of."""
    named = "aorta trachea diaphragm mediastinum pleura thorax sternum clavicle ribs spine stomach"
    named += " emphysema fibrosis sarcoidosis tuberculosis bronchiectasis hemothorax empyema hernia"
    named += " scoliosis osteophyte ascites lymphadenopathy pneumomediastinum dextrocardia cysts"
    named += " thoracentesis sternotomy thoracotomy tracheostomy pacemaker catheters stents lower"
    assert set(named.split()) <= OWN.words


def test_our_list_is_single_words_sorted_and_none_twice():
    text = (Path(mesh.__file__).parent / mesh.RADIOLOGY).read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines))
    assert all(re.fullmatch(r"[a-z]+", line) for line in lines)
    assert OWN.words == set(lines)
    assert len(lines) > 1100
