"""The tables of docs/speed.md, made from results/bench/*.json; no figure is typed by hand."""

import json
from pathlib import Path
from typing import Any

from benchmarks import runner

DOCUMENT = runner.REPO / "docs" / "speed.md"
FOLDER = runner.REPO / "results" / "bench"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
GROUPS = {"cpu": "CPU", "growth": "Growth", "gpu": "GPU"}


def write() -> None:
    """Rewrite the part of the document between the markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(replaced(text, tables(FOLDER)), encoding="utf-8")


def replaced(text: str, new: str) -> str:
    """A document with the part between its markers replaced; ValueError without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT.name}: {BEGIN} or {END} is missing")
    return f"{before}{BEGIN}\n{new}{END}{after}"


def tables(folder: Path) -> str:
    """A section for each machine and group of a folder's files, as Markdown."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        model, cores = tree["machine"].values()
        for group, found in tree["groups"].items():
            parts.append(f"### {GROUPS[group]}: {model}, {cores} cores\n\n{section(found)}")
    return "\n" + "\n".join(parts) + "\n" if parts else "\n"


def section(found: dict[str, Any]) -> str:
    """The table of a group's benchmarks, its notes, and the circumstances."""
    heads = list(runner.HEADS)
    lines = [heads, ["---"] * len(heads)]
    notes: list[str] = []
    for name, tree in found.items():
        for row in tree["rows"]:
            texts = runner.cells(name, row)
            if row["why"]:
                if row["why"] not in notes:
                    notes.append(row["why"])
                texts[2] += f" ({notes.index(row['why']) + 1})"
            lines.append(texts)
    out = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if notes:
        out += "\n" + "".join(f"{i}. {note}\n" for i, note in enumerate(notes, 1))
    return out + "\n" + circumstances(found)


def circumstances(found: dict[str, Any]) -> str:
    """When, on what and for how long a group was measured."""
    trees = found.values()
    dates = sorted({tree["date"] for tree in trees})
    commits = sorted({tree["commit"][:9] for tree in trees})
    changed = ", with uncommitted changes" * any(t["uncommitted changes"] for t in trees)
    loads = [tree["load before"] for tree in trees]
    tree = next(iter(trees))
    packages = ", ".join(f"{name} {version}" for name, version in tree["packages"].items())
    threads = ", ".join(f"{name}={value}" for name, value in tree["threads"].items())
    minutes = sum(tree["seconds"] for tree in trees) / 60
    each = ", ".join(f"{name} {runner.number(tree['seconds'])}" for name, tree in found.items())
    return (
        f"Measured {' and '.join(dates)} at commit {', '.join(commits)}{changed}; "
        f"load before each {runner.number(min(loads))} to {runner.number(max(loads))}; {threads}; "
        f"Python {tree['python']}, {packages}. "
        f"Took {minutes:.1f} minutes; seconds of each: {each}.\n"
    )
