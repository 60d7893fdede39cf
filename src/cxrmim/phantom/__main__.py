"""`python -m cxrmim.phantom --dataset NAME`: generate a data set, or do one of two extra jobs.

`--dataset sheet` draws the contact sheet, `--dataset audit` prints the shortcut audit.
"""

import sys
from collections.abc import Sequence

from cxrmim import job, plugins, record
from cxrmim.errors import CheckError, ParamsError
from cxrmim.job import Context
from cxrmim.paths import atomic, atomic_folder

AUDITED = ("mimic", "chexpert", "covidx", "nih", "rsna")


def generate(context: Context) -> None:
    """Write a data set's folder whole or not at all, and its record.

    Raises:
        ParamsError: no layout has that name, or phantom.patients has no number for it.
    """
    name, params = context.unit, context.params
    known = plugins.names("layout")
    if name not in known:
        raise ParamsError(f"--dataset {name}: no such layout; there are {', '.join(known)}")
    if name not in params.phantom.patients:
        raise ParamsError(f"params.yaml: phantom.patients.{name} is not set; give it a number")
    layout = plugins.load("layout", name)
    folder = context.paths.phantom(name)
    with atomic_folder(folder) as temporary:
        counts = layout.write(temporary, params.phantom, context.threads)
    record.write(
        params,
        "phantom",
        name,
        outputs={"folder": folder},
        metrics=counts,
        seed=params.phantom.seed,
    )


def sheet(context: Context) -> None:
    """Draw the contact sheet."""
    from cxrmim.phantom.sheet import write_sheet

    with atomic(context.paths.figure("phantom_sheet", "png")) as temporary:
        write_sheet(temporary, context.params.phantom)


def audit(context: Context) -> None:
    """Print the shortcut audit.

    Raises:
        CheckError: the nuisances predict a label.
    """
    from cxrmim.phantom.audit import audit_population

    leaks = []
    for dataset in AUDITED:
        for row in audit_population(context.params.phantom, dataset):
            line = f"{dataset:9} {row.label:29} {row.classifier:7} {row.auc:.3f} +- {row.error:.3f}"
            sys.stdout.write(line + ("\n" if row.clean else "  LEAK\n"))
            leaks += [] if row.clean else [f"{dataset}: {row.label}"]
    if leaks:
        raise CheckError(f"nuisances predict a label of the phantom: {'; '.join(leaks)}")


def work(context: Context) -> None:
    """Do the unit of work that the arguments name."""
    {"sheet": sheet, "audit": audit}.get(context.unit, generate)(context)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse arguments, generate, return the exit status."""
    text = "generate a dataset in its raw layout (or: sheet, audit)"
    return job.run("phantom", job.parser("phantom", "dataset", text), work, argv)


if __name__ == "__main__":
    job.leave(main())
