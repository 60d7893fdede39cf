"""The data audit: what the splits of every dataset entry share, and how each table became rows.

Made from the records of the manifest and shards stops alone. Entries that are read for the audit
stand beside the ones that runs use: they replay the split rules of the official code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import render
from cxrmim.report.layout import DATASETS

Tree = dict[str, Any]
SPLITS = ("train", "valid", "test")
PAIRS = ("train-valid", "train-test", "valid-test")
UNITS = ("images", "studies", "patients")
PIXELS = ("pixels", "similar")
TITLE = "Data audit"
CAPTION = (
    "Images, studies and patients that two splits share (train-valid / train-test / valid-test; a "
    "dash: no such split, or the tables name none), images of different ids with identical pixels "
    "or an equal perceptual hash (of n images: the others are in no reading that is in use, so "
    "that nobody has decoded them), reports of one text on two sides, and images of the retrieval "
    "pool (the test split) whose report another study has word for word. A split in use that "
    "shares an image, or a patient where patients are named, stops the build, unless it follows a "
    "released rule so that this can be measured; rows in italics replay a rule of the official "
    "code, and no run uses them."
)
PLANTED = (
    "Generated data hold a few planted duplicates (identical pixels under two ids), so that the "
    "audit can be seen to find them."
)
HEADS = (
    "Dataset",
    "Entry",
    "Split rule",
    "Unit",
    "Train",
    "Valid",
    "Test",
    "Images",
    "Studies",
    "Patients",
    "Identical pixels",
    "Equal hash",
    "Equal reports",
    "Equal in the pool",
)
HEADER = ("dataset", "entry", "used", "split", "unit", "measure", "where", "count")


@dataclass(frozen=True)
class Line:
    """One dataset entry: its rule, its sizes, and what its splits share.

    Attributes:
        dataset: the dataset that it reads.
        entry: its name in params.yaml.
        used: whether runs use it.
        rule: the value of its switch `split`.
        unit: what no two splits may share, "" for a released rule.
        sizes: images of each split.
        shared: measure -> "<split>-<split>" -> count, of the splits that it has; further keys are
            counts inside one split, and of the retrieval pool.
        named: what its tables name: of images, studies, patients.
        compared: rows whose pixels were compared, and all rows.
        flow: rows read, dropped by reason, kept, in this order.
    """

    dataset: str
    entry: str
    used: bool
    rule: str
    unit: str
    sizes: Mapping[str, int]
    shared: Mapping[str, Mapping[str, int]]
    named: tuple[str, ...]
    compared: tuple[int, int]
    flow: tuple[tuple[str, int], ...]

    def cell(self, measure: str) -> str:
        """Counts of a measure over the pairs of splits, "" if it was not measured."""
        found = self.shared.get(measure)
        if found is None:
            return ""
        if measure in UNITS and measure not in self.named:
            return "–"
        part, all_rows = self.compared
        note = f" (of {part:,})" if measure in PIXELS and part < all_rows else ""
        return " / ".join(str(found[pair]) if pair in found else "–" for pair in PAIRS) + note

    @property
    def pool(self) -> str:
        """Images of the retrieval pool whose report another study has, and the pool's size."""
        found = self.shared.get("reports", {})
        return f"{found['pool']:,} of {found['rows']:,}" if "pool" in found else ""

    def steps(self) -> str:
        """The flow in words; steps that dropped nothing are left out."""
        return ", ".join(f"{step} {count:,}" for step, count in self.flow if count)

    def texts(self) -> list[str]:
        """The cells of the printed row, in the order of `HEADS`."""
        sizes = [f"{self.sizes.get(split, 0):,}" for split in SPLITS]
        measures = [self.cell(name) for name in (*UNITS, *PIXELS, "reports")]
        name = DATASETS.get(self.dataset, self.dataset)
        return [name, self.entry, self.rule, self.unit or "not held", *sizes, *measures, self.pool]


def lines(params: Params) -> list[Line]:
    """The audit of every entry that the scale reads, those of one dataset together.

    Raises:
        CheckError: a record is missing or no audit.
    """
    return [_line(params, name, used) for name, used in entries(params)]


def entries(params: Params) -> list[tuple[str, bool]]:
    """Every dataset entry that the scale reads, those of one dataset together; is it in use?"""
    used = grid.datasets(params)
    names = [*used, *grid.audited(params)]
    order = grid.roots(params)
    names.sort(key=lambda name: order.index(grid.reader(params, name)))
    return [(name, name in used) for name in names]


def _line(params: Params, name: str, used: bool) -> Line:
    trees = {kind: _read(params, kind, name) for kind in ("manifest", "shards")}
    dataset, options = params.reading(name)
    path = Paths(params.scale).record("manifest", name)
    try:
        metrics, details = trees["manifest"]["metrics"], trees["manifest"]["details"]
        shared = dict(metrics["audit"]) | dict(trees["shards"]["metrics"]["audit"])
        return Line(
            dataset=dataset,
            entry=name,
            used=used,
            rule=str(options["split"]),
            unit=details["unit"] or "",
            sizes={split: int(metrics["splits"][split]["images"]) for split in SPLITS},
            shared={
                key: {where: int(value) for where, value in shared[key].items()}
                for key in (*UNITS, *PIXELS, "reports")
                if key in shared
            },
            named=tuple(details["named"]),
            compared=_compared(trees["shards"]["metrics"]),
            flow=tuple((step, int(metrics["flow"][step])) for step in details["flow"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckError(f"{path}: holds no audit ({error}); run `snakemake --cores all`") from None


def _compared(metrics: Tree) -> tuple[int, int]:
    """Rows whose pixels were compared, and all rows, of a shards record."""
    if "not_stored" in metrics:
        return metrics["rows"] - metrics["not_stored"], metrics["rows"]
    return metrics["kept"], metrics["kept"]


def _read(params: Params, kind: str, name: str) -> Tree:
    path = Paths(params.scale).record(kind, name)
    tree = record.read(path)
    for key, value in (("kind", kind), ("id", name), ("source", params.manifest.source)):
        if tree.get(key) != value:
            raise CheckError(
                f"{path}: {key} is {tree.get(key)!r}, not {value!r}; restore it with git or run "
                f"`snakemake --cores all`"
            )
    return tree


def caption(params: Params) -> str:
    """What the table shows."""
    return f"{CAPTION} {PLANTED}" if params.manifest.source == "phantom" else CAPTION


def to_csv(found: list[Line]) -> str:
    """One line a count."""
    out: list[tuple[str, ...]] = [HEADER]
    for line in found:
        head = (line.dataset, line.entry, str(line.used).lower(), line.rule, line.unit)
        out += [(*head, "size", split, str(count)) for split, count in line.sizes.items()]
        for measure, counts in line.shared.items():
            out += [(*head, measure, pair, str(count)) for pair, count in counts.items()]
        out += [(*head, "flow", step, str(count)) for step, count in line.flow]
    return render.csv_text(out)


def to_markdown(found: list[Line], params: Params) -> str:
    """The audit and the flow of each entry."""
    numbers = len(HEADS) - 4
    out = [
        f"# {TITLE}",
        "",
        f"**{render.banner(params)}.** Scale {params.scale}, protocol {params.protocol}.",
        "",
        caption(params),
        "",
        render.pipes(HEADS),
        render.pipes(["---"] * 4 + ["---:"] * numbers, raw=True),
    ]
    for line in found:
        texts = [render.plain(text) for text in line.texts()]
        out.append(render.pipes([t if line.used or not t else f"*{t}*" for t in texts], raw=True))
    out += ["", "## From table rows to manifest rows", ""]
    for line in found:
        out.append(f"- {render.plain(line.entry)}: {render.plain(line.steps())}")
    return "\n".join(out) + "\n"
