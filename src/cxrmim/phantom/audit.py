"""Shortcut audit: how an image was taken must say nothing about what it shows.

A classifier that sees the nuisances alone (view, exposure, gamma, geometry, marker, devices, and
the patient's sex, age and build) has to score an AUC of 0.5 for every label, within its standard
error. It learns from one half of the patients and is scored on the other: the pooled scores of a
cross-validation lie below 0.5 where there is nothing to learn, and spread wider than the error.
"""

import math
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrmim.phantom.acquisition import DIFFICULTIES
from cxrmim.phantom.cohorts import flags, sample
from cxrmim.phantom.findings import Study
from cxrmim.phantom.streams import PhantomSpec

LIMIT = 3.0
"""Standard errors that an AUC may lie from one half."""

NOTHING = Study((), (), False, frozenset(), frozenset(), frozenset())
DEVICES = ("ecg leads", "central line", "endotracheal tube", "enteric tube", "pacemaker")


@dataclass(frozen=True)
class Verdict:
    """One label's audit: held-out AUC of the nuisances, its standard error, the verdict."""

    label: str
    classifier: str
    auc: float
    error: float

    @property
    def clean(self) -> bool:
        """Whether the AUC lies within `LIMIT` standard errors of one half."""
        return abs(self.auc - 0.5) <= LIMIT * self.error


def nuisances(
    params: PhantomSpec, dataset: str, patients: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Nuisances and labels of one image a patient, so that rows are independent.

    Args:
        params: seed and difficulty of the population.
        dataset: a name of `streams.DATASET_IDS`.
        patients: how many of the population's first patients.

    Returns:
        (patients, variables) numbers and (patients, labels) flags in the order of `label_names`.
    """
    level = DIFFICULTIES[params.difficulty]
    rows, labels = [], []
    for number in range(patients):
        person, visits = sample(params.seed, dataset, number, level)
        visit = visits[number % len(visits)]
        shot = visit.shots[number % len(visit.shots)]
        build = list(astuple(person.build))[:-1]
        devices = [float(name in visit.study.devices) for name in DEVICES]
        who = [float(person.sex == "M"), float(person.age)]
        rows.append([*shot.vector(), *devices, *who, *build, float(visit.index), len(visit.shots)])
        labels.append(list(flags(dataset, visit.study).values()))
    return np.array(rows, dtype=np.float64), np.array(labels)


def label_names(dataset: str) -> tuple[str, ...]:
    """The labels that are audited in a data set."""
    return tuple(flags(dataset, NOTHING))


def _error(auc: float, positives: int, negatives: int) -> float:
    """Hanley and McNeil's standard error of an AUC."""
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (first - auc**2)
    spread += (negatives - 1) * (second - auc**2)
    return math.sqrt(spread / (positives * negatives))


def audit(
    variables: NDArray[np.float64], labels: NDArray[np.bool_], names: tuple[str, ...]
) -> list[Verdict]:
    """Held-out AUC of a linear model and of boosted trees on the nuisances, per label.

    Args:
        variables: (n, v) nuisances, rows independent.
        labels: (n, k) flags, each with positives and negatives.
        names: the k labels.
    """
    models: dict[str, Any] = {
        "linear": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)),
        "trees": HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, random_state=0),
    }
    out = []
    for column, name in enumerate(names):
        flags = labels[:, column]
        seen, unseen, known, asked = train_test_split(
            variables, flags, test_size=0.5, random_state=0, stratify=flags
        )
        positives = int(asked.sum())
        for kind, model in models.items():
            scores = model.fit(seen, known).predict_proba(unseen)[:, 1]
            auc = float(roc_auc_score(asked, scores))
            out.append(Verdict(name, kind, auc, _error(0.5, positives, len(asked) - positives)))
    return out


def audit_population(params: PhantomSpec, dataset: str, patients: int = 3000) -> list[Verdict]:
    """Audit a population of `params` without rendering it."""
    variables, labels = nuisances(params, dataset, patients)
    return audit(variables, labels, label_names(dataset))
