"""Report sections: hand-solved cases of protocols §1.1."""

from __future__ import annotations

import pytest

from cxrmim.manifest.sections import canonical, sections, split


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("IMPRSSION", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"),
        ("NDICATION", "impression"),  # the official slip
        ("REFERENCE FINDINGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("REASON FOR EXAMINATION", "indication"),
        ("PFI", "history"),
        ("COMPARISON FILM", "comparison"),
        ("EXAM", "examination"),
        ("FINAL IMPRESSION", "impression"),  # contained
        ("OTHER FINDINGS", "findings"),
        ("FINDINGS AND ADDENDUM", "findings"),  # first hit in the list's order
        ("PORTABLE AP CHEST RADIOGRAPH", "findings"),  # a view
        ("FRONTAL SEMI-UPRIGHT", "findings"),
        ("TECHNIQUE", "technique"),
        ("NOTIFICATION", "notification"),
    ],
)
def test_headers_fold_onto_canonical_names(header, name):
    assert canonical(header) == name


def test_a_plain_report():
    report = " FINAL REPORT\n INDICATION:  cough.\n \n FINDINGS: \n Clear.\n \n IMPRESSION: ok\n"
    assert [name for name, _ in split(report)] == [
        "preamble",
        "indication",
        "findings",
        "impression",
    ]
    assert sections(report) == ("ok", "Clear.")


def test_a_header_needs_newline_blank_capitals_colon():
    assert (
        sections("\nIMPRESSION: no blank\n Impression: no capitals\n IMPRESSION no colon\n") is None
    )


def test_the_last_section_of_a_name_counts():
    report = "\n FINDINGS: first\n a\n FINDINGS: second\n b\n IMPRESSION: one\n c\n IMPRESSION: two"
    assert sections(report) == ("two", "second\n b")


def test_an_empty_section_is_left_out_so_that_an_earlier_one_counts():
    report = "\n IMPRESSION: real\n line\n IMPRESSION:  \n \n"
    assert sections(report) == ("real\n line", "")


def test_the_search_goes_on_after_the_following_newline():
    """What looks like a header on the header's own line is none."""
    report = "\n FINDINGS: A\n IMPRESSION: x"
    assert sections(report) == ("x", "A")
    title = "\n CHEST, PA LATERAL:\n \n INDICATION:   cough\n IMPRESSION: clear"
    assert dict(split(title))["indication"].strip() == "cough"


def test_no_header_at_all():
    assert split("just words") == [("full report", "just words")]
    assert sections("just words") is None
    assert sections("") is None


@pytest.mark.parametrize(
    ("fallback", "expected"), [("none", None), ("last_paragraph", ("", "tail"))]
)
def test_the_fallback_switch(fallback, expected):
    report = "\n INDICATION: cough\n \n tail"
    assert sections(report, fallback) == expected


def test_the_last_paragraph_starts_after_the_first_empty_line():
    report = "\n HISTORY: x\n \n second\n \n third"
    assert sections(report, "last_paragraph") == ("", "second\n \n third")
    assert sections("\n HISTORY: one paragraph", "last_paragraph") is None
    assert sections("\n HISTORY: x\n \n IMPRESSION: y", "last_paragraph") == ("y", "")
