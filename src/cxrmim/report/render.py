"""A table as csv, Markdown and LaTeX: deterministic text, values x100."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import groupby

from cxrmim.params import Params
from cxrmim.report.cells import PERCENT, Cell, Row, Table
from cxrmim.report.layout import Column

HEADER = (
    "table",
    "row",
    "column",
    "ours_mean",
    "ours_sd",
    "ci_low",
    "ci_high",
    "n",
    "published",
    "difference",
    "state",
    "reason",
    "stand_in",
)
BELOW = "‡"
OURS = (
    "Ours: mean ± standard deviation (n - 1) over n runs; best of a column in bold, "
    f"{BELOW} where it is not above the best trivial baseline (in italics); in brackets the "
    "published value"
)
INTERVALS = (
    "The csv file gives each cell's 95% bootstrap interval over test images (ci_low, ci_high), and "
    "a file whose name ends in pairs.csv compares the rows of a column on the same images."
)
LEGEND = f"{OURS} and ours minus it. {INTERVALS}"
WIDE = 3  # columns of "12.34 ± 5.67 [89.0]" that a page holds at its own size
SHRUNK = r"\resizebox{\linewidth}{!}{"
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "✓": r"$\checkmark$",
    "‡": r"$\ddagger$",
    "–": "--",
}


def banner(params: Params) -> str:
    """Whose data the numbers are made from."""
    if params.manifest.source == "phantom":
        return "PHANTOM DATA: generated radiographs, not comparable to the published numbers"
    return "Real data"


def seeding(params: Params) -> str:
    """What the n runs of a cell are."""
    first, second = len(params.seeds.pretrain), len(params.seeds.downstream)
    trained = "one pretraining" if first == 1 else f"{first} pretrainings"
    return f"{trained} of each row, {second} downstream {'seed' if second == 1 else 'seeds'}"


def signed(points: float) -> str:
    """Points with sign and two decimals; the sign of what rounds to 0 is +."""
    return f"{round(points, 2) + 0.0:+.2f}"


def number(value: float | None, decimals: int = 2) -> str:
    """A share as x100, an empty text for None."""
    return "" if value is None else f"{PERCENT * value:.{decimals}f}"


def published(table: Table, cell: Cell) -> str:
    """The published value as printed, an empty text where there is none."""
    return "" if cell.published is None else f"{cell.published:.{table.layout.decimals}f}"


def beside(table: Table, cell: Cell) -> str:
    """The published value and ours minus it, an empty text where none was published."""
    paper = published(table, cell)
    if not paper or cell.difference is None:
        return paper
    return f"{paper}, {cell.difference:+.2f}"


def interval(cell: Cell) -> str:
    """The interval over test images in words, an empty text where there is none."""
    if cell.interval is None:
        return ""
    low, high = cell.interval
    return f"95% interval over test images: {number(low)} to {number(high)}"


def groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: its name and their number."""
    return [(key, len(list(part))) for key, part in groupby(c.group for c in columns)]


def runs(row: Row) -> str:
    """n of a row: one number, or the lowest and highest."""
    found = sorted({cell.n for cell in row.cells if cell.n})
    if not found:
        return ""
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def multiple(table: Table, cell: Cell) -> str:
    """The value as a multiple of the layout's baseline, an empty text without one."""
    times = table.multiple(cell)
    return "" if times is None else f"{times:.1f}× {table.layout.multiple_of}"


def to_csv(table: Table) -> str:
    """One line a cell; a table with multiples has a further column `multiple`."""
    extra = table.layout.multiple_of is not None
    lines = [[*HEADER, "multiple"] if extra else list(HEADER)]
    for row in table.rows:
        for cell in row.cells:
            if cell.state == "blank":
                continue
            line = [
                table.id,
                cell.row,
                cell.column.key,
                number(cell.mean),
                number(cell.sd),
                *(number(bound) for bound in cell.interval or (None, None)),
                str(cell.n),
                published(table, cell),
                "" if cell.difference is None else f"{cell.difference:+.2f}",
                cell.state,
                cell.reason,
                row.stand_in,
            ]
            if extra:
                times = table.multiple(cell)
                line.append("" if times is None else f"{times:.2f}")
            lines.append(line)
    return csv_text(lines)


def csv_text(lines: Iterable[Sequence[str]]) -> str:
    """Rows as csv with line feeds."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def to_markdown(table: Table, params: Params) -> str:
    """The table for people: banner, caption, cells, what is pending."""
    layout = table.layout
    heads = [layout.stub, *layout.marks, *(c.title for c in table.columns), "n"]
    lines = [
        f"# {layout.title}",
        "",
        f"**{banner(params)}.** Scale {params.scale}, protocol {params.protocol}, "
        f"{seeding(params)}.",
        "",
        layout.caption,
        "",
        pipes(heads),
        pipes(["---"] * (1 + len(layout.marks)) + ["---:"] * (len(table.columns) + 1), raw=True),
    ]
    best, trivial = table.best(), table.trivial()
    for row in table.rows:
        texts = [_cell_markdown(table, cell, best, trivial) for cell in row.cells]
        name = f"*{plain(row.name)}*" if row.baseline else plain(row.name)
        lines.append(pipes([name, *row.marks, *texts, runs(row)], raw=True))
    lines += ["", LEGEND]
    for reason, count in table.reasons().items():
        lines += ["", f"Pending ({count} {'cells' if count > 1 else 'cell'}): {plain(reason)}."]
    return "\n".join(lines) + "\n"


def to_latex(table: Table, params: Params) -> str:
    """The table for a paper; a wide one is shrunk to the line (packages: its first line)."""
    layout, best, trivial = table.layout, table.best(), table.trivial()
    left, wide = 1 + len(layout.marks), len(table.columns) > WIDE
    lines = [
        "% needs \\usepackage{booktabs,amssymb,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(layout.title + '. ' + layout.caption + ' ' + LEGEND)} "
        rf"\textbf{{{latex(banner(params))}.}}}}",
        rf"\label{{tab:{table.id}}}",
        (SHRUNK if wide else "")
        + rf"\begin{{tabular}}{{l{'c' * len(layout.marks)}{'r' * len(table.columns)}r}}",
        r"\toprule",
    ]
    if any(column.group for column in table.columns):
        spans, rules, at = [], [], left + 1
        for key, width in groups(table.columns):
            spans.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(key)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
        lines += [_ampersands([""] * left + spans + [""]), " ".join(rules)]
    heads = [layout.stub, *layout.marks, *(c.heading or c.group for c in table.columns)]
    lines += [_ampersands([latex(h) for h in heads] + ["$n$"]), r"\midrule"]
    ruled = False
    for row in table.rows:
        if row.baseline and not ruled:
            lines.append(r"\midrule")
            ruled = True
        texts = [_cell_latex(table, cell, best, trivial) for cell in row.cells]
        name = rf"\textit{{{latex(row.name)}}}" if row.baseline else latex(row.name)
        lines.append(_ampersands([name, *map(latex, row.marks), *texts, latex(runs(row))]))
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if wide else ""), r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _cell_markdown(table: Table, cell: Cell, best: set[str], trivial: set[str]) -> str:
    if cell.state == "blank":
        return ""
    text = number(cell.mean) or cell.state
    text = f"**{text}**" if cell.address in best else text
    text += BELOW if cell.address in trivial else ""
    spread, times, paper = number(cell.sd), multiple(table, cell), beside(table, cell)
    return (
        text
        + (f" ± {spread}" if spread else "")
        + (f" ({times})" if times else "")
        + (f" [{paper}]" if paper else "")
    )


def _cell_latex(table: Table, cell: Cell, best: set[str], trivial: set[str]) -> str:
    if cell.state == "blank":
        return ""
    text = latex(number(cell.mean) or cell.state)
    text = rf"\textbf{{{text}}}" if cell.address in best else text
    text += latex(BELOW) if cell.address in trivial else ""
    spread, times, paper = number(cell.sd), multiple(table, cell), beside(table, cell)
    return (
        text
        + (rf" $\pm$ {spread}" if spread else "")
        + (f" ({latex(times)})" if times else "")
        + (f" [{paper}]" if paper else "")
    )


def plain(text: str) -> str:
    """Escape text for a Markdown table."""
    for character in "\\*|<>`[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("_", r"\_").split())


def pipes(texts: Sequence[str], raw: bool = False) -> str:
    """A row of a Markdown table; `raw` texts are escaped already."""
    return "| " + " | ".join(t if raw else plain(t) for t in texts) + " |"


def _ampersands(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"
