"""The 14 columns of the CheXpert labels, from a study's latent findings."""

import numpy as np

from cxrmim.phantom.findings import MINOR_PREVALENCE, PREVALENCE, Study

COLUMNS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""In CheXpert's order; MIMIC's table sorts them."""

OPAQUE = ("Edema", "Consolidation", "Atelectasis", "Lung Lesion")


def truth(study: Study) -> dict[str, int]:
    """All 14 labels as a radiologist's reading gives them, 1 or 0.

    Parents follow their children, as in CheXpert's validation and test sets.
    """
    names = study.names
    out = {name: int(name in names) for name in COLUMNS}
    out["Pneumonia"] = int(study.pneumonia)
    out["Lung Opacity"] = int(any(name in names for name in OPAQUE))
    wide = "Enlarged Cardiomediastinum" in names or "Cardiomegaly" in names
    out["Enlarged Cardiomediastinum"] = int(wide)
    out["Support Devices"] = int(bool(study.devices))
    out["No Finding"] = int(not names and not study.devices)
    return out


def labelled(study: Study, rng: np.random.Generator) -> dict[str, str]:
    """All 14 labels as the automatic labeller's table spells them: 1.0, 0.0, -1.0 or nothing.

    A finding that is there is 1.0, mentioned or not; what is hedged is -1.0; what is absent and
    denied is 0.0; the rest is blank.
    """
    out = dict.fromkeys(COLUMNS, "")
    for name in PREVALENCE:
        if name in study.hedged:
            out[name] = "-1.0"
        elif name in study.names:
            out[name] = "1.0"
        elif name in study.denied:
            out[name] = "0.0"
    for name in MINOR_PREVALENCE:
        if name in study.names:
            out[name] = "1.0"
    rolls = rng.random(4)
    if study.pneumonia:
        out["Pneumonia"] = "1.0"
    elif "Consolidation" in study.names | study.hedged and rolls[0] < 0.4:
        out["Pneumonia"] = "-1.0"
    elif rolls[0] < 0.08:
        out["Pneumonia"] = "0.0"
    if any(name in study.names for name in OPAQUE) and rolls[1] < 0.7:
        out["Lung Opacity"] = "1.0"
    if study.devices:
        out["Support Devices"] = "1.0"
    elif rolls[2] < 0.03:
        out["Support Devices"] = "0.0"
    if not study.names and not study.hedged:
        out["No Finding"] = "1.0"
    return out
