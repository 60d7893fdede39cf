"""What released split rules share on the real public label tables (`cxrmim audit --public`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cxrmim.errors import CheckError
from cxrmim.paths import LEAKAGE as FILE
from cxrmim.report.audit import PAIRS, SPLITS
from cxrmim.report.layout import DATASETS

MEASURES = ("images", "patients")


@dataclass(frozen=True)
class Rule:
    """A split rule replayed on a real label table; counts of images.

    Attributes:
        dataset: printed name.
        name: the rule.
        how: what it does.
        released: whether it is the official code's.
        sizes: images of each split, a dash where there is none.
        shared: measure -> counts of `PAIRS` as printed.
        leaking: the measures of which two splits share some.
    """

    dataset: str
    name: str
    how: str
    released: bool
    sizes: tuple[str, ...]
    shared: dict[str, str]
    leaking: tuple[str, ...]


def rules() -> list[Rule]:
    """The rules, none in a folder that has not replayed them.

    Raises:
        CheckError: the file is not what `cxrmim audit --public` writes.
    """
    if not FILE.is_file():
        return []
    try:
        return [_rule(tree) for tree in json.loads(FILE.read_text(encoding="utf-8"))["rules"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckError(
            f"{FILE}: cannot be read ({type(error).__name__}: {error}); restore it with git"
        ) from None


def _rule(tree: dict[str, object]) -> Rule:
    sizes, shared = _counts(tree["sizes"]), tree["shared"]
    if not isinstance(shared, Mapping):
        raise ValueError(f"shared is {shared!r}")
    measured = {name: _counts(shared.get(name, {})) for name in MEASURES}
    return Rule(
        dataset=DATASETS.get(str(tree["dataset"]), str(tree["dataset"])),
        name=str(tree["rule"]),
        how=str(tree["how"]),
        released=tree["released"] is True,
        sizes=tuple(_text(sizes, split) for split in SPLITS),
        shared={
            name: " / ".join(_text(counts, pair) for pair in PAIRS)
            for name, counts in measured.items()
        },
        leaking=tuple(name for name, counts in measured.items() if any(counts.values())),
    )


def _counts(tree: object) -> dict[str, int]:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{tree!r} holds no counts")
    return {str(key): int(value) for key, value in tree.items()}


def _text(counts: dict[str, int], key: str) -> str:
    return f"{counts[key]:,}" if key in counts else "–"
