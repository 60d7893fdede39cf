"""Which audited splits share something, in words, and whose code makes them."""

from dataclasses import dataclass

from cxrmim.params import Params
from cxrmim.report import audit
from cxrmim.report.audit import PAIRS, UNITS, Line
from cxrmim.report.layout import DATASETS
from cxrmim.report.site.public import Rule

# Whose released code cuts a dataset by an audited rule (the literature sheet, section 1).
USERS = {
    "mimic-mgca": "MGCA, MedIM, CMITM",
    "chexpert-mgca": "MGCA",
    "chexpert-mrm": "MRM, whose lists CMITM says to follow",
    "covidx-mgca": "MGCA, MedIM",
    "siim-mgca": "MGCA, MedIM, GLoRIA",
    "siim-mrm": "MRM",
    "nih-official": "none of the papers",
    "rsna-mgca": "MGCA, which does not call it",
}
NONE = "nothing"


@dataclass(frozen=True)
class Leak:
    """A dataset entry of the audit.

    Attributes:
        line: what its splits share.
        told: the units of which two splits share some, with counts by pair of splits; "" if none.
    """

    line: Line
    told: str

    @property
    def entry(self) -> str:
        """Its name in params.yaml."""
        return self.line.entry

    @property
    def used(self) -> bool:
        """Whether runs use it."""
        return self.line.used

    @property
    def leaks(self) -> bool:
        """Whether two of its splits share an image, a study or a patient."""
        return bool(self.told)


def leaks(params: Params) -> list[Leak]:
    """Every entry of the audit, in its order.

    Raises:
        CheckError: a record is missing or no audit.
    """
    return [Leak(line, _told(line)) for line in audit.lines(params)]


@dataclass(frozen=True)
class Official:
    """A split rule of released code.

    Attributes:
        leak: what its replay at this scale shares.
        users: whose code it is.
        real: what it shares on real public label tables, by variant of the rule; "" for what has
            no public table.
    """

    leak: Leak
    users: str
    real: tuple[tuple[str, str], ...]


def official(audited: list[Leak], real: list[Rule]) -> list[Official]:
    """The audited rules of released code, beside what they share on real label tables."""
    found = []
    for leak in audited:
        if leak.used:
            continue
        told = tuple(
            (rule.name, _shared(rule))
            for rule in real
            if rule.released
            and rule.dataset == DATASETS.get(leak.line.dataset, leak.line.dataset)
            and rule.name.partition(",")[0] == leak.line.rule
        )
        found.append(Official(leak, USERS.get(leak.entry, ""), told))
    return found


def _shared(rule: Rule) -> str:
    told = ", ".join(f"{name} {rule.shared[name]}" for name in rule.leaking) or NONE
    return f"{told} (train / valid / test: {' / '.join(rule.sizes)} images)"


def _told(line: Line) -> str:
    """Units that the tables name and that two splits share: counts over `PAIRS`."""
    shared = [
        unit
        for unit in UNITS
        if unit in line.named and any(line.shared.get(unit, {}).get(pair) for pair in PAIRS)
    ]
    return ", ".join(f"{unit} {line.cell(unit)}" for unit in shared)
