"""What each row's pretraining cost, what a linear probe gains by it, and what tells why.

Costs are in the circumstances, which are no results but are kept in git like the records: whoever
remakes the table from a checkout gets the same bytes.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cxrmim import grid, record
from cxrmim.errors import CheckError, ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths
from cxrmim.report import cells, render
from cxrmim.report.cells import PERCENT
from cxrmim.report.layout import Layout
from cxrmim.report.outputs import blocks
from cxrmim.report.records import Records

KIND = "pretrain"
REFERENCE = "random"
HEADS = (
    "CPU seconds (range)",
    "Images seen",
    "AUC",
    "AUC - Random",
    "Seeds above Random",
    "AUC on the training images",
    "AUC of the other pooling",
    "Effective rank",
)
TELLING = ("AUC - Random", "Seeds above Random")  # bold in a row that does not always beat it
HEADER = (
    "table",
    "row",
    "cpu_seconds",
    "cpu_seconds_min",
    "cpu_seconds_max",
    "images",
    "auc",
    "gain",
    "gain_sd",
    "seeds_above",
    "seeds",
    "train_auc",
    "other_auc",
    "rank",
    "state",
    "reason",
    "stand_in",
)
NOTE = (
    "Mean (and range) over pretraining seeds; the gain is taken seed by seed, ± its standard "
    "deviation (n - 1). In bold: no better than Random in at least one seed."
)


@dataclass(frozen=True)
class Line:
    """One row; a number for each pretraining seed in every tuple.

    Attributes:
        entry: name in params.yaml.
        name: printed name.
        stand_in: what stands in for weights that the scale has not got, or "".
        reason: why the row is pending, or "".
        seconds: CPU seconds of the pretraining and of those that it starts from.
        images: training images that went through them.
        values: the probe's main metric, mean over downstream seeds.
        gains: that minus the reference's of the same seed; empty for the reference.
        fitted: the metric on the images that the heads were trained on; of runs that have it.
        others: the metric of a head on the other pooling of the same features.
        ranks: effective rank of the frozen features.
    """

    entry: str
    name: str
    stand_in: str
    reason: str
    seconds: tuple[float, ...] = ()
    images: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    gains: tuple[float, ...] = ()
    fitted: tuple[float, ...] = ()
    others: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()

    @property
    def above(self) -> int:
        """Seeds in which the row beats the reference."""
        return sum(gain > 0 for gain in self.gains)

    @property
    def fails(self) -> bool:
        """Whether the row does not beat the reference in every seed."""
        return self.above < len(self.gains)

    def texts(self) -> list[str]:
        """Cells below `HEADS`."""
        if self.reason:
            return ["pending", *[""] * (len(HEADS) - 1)]
        low, high = min(self.seconds), max(self.seconds)
        gain = ""
        if self.gains:
            gain = f"{PERCENT * _mean(self.gains):+.2f}"
            if len(self.gains) > 1:
                gain += f" ± {PERCENT * statistics.stdev(self.gains):.2f}"
        return [
            f"{_mean(self.seconds):.0f} ({low:.0f}–{high:.0f})",
            f"{_mean(self.images):,.0f}",
            render.number(_mean(self.values)),
            gain,
            f"{self.above} of {len(self.gains)}" if self.gains else "",
            render.number(_mean(self.fitted)) if self.fitted else "",
            render.number(_mean(self.others)) if self.others else "",
            f"{_mean(self.ranks):.1f}",
        ]


def tables(params: Params) -> list[str]:
    """Blocks of the grid that are printed in this form."""
    return [n for n in blocks(params, "table") if cells.layout_of(n).prints == "cost"]


def lines(params: Params, block: str, records: Records) -> list[Line]:
    """The rows of a block, trivial baselines aside.

    Raises:
        ParamsError: the block has no reference row.
        CheckError: a record or the circumstances of a pretraining are missing or lack a number.
    """
    if REFERENCE not in grid.rows(params, params.grid[block]):
        raise ParamsError(f"grid.{block}.rows: lacks {REFERENCE}, which the others are held to")
    found: dict[str, Line] = {}
    for row in cells.build(params, block, cells.layout_of(block), records).rows:
        if not row.baseline:
            found[row.entry] = _line(params, row, records)
    base = found[REFERENCE].values
    return [_against(line, base) for line in found.values()]


def to_csv(block: str, found: list[Line]) -> str:
    """One line a row; AUCs and gains x100."""
    rows = [list(HEADER)]
    for line in found:
        numbers = [""] * 12
        if not line.reason:
            spread = statistics.stdev(line.gains) if len(line.gains) > 1 else None
            numbers = [
                f"{_mean(line.seconds):.2f}",
                f"{min(line.seconds):.2f}",
                f"{max(line.seconds):.2f}",
                f"{_mean(line.images):.0f}",
                render.number(_mean(line.values)),
                render.number(_mean(line.gains)) if line.gains else "",
                render.number(spread),
                str(line.above) if line.gains else "",
                str(len(line.values)),
                render.number(_mean(line.fitted)) if line.fitted else "",
                render.number(_mean(line.others)) if line.others else "",
                f"{_mean(line.ranks):.2f}",
            ]
        state = "pending" if line.reason else "measured"
        rows.append([block, line.entry, *numbers, state, line.reason, line.stand_in])
    return render.csv_text(rows)


def to_markdown(layout: Layout, found: list[Line], params: Params) -> str:
    """The table for people."""
    out = [
        f"# {layout.title}",
        "",
        f"**{render.banner(params)}.** Scale {params.scale}, protocol {params.protocol}.",
        "",
        layout.caption,
        "",
        render.pipes([layout.stub, *HEADS]),
        render.pipes(["---"] + ["---:"] * len(HEADS), raw=True),
    ]
    for line in found:
        out.append(
            render.pipes(
                _marked([line.name, *line.texts()], line, render.plain, "**{}**"), raw=True
            )
        )
    out += ["", NOTE]
    for line in found:
        if line.reason:
            out += ["", f"Pending ({render.plain(line.name)}): {render.plain(line.reason)}."]
    return "\n".join(out) + "\n"


def to_latex(block: str, layout: Layout, found: list[Line], params: Params) -> str:
    """The table for a paper (package booktabs)."""
    caption = render.latex(f"{layout.title}. {layout.caption} {NOTE}")
    out = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption} \textbf{{{render.latex(render.banner(params))}.}}}}",
        rf"\label{{tab:{block}}}",
        rf"\begin{{tabular}}{{l{'r' * len(HEADS)}}}",
        r"\toprule",
        " & ".join(render.latex(head) for head in (layout.stub, *HEADS)) + r" \\",
        r"\midrule",
    ]
    for line in found:
        texts = _marked([line.name, *line.texts()], line, render.latex, r"\textbf{{{}}}")
        out.append(" & ".join(texts) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(out) + "\n"


def _marked(texts: list[str], line: Line, escape: Callable[[str], str], bold: str) -> list[str]:
    """Escaped texts; those of a row that fails are bold where they say so."""
    out = [escape(text) for text in texts]
    if line.fails:
        for at in (1 + HEADS.index(head) for head in TELLING):
            out[at] = bold.format(out[at])
    return out


def _line(params: Params, row: cells.Row, records: Records) -> Line:
    cell = row.cells[0]
    line = Line(row.entry, row.name, row.stand_in, cell.reason)
    if cell.state != "measured":
        return line
    groups: dict[str, list[grid.Run]] = {}
    for run in cell.runs:
        groups.setdefault(run.checkpoint, []).append(run)
    chains = [_chain(params, checkpoint) for checkpoint in groups]
    details = [records.tree(run)["details"] for run in cell.runs]
    return Line(
        row.entry,
        row.name,
        row.stand_in,
        "",
        tuple(sum(_seconds(params, c) for c in chain) for chain in chains),
        tuple(sum(_images(params, c) for c in chain) for chain in chains),
        tuple(_mean([records.metric(r, "value") for r in runs]) for runs in groups.values()),
        (),
        tuple(d["train_value"] for d in details if d.get("train_value") is not None),
        tuple(d["other_value"] for d in details if d.get("other_value") is not None),
        tuple(_number(d, "rank", f"downstream record of {row.entry}") for d in details),
    )


def _against(line: Line, base: tuple[float, ...]) -> Line:
    """The line with its gains over the reference, seed by seed."""
    if line.entry == REFERENCE or line.reason or not base:
        return line
    gains = tuple(value - other for value, other in zip(line.values, base, strict=True))
    return Line(**{**vars(line), "gains": gains})


def _chain(params: Params, checkpoint: str) -> list[str]:
    """A checkpoint and those that it starts from."""
    parents = [unit for kind, unit in grid.parents(params, "pretrain", checkpoint) if kind == KIND]
    return [checkpoint, *(found for parent in parents for found in _chain(params, parent))]


def _seconds(params: Params, checkpoint: str) -> float:
    path = Paths(params.scale).circumstances(KIND, checkpoint)
    return _number(record.read(path).get("cost"), "cpu_seconds", str(path))


def _images(params: Params, checkpoint: str) -> int:
    path = Paths(params.scale).record(KIND, checkpoint)
    return int(_number(record.read(path).get("metrics"), "images", str(path)))


def _number(tree: Any, key: str, where: str) -> float:
    value = tree.get(key) if isinstance(tree, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckError(
            f"{where}: {key} is {value!r}, not a number; restore it with git or run "
            f"`snakemake --cores all`"
        )
    return float(value)


def _mean(values: "tuple[float, ...] | tuple[int, ...] | list[float]") -> float:
    return statistics.fmean(values)
