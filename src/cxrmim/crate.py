"""The workflow, its run and its report as a Workflow Run RO-Crate (profile Provenance Run 0.5).

The crate holds what git tracks: workflow, code, parameters, records, tables, figures, site. What
DVC keeps (shards, weights, predictions) is named by its sha256, as an RFC 6920 URI, and not copied.
So a bare clone writes the same crate as the machine that ran everything.
"""

import mimetypes
import re
import shutil
import tempfile
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cxrmim import check, crate_actions, git, grid, plugins, record
from cxrmim.crate_actions import BIOSCHEMAS, STEPS
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import PUBLIC, Paths
from cxrmim.report import outputs
from cxrmim.report.render import banner

Tree = dict[str, Any]
VERSION = "1.1"  # of RO-Crate; the validator's workflow profiles know no later one
PROFILES = ("process", "workflow", "provenance")
PROFILE = "https://w3id.org/ro/wfrun/{name}/0.5"
WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("sha256", "md5")}
MAIN, WORKFLOW_TYPES = "Snakefile", ("SoftwareSourceCode", "ComputationalWorkflow", "HowTo")
FILES = {  # what the crate copies from the root, if it is there
    "params.yaml": "every parameter and the grid of runs",
    "dvc.yaml": "what attests the records and remakes the report",
    "dvc.lock": "hashes of the state that was attested",
    "environment.yml": "the conda environment",
    "requirements.lock": "the pip environment, every version",
    "pyproject.toml": "the Python package",
    "CITATION.cff": "how to cite it",
    "LICENSE": "the licence",
    "README.md": "what it is and how it is run",
}
FOLDERS = {"workflow": "rule files", "src": "the code of every step"}
SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*")
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in a zip archive


def write(params: Params, target: Path) -> Path:
    """Write the crate; equal repositories give equal bytes.

    Args:
        params: all parameters; the records must have no faults.
        target: a folder that does not exist or is empty, or a file whose name ends in .zip.

    Returns:
        The folder or file.

    Raises:
        CheckError: the target is taken, or a record or the workflow is missing.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise CheckError(f"{target}: is there already; name a new folder or file")
    check.require(check.faults(params), lambda line: None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "crate"
        Writer(params).write(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".zip":
            _zip(folder, target)
        else:
            shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, file.read_bytes())


class Writer:
    """Collects the entities of one crate and writes it."""

    def __init__(self, params: Params) -> None:
        from rocrate.rocrate import ROCrate

        self.params, self.paths = params, Paths(params.scale)
        here = Path()
        self.root = here if (here / MAIN).is_file() else plugins.PACKAGE.parents[1]
        if not (self.root / MAIN).is_file():
            raise CheckError(f"{MAIN}: not here; run from the repository root")
        self.crate = ROCrate(version=VERSION)
        self.crate.metadata.extra_terms.update(TERMS)
        self.copies: list[tuple[Path, str]] = []

    def write(self, folder: Path) -> None:
        """Fill in the crate and write it."""
        self._about()
        workflow = self._workflow()
        self._parts()
        self.crate.root_dataset["mentions"] = crate_actions.add(self, workflow)
        self.crate.metadata.write(folder)
        for source, name in self.copies:
            target = folder / name
            if source.is_dir():
                for file in self._kept(source):
                    copy = target / file.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def _kept(self, folder: Path) -> list[Path]:
        """Files of a folder that may be handed on: of code what git tracks, else what we wrote."""
        found = sorted(p for p in folder.rglob("*") if p.is_file())
        if folder == self.paths.report:
            return [p for p in found if p in self._made]
        if folder == self.paths.record("x", "x").parents[1]:
            return [p for p in found if p.suffix == ".json"]
        tracked = self._tracked(folder)
        skipped = {*SKIPPED("", [p.name for p in found]), "__pycache__"}
        return tracked or [p for p in found if not skipped & {*p.relative_to(folder).parts}]

    def _tracked(self, folder: Path) -> list[Path]:
        """What git tracks of a folder, nothing where there is no git."""
        told = git.ask("-C", str(folder), "ls-files", "-z", "--", ".") or b""
        names = [name for name in told.decode().split("\0") if name]
        return sorted(folder / name for name in names if (folder / name).is_file())

    @cached_property
    def _made(self) -> set[Path]:
        """Every file of the report."""
        parts = outputs.outputs(self.params).values()
        return {self.paths.figure("phantom_sheet", "png"), *(p for part in parts for p in part)}

    def add(self, key: str, kind: str | list[str], /, **properties: Any) -> Any:
        """A contextual entity; None values are left out."""
        from rocrate.model.contextentity import ContextEntity

        given = {key: _single(value) for key, value in properties.items() if value is not None}
        return self.crate.add(ContextEntity(self.crate, key, properties={"@type": kind} | given))

    def _about(self) -> None:
        """Root data set: name, authors, licence, date, profiles, papers."""
        cited = yaml.safe_load((self.root / "CITATION.cff").read_text(encoding="utf-8"))
        dates = [how["finished"] for _, how in self.told.values()]
        authors = [self._author(author) for author in cited["authors"]]
        licence = self.add(
            f"https://spdx.org/licenses/{cited['license']}",
            "CreativeWork",
            name=f"{cited['license']} License",
            description="the licence of code, tables and figures",
        )
        profiles = [
            self.add(
                PROFILE.format(name=name),
                "CreativeWork",
                name=f"{name.title()} Run Crate",
                version="0.5",
            )
            for name in PROFILES
        ]
        profiles.append(
            self.add(WORKFLOW_PROFILE, "CreativeWork", name="Workflow RO-Crate", version="1.0")
        )
        root = self.crate.root_dataset
        self.crate.name = f"{cited['title']}, scale {self.params.scale}"
        self.crate.description = (
            f"{' '.join(cited['abstract'].split())} Scale {self.params.scale}, protocol "
            f"{self.params.protocol}. {banner(self.params)}."
        )
        root["datePublished"] = max(dates)
        root["license"] = licence
        root["author"] = root["publisher"] = _single(authors)
        root["conformsTo"] = profiles
        specification = f"https://w3id.org/ro/crate/{VERSION}"
        self.crate.metadata["conformsTo"] = [{"@id": specification}, {"@id": WORKFLOW_PROFILE}]
        root["version"] = cited["version"]
        root["citation"] = [self._paper(paper) for paper in cited.get("references", [])]

    def _author(self, author: Tree) -> Any:
        name = author.get("name") or f"{author['given-names']} {author['family-names']}"
        known = author.get("orcid") or f"#{_slug(name)}"
        return self.add(known, "Organization" if "name" in author else "Person", name=name)

    def _paper(self, paper: Tree) -> Any:
        doi = paper.get("doi")
        return self.add(
            f"https://doi.org/{doi}" if doi else f"#{_slug(paper['title'])}",
            "ScholarlyArticle",
            name=paper["title"],
            datePublished=str(paper["year"]),
        )

    def _workflow(self) -> Any:
        """The Snakefile as main entity, a step and a tool a stop."""
        locked = self.root / "requirements.lock"
        text = locked.read_text(encoding="utf-8") if locked.is_file() else ""
        found = re.search(r"^snakemake==(\S+)", text, flags=re.M)
        version = found[1] if found else None
        text = "the workflow: `snakemake --cores all`"
        workflow = self._file(self.root / MAIN, MAIN, text, WORKFLOW_TYPES)
        workflow["version"] = self.crate.root_dataset["version"]
        workflow["conformsTo"] = {"@id": BIOSCHEMAS.format("ComputationalWorkflow")}
        self.crate.root_dataset["mainEntity"] = workflow
        workflow["programmingLanguage"] = self.add(
            "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
            "ComputerLanguage",
            name="Snakemake",
            identifier={"@id": "https://doi.org/10.1093/bioinformatics/bts480"},
            url={"@id": "https://snakemake.readthedocs.io"},
            version=version,
        )
        self.engine = self.add(
            "#snakemake",
            "SoftwareApplication",
            name="Snakemake",
            url="https://snakemake.readthedocs.io",
            softwareVersion=version or "unknown",
        )
        tools, steps = [], []
        for place, kind in enumerate(self._kinds):
            tool = self.add(
                f"#tool-{kind}",
                "SoftwareApplication",
                name=f"python -m cxrmim.{kind}",
                description=STEPS[kind],
                softwareVersion=str(self.crate.root_dataset["version"]),
            )
            step = self.add(
                f"#step-{kind}", "HowToStep", name=kind, position=str(place), workExample=tool
            )
            tools.append(tool)
            steps.append(step)
        workflow["hasPart"], workflow["step"] = tools, steps
        return workflow

    @cached_property
    def _kinds(self) -> list[str]:
        """Stops that ran at this scale, in order."""
        used = {kind for kind, _ in self.told}
        return [kind for kind in STEPS if kind in used or kind == "report"]

    @cached_property
    def told(self) -> dict[tuple[str, str], tuple[Tree, Tree]]:
        """Record and circumstances of every unit."""
        return {
            (kind, unit): (
                record.read(self.paths.record(kind, unit)),
                record.read(self.paths.circumstances(kind, unit)),
            )
            for kind, unit in grid.units(self.params)
        }

    def _file(self, source: Path, name: str, text: str, types: tuple[str, ...] = ()) -> Any:
        """A file that is copied into the crate."""
        from rocrate.model.file import File

        self.copies.append((source, name))
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        properties: Tree = {
            "@type": ["File", *types] if types else "File",
            "name": name,
            "description": text,
            "encodingFormat": kind,
            "contentSize": str(source.stat().st_size),
            "sha256": record.sha256(source),
        }
        return self.crate.add(File(self.crate, None, name, properties=properties))

    def _folder(self, source: Path, name: str, text: str) -> Any:
        """A folder that is copied into the crate, its files not listed one by one."""
        from rocrate.model.dataset import Dataset

        self.copies.append((source, name))
        properties = {"name": name, "description": text}
        return self.crate.add(Dataset(self.crate, None, f"{name}/", properties=properties))

    def _parts(self) -> None:
        """Everything that is copied but the Snakefile."""
        for name, text in FILES.items():
            place = Path(name) if Path(name).is_file() else self.root / name
            if place.is_file():
                self._file(place, name, text)
        for name, text in FOLDERS.items():
            if (self.root / name).is_dir():
                self._folder(self.root / name, name, text)
        records = self.paths.record("x", "x").parents[1]
        text = "a record and its circumstances per unit of work"
        self.records = self._folder(records, records.as_posix(), text)
        if PUBLIC.is_dir():
            text = "released split rules replayed on public label tables"
            self._folder(PUBLIC, PUBLIC.as_posix(), text)
        for pointer in sorted(self.paths.artifacts.glob("*.dvc")):
            self._file(pointer, pointer.as_posix(), "DVC's pointer to artifacts")
        self.results = []
        for folder, text in (
            (self.paths.summary.parent, "table"),
            (self.paths.figure("x", "svg").parent, "figure"),
        ):
            for file in sorted(p for p in folder.glob("*") if p in self._made):
                text = f"{text.split(',')[0]}, {banner(self.params)}"
                self.results.append(self._file(file, file.as_posix(), text))
        if self.paths.report.is_dir():
            name = self.paths.report.as_posix()
            text = f"the site, opened at index.html, {banner(self.params)}"
            self.results.append(self._folder(self.paths.report, name, text))
        self.parameters = self.crate.get("params.yaml")
        self.crate.get("README.md")["about"] = self.crate.root_dataset


def _single(value: Any) -> Any:
    """A list of one as the one: RO-Crate's recommendation."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
