"""Sections of a MIMIC-CXR report (protocols §1.1; MIT-LCP mimic-cxr, `section_parser`).

A header is a newline, one blank, a run of capitals, blanks and ``()/,-``, a colon and white space.
Header names are folded onto a few canonical ones; only impression and findings are used.
"""

import re

HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
PARAGRAPH = "\n \n"
PREAMBLE = "preamble"
FULL = "full report"

# Canonical name -> spellings of it that stand in reports. "ndication" under impression is a slip of
# the official list, kept because it decides what the official captions hold.
ALIASES = {
    "impression": (
        "impression conclusion findings_and_impression findings/impression findings/_impression "
        "ndication impresson imprression imoression impressoin imprssion impresion imperssion "
        "mpression impession"
    ),
    "findings": (
        "findings finding reference_findings chest,_two_views findins findindgs findgings findngs "
        "findnings finidngs"
    ),
    "comparison": (
        "comparison comparisons comparison_exam comparison_film reference_exam comparision "
        "comparsion comparrison comparisions"
    ),
    "indication": (
        "indication reason_for_examination reason_for_exam clinical_indication idication"
    ),
    "history": "history clinical_history clinical_information patient_history pfi",
    "examination": "examination exam type_of_examination",
    "recommendations": "recommendations recommendation recommendation(s)",
    "wet read": "wet_read wetread",
    **{name: name for name in ("preamble", "technique", "notification", "addendum", "date")},
    "comment": "comment",
}
EXACT = {
    spelling.replace("_", " "): name
    for name, spellings in ALIASES.items()
    for spelling in spellings.split()
}
CONTAINED = ("impression", "findings", "history", "comparison", "addendum")
VIEWS = (
    "chest",
    "portable",
    "ribs",
    "bone window",
    "two views",
    "one view",
    "frontal view",
    "pa view",
    "ap view",
    "lateral view",
    "pa and lat",
    "lateral and pa",
    "ap and lateral",
    "lateral and ap",
    "frontal and",
    "frontal upright",
    "frontal semi-upright",
)


def canonical(header: str) -> str:
    """Canonical name of a header: by exact alias, by a contained name, by a view, else itself."""
    name = header.lower().strip()
    if name in EXACT:
        return EXACT[name]
    for contained in CONTAINED:
        if contained in name:
            return contained
    return "findings" if any(view in name for view in VIEWS) else name


def split(report: str) -> list[tuple[str, str]]:
    """(canonical name, text) of each section in order; text as it stands, not stripped.

    Empty impression and findings sections are left out. Where neither remains, the last section is
    cut at its first empty line and what follows becomes ``last_paragraph``. Line ends of other
    systems count as newlines, as in a file that is read as text.
    """
    report = report.replace("\r\n", "\n").replace("\r", "\n")
    sections: list[tuple[str, str]] = []
    header = HEADER.search(report)
    if header is None:
        sections.append((FULL, report))
    else:
        sections.append((PREAMBLE, report[: header.start(1)]))
    while header is not None:
        start = header.end()
        following = HEADER.search(report, start)  # begins with a newline: none on this line
        end = len(report) if following is None else following.start()
        sections.append((canonical(header.group(1)), report[start:end]))
        header = following
    used = ("impression", "findings")
    sections = [(n, t) for n, t in sections if n not in used or t.strip()]
    if not any(name in used for name, _ in sections):
        name, text = sections[-1]
        if PARAGRAPH in text:
            head, tail = text.split(PARAGRAPH, 1)
            sections[-1:] = [(name, head), ("last_paragraph", tail)]
    return sections


def sections(report: str, fallback: str = "none") -> tuple[str, str] | None:
    """Impression and findings of a report, each the LAST section of its name, "" for none.

    Args:
        report: the whole text.
        fallback: what stands in as findings where both are missing: ``none`` or
            ``last_paragraph``.

    Returns:
        (impression, findings), or None if nothing usable remains.
    """
    last = {name: text.strip() for name, text in split(report)}
    impression, findings = last.get("impression", ""), last.get("findings", "")
    if not impression and not findings and fallback == "last_paragraph":
        findings = last.get("last_paragraph", "")
    return (impression, findings) if impression or findings else None
