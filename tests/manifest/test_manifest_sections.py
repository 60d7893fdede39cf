"""Report sections: protocols §1.1 rule by rule, solved by hand, and a slow reference."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxrmim.manifest.sections import CONTAINED, EXACT, canonical, sections, split

ALIASES = """
addendum: addendum
comment: comment
comparison: comparison, comparisons, comparison exam, comparison film, reference exam, comparision,
  comparsion, comparrison, comparisions
date: date
examination: examination, exam, type of examination
findings: findings, finding, chest; two views, reference findings, findins, findindgs, findgings,
  findngs, findnings, finidngs
history: history, clinical history, clinical information, patient history, pfi
impression: impression, conclusion, findings and impression, findings/impression,
  findings/ impression, ndication, impresson, imprression, imoression, impressoin, imprssion,
  impresion, imperssion, mpression, impession
indication: indication, reason for examination, reason for exam, clinical indication, idication
notification: notification
preamble: preamble
recommendations: recommendations, recommendation, recommendation(s)
technique: technique
wet read: wet read, wetread
"""
TABLE = {
    spelling.strip().replace(";", ","): name
    for name, _, spellings in (
        line.partition(": ") for line in ALIASES.replace("\n  ", " ").strip().splitlines()
    )
    for spelling in spellings.split(",")
}


def test_the_alias_table_has_its_58_spellings():
    assert len(TABLE) == 58
    assert EXACT == TABLE


@pytest.mark.parametrize("spelling", sorted(TABLE))
def test_every_alias_folds_in_any_case_with_blanks_around(spelling):
    assert canonical(spelling.upper()) == canonical(f"  {spelling} ") == TABLE[spelling]


def test_the_slip_of_the_official_list_is_kept():
    assert sections("\n NDICATION: cough and fever\n") == ("cough and fever", "")
    assert sections("\n INDICATION: cough and fever\n") is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("FINAL IMPRESSION", "impression"),
        ("OTHER FINDINGS", "findings"),
        ("PRIOR HISTORY", "history"),
        ("COMPARISON STUDIES", "comparison"),
        ("ADDENDUM BY DR", "addendum"),
        # the first name of the list that is contained, wherever it stands in the header
        ("FINDINGS, THEN IMPRESSION", "impression"),
        ("HISTORY AND FINDINGS", "findings"),
        ("COMPARISON AND HISTORY", "history"),
        ("ADDENDUM, COMPARISON", "comparison"),
        # contained names come before views, exact aliases before both
        ("PORTABLE CHEST HISTORY", "history"),
        ("REFERENCE EXAM", "comparison"),
        ("CLINICAL INFORMATION", "history"),
    ],
)
def test_contained_names_in_their_order(header, name):
    assert canonical(header) == name
    assert CONTAINED == ("impression", "findings", "history", "comparison", "addendum")


VIEWS = """chest;portable;pa and lateral;lateral and pa;ap and lateral;lateral and ap;frontal and
two views;frontal view;pa view;ap view;one view;lateral view;bone window;frontal upright
frontal semi-upright;ribs;pa and lat"""


@pytest.mark.parametrize("phrase", VIEWS.replace("\n", ";").split(";"))
def test_view_phrases_anywhere_in_a_header_mean_findings(phrase):
    assert canonical(phrase.upper()) == "findings"
    assert canonical(f"UPPER {phrase.upper()} STUDY") == "findings"


@pytest.mark.parametrize(
    "header",
    [
        "LATERAL",
        "FRONTAL",
        "AP",
        "PA",
        "VIEW",
        "UPRIGHT",
        "THREE VIEWS",
        "BONE",
        "CT THORAX",
        "NOTE",
    ],
)
def test_other_headers_keep_their_own_name(header):
    assert canonical(header) == header.lower()


def test_a_plain_report():
    report = " FINAL REPORT\n INDICATION:  cough.\n \n FINDINGS: \n Clear.\n \n IMPRESSION: ok\n"
    assert split(report) == [
        ("preamble", " FINAL REPORT\n "),
        ("indication", " cough.\n "),
        ("findings", "\n Clear.\n "),
        ("impression", "ok\n"),
    ]
    assert sections(report) == ("ok", "Clear.")


@pytest.mark.parametrize(
    "line",
    [
        "\nIMPRESSION: no blank",
        "\n\tIMPRESSION: a tab",
        " IMPRESSION: no newline before it",
        "\n Impression: no capitals",
        "\n IMPRESSION no colon",
        "\n IMPRESSION:no white space",
        "\n IMPRESSION 2: a digit",
        "\n IMPRESSION ___: underscores",
        "\n IMPRESSION & PLAN: another sign",
        "\n IMPRESSION:",
        "\n FINDINGS\n IMPRESSION",
    ],
)
def test_what_is_no_header(line):
    assert split(line) == [("full report", line)]
    assert sections(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "\n IMPRESSION: ok",
        "\n IMPRESSION:\tok",
        "\n IMPRESSION:\n ok",
        "\n   IMPRESSION : ok",
        "\n FINAL (REVISED) IMPRESSION/READ, PA-LAT: ok",
        "\r\n IMPRESSION: ok",
    ],
)
def test_what_is_a_header(line):
    assert sections(line) == ("ok", "")


def test_the_last_section_of_a_name_counts():
    report = "\n FINDINGS: first\n a\n FINDINGS: second\n b\n IMPRESSION: one\n c\n IMPRESSION: two"
    assert sections(report) == ("two", "second\n b")
    report = "\n IMPRESSION: one\n c\n CONCLUSION: two\n d\n PORTABLE CHEST: three"
    assert sections(report) == ("two\n d", "three")


def test_an_empty_section_is_left_out_so_that_an_earlier_one_counts():
    report = "\n IMPRESSION: real\n line\n IMPRESSION:  \n \n"
    assert sections(report) == ("real\n line", "")
    assert [name for name, _ in split("\n HISTORY: \n \n FINDINGS: \n \n DATE: x")] == [
        "preamble",
        "history",
        "date",
    ]


def test_the_search_goes_on_at_the_following_newline():
    """A header's own line holds no second header; the next line may be one at once."""
    assert sections("\n FINDINGS: A\n IMPRESSION: x") == ("x", "A")
    report = "\n FINDINGS:\n IMPRESSION: x\n DATE: y"
    assert split(report) == [
        ("preamble", "\n "),
        ("findings", " IMPRESSION: x"),
        ("date", "y"),
    ]
    title = "\n CHEST, PA LATERAL:\n \n INDICATION:   cough\n IMPRESSION: clear"
    assert [name for name, _ in split(title)] == ["preamble", "indication", "impression"]


def test_no_header_at_all():
    assert split("just words") == [("full report", "just words")]
    assert sections("just words") is None
    assert sections("") is None


@pytest.mark.parametrize(
    ("fallback", "expected"), [("none", None), ("last_paragraph", ("", "tail"))]
)
@pytest.mark.parametrize(
    "report",
    ["\n INDICATION: cough\n \n tail", "no header\n \n tail", "\n DATE: x\n NOTE: y\n \n tail\n"],
)
def test_the_fallback_switch(report, fallback, expected):
    assert sections(report, fallback) == expected


@pytest.mark.parametrize("fallback", ["none", "last_paragraph"])
def test_the_fallback_never_replaces_a_section(fallback):
    report = "\n IMPRESSION: yes\n \n HISTORY: x\n \n tail"
    assert sections(report, fallback) == ("yes", "")
    assert "last_paragraph" not in dict(split(report))


@pytest.mark.parametrize("fallback", ["none", "last_paragraph"])
def test_a_comparison_is_never_used(fallback):
    assert sections("\n COMPARISON: the lungs are clear", fallback) is None


def test_the_last_paragraph_starts_after_the_first_empty_line():
    report = "\n HISTORY: x\n \n second\n \n third"
    assert split(report)[1:] == [("history", "x"), ("last_paragraph", " second\n \n third")]
    assert sections(report, "last_paragraph") == ("", "second\n \n third")
    assert sections("\n HISTORY: one paragraph", "last_paragraph") is None
    assert sections("\n HISTORY: x\n \n \n ", "last_paragraph") is None
    assert sections("\n HISTORY: x\n\n no blank on the line", "last_paragraph") is None
    # only the last section is looked at
    assert sections("\n HISTORY: x\n \n y\n DATE: z", "last_paragraph") is None


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
@pytest.mark.parametrize("fallback", ["none", "last_paragraph"])
def test_line_ends_of_other_systems_change_nothing(newline, fallback):
    for report in (
        " FINAL REPORT\n FINDINGS: a\n b\n \n IMPRESSION: c\n",
        "\n HISTORY: x\n \n tail\n more",
    ):
        assert sections(report.replace("\n", newline), fallback) == sections(report, fallback)


def slow_split(report: str) -> list[tuple[str, str]]:
    """The rules of §1.1, character by character."""

    def header_at(i: int) -> tuple[int, int] | None:
        """(start of the name, end behind the white space) of a header whose newline is at i."""
        if report[i : i + 2] != "\n ":
            return None
        end = i + 2
        while end < len(report) and report[end] in string.ascii_uppercase + " ()/,-":
            end += 1
        found = end > i + 2 and report[end : end + 1] == ":" and report[end + 1 : end + 2].isspace()
        return (i + 2, end + 2) if found else None

    headers = []
    at = 0
    while at < len(report):
        found = header_at(at)
        if found is None:
            at += 1
            continue
        headers.append((at, *found))
        at = found[1]
        while at < len(report) and report[at] != "\n":
            at += 1
    if not headers:
        out = [("full report", report)]
    else:
        out = [("preamble", report[: headers[0][1]])]
        ends = [newline for newline, _, _ in headers[1:]] + [len(report)]
        for (_, name, text), end in zip(headers, ends, strict=True):
            out.append((canonical(report[name : text - 2]), report[text:end]))
    out = [(n, t) for n, t in out if not (n in ("impression", "findings") and not t.strip())]
    if all(n not in ("impression", "findings") for n, _ in out) and "\n \n" in out[-1][1]:
        cut = out[-1][1].index("\n \n")
        out[-1:] = [(out[-1][0], out[-1][1][:cut]), ("last_paragraph", out[-1][1][cut + 3 :])]
    return out


WORDS = ["FINDINGS", "IMPRESSION", "HISTORY", "CHEST", "AP", "-", "(S)", "/", "lungs", "é", ":"]
LINES = ["\n", " ", "\n ", "\n \n", ": ", "\n FINDINGS: ", "\n IMPRESSION: ", "\n DATE: "]
PIECES = st.sampled_from([*WORDS, *LINES])


@given(st.lists(PIECES, max_size=30).map("".join))
@example("\n FINDINGS: a\n IMPRESSION: b")
@example("\n  : x")
@settings(max_examples=400)
def test_sections_follow_the_slow_reference(report):
    found = split(report)
    assert found == slow_split(report)
    last = dict(found)
    both = last.get("impression", "").strip(), last.get("findings", "").strip()
    assert sections(report) == (both if any(both) else None)


SIZE = 10_000_000
HUGE = {
    "one long line": "a" * SIZE,
    "blanks": " " * SIZE,
    "newlines": "\n" * SIZE,
    "empty lines": "\n \n" * (SIZE // 3),
    "a header that never ends": "\n " + "A" * SIZE,
    "headers without a colon": "\n AAAA" * (SIZE // 6),
    "headers of blanks": "\n " + " " * SIZE,
    "headers only": "\n A: " * (SIZE // 50),
    "sections": "\n FINDINGS: the lungs are clear\n" * (SIZE // 31),
    "one long header": "\n " + "A" * SIZE + ": x",
    "colons": "\n A" + ":" * SIZE,
}


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.timeout(120)
def test_a_report_of_10_mb_takes_no_more_than_linear_time(name):
    """Anything that grows with the square would take hours: the time-out is the test."""
    found = sections(HUGE[name], "last_paragraph")
    assert (found == ("", "the lungs are clear")) == (name == "sections")
    assert found is None or name == "sections"
