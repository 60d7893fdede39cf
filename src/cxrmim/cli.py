"""The `cxrmim` command: one subcommand a stop, and the commands that audit."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrmim import check, git, grid, job, params, pointers, stale
from cxrmim.errors import CheckError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import PUBLIC, Paths

PARTS = (*check.KINDS, "artifacts", "pointers", "report")  # of `check`
STOPS = {
    "phantom": "generate a dataset's radiographs and reports in its raw layout",
    "manifest": "read a raw dataset into one table with splits",
    "shards": "decode a dataset's images and tokenise its reports",
    "pretrain": "train one checkpoint",
    "downstream": "do the runs of one downstream job",
    "report": "make tables, figures and the page from the records",
}
RUNS = {  # of a run that is under way, or was; a module of the command's name each
    "status": "how far is the run: done, running, failed, pending; time left; what failed last",
    "logs": "print the log of a unit of work, found by its id",
    "recover": "after a killed run: cancel its orphans on the cluster and unlock",
    "pack": "write the checkout as a zip without git, for a blind review",
}
AUDITS = {
    "doctor": "is this machine ready for the scale? what is missing, and where to get it",
    "grid": "list every pretraining, count the runs of each table, and name what lacks code",
    "trace": "follow a printed number back to runs, weights, data and code (exit status 4 if a "
    "link is BAD)",
    "check": "do records, params.yaml, artifacts and report agree? (exit status 4 if not)",
    "diff": "what differs between two results, units or cells: params, code, data, environment, "
    "cells",
    "compare": "how this machine's numbers differ from the committed ones",
    "attest": "after a build: check, point DVC at the artifacts, remake the reports",
    "audit": "the data audit of the scale; --public: of the released rules on real label tables",
    "weights": "published weights of the scale: list, fetch once, verify, import a file by hand",
    "export": "write an encoder so that timm loads it, with a model card",
    "crate": "write the workflow, its run and its report as a Workflow Run RO-Crate",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 ok, 2 parameters, 3 data, 4 contradiction)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in STOPS:
        stop: Any = importlib.import_module(f"cxrmim.{arguments[0]}.__main__")
        status: int = stop.main(arguments[1:])
        return status
    if arguments and arguments[0] in RUNS:
        return _of_a_run(arguments[0], arguments[1:])
    args = _parser().parse_args(arguments)
    if args.command is None:
        _parser().print_help()
        return 2
    return job.guarded(
        lambda: COMMANDS[args.command](params.load(args.params, args.scale), args),
        debug=args.debug,
        name=f"cxrmim {args.command}",
    )


def _of_a_run(name: str, arguments: list[str]) -> int:
    """Call a command of `RUNS`; its module is imported by this call alone."""
    module: Any = importlib.import_module(f"cxrmim.{name}")
    parser = argparse.ArgumentParser(prog=f"cxrmim {name}", description=RUNS[name])
    module.add_arguments(parser)
    job.add_common(parser)
    args = parser.parse_args(arguments)
    return job.guarded(
        lambda: module.command(params.load(args.params, args.scale), args, say),
        debug=args.debug,
        name=f"cxrmim {name}",
    )


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="cxrmim",
        description="Reproduction of MedIM and CMITM: build with `snakemake --cores all`, "
        "audit with `dvc repro` and the commands below.",
    )
    commands = out.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, text in {**STOPS, **RUNS}.items():
        commands.add_parser(name, help=text, add_help=False)
    audits = {name: commands.add_parser(name, help=text) for name, text in AUDITS.items()}
    for sub in audits.values():
        job.add_common(sub)
    _add_audits(audits)
    audits["attest"].add_argument(
        "--prune", action="store_true", help="remove what the present grid does not know"
    )
    audits["audit"].add_argument(
        "--public",
        action="store_true",
        help="replay the released split rules on torchxrayvision's label tables (test extra)",
    )
    _add_weights(audits["weights"])
    audits["export"].add_argument("checkpoint", metavar="CHECKPOINT", help="<entry>-s<seed>")
    audits["export"].add_argument(
        "--to", metavar="DIR", type=Path, help="folder to write (exports/<scale>-<checkpoint>)"
    )
    return out


def _add_audits(audits: dict[str, argparse.ArgumentParser]) -> None:
    """Arguments of the commands of docs/provenance.md."""
    audits["trace"].add_argument(
        "cell",
        metavar="TABLE:ROW:COLUMN",
        help="a cell by its keys or as printed, as `medim_table1:medim:chexpert_1` or "
        "`medim_table1:MedIM:CheXpert 1%%`; case does not matter, a near miss is completed",
    )
    audits["trace"].add_argument("--long", action="store_true", help="print hashes in full")
    audits["check"].add_argument(
        "--stop",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="look only at these: records of a stop, the artifacts on disk, the .dvc pointers to "
        "them, the report (all of them)",
    )
    audits["check"].add_argument(
        "--full", action="store_true", help="measure the predictions on disk again, too"
    )
    for side in ("A", "B"):
        audits["diff"].add_argument(
            side.lower(),
            metavar=side,
            help="a cell (TABLE:ROW:COLUMN), a unit (pretrain/medim-s0, downstream/<run>), the "
            "folder of a result (results/demo, also another clone's), or a git revision",
        )
    audits["diff"].add_argument("--all", action="store_true", help="print every line")
    audits["crate"].add_argument(
        "to", metavar="DIR", type=Path, help="folder to write, or a file that ends in .zip"
    )


def _add_weights(out: argparse.ArgumentParser) -> None:
    out.add_argument(
        "action",
        nargs="?",
        choices=["list", "fetch", "verify", "import"],
        default="list",
        help="list what is needed (default), fetch what is missing, verify what is there, or "
        "import a file that you have",
    )
    out.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="fetch: only this file; import: a published file, or mae, mrm, mgca, medim for an "
        "official checkpoint",
    )
    out.add_argument("file", nargs="?", metavar="FILE", type=Path, help="import: the file")
    out.add_argument(
        "--as",
        dest="to",
        metavar="FOLDER",
        help="import: folder below weights/ of an official checkpoint (<NAME>-official)",
    )


def say(line: str) -> None:
    """Print one line of a command's result."""
    sys.stdout.write(line + "\n")


def _grid(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim.plan import Plan

    del args
    say(f"{Plan(loaded, Paths(loaded.scale)).announcement}; data: {loaded.manifest.source}")
    say("")
    say(
        f"{len(grid.entries(loaded))} initialisations, {len(grid.trained(loaded))} of them trained:"
    )
    for entry in grid.entries(loaded):
        target = grid.target(loaded, entry)
        note = f"alias of {target}" if target != entry else grid.pending_entry(loaded, entry)
        stand_in = loaded.pretraining(entry)[1].stand_in
        mark = f" (stand-in: {stand_in})" if stand_in else ""
        state = f"{'pending: ' if note and target == entry else ''}{note or 'ready'}"
        say(f"  {entry:<18}{state}{mark}")
    for name in loaded.grid:
        runs = grid.runs_of_block(loaded, name)
        reasons = [reason for run in runs if (reason := grid.pending(loaded, run)) is not None]
        say(f"{name}: {len(runs)} runs, {len(reasons)} pending")
        for reason in dict.fromkeys(reasons):
            say(f"  {reasons.count(reason):>4} x {reason}")


def _trace(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim import trace
    from cxrmim.report import cells

    cell, completed = trace.find(loaded, args.cell)
    if completed:
        say(completed)
    if cells.stand_in(loaded, cell.row):
        say(f"row {cell.name}")
    if cell.state in ("pending", "blank"):
        say(f"{cell.address}: {cell.state}: {cell.reason or 'this baseline has no such cell'}")
        return
    if cell.mean is not None:
        spread = f" ± {100 * cell.sd:.2f}" if cell.sd is not None else ""
        published = f", published {cell.published}" if cell.published is not None else ""
        mark = ", PHANTOM DATA" if loaded.manifest.source == "phantom" else ""
        say(f"{cell.address} = {100 * cell.mean:.2f}{spread} (n = {cell.n}{published}{mark})")
    links = trace.follow(loaded, cell.runs)
    for link in links:
        say(link.text(long=args.long))
    counts = {state: sum(link.state == state for link in links) for state in trace.STATES}
    say(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    bad = [link for link in links if link.state == "BAD"]
    if bad:
        raise CheckError(f"{bad[0].what}: {bad[0].note}")


def _check(loaded: Params, args: argparse.Namespace) -> None:
    kinds = tuple(kind for kind in args.stop if kind in check.KINDS)
    parts = [part for part in args.stop if part not in ("pointers", "report")]
    check.require(check.faults(loaded, kinds), say)
    if "artifacts" in args.stop:
        check.require(check.artifact_faults(loaded), say)
    if "pointers" in args.stop:
        if any(Paths(loaded.scale).artifacts.glob("*.dvc")) or args.stop != list(PARTS):
            check.require(pointers.faults(loaded), say)
            parts.append("pointers")
        else:
            say("pointers: none yet; `cxrmim attest` writes them")
    if args.full:
        runs = check.measurable(loaded)
        check.require(check.recomputed_faults(loaded), say)
        say(
            f"metrics of {len(runs)} of {len(grid.runs(loaded))} runs measured again"
            + ("" if runs else "; `dvc pull` brings the predictions")
        )
    if "report" in args.stop:
        check.require(stale.faults(loaded), say)
        parts.append("report")
    say(f"{', '.join(parts)}: no contradiction")


def _diff(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim import diff

    for line in diff.compare(loaded, args.a, args.b, limit=None if args.all else diff.SHOWN):
        say(line)


def _crate(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim import crate

    say(str(crate.write(loaded, args.to)))


def _compare(loaded: Params, args: argparse.Namespace) -> None:
    del args
    path = Paths(loaded.scale).summary
    committed = git.ask("show", f"HEAD:./{path.as_posix()}")
    if committed is None:
        say(f"{path}: not committed in this checkout, nothing to compare with")
        return
    if not path.is_file():
        raise CheckError(f"{path}: not there; run `snakemake --cores all`")
    old = _leaves(json.loads(committed))
    new = _leaves(json.loads(path.read_text(encoding="utf-8")))
    shared = [key for key in new if key in old]
    gaps = {key: abs(new[key] - old[key]) for key in shared}
    same = sum(gap == 0 for gap in gaps.values())
    say(f"numbers of this machine against the committed ones (scale {loaded.scale}):")
    say(f"  {same} of {len(shared)} identical, {len(set(new) ^ set(old))} on one side only")
    worst = max(gaps, key=lambda key: gaps[key], default=None)
    if worst is not None and gaps[worst] > 0:
        say(f"  largest difference {100 * gaps[worst]:.2f} (x100) at {worst}")


def _leaves(tree: Any, key: str = "") -> dict[str, float]:
    if isinstance(tree, dict):
        return {k: v for n, t in tree.items() for k, v in _leaves(t, f"{key}/{n}").items()}
    return {key.lstrip("/"): float(tree)} if isinstance(tree, int | float) else {}


def _attest(loaded: Params, args: argparse.Namespace) -> None:
    pointers.attest(loaded, say, prune=args.prune)


def _doctor(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim import doctor

    del args
    say(f"scale {loaded.scale}, {loaded.manifest.source} data")
    findings = list(doctor.diagnose(loaded))
    for line in doctor.report(findings):
        say(line)
    doctor.require(findings, loaded.scale)


def _audit(loaded: Params, args: argparse.Namespace) -> None:
    if args.public:
        from cxrmim import public

        public.main(PUBLIC, say)
        return
    from cxrmim.report import audit

    sys.stdout.write(audit.to_markdown(audit.lines(loaded), loaded))


def _weights(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim.pretrain import published

    if args.action == "import":
        if args.name is None or args.file is None:
            raise ParamsError("weights import: give NAME and FILE")
        from cxrmim.pretrain import official

        for line in official.bring(loaded, args.name, args.file, args.to).lines():
            say(line)
        return
    if args.action == "fetch":
        from cxrmim.pretrain import fetch

        names = [] if args.name is None else [args.name]
        for line in fetch.fetch_all(loaded, fetch.HuggingFace(), names):
            say(line)
        return
    say(f"scale {loaded.scale}: published weights that its grid needs")
    if args.action == "verify":
        published.verify(loaded, say)
        return
    for line in published.listed(loaded):
        say(line)


def _export(loaded: Params, args: argparse.Namespace) -> None:
    from cxrmim.pretrain import export

    folder = args.to or Path("exports") / f"{loaded.scale}-{args.checkpoint}"
    for path in export.export(loaded, args.checkpoint, folder):
        say(str(path))


COMMANDS = {
    "doctor": _doctor,
    "audit": _audit,
    "grid": _grid,
    "trace": _trace,
    "check": _check,
    "diff": _diff,
    "compare": _compare,
    "attest": _attest,
    "weights": _weights,
    "export": _export,
    "crate": _crate,
}

if __name__ == "__main__":
    raise SystemExit(main())
