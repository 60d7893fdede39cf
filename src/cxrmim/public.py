"""`cxrmim audit --public`: the leakage table of released split rules, on real label tables.

Every figure that the literature sheet (protocols §1) states is compared with what the rules give
here; one that differs is an error.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxrmim import public_tables
from cxrmim.errors import CheckError
from cxrmim.manifest.audit import SPLITS
from cxrmim.paths import atomic
from cxrmim.public_tables import FILES, PACKAGE, Line
from cxrmim.record import canonical
from cxrmim.report.render import csv_text, pipes

Tree = dict[str, Any]
PAIRS = ("train-valid", "train-test", "valid-test")
TITLES = {
    "chexpert": "CheXpert",
    "siim": "SIIM-ACR",
    "nih": "NIH ChestX-ray14",
    "rsna": "RSNA Pneumonia",
}
HEADER = ("dataset", "rule", "source", "measure", "where", "value", "stated")
TABLE = "table"  # stands for the rule where a figure is of the table itself
# (dataset, rule, measure, where) -> value as the literature sheet states it.
STATED: dict[tuple[str, str, str, str], float] = {
    ("chexpert", TABLE, "rows", ""): 223_414,
    ("chexpert", TABLE, "frontal", ""): 191_027,
    ("chexpert", TABLE, "patients", ""): 64_540,
    ("chexpert", "mgca, all views", "size", "train"): 217_433,
    ("chexpert", "mgca, all views", "size", "valid"): 5000,
    ("chexpert", "mgca, all views", "images", "train-valid"): 4907,
    ("chexpert", "mgca, frontal", "size", "train"): 185_771,
    ("chexpert", "mgca, frontal", "size", "valid"): 4284,
    ("chexpert", "mgca, frontal", "images", "train-valid"): 4203,
    ("chexpert", "mgca, frontal", "train_1", ""): 1858,
    ("chexpert", "mgca, frontal", "train_10", ""): 18_577,
    ("chexpert", "valid_as_test, all views", "size", "train"): 218_414,
    ("siim", TABLE, "rows", ""): 12_954,
    ("siim", TABLE, "images", ""): 12_047,
    ("siim", TABLE, "positive_images", ""): 2669,
    ("siim", TABLE, "most_rows_of_an_image", ""): 10,
    ("siim", TABLE, "last_pixel_of_a_mask", ""): 1_021_949,
    ("siim", "mgca", "rows_train", ""): 9067,
    ("siim", "mgca", "rows_valid", ""): 1944,
    ("siim", "mgca", "rows_test", ""): 1943,
    ("siim", "mgca", "size", "train"): 8578,
    ("siim", "mgca", "size", "valid"): 1910,
    ("siim", "mgca", "size", "test"): 1903,
    ("siim", "mgca", "images", "train-valid"): 161,
    ("siim", "mgca", "images", "train-test"): 154,
    ("siim", "mgca", "images", "valid-test"): 62,
    ("siim", "mgca", "positive_train", ""): 2002,
    ("siim", "mgca", "positive_valid", ""): 535,
    ("siim", "mgca", "positive_test", ""): 476,
    ("siim", "mgca", "cut_masks_train", ""): 282,
    ("siim", "mgca", "cut_masks_valid", ""): 190,
    ("siim", "mgca", "cut_masks_test", ""): 183,
    ("siim", "mgca", "empty_prediction_dice", ""): 75.0,
    ("rsna", TABLE, "rows", ""): 30_227,
    ("rsna", TABLE, "images", ""): 26_684,
    ("rsna", TABLE, "positive_images", ""): 6012,
    ("rsna", "mgca", "size", "train"): 18_678,
    ("rsna", "mgca", "size", "valid"): 4003,
    ("rsna", "mgca", "size", "test"): 4003,
    ("rsna", "mrm", "size", "train"): 25_184,
    ("rsna", "mrm", "size", "valid"): 1500,
    ("rsna", "mrm", "positive_rate_train", ""): 23.0,
    ("rsna", "mrm", "positive_rate_valid", ""): 14.9,
    ("rsna", "mrm", "positive_rate_train_10", ""): 33.1,
    ("nih", TABLE, "rows", ""): 112_120,
    ("nih", TABLE, "patients", ""): 30_805,
}
# What no split of ours may share; by image, NIH shows what the unit is for.
TORN = ("nih", "fractions, by image")


def main(out: Path, say: Callable[[str], None]) -> None:
    """Replay the rules, hold them to the literature sheet, write the table.

    Args:
        out: folder of leakage.csv, leakage.md and leakage.json.
        say: prints a line.

    Raises:
        DataError: the package with the tables is missing or damaged.
        CheckError: a figure is not the stated one, or a split of ours leaks.
    """
    place = public_tables.folder()
    tables = {name: public_tables.load(name, place) for name in FILES}
    found = list(public_tables.lines(tables))
    facts = public_tables.facts(tables)
    rows = figures(found, facts)
    check(rows, found)
    source = provenance(place)
    texts = {
        "leakage.csv": to_csv(rows).encode(),
        "leakage.md": to_markdown(found, source).encode(),
        "leakage.json": canonical(
            {
                "source": source,
                "tables": facts,
                "rules": [asdict(line) for line in found],
                "stated_figures": len(STATED),
            }
        ),
    }
    for name, content in texts.items():
        with atomic(out / name) as temporary:
            temporary.write_bytes(content)
    for line in found:
        say(summary(line))
    say(f"all {len(STATED)} stated figures came out; wrote {', '.join(texts)} to {out}")


def provenance(place: Path) -> Tree:
    """Version of the package, and size and sha256 of each of its tables."""
    files = {}
    for name, file in FILES.items():
        content = (place / file).read_bytes()
        sha = hashlib.sha256(content).hexdigest()
        files[name] = {"file": file, "bytes": len(content), "sha256": sha}
    return {"package": PACKAGE, "version": public_tables.version(), "files": files}


def figures(
    found: Iterable[Line], facts: dict[str, dict[str, int]]
) -> dict[tuple[str, str, str, str], float]:
    """Every figure by (dataset, rule, measure, where)."""
    out: dict[tuple[str, str, str, str], float] = {
        (name, TABLE, measure, ""): value
        for name, counts in facts.items()
        for measure, value in counts.items()
    }
    for line in found:
        key = (line.dataset, line.rule)
        out |= {(*key, "size", split): size for split, size in line.sizes.items()}
        for measure, counts in line.shared.items():
            out |= {(*key, measure, pair): count for pair, count in counts.items()}
        out |= {(*key, measure, ""): value for measure, value in line.figures.items()}
    return out


def check(rows: dict[tuple[str, str, str, str], float], found: Iterable[Line]) -> None:
    """Assert that every stated figure came out, and that no split of ours leaks.

    Raises:
        CheckError: naming the first that did not, or does.
    """
    for key, value in STATED.items():
        decimals = 1 if isinstance(value, float) else 0
        if key not in rows or round(rows[key], decimals) != value:
            name = " ".join(part for part in key if part)
            raise CheckError(
                f"public tables: {name} is {rows.get(key)}, stated is {value}; the rule in "
                f"cxrmim.manifest.released or the table of {PACKAGE} has changed"
            )
    for line in found:
        leaks = sum(count for counts in line.shared.values() for count in counts.values())
        if not line.released and (line.dataset, line.rule) != TORN and leaks:
            raise CheckError(
                f"public tables: our split {line.dataset}, {line.rule} shares {leaks} units; "
                f"mend cxrmim.manifest.splits"
            )


def summary(line: Line) -> str:
    """A rule in one line of text."""
    sizes = "/".join(f"{size:,}" for size in line.sizes.values())
    shared = ", ".join(f"{name} {_slashed(counts)}" for name, counts in line.shared.items())
    kind = "released" if line.released else "ours"
    return f"{TITLES[line.dataset]}: {line.rule} ({kind}): {sizes} images; shared: {shared}"


def to_csv(rows: dict[tuple[str, str, str, str], float]) -> str:
    """One line a figure, with the stated one beside it."""
    out: list[tuple[str, ...]] = [HEADER]
    for key, value in rows.items():
        dataset, rule, measure, where = key
        stated = _text(STATED.get(key))
        out.append((dataset, rule, _source(rule), measure, where, _text(value), stated))
    return csv_text(out)


def to_markdown(found: list[Line], source: Tree) -> str:
    """The table for people."""
    heads = ("Dataset", "Rule", "Train", "Valid", "Test", "Images shared", "Patients shared")
    out = [
        "# What released split rules share, on the real public label tables",
        "",
        f"Computed by `cxrmim audit --public` on the **real** label tables of four datasets as "
        f"the package {source['package']} {source['version']} ships them (sha256 below), not on "
        f"generated data. Shared: train-valid / train-test / valid-test; a dash where a split or "
        f"the name of the patient is not in the table. Rules in italics are released ones, "
        f"replayed: mgca is the preprocessing code of MGCA, which MedIM and CMITM build on, mrm "
        f"the lists of MRM; the others are ours. Each of the {len(STATED)} figures that the "
        f"literature sheet states came out exactly.",
        "",
        pipes(heads),
        pipes(["---", "---", *["---:"] * 5], raw=True),
    ]
    for line in found:
        rule = f"*{line.rule}*" if line.released else line.rule
        sizes = [f"{line.sizes[s]:,}" if s in line.sizes else "–" for s in SPLITS]
        shared = [_slashed(line.shared.get(name, {})) for name in ("images", "patients")]
        out.append(pipes([TITLES[line.dataset], rule, *sizes, *shared], raw=True))
    out += ["", "## Masks of SIIM-ACR", "", *_mask_table(found), ""]
    out += ["## Positive rate of RSNA Pneumonia", "", *_rate_table(found), ""]
    out += ["## Rules", ""]
    out += [f"- {TITLES[line.dataset]}, {line.rule}: {line.how}." for line in found]
    out += ["", "## Tables", "", pipes(("Dataset", "File", "Bytes", "sha256"))]
    out.append(pipes(["---", "---", "---:", "---"], raw=True))
    for name, entry in source["files"].items():
        cells = [TITLES[name], f"`{entry['file']}`", f"{entry['bytes']:,}", f"`{entry['sha256']}`"]
        out.append(pipes(cells, raw=True))
    return "\n".join(out) + "\n"


def _mask_table(found: list[Line]) -> list[str]:
    heads = (
        "Rule",
        "Masks cut short: train",
        "valid",
        "test",
        "Dice of predicting nothing",
        "Dice of the true mask",
        "on positives",
    )
    out = [
        "A mask is cut short where its image's rows fall into two splits and each sees its own "
        "only. Dice x100, mean over test images, an empty prediction of an empty mask scores 1; "
        "the true mask is the union of all of an image's rows.",
        "",
        pipes(heads),
        pipes(["---", *["---:"] * 6], raw=True),
    ]
    for line in (line for line in found if line.dataset == "siim"):
        rule = f"*{line.rule}*" if line.released else line.rule
        cut = [
            f"{line.figures[f'cut_masks_{s}']:,.0f} of {line.figures[f'positive_{s}']:,.0f}"
            for s in SPLITS
        ]
        names = ("empty_prediction_dice", "true_mask_dice", "true_mask_dice_positive")
        out.append(pipes([rule, *cut, *(f"{line.figures[n]:.1f}" for n in names)], raw=True))
    return out


def _rate_table(found: list[Line]) -> list[str]:
    heads = ("Rule", "Train", "Valid", "Test", "10 % subset")
    out = [pipes(heads), pipes(["---", *["---:"] * 4], raw=True)]
    for line in (line for line in found if line.dataset == "rsna"):
        rule = f"*{line.rule}*" if line.released else line.rule
        rates = [line.figures.get(f"positive_rate_{s}") for s in (*SPLITS, "train_10")]
        out.append(pipes([rule, *("–" if r is None else f"{r:.1f} %" for r in rates)], raw=True))
    return out


def _slashed(counts: dict[str, int]) -> str:
    return " / ".join(f"{counts[pair]:,}" if pair in counts else "–" for pair in PAIRS)


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() else str(value)


def _source(rule: str) -> str:
    if rule == TABLE:
        return "publisher"
    return "released" if rule.startswith(("mgca", "mrm")) else "ours"
