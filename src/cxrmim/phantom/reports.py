"""Radiology reports in the style and the file format of MIMIC-CXR.

A header is a line that starts with one blank, capitals and a colon; body lines start with one blank
and are wrapped; names, dates and ages are three underscores.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrmim.phantom import phrases
from cxrmim.phantom.acquisition import View
from cxrmim.phantom.findings import Finding, Patient, Study, draw_finding

ZONES = {
    ("right", "upper"): ("right upper lobe", "right upper lung zone"),
    ("right", "middle"): ("right middle lobe", "right mid lung"),
    ("right", "lower"): ("right lower lobe", "right lung base"),
    ("left", "upper"): ("left upper lobe", "left upper lung zone"),
    ("left", "middle"): ("lingula", "left mid lung"),
    ("left", "lower"): ("left lower lobe", "left lung base"),
}
ADVERBS = {"mild": "mildly", "moderate": "moderately", "severe": "severely"}

FORMS = {
    "both": 0.58,
    "impression only": 0.14,
    "findings only": 0.14,
    "odd headers": 0.06,
    "last paragraph": 0.02,
    "no headers": 0.01,
    "addendum": 0.01,
    "odd findings": 0.03,
    "empty impression": 0.01,
}
"""Shapes of a report. Some have no usable section, or more than one of a kind; in "odd findings"
the findings stand alone under a header that only an alias or a view names."""


@dataclass(frozen=True)
class Report:
    """The text of a report file, its form and the findings that it calls present or possible."""

    text: str
    form: str
    mentioned: frozenset[str]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _say(templates: Sequence[str], item: Finding, rng: np.random.Generator) -> str:
    """Fill one of the templates with the finding's severity, side and zone."""
    size = phrases.SIZES[item.name][min(2, int(item.severity * 3))]
    both = item.side == "both"
    side = "bilateral" if both else item.side
    zone = _pick(ZONES.get((item.side, item.zone), ("lungs",)), rng)
    line = _pick(templates, rng)
    article = "" if both else "a "
    return line.format(
        size=size,
        Size=size[0].upper() + size[1:],
        ly=ADVERBS.get(size, size),
        side=side,
        Side=side[:1].upper() + side[1:],
        zone=zone,
        Zone=zone[0].upper() + zone[1:],
        s="s" if both else "",
        a=article,
        are="are" if both else "is",
    )


def _positives(study: Study, rng: np.random.Generator) -> list[str]:
    """One sentence or two for each finding that the report calls present or possible."""
    lines = []
    for item in study.findings:
        if item.name in study.silent:
            continue
        templates = phrases.HEDGED if item.name in study.hedged else phrases.PRESENT
        line = _say(templates[item.name], item, rng)
        if item.name == "Consolidation" and study.pneumonia:
            line += " " + _pick(phrases.PNEUMONIA, rng)
        lines.append(line)
    for name in sorted(study.hedged - study.names):
        lines.append(_say(phrases.HEDGED[name], draw_finding(name, rng), rng))
    order = rng.permutation(len(lines))
    return [lines[i] for i in order]


def _negatives(study: Study, rng: np.random.Generator) -> list[str]:
    """Sentences that deny the study's denied findings, some of them in one list."""
    lines = [_pick(phrases.ABSENT[name], rng) for name in phrases.ABSENT if name in study.denied]
    listed = [phrases.LISTABLE[name] for name in phrases.LISTABLE if name in study.denied]
    if listed:
        joined = listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " or " + listed[-1]
        lines.append(_pick(phrases.LISTS, rng).format(list=joined))
    order = rng.permutation(len(lines))
    return [lines[i] for i in order]


def _findings_text(study: Study, rng: np.random.Generator) -> str:
    """The body of FINDINGS: positives (mostly first), devices, negatives, fillers."""
    positives, negatives = _positives(study, rng), _negatives(study, rng)
    devices = [_pick(phrases.DEVICES[name], rng) for name in study.devices]
    count = int(rng.integers(0, 3))
    fillers = [phrases.FILLERS[i] for i in rng.permutation(len(phrases.FILLERS))[:count]]
    parts = [positives, devices, negatives, fillers]
    if rng.random() < 0.3:
        parts = [parts[i] for i in rng.permutation(4)]
    lines = [line for part in parts for line in part]
    return "  ".join(lines) if lines else _pick(phrases.FILLERS, rng)


def _impression_text(study: Study, rng: np.random.Generator) -> str:
    """The body of IMPRESSION: the positives, numbered in some reports, or that there are none."""
    lines = _positives(study, rng)
    if not lines:
        lines = [_pick(phrases.CLEAR, rng) if study.names == frozenset() else "Stable appearance."]
        lines += _negatives(study, rng)[:1]
    if rng.random() < 0.15:
        lines.append(_pick(phrases.RECOMMENDATIONS, rng))
    if len(lines) > 1 and rng.random() < 0.4:
        return "\n\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    return "  ".join(lines)


def _wrap(body: str) -> str:
    """Body text as MIMIC wraps it: paragraphs, each line led by one blank."""
    blocks = []
    for block in body.split("\n\n"):
        blocks.append("\n".join(" " + line for line in textwrap.wrap(block, 77)))
    return "\n \n".join(blocks)


def _section(header: str, body: str, own_line: bool) -> str:
    """A section with its header on a line of its own or leading the text."""
    if own_line:
        return f" {header}: \n \n{_wrap(body)}\n"
    return _wrap(f"{header}:  {body}") + "\n"


def write_report(
    patient: Patient, study: Study, views: Sequence[View], rng: np.random.Generator
) -> Report:
    """The report of a study.

    Args:
        patient: gives sex; the age is de-identified.
        study: findings, and which of them to mention, hedge or deny.
        views: the study's views, named in EXAMINATION.
        rng: the study's text stream.

    Returns:
        The file's text with its final newline, the form (a key of `FORMS`) and what it mentions.
        INDICATION names things to rule out without looking at the findings.
    """
    form = str(rng.choice(list(FORMS), p=list(FORMS.values())))
    two = any(view in ("LATERAL", "LL") for view in views)
    exam = "CHEST (PA AND LAT)" if two else "CHEST (PORTABLE AP)" if "AP" in views else "CHEST (PA)"
    who = "M" if patient.sex == "M" else "F"
    reason = f"___ year old {'man' if who == 'M' else 'woman'} {_pick(phrases.COMPLAINTS, rng)}"
    reason += f"  // {_pick(phrases.RULE_OUT, rng)}"
    odd = form == "odd headers"

    def name(usual: str, others: Sequence[str]) -> str:
        return _pick(others, rng) if odd else usual

    own_line = rng.random() < 0.6
    head = []
    if rng.random() < 0.85 or odd:
        head.append(_section(name("EXAMINATION", ("EXAM", "TYPE OF EXAMINATION")), exam, False))
    indication = name("INDICATION", phrases.INDICATION_NAMES)
    head.append(_section(indication, reason, False))
    if rng.random() < 0.6:
        technique = "Chest PA and lateral" if two else "Single frontal view of the chest"
        head.append(_section("TECHNIQUE", technique, False))
    if rng.random() < 0.8:
        comparison = name("COMPARISON", phrases.COMPARISON_NAMES)
        head.append(_section(comparison, _pick(phrases.COMPARISONS, rng), False))
    findings, impression = _findings_text(study, rng), _impression_text(study, rng)
    findings_part = _section(name("FINDINGS", phrases.FINDINGS_NAMES), findings, own_line)
    impression_part = _section(name("IMPRESSION", phrases.IMPRESSION_NAMES), impression, own_line)
    if form == "impression only":
        parts = [*head, impression_part]
    elif form == "findings only":
        parts = [*head, findings_part]
    elif form == "last paragraph":
        # The text follows the last section's own after a blank line, without a header.
        parts = [*head, _section("COMPARISON", "___.", False), _wrap(findings) + "\n"]
    elif form == "no headers":
        parts = [
            _wrap("Portable chest." if "AP" in views else "Chest radiograph.") + "\n",
            _wrap(findings) + "\n",
        ]
    elif form == "odd findings":
        header = _pick(phrases.FINDINGS_NAMES, rng)
        parts = [*head, _section(header, findings, own_line)]
    elif form == "empty impression":
        parts = [*head, findings_part, " IMPRESSION: \n"]
    elif form == "addendum":
        note = _section(
            "ADDENDUM", "The report was dictated under the wrong clip number ___.", False
        )
        parts = [note, *head, findings_part, impression_part, impression_part]
    else:
        parts = [*head, findings_part, impression_part]
    title = f"{'':33}FINAL {'ADDENDUM' if form == 'addendum' else 'REPORT'}\n"
    text = title + " \n".join(parts)
    return Report(text, form, (study.names - study.silent) | study.hedged)
