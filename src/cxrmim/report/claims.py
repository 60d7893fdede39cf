"""A verdict on every claim of the two papers, from our runs and from the papers' own numbers.

claims.yaml says what is claimed (`claims_data`), `claims_rule` how it is judged. In short: k
comparisons must all be above zero; the largest one-sided p supports the claim, k times the smallest
in the opposite direction contradicts it, and both are corrected after Holm over all measured claims
of the scale. Below 0.05 there is a verdict, else the claim is undecided.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from cxrmim.grid import Run
from cxrmim.params import Params
from cxrmim.report import cells, claims_data, claims_rule, published, statistics
from cxrmim.report.book import Book
from cxrmim.report.cells import PERCENT, Cell
from cxrmim.report.claims_data import Claim, Comparison
from cxrmim.report.claims_rule import LIMIT, Outcome, Ruling
from cxrmim.report.claims_slips import Slip, slips
from cxrmim.report.render import banner, csv_text, pipes, plain, signed
from cxrmim.report.statistics import Contrast

__all__ = ["Slip", "Verdict", "evaluate", "slips", "slips_to_csv", "to_csv", "to_markdown"]

SHOWN = 3  # waiting cells that are named
HEADER = (
    "claim",
    "paper",
    "place",
    "says",
    "comparisons",
    "verdict",
    "effect",
    "ci_low",
    "ci_high",
    "p_holm",
    "weakest",
    "needs",
    "published",
    "published_failing",
    "here",
)
SLIP_HEADER = ("slip", "paper", "place", "says", "found", "why", "kind")
RULE = (
    "A claim is one or more comparisons that must all be above zero. It is supported if each of "
    "them is significantly above zero, contradicted if one is significantly below, else undecided. "
    "p is Holm-corrected over all measured claims; effect and 95% interval (over test images, x100)"
    " are of the weakest comparison. *Needs* says what would decide an undecided claim if the "
    "measured effects were the true ones (about an even chance). *Published* judges the claim by "
    "the means that the paper prints, where a tie is not above. docs/claims.md has the details."
)


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
        id: name of the claim.
        paper: `MedIM` or `CMITM`.
        place: where the paper says it.
        says: our paraphrase.
        cells: addresses of the cells that it speaks of.
        verdict: from our runs.
        effect: of the weakest comparison, x100; None while pending.
        low: lower end of its 95 % interval over test images, x100.
        high: upper end.
        weakest: that comparison in words.
        p: corrected p of the verdict, or of the hypothesis nearest to falling.
        needs: what would decide an undecided claim; what a pending one waits for; else empty.
        published: verdict on the published means alone.
        failing: the comparisons that fail there.
        detail: a line for each comparison.
        here: what the claim's rows are on this scale that they are not in the paper, "" if nothing.
    """

    id: str
    paper: str
    place: str
    says: str
    cells: tuple[str, ...]
    verdict: Outcome | Literal["pending"]
    effect: float | None
    low: float | None
    high: float | None
    weakest: str
    p: float | None
    needs: str
    published: str
    failing: tuple[str, ...]
    detail: tuple[str, ...]
    here: str = ""


@dataclass(frozen=True)
class _Measured:
    """A claim whose cells are all measured."""

    cells: dict[str, Cell]
    contrasts: list[Contrast]


def evaluate(book: Book) -> list[Verdict]:
    """Judge every claim on the records of a scale, in the order of claims.yaml.

    A claim of which the scale's grid lacks a cell, or has one that cannot be run yet, is pending.

    Raises:
        CheckError: a run that could be made has no usable record, or cells that are compared were
            not tested on the same images.
        ParamsError: claims.yaml cannot be used.
    """
    found: dict[str, _Measured | str] = {}
    for claim in claims_data.claims():
        found[claim.id] = _measure(book, claim)
    measured = {name: held for name, held in found.items() if isinstance(held, _Measured)}
    rulings = claims_rule.rule([held.contrasts for held in measured.values()])
    ruled = dict(zip(measured, rulings, strict=True))
    out = []
    for claim in claims_data.claims():
        held = found[claim.id]
        if isinstance(held, _Measured):
            out.append(_judged(book, claim, held, ruled[claim.id]))
        else:
            out.append(_open(claim, held))
    return out


def to_csv(verdicts: Sequence[Verdict]) -> str:
    """One line a claim; effects and bounds x100, p as a share."""
    lines: list[Sequence[str]] = [HEADER]
    for v in verdicts:
        numbers = [_signed(number) for number in (v.effect, v.low, v.high)]
        p = "" if v.p is None else f"{v.p:.3g}"
        lines.append(
            [
                *(v.id, v.paper, v.place, v.says, str(len(v.detail)), v.verdict, *numbers),
                *(p, v.weakest, v.needs, v.published, "; ".join(v.failing), v.here),
            ]
        )
    return csv_text(lines)


def slips_to_csv(found: Sequence[Slip]) -> str:
    """One line a slip."""
    rows = [
        (s.id, s.paper, s.place, s.says, s.found, s.why, "computed" if s.computed else "read")
        for s in found
    ]
    return csv_text([SLIP_HEADER, *rows])


def to_markdown(verdicts: Sequence[Verdict], params: Params) -> str:
    """For people: banner, counts, one line a claim, then every comparison, then the slips."""
    counts = _counts(v.verdict for v in verdicts)
    on_paper = _counts(v.published for v in verdicts)
    lines = [
        "# Claims of the papers",
        "",
        f"**{banner(params)}.** Scale {params.scale}, protocol {params.protocol}.",
        "",
        f"{len(verdicts)} claims. On these runs: {counts}. On the published means: {on_paper}.",
        "",
        RULE,
        "",
        pipes(["Claim", "Says", "Verdict", "Weakest", "Effect", "p", "Needs", "Published"]),
        pipes(["---"] * 4 + ["---:"] * 2 + ["---"] * 2, raw=True),
    ]
    for v in verdicts:
        p = "" if v.p is None else f"{v.p:.3g}"
        says = v.says + (f" (Here {v.here}.)" if v.here else "")
        texts = [v.id, says, v.verdict, v.weakest, _effect(v), p, v.needs, v.published]
        lines.append(pipes(texts))
    lines += ["", "## Each claim"]
    for v in verdicts:
        lines += ["", f"### {plain(v.id)}", "", f"{v.paper}, {plain(v.place)}. {plain(v.says)}", ""]
        lines.append(f"Verdict: {v.verdict}. Published: {v.published}.")
        if v.here:
            lines.append(f"Here {plain(v.here)}.")
        if v.weakest:
            lines.append(f"Weakest comparison: {plain(v.weakest)}.")
        if v.needs:
            lines.append(f"Needs: {plain(v.needs)}.")
        lines += ["", *(f"- {plain(line)}" for line in v.detail)]
    lines += ["", "## Slips and inconsistencies in the papers", ""]
    lines += ["What the papers' own numbers contradict (computed), and facts that were read.", ""]
    lines += [pipes(["Slip", "Paper, place", "Says", "Found", "Why", "Kind"])]
    lines += [pipes(["---"] * 6, raw=True)]
    for s in slips():
        kind = "computed" if s.computed else "read"
        lines.append(pipes([s.id, f"{s.paper}, {s.place}", s.says, s.found, s.why, kind]))
    return "\n".join(lines) + "\n"


def _measure(book: Book, claim: Claim) -> _Measured | str:
    """The comparisons of a claim, or what it waits for."""
    comparisons = claim.comparisons()
    held = {address: book.cell(address) for address in _addresses(comparisons)}
    found = {address: cell for address, cell in held.items() if cell is not None}
    if len(found) < len(held):
        absent = [address for address in held if address not in found]
        return f"not in the grid of scale {book.params.scale}: {_listed(absent)}"
    waiting = [f"{a} ({c.reason})" for a, c in found.items() if c.state != "measured"]
    if waiting:
        return f"waits for {_listed(waiting)}"
    for runs in _test_sets(found.values()).values():
        book.records.same_images(runs)
    return _Measured(found, [_contrast(one, found) for one in comparisons])


def _listed(texts: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _test_sets(found: Iterable[Cell]) -> dict[tuple[str, str], list[Run]]:
    """Runs by dataset and task, whose draws the cells share."""
    out: dict[tuple[str, str], list[Run]] = {}
    for cell in found:
        for run in cell.runs:
            out.setdefault((run.dataset, run.task), []).append(run)
    return out


def _contrast(comparison: Comparison, found: dict[str, Cell]) -> Contrast:
    terms = [(c, found[address]) for c, address in comparison.terms]
    return statistics.contrast(terms, comparison.margin / PERCENT)


def _addresses(comparisons: Iterable[Comparison]) -> list[str]:
    return list(dict.fromkeys(address for one in comparisons for _, address in one.terms))


def _open(claim: Claim, needs: str = "") -> Verdict:
    """A claim with its verdict on the published means and none on runs yet."""
    comparisons, on_paper = claim.comparisons(), claims_data.on_paper(claim)
    return Verdict(
        id=claim.id,
        paper=claim.paper,
        place=claim.place,
        says=claim.says,
        cells=tuple(_addresses(comparisons)),
        verdict="pending",
        effect=None,
        low=None,
        high=None,
        weakest="",
        p=None,
        needs=needs,
        published=on_paper.verdict,
        failing=on_paper.failing,
        detail=tuple(f"{one.label}{_printed(one)}" for one in comparisons),
    )


def _judged(book: Book, claim: Claim, held: _Measured, ruling: Ruling) -> Verdict:
    comparisons, worst = claim.comparisons(), held.contrasts[ruling.weakest]
    return replace(
        _open(claim),
        verdict=ruling.verdict,
        effect=PERCENT * worst.difference,
        low=PERCENT * worst.low,
        high=PERCENT * worst.high,
        weakest=comparisons[ruling.weakest].label,
        p=ruling.p,
        needs=_needs(book, comparisons, held, ruling) if ruling.verdict == "undecided" else "",
        detail=tuple(
            f"{one.label}: {_interval(c.difference, c.low, c.high)}, "
            f"one-sided p {c.greater:.3g}{_printed(one)}"
            for one, c in zip(comparisons, held.contrasts, strict=True)
        ),
        here=_here(book.params, held.cells),
    )


def _here(params: Params, addresses: Iterable[str]) -> str:
    """Rows that stand in for the paper's, or have another value of the option that is compared."""
    found = []
    for block, entry in dict.fromkeys(tuple(a.split(":")[:2]) for a in addresses):
        said = cells.stand_in(params, entry)
        if said:
            found.append(f"{entry} is a stand-in: {said}")
        point = published.points(block).get(entry)
        if point is not None:
            ours = params.pretraining(entry)[1].options.get(point.option)
            if ours != point.value:
                found.append(f"{entry} has {point.option} {ours:g}, the paper's {point.value:g}")
    return "; ".join(dict.fromkeys(found))


def _needs(book: Book, comparisons: list[Comparison], held: _Measured, ruling: Ruling) -> str:
    """What would decide an open claim, in words."""
    worst = held.contrasts[ruling.weakest]
    if round(PERCENT * worst.difference, 2) == 0:
        return f"no difference measured in {comparisons[ruling.weakest].label}"
    outcome = "contradict" if worst.difference < 0 else "support"
    has = max(c.n for c in held.contrasts)
    kind = "pretraining" if len(book.params.seeds.pretrain) > 1 else "downstream"
    found = claims_rule.need(held.contrasts, ruling.level)
    if found is None:
        return (
            f"to {outcome} it: over {LIMIT} times the seeds and test images, as good as no "
            f"difference measured"
        )
    last = claims_rule.decider(held.contrasts, found)
    by = "" if last == ruling.weakest else f" (by {comparisons[last].label})"
    seeds = f"{found.seeds} {kind} seeds" if found.seeds > 1 else "the one run"
    if found.images == 1:
        return f"to {outcome} it{by}: {seeds} instead of {has}"
    chosen = [comparisons[last]]
    if outcome == "support":
        pairs = zip(comparisons, held.contrasts, strict=True)
        chosen = [one for one, c in pairs if c.greater >= ruling.level]
    sizes = _sizes(book, [held.cells[address] for address in _addresses(chosen)])
    grown = ", ".join(f"{name} {n} to {ceil(found.images * n)}" for name, n in sizes.items())
    return f"to {outcome} it{by}: {found.images:.1f} times the test images ({grown}) and {seeds}"


def _sizes(book: Book, found: Iterable[Cell]) -> dict[str, int]:
    """Number of test images by dataset; of pairs, where pairs are tested."""
    return {c.runs[0].dataset: int(book.records.tree(c.runs[0])["metrics"]["n"]) for c in found}


def _printed(comparison: Comparison) -> str:
    """The same comparison of published values, an empty text where they are not printed."""
    size = claims_data.printed(comparison)
    return "" if size is None else f"; published {claims_data.sides(comparison)}"


def _effect(verdict: Verdict) -> str:
    if verdict.effect is None or verdict.low is None or verdict.high is None:
        return ""
    return _interval(*(v / PERCENT for v in (verdict.effect, verdict.low, verdict.high)))


def _interval(difference: float, low: float, high: float) -> str:
    """Shares as points: "+1.00 (-0.50 to +2.50)"."""
    shown = [_signed(PERCENT * v) for v in (difference, low, high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _signed(points: float | None) -> str:
    """Points as printed, no -0.00; an empty text for None."""
    return "" if points is None else signed(points)


def _counts(words: Iterable[str]) -> str:
    """How often each word comes, as "3 supported, 1 pending"."""
    found = list(words)
    return ", ".join(f"{found.count(word)} {word}" for word in sorted(set(found)))
