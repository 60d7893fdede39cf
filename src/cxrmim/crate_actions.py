"""The run in an RO-Crate: an action for every process, and the engine that ordered them."""

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrmim import check, grid, record

if TYPE_CHECKING:
    from cxrmim.crate import Writer

Tree = dict[str, Any]
STEPS = {
    "phantom": "generate radiographs and reports",
    "manifest": "read a raw dataset into one table with splits",
    "shards": "decode images, tokenise reports",
    "pretrain": "train a checkpoint",
    "downstream": "evaluate a checkpoint",
    "report": "make tables, figures and site from the records",
}
BIOSCHEMAS = "https://bioschemas.org/profiles/{}/1.0-RELEASE"
FORMATS = {
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".txt": "text/plain",
}


def add(writer: "Writer", workflow: Any) -> list[Any]:
    """Add the run to a crate; its actions, the whole first."""
    run = _Run(writer)
    actions = [action for kind in check.KINDS for action in run.actions(kind)]
    actions.append(run.report(actions))
    return [*run.whole(workflow, actions), *actions]


class _Run:
    """Makes the entities of a run."""

    def __init__(self, writer: "Writer") -> None:
        self.writer = writer
        self.made: dict[str, Any] = {}  # entities of artifacts by path

    def _artifact(self, entry: Tree) -> Any:
        """What DVC keeps, or raw data: named by its bytes, not copied."""
        from rocrate.model.data_entity import DataEntity

        if entry["path"] not in self.made:
            code = base64.urlsafe_b64encode(bytes.fromhex(entry["sha256"])).decode().rstrip("=")
            name = f"ni:///sha-256;{code}"
            properties = {
                "@type": "Dataset" if "files" in entry else "File",
                "name": entry["path"],
                "description": "not in the crate; in the DVC remote, or raw data",
                "contentSize": str(entry["bytes"]),
                "sha256": entry["sha256"],
                "encodingFormat": FORMATS.get(
                    Path(entry["path"]).suffix, "application/octet-stream"
                ),
            } | ({"md5": entry["md5"]} if "md5" in entry else {})
            known = self.writer.crate.get(name)
            self.made[entry["path"]] = known or self.writer.crate.add(
                DataEntity(self.writer.crate, name, properties=properties)
            )
        return self.made[entry["path"]]

    def actions(self, kind: str) -> list[Any]:
        """An action for every process of a stop: downstream ones do several runs each."""
        if kind == "downstream":
            jobs = {job.id: [run.id for run in job.runs] for job in grid.jobs(self.writer.params)}
        else:
            jobs = {unit: [unit] for k, unit in self.writer.told if k == kind}
        return [self._action(kind, name, units) for name, units in jobs.items()]

    def _action(self, kind: str, name: str, units: Sequence[str]) -> Any:
        read: Tree = {}
        wrote: Tree = {}
        for unit in units:
            tree = self.writer.told[kind, unit][0]
            entries = list(tree["inputs"].values())
            for parent in tree["parents"]:
                above, _, other = parent.partition("/")
                entries += self.writer.told[above, other][0]["outputs"].values()
            read |= {entry["path"]: self._artifact(entry) for entry in entries}
            made = tree["outputs"].values()
            wrote |= {entry["path"]: self._artifact(entry) for entry in made}
        spans = [_span(self.writer.told[kind, unit][1]) for unit in units]
        commits = {str(self.writer.told[kind, unit][1]["commit"]) for unit in units}
        return self.writer.add(
            f"#{kind}-{name}",
            "CreateAction",
            name=f"{STEPS[kind]}: {name}",
            description=f"commit {', '.join(sorted(commits))}, records {kind}/{units[0]}"
            + (f" and {len(units) - 1} more" if len(units) > 1 else ""),
            instrument=self.writer.crate.get(f"#tool-{kind}"),
            agent=self.writer.crate.root_dataset["author"],
            object=_unique([self.writer.parameters, *read.values()]),
            result=_unique(wrote.values()) or self.writer.records,
            startTime=min(start for start, _ in spans),
            endTime=max(end for _, end in spans),
        )

    def report(self, actions: Sequence[Any]) -> Any:
        """The action that made tables, figures and site."""
        last = max(action["endTime"] for action in actions)
        return self.writer.add(
            "#report-all",
            "CreateAction",
            name=STEPS["report"],
            description="remade byte for byte by `dvc repro` from what the crate holds",
            instrument=self.writer.crate.get("#tool-report"),
            agent=self.writer.crate.root_dataset["author"],
            object=[self.writer.parameters, self.writer.records],
            result=self.writer.results or None,
            startTime=last,
            endTime=last,
        )

    def whole(self, workflow: Any, actions: Sequence[Any]) -> list[Any]:
        """The run as a whole, and the engine that organised its steps."""
        given = self._parameter("parameters", "params.yaml", ["application/yaml"])
        told = self._parameter("report", "tables, figures and site", ["text/csv", "image/svg+xml"])
        workflow["input"], workflow["output"] = given, told
        self.writer.parameters["exampleOfWork"] = given
        for result in self.writer.results:
            result["exampleOfWork"] = told
        raw = [
            self._artifact(entry)
            for tree, _ in self.writer.told.values()
            for entry in tree["inputs"].values()
            if entry["path"].startswith(record.RAW)
        ]
        run = self.writer.add(
            "#run",
            "CreateAction",
            name=f"cxrmim, scale {self.writer.params.scale}",
            description=f"`snakemake --cores all --config scale={self.writer.params.scale}`",
            instrument=workflow,
            agent=self.writer.crate.root_dataset["author"],
            object=_unique([self.writer.parameters, *raw]),
            result=self.writer.results or None,
            startTime=min(action["startTime"] for action in actions),
            endTime=max(action["endTime"] for action in actions),
        )
        controls = [
            self.writer.add(
                f"#control-{action.id.lstrip('#')}",
                "ControlAction",
                name=f"start {action['name']}",
                instrument=self.writer.crate.get(action["instrument"].id.replace("tool", "step")),
                object=action,
            )
            for action in actions
        ]
        engine = self.writer.add(
            "#engine-run",
            "OrganizeAction",
            name="Snakemake orders the steps",
            instrument=self.writer.engine,
            agent=self.writer.crate.root_dataset["author"],
            object=controls,
            result=run,
            startTime=run["startTime"],
            endTime=run["endTime"],
        )
        return [run, engine]

    def _parameter(self, name: str, text: str, formats: list[str]) -> Any:
        return self.writer.add(
            f"#parameter-{name}",
            "FormalParameter",
            conformsTo={"@id": BIOSCHEMAS.format("FormalParameter")},
            name=name,
            description=text,
            additionalType="File",
            encodingFormat=formats,
            valueRequired="True",
        )


def _span(how: Tree) -> tuple[str, str]:
    """When a unit's process began and ended, UTC."""
    end = datetime.fromisoformat(how["finished"])
    start = end - timedelta(seconds=round(float(how["cost"].get("seconds") or 0)))
    return start.isoformat(), end.isoformat()


def _unique(entities: Iterable[Any]) -> list[Any]:
    return list({entity.id: entity for entity in entities}.values())
