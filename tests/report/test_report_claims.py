"""Claims: the data, the papers' own numbers, the rule, what would decide, whole worlds, slips."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fabricated import World, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cxrmim import grid
from cxrmim.errors import CheckError, ParamsError
from cxrmim.params import Params
from cxrmim.report import cells, claims, claims_data, claims_rule, published, statistics
from cxrmim.report.book import Book
from cxrmim.report.claims_data import Comparison, on_paper, printed, sides
from cxrmim.report.render import banner
from cxrmim.report.statistics import Contrast

CLAIMS = {claim.id: claim for claim in claims_data.claims()}
ADDRESSES = sorted(
    {a for claim in CLAIMS.values() for one in claim.comparisons() for _, a in one.terms}
)


def made(difference: float, images: float = 1e-4, sd: float = 0.01, n: int = 3) -> Contrast:
    """A contrast with these variances."""
    one = (difference, images, sd**2 if n > 1 else 0.0, n, 1000)
    p = float(statistics.p_values(*(np.array([v]) for v in one))[0])
    greater = p / 2 if difference > 0 else 1 - p / 2
    return Contrast(difference, 0.0, 0.0, sd if n > 1 else None, n, images, 1000, p, greater)


def known(*greater: float) -> list[Contrast]:
    """Contrasts with these one-sided p."""
    return [replace(made(0.5 - p), greater=p) for p in greater]


# the data


def test_ids_are_unique_and_the_claims_are_many() -> None:
    assert len(claims_data.claims()) == len(CLAIMS) >= 28


def columns_of(paper: Params, block: str) -> tuple[cells.Column, ...]:
    wanted = paper.grid[block]
    readers = {c.dataset: grid.reader(paper, c.dataset) for c in wanted.cells}
    return cells.layout_of(block).columns(block, wanted, readers)


def test_every_address_is_a_cell_of_the_paper_grid_with_replicates(paper) -> None:
    held = {
        f"{block}:{entry}:{column.key}"
        for block in {address.partition(":")[0] for address in ADDRESSES}
        for entry in grid.rows(paper, paper.grid[block])
        for column in columns_of(paper, block)
        if column.sampled
    }
    assert set(ADDRESSES) <= held


@pytest.mark.parametrize("block", sorted({a.partition(":")[0] for a in ADDRESSES}))
def test_claims_leave_out_no_row_or_column_of_a_block(paper, block) -> None:
    columns = {column.key for column in columns_of(paper, block)}
    mine = [a.split(":")[1:] for a in ADDRESSES if a.startswith(f"{block}:")]
    assert {key for _, key in mine} == columns
    rows = published.table(block).names or grid.rows(paper, paper.grid[block])
    assert {row for row, _ in mine} == set(rows)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_comparisons_are_distinct_and_balanced(claim) -> None:
    found = claim.comparisons()
    assert found
    assert len({one.label for one in found}) == len({one.terms for one in found}) == len(found)
    for one in found:
        assert sum(c for c, _ in one.terms) == 0
        addresses = [address for _, address in one.terms]
        assert len(set(addresses)) == len(addresses)
        assert {a.partition("_")[0] for a in addresses} == {claim.paper.lower()}
    assert claim.stated is None or len(found) == 1 or found[0].margin


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claims: [{id: a}]", "paper: missing"),
        ("claims: [", "not valid YAML"),
        ("claims: [{id: a, paper: MedIM, place: x, says: y, test: [{}]}]", "give one of above"),
        ("claims: [{id: a, paper: MedIM, place: x, says: y, tests: []}]", "did you mean|unknown"),
        (
            "claims: [&a {id: a, paper: MedIM, place: x, says: y, test: []}, *a]",
            "id a is given twice",
        ),
    ],
)
def test_a_faulty_file_is_named_in_one_line(tmp_path: Path, text, said) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError, match=said) as caught:
        claims_data.claims(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


ELSE = "random imagenet mae gloria mrm mgca"
SSL = "mae mrm gloria mgca"
THREE = "covidx chexpert siim"
EIGHT = "chexpert_1 chexpert_10 chexpert_100 covidx_1 covidx_10 covidx_100 siim_10 siim_100"
ONE = "nih_1 chexpert_1 rsna_1 covidx_1"
TWELVE = f"{ONE} " + " ".join(
    k.replace("_1", share) for share in ("_10", "_100") for k in ONE.split()
)
SPOKEN = {  # by hand: comparisons, cells in each, rows above, rows below, columns (of both sides)
    "medim-best": (48, 2, "medim", ELSE, EIGHT),
    "medim-over-imagenet": (8, 2, "medim", "imagenet", EIGHT),
    "medim-over-mae": (8, 2, "medim", "mae", EIGHT),
    "medim-over-image-report": (24, 2, "medim", "gloria mrm mgca", EIGHT),
    "medim-one-percent": (6, 2, "medim", ELSE, "chexpert_1", "chexpert_100"),
    "medim-scarce": (18, 2, "medim", ELSE, "chexpert_1 covidx_1 siim_10"),
    "medim-retrieval": (6, 2, "medim", "mgca", "t2i_r1 t2i_r5 t2i_r10 i2t_r1 i2t_r5 i2t_r10"),
    "medim-mae-limited": (3, 2, "mae", "random", "chexpert_1 covidx_1 siim_10"),
    "medim-components": (6, 2, "medim medim-kwm", "medim-kwm mgca", THREE),
    "medim-kwm-total": (1, 6, "medim-kwm", "mgca", THREE),
    "medim-both-total": (1, 6, "medim", "mgca", THREE),
    "medim-sdm-total": (1, 6, "medim", "medim-kwm", THREE),
    "medim-any-masking": (9, 2, "medim medim-low medim-random", "medim-none", THREE),
    "medim-high-masking": (6, 2, "medim", "medim-low medim-random", THREE),
    "medim-over-random-masking": (1, 6, "medim", "medim-random", THREE),
    "medim-half": (2, 6, "medim", "medim-r25 medim-r75", THREE),
    "cmitm-consistent": (48, 2, "cmitm", SSL, TWELVE),
    # nine columns against six rows, RSNA at 100 % against five
    "cmitm-best": (59, 2, "cmitm", ELSE, TWELVE.replace(" rsna_10 covidx_10 ", " ")),
    "cmitm-generally": (4, 24, "cmitm", SSL, TWELVE),
    "cmitm-four-datasets": (16, 6, "cmitm", SSL, TWELVE),
    "cmitm-pretraining-helps": (120, 2, f"cmitm {SSL}", "random imagenet", TWELVE),
    "cmitm-reports-help": (48, 2, "cmitm mrm gloria mgca", "mae", TWELVE),
    "cmitm-most-when-scarce": (8, 16, f"cmitm {SSL}", f"cmitm {SSL}", TWELVE),
    "cmitm-scarce": (16, 2, "cmitm", SSL, ONE),
    "cmitm-mrm-strongest": (12, 2, "mrm", "mae gloria mgca", ONE),
    "cmitm-lead-nih": (1, 2, "cmitm", "mrm", "nih_1"),
    "cmitm-lead-covidx": (1, 2, "cmitm", "mrm", "covidx_1"),
    "cmitm-mrm-flat": (2, 2, "mrm", "mrm", "chexpert_1 chexpert_100"),
    "cmitm-one-percent": (1, 2, "cmitm", "mrm", "chexpert_1", "chexpert_100"),
    "cmitm-more-than-labels": (4, 2, "cmitm", SSL, "chexpert_1", "chexpert_100"),
    "cmitm-mitm": (2, 2, "cmitm", "cmitm-nomitm", "rsna covidx"),
    "cmitm-ccl": (2, 2, "cmitm", "cmitm-s1", "rsna covidx"),
    "cmitm-cascaded": (2, 2, "cmitm", "cmitm-joint", "rsna covidx"),
    "cmitm-masking": (2, 2, "cmitm", "cmitm-nomask", "rsna covidx"),
    "cmitm-decoder": (2, 2, "cmitm", "cmitm-nodecoder", "rsna covidx"),
    "cmitm-cascaded-most": (4, 2, "cmitm-nomask cmitm-nodecoder", "cmitm-joint", "rsna covidx"),
    "cmitm-ratio": (6, 2, "cmitm", "cmitm-nomask cmitm-r25 cmitm-r50", "rsna covidx"),
}


def test_a_claim_leaves_out_no_comparison_that_its_sentence_makes() -> None:
    """Published means alone cannot tell: most comparisons hold, so one less changes no verdict."""
    assert list(SPOKEN) == list(CLAIMS)
    for name, (count, cells_each, above, below, columns, *others) in SPOKEN.items():
        found = CLAIMS[name].comparisons()
        assert (len(found), {len(one.terms) for one in found}) == (count, {cells_each}), name
        for sign, rows, keys in ((1, above, columns), (-1, below, (others or [columns])[0])):
            mine = [a.split(":")[1:] for one in found for c, a in one.terms if c * sign > 0]
            assert {row for row, _ in mine} == set(rows.split()), name
            assert {key for _, key in mine} == set(keys.split()), name


def test_all_means_nothing_where_no_paper_printed_values() -> None:
    form = claims_data.Above(table="medim_figure3_left", rows=["medim"], over="others", columns=[])
    with pytest.raises(ParamsError, match="medim_figure3_left has no published values"):
        list(form.comparisons())


def test_forms_by_hand() -> None:
    def above(**more: object) -> list[Comparison]:
        tree = {"table": "t", "rows": ["a"], "over": ["b", "c"], "columns": ["x", "y"]} | more
        return list(claims_data.Above.model_validate(tree).comparisons())

    assert [one.terms for one in above()] == [
        ((1.0, f"t:a:{key}"), (-1.0, f"t:{other}:{key}")) for other in "bc" for key in "xy"
    ]
    assert above(total=True)[1].terms == (
        (1.0, "t:a:x"), (1.0, "t:a:y"), (-1.0, "t:c:x"), (-1.0, "t:c:y"),
    )  # fmt: skip
    order = claims_data.Order(table="t", rows=["a", "b", "c"], columns=["x"])
    assert [one.label for one in order.comparisons()] == ["a > b, x", "b > c, x"]
    scarcer = claims_data.Scarcer(table="t", rows=["a"], column="x", over=["b"], against="y")
    assert [one.terms for one in scarcer.comparisons()] == [((1.0, "t:a:x"), (-1.0, "t:b:y"))]
    lead = claims_data.Lead(table="t", row="a", over=["b"], columns=["x"], than=["y"])
    assert [set(one.terms) for one in lead.comparisons()] == [
        {(1.0, "t:a:x"), (-1.0, "t:b:x"), (-1.0, "t:a:y"), (1.0, "t:b:y")}
    ]
    within = list(claims_data.Within(left="t:a:x", right="t:b:x", points=0.5).comparisons())
    assert [(one.terms, one.margin) for one in within] == [
        (((1.0, "t:a:x"), (-1.0, "t:b:x")), 0.5),
        (((1.0, "t:b:x"), (-1.0, "t:a:x")), 0.5),
    ]


# the papers' own numbers

NEAR = "nih_1, chexpert_1, rsna_1, covidx_1"
FAR = "nih_100, chexpert_100, rsna_100, covidx_100"
FAILING = {  # read off the papers by hand
    "cmitm-consistent": {
        "cmitm > mrm, rsna_10: 92.6 < 92.7",
        "cmitm > mgca, rsna_10: 92.6 = 92.6 (tie)",
        "cmitm > mgca, rsna_100: 93.4 = 93.4 (tie)",
        "cmitm > mrm, covidx_10: 90.2 = 90.2 (tie)",
        "cmitm > gloria, covidx_10: 90.2 < 91.7",
        "cmitm > mgca, covidx_10: 90.2 < 91.5",
    },
    "cmitm-pretraining-helps": {
        "mae > imagenet, chexpert_100: 86.7 < 87.6",
        "mae > imagenet, covidx_1: 69.8 < 72.0",
        "mae > imagenet, covidx_10: 82.3 < 84.4",
    },
    "cmitm-reports-help": {
        "gloria > mae, nih_100: 85.0 < 85.1",
        "mgca > mae, nih_100: 85.0 < 85.1",
    },
    "cmitm-most-when-scarce": {f"lead of cmitm over mrm: sum of {NEAR} > sum of {FAR}: 3.3 < 3.5"},
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_verdict_on_the_published_means(claim) -> None:
    found = on_paper(claim)
    assert set(found.failing) == FAILING.get(claim.id, set())
    figure = any("_figure" in a for one in claim.comparisons() for _, a in one.terms)
    otherwise = "not stated" if figure else "holds"
    assert found.verdict == ("fails" if claim.id in FAILING else otherwise)


@pytest.fixture
def reprint(monkeypatch) -> Callable[[str, float], None]:
    """Print another value in a cell of a paper."""

    def change(address: str, value: float) -> None:
        block, row, column = address.split(":")
        table = published.table
        held = table(block)
        other = published.Published(held.names, held.values | {(row, column): value})
        monkeypatch.setattr(
            published, "table", lambda name: other if name == block else table(name)
        )

    return change


STATED = [c for c in CLAIMS.values() if on_paper(c).verdict == "holds"]


@pytest.mark.parametrize("claim", STATED, ids=[c.id for c in STATED])
def test_lowering_any_cell_that_should_be_above_flips_the_verdict(claim, reprint) -> None:
    for at in {0, len(claim.comparisons()) - 1}:
        one = claim.comparisons()[at]
        address = next(a for c, a in one.terms if c > 0)
        lowered = claims_data.value(address) - printed(one) - 0.01
        reprint(address, lowered)
        assert on_paper(claim).verdict == "fails"
        assert any(text.startswith(one.label) for text in on_paper(claim).failing)


def test_a_tie_is_not_above_and_is_named(reprint) -> None:
    reprint("medim_table1:medim:covidx_1", 76.29)
    found = on_paper(CLAIMS["medim-best"])
    assert found.failing == ("medim > mgca, covidx_1: 76.29 = 76.29 (tie)",)


def test_mending_a_table_mends_the_verdict(reprint) -> None:
    reprint("cmitm_table1:mae:nih_100", 84.9)
    assert on_paper(CLAIMS["cmitm-reports-help"]).verdict == "holds"


def test_a_stated_size_that_the_table_does_not_give_fails(reprint) -> None:
    claim = CLAIMS["medim-kwm-total"]
    assert on_paper(claim).verdict == "holds"
    reprint("medim_table3:medim-kwm:siim", 62.55)
    assert on_paper(claim).failing == ("stated as 3.28, but the table gives 3.29",)


def test_the_margin_of_equivalence_is_a_lead_that_the_paper_counts() -> None:
    """The sentence that calls 0.2 points flat calls 89.0 against 88.7 a lead."""
    (lead,) = CLAIMS["cmitm-one-percent"].comparisons()
    assert {one.margin for one in CLAIMS["cmitm-mrm-flat"].comparisons()} == {printed(lead)}


def test_a_claim_with_a_size_says_what_is_tested_of_our_runs() -> None:
    """A verdict on 3.28 points would be read as one on the size; it is on the direction."""
    sized = [claim for claim in CLAIMS.values() if claim.stated is not None]
    assert len(sized) == 5
    for claim in sized:
        assert f"{claim.stated}" in claim.says and "we test for" in claim.says


def test_an_unprinted_cell_leaves_a_claim_open_unless_another_fails() -> None:
    claim = CLAIMS["cmitm-reports-help"]
    extra = CLAIMS["cmitm-ccl"].test
    assert on_paper(claim.model_copy(update={"test": [*extra, *claim.test]})).verdict == "fails"
    claim = CLAIMS["cmitm-decoder"]
    both = claim.model_copy(update={"test": [*claim.test, *extra]})
    assert (on_paper(claim).verdict, on_paper(both).verdict) == ("holds", "not stated")


def test_sides_count_the_margin_and_the_decimals_of_the_paper() -> None:
    first, second = CLAIMS["cmitm-mrm-flat"].comparisons()
    assert (sides(first), printed(first)) == ("0.5 > 0.0", 0.5)
    assert (sides(second), printed(second)) == ("0.1 > 0.0", 0.1)
    assert sides(CLAIMS["medim-both-total"].comparisons()[0]) == "243.09 > 237.97"


# the rule


def test_the_rule_by_hand() -> None:
    found = claims_rule.rule([known(0.001, 0.004), known(0.2, 0.9999), known(0.01, 0.6)])
    # six hypotheses: support 0.004 0.9999 0.6, against 2 x 0.996, 2 x 0.0001, 2 x 0.4
    assert [r.verdict for r in found] == ["supported", "contradicted", "undecided"]
    assert [r.p for r in found] == pytest.approx([5 * 0.004, 6 * 0.0002, 1.0])
    assert [r.weakest for r in found] == [1, 1, 1]
    assert [r.level for r in found] == pytest.approx([0.05 / 4] * 3)


def test_one_more_claim_can_leave_another_undecided() -> None:
    claim = known(0.01)
    assert claims_rule.rule([claim])[0].verdict == "supported"
    crowd = [claim, known(0.5), known(0.5)]
    assert claims_rule.rule(crowd)[0].verdict == "undecided"
    assert claims_rule.rule([]) == []


def test_a_tie_is_undecided_both_ways() -> None:
    (found,) = claims_rule.rule([[made(0.0, images=0.0, sd=0.0)]])
    assert (found.verdict, found.p) == ("undecided", 1.0)


def test_support_needs_every_comparison_and_contradiction_one() -> None:
    strong, weak, opposed = made(0.1), made(0.005), made(-0.1)
    verdicts = [
        claims_rule.rule([claim])[0].verdict
        for claim in ([strong, strong], [strong, weak], [strong, opposed], [opposed])
    ]
    assert verdicts == ["supported", "undecided", "contradicted", "contradicted"]


@given(st.lists(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=5), max_size=6))
def test_rulings_are_consistent(ps) -> None:
    for ruling, claim in zip(claims_rule.rule([known(*p) for p in ps]), ps, strict=True):
        assert claim[ruling.weakest] == max(claim)
        assert (ruling.verdict == "undecided") == (ruling.p >= claims_rule.ALPHA)
        if ruling.verdict == "supported":
            assert max(claim) < 0.05 / 2
        if ruling.verdict == "contradicted":
            assert 1 - max(claim) < 0.05 / 2 / len(claim) + 1e-12
        assert 0.05 / (2 * len(ps)) <= ruling.level <= 0.05


def test_wrong_verdicts_are_as_rare_as_promised() -> None:
    """Six claims of three comparisons between equals: any verdict at all in about 5 % of worlds."""
    rng = np.random.default_rng(0)
    worlds, wrong = 600, 0
    for shared, own in zip(
        rng.normal(size=(worlds, 6, 1)), rng.normal(size=(worlds, 6, 3)), strict=True
    ):
        p = norm.sf(0.6 * shared + 0.8 * own)
        rulings = claims_rule.rule([known(*row) for row in p])
        wrong += any(r.verdict != "undecided" for r in rulings)
    assert 0 < wrong / worlds < 0.05


# what would decide

OPEN = st.tuples(
    st.floats(0.002, 0.05), st.floats(1e-6, 1e-3), st.floats(0.001, 0.1), st.sampled_from([1, 3, 5])
)


@settings(max_examples=80)
@given(st.lists(OPEN, min_size=1, max_size=4), st.floats(1e-4, 0.02), st.booleans())
def test_the_need_put_back_decides_and_one_less_does_not(parts, level, negative) -> None:
    sign = -1 if negative else 1
    n = parts[0][3]
    claim = [made(sign * d, images, sd, n) for d, images, sd, _ in parts]

    def p(seeds: int, factor: float) -> float:
        """As an experiment of that size would have it."""
        again = [
            made(c.difference, c.images / factor, c.sd or 0.0, seeds if n > 1 else 1) for c in claim
        ]
        if negative:
            return len(again) * (1 - max(c.greater for c in again))
        return max(c.greater for c in again)

    if p(n, 1.0) < level:
        return
    found = claims_rule.need(claim, level)
    end = claims_rule.LIMIT
    if found is None:
        assert p(n * end if n > 1 else 1, float(end)) >= level
        return
    assert p(found.seeds, found.images) < level
    if found.images == 1:
        assert p(found.seeds - 1, 1.0) >= level
    else:
        assert n == 1 or p(n * end, 1.0) >= level
        less = (round(10 * found.images) - 1) / 10
        seeds = n if found.seeds == n else -(-n * round(10 * less) // 10)
        assert p(seeds, less) >= level


@pytest.mark.parametrize(
    ("contrast", "kind"),
    [
        (made(0.02, 1e-6, 0.02, 3), "seeds"),
        (made(0.02, 4e-4, 1e-4, 3), "images"),
        (made(0.01, 1e-4, 0.05, 3), "both"),
        (made(0.02, 4e-4, 0.0, 1), "images"),
        (made(1e-5, 1e-4, 0.01, 3), None),
        (made(1e-5, 1e-4, 0.0, 1), None),
    ],
)
def test_what_is_lacking(contrast, kind) -> None:
    found = claims_rule.need([contrast], 0.001)
    if kind is None:
        assert found is None
        return
    more = (found.seeds > contrast.n, found.images > 1)
    assert more == {"seeds": (True, False), "images": (False, True), "both": (True, True)}[kind]


def test_with_the_seeds_it_asks_for_an_experiment_decides_about_every_other_time() -> None:
    contrast = made(0.02, 1e-5, 0.02, 3)
    level = 0.005
    found = claims_rule.need([contrast], level)
    assert found.images == 1 and found.seeds > 3
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        over_seeds = 0.02 + contrast.sd * rng.normal(size=found.seeds)
        difference = over_seeds.mean() + contrast.images**0.5 * rng.normal()
        again = made(difference, contrast.images, over_seeds.std(ddof=1), found.seeds)
        hits += again.greater < level
    assert 0.4 < hits / 600 < 0.65


def test_what_would_decide_names_the_comparison_that_does() -> None:
    """Today's weakest is limited by images, the one that more seeds decide by seeds."""
    claim = [made(-0.03, 4e-4, 1e-4), made(-0.2, 1e-6, 0.3)]
    assert claim[0].greater > claim[1].greater
    found = claims_rule.need(claim, 1e-3)
    assert found is not None and found.images == 1
    assert claims_rule.decider(claim, found) == 1
    comparisons = [Comparison("images", (), ()), Comparison("seeds", (), ())]
    held = claims._Measured({}, claim)
    book = SimpleNamespace(params=SimpleNamespace(seeds=SimpleNamespace(pretrain=[0])))
    said = [
        claims._needs(book, comparisons, held, claims_rule.Ruling("undecided", 1.0, weakest, 1e-3))
        for weakest in (0, 1)
    ]
    size = f"{found.seeds} downstream seeds instead of 3"
    assert said == [f"to contradict it (by seeds): {size}", f"to contradict it: {size}"]


COMPARED = [Comparison("first", ((1.0, "t:a:x"),), ()), Comparison("second", ((1.0, "t:b:y"),), ())]


@pytest.mark.parametrize(("seeds", "kind"), [([0], "downstream"), ([0, 1, 2], "pretraining")])
def test_a_need_says_which_seeds(seeds, kind) -> None:
    book = SimpleNamespace(params=SimpleNamespace(seeds=SimpleNamespace(pretrain=seeds)))
    held = claims._Measured({}, [made(0.02, 1e-6, 0.02)])
    ruling = claims_rule.Ruling("undecided", 1.0, 0, 0.001)
    said = claims._needs(book, COMPARED[:1], held, ruling)
    assert re.fullmatch(rf"to support it: \d+ {kind} seeds instead of 3", said)


def test_more_images_are_asked_of_what_is_not_shown_yet(monkeypatch) -> None:
    monkeypatch.setattr(claims, "_sizes", lambda book, found: dict.fromkeys(found, 100))
    book = SimpleNamespace(params=SimpleNamespace(seeds=SimpleNamespace(pretrain=[0])))
    held = claims._Measured(
        {a: a for a in ("t:a:x", "t:b:y")}, [made(0.2, 1e-6, 1e-4), made(0.02, 4e-4, 1e-4)]
    )
    ruling = claims_rule.Ruling("undecided", 1.0, 1, 0.001)
    said = claims._needs(book, COMPARED, held, ruling)
    assert "times the test images (t:b:y 100 to " in said and "t:a:x" not in said


# whole worlds


@pytest.fixture
def world(make, monkeypatch) -> Callable[[float], World]:
    """Everything has run, and found what the papers print, with a given noise of each run."""

    def maker(own: float) -> World:
        made = make(fill=False)
        monkeypatch.setattr(grid, "pending", lambda params, run: None)
        made.fill()
        fill(made, own)
        return made

    return maker


def fill(world: World, own: float) -> None:
    count = world.params.downstream.bootstrap
    plans: dict[grid.Run, dict[str, float]] = {}
    for address in ADDRESSES:
        cell = cells.find(world.params, address)
        assert cell.address == address
        invented = 0.30 if cell.row == "medim-none" else 0.35
        value = invented if cell.published is None else cell.published / 100
        for run in cell.runs:
            held = plans.setdefault(run, {})
            if cell.published is not None or cell.column.metric not in held:
                held[cell.column.metric] = value
    for run, values in plans.items():
        drawn = {}
        for key, value in values.items():
            near = 0.002 * noise(run.dataset, count) + own * noise(f"{run.id}/{key}", count)
            drawn[key] = np.clip(value + near, 0, 1).tolist()
        main = "i2t_r10" if run.task == "retrieve" else "value"
        lifted = {key: value + own * noise(f"{run.id}/{key}/value", 1)[0]
                  for key, value in values.items()}  # fmt: skip
        others = {key: part for key, part in drawn.items() if key != main}
        more = {"replicates_of": others} if others else {}
        world.write(run, lifted | {"replicates": drawn[main]} | more)


def test_without_noise_the_runs_say_what_the_papers_print(world) -> None:
    verdicts = claims.evaluate(Book(world(1e-5).params))
    assert [v.id for v in verdicts] == list(CLAIMS)
    expected = {"holds": "supported", "fails": "contradicted", "not stated": "supported"}
    assert {v.id: v.verdict for v in verdicts} == {v.id: expected[v.published] for v in verdicts}
    lead = next(v for v in verdicts if v.id == "cmitm-lead-nih")
    assert lead.effect == pytest.approx(1.0, abs=0.01)
    assert lead.low < lead.effect < lead.high
    assert (lead.needs, lead.weakest) == ("", "cmitm > mrm, nih_1")
    flat = next(v for v in verdicts if v.id == "cmitm-mrm-flat")
    assert "+0.50 (" in flat.detail[0] and "+0.10 (" in flat.detail[1]  # 0.3 points added
    assert all(v.p < 0.05 and not v.needs for v in verdicts)


def test_with_much_noise_nothing_is_decided_and_needs_are_said(world) -> None:
    verdicts = claims.evaluate(Book(world(0.02).params))
    small = [v for v in verdicts if v.verdict == "undecided"]
    assert len(small) > len(verdicts) / 2
    for verdict in small:
        assert verdict.p >= 0.05
        ends = ("seeds instead of 3", "downstream seeds", "the one run", "no difference measured")
        assert verdict.needs.endswith(ends) or verdict.needs.startswith("no difference"), verdict
        assert ("contradict" in verdict.needs) == (verdict.effect < 0)
    assert any("times the test images (mimic 100 to " in v.needs for v in small)


def test_what_a_row_is_here_stands_beside_its_claim(world) -> None:
    params = world(1e-3).params
    verdicts = {v.id: v for v in claims.evaluate(Book(params))}
    ratio = params.pretraining("cmitm")[1].options["ratio"]
    assert ratio != 0.75  # else this scale has nothing to say
    other = f"cmitm has ratio {ratio:g}, the paper's 0.75"
    shapes = "imagenet is a stand-in: generated shapes"
    assert verdicts["cmitm-ratio"].here == other
    for name in ("medim-best", "medim-over-imagenet", "cmitm-pretraining-helps"):
        assert verdicts[name].here == shapes
    assert verdicts["medim-half"].here == verdicts["medim-retrieval"].here == ""
    page = claims.to_markdown(list(verdicts.values()), params).splitlines()
    (line,) = [line for line in page if line.startswith("| medim-over-imagenet |")]
    assert shapes in line
    assert f"{shapes}\n" in claims.to_csv(list(verdicts.values()))


def test_at_the_papers_scale_rows_are_the_papers(make) -> None:
    assert claims._here(make("paper", fill=False).params, ADDRESSES) == ""


def test_the_detail_gives_each_comparisons_own_one_sided_p(world) -> None:
    book = Book(world(0.02).params)
    verdicts = {v.id: v for v in claims.evaluate(book)}
    for name in ("cmitm-decoder", "medim-one-percent"):
        for one, line in zip(CLAIMS[name].comparisons(), verdicts[name].detail, strict=True):
            found = statistics.contrast([(c, book.cell(a)) for c, a in one.terms])
            assert line.startswith(f"{one.label}: {100 * found.difference:+.2f} (")
            assert f", one-sided p {found.greater:.3g}; published " in line


def test_a_claim_waits_for_what_has_not_run(make) -> None:
    world = make()
    verdicts = {v.id: v for v in claims.evaluate(Book(world.params))}
    waiting = verdicts["medim-over-imagenet"]
    assert waiting.verdict == "pending" and waiting.published == "holds"
    assert waiting.needs.startswith("waits for medim_table1:medim:covidx_1 (dataset covidx has no")
    assert waiting.needs.endswith("and 3 more")
    assert (waiting.effect, waiting.p, waiting.weakest) == (None, None, "")
    assert len(waiting.detail) == 8 and waiting.detail[0].endswith("published 88.91 > 73.52")
    assert verdicts["medim-retrieval"].verdict != "pending"


def test_a_grid_without_a_claims_cells_leaves_it_pending(make) -> None:
    world = make("trend")
    verdicts = claims.evaluate(Book(world.params))
    assert {v.verdict for v in verdicts} == {"pending"}
    assert all(v.needs.startswith("not in the grid of scale trend: ") for v in verdicts)
    assert [v.published for v in verdicts] == [on_paper(c).verdict for c in CLAIMS.values()]


def test_columns_of_one_test_set_must_have_its_images(world) -> None:
    made = world(1e-5)
    for run in grid.all_runs(made.params):
        if (run.dataset, run.task, run.percent) == ("chexpert", "probe", 100):
            made.write(run, {"value": 0.5, "n": 101})
    with pytest.raises(CheckError, match="not tested on the same images"):
        claims.evaluate(Book(made.params))


def test_files(world) -> None:
    params = world(0.01).params
    verdicts = claims.evaluate(Book(params))
    text = claims.to_csv(verdicts)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["claim"] for row in rows] == list(CLAIMS)
    assert all(
        row["comparisons"] == str(len(v.detail)) for row, v in zip(rows, verdicts, strict=True)
    )
    page = claims.to_markdown(verdicts, params)
    assert banner(params) in page and "-0.00" not in page and "-0.00" not in text
    lines = page.splitlines()
    for verdict in verdicts:
        heading = verdict.id.replace("_", r"\_")
        assert sum(line.startswith(f"| {heading} |") for line in lines) >= 1
        assert f"### {heading}" in lines
    assert sum(line.startswith("- ") for line in lines) == sum(len(v.detail) for v in verdicts)
    again = claims.evaluate(Book(params))
    assert (claims.to_csv(again), claims.to_markdown(again, params)) == (text, page)


# slips


def test_what_fails_in_the_published_means_is_a_slip() -> None:
    found = {slip.id: slip for slip in claims.slips()}
    assert len(found) == len(claims.slips()) >= 12
    for name in FAILING:
        assert found[name].computed and found[name].found.count(";") + 1 == len(
            on_paper(CLAIMS[name]).failing
        )
    assert {slip.computed for slip in found.values()} == {True, False}
    assert all(slip.found and slip.why for slip in found.values())
    rows = list(csv.DictReader(io.StringIO(claims.slips_to_csv(claims.slips()))))
    assert [row["slip"] for row in rows] == list(found)


@pytest.mark.parametrize(
    ("slip", "address", "value"),
    [
        ("medim-mrm-row", "cmitm_table1:mrm:chexpert_10", 88.6),
        ("medim-table3-share", "medim_table3:medim:siim", 63.4),
        ("cmitm-reports-help", "cmitm_table1:mae:nih_100", 84.9),
    ],
)
def test_a_computed_slip_goes_when_the_numbers_do_not_bear_it_out(
    slip, address, value, reprint
) -> None:
    assert slip in {s.id for s in claims.slips()}
    reprint(address, value)
    assert slip not in {s.id for s in claims.slips()}


def test_the_other_rows_are_counted(monkeypatch) -> None:
    (slip,) = [s for s in claims.slips() if s.id == "medim-five-methods"]
    assert slip.found.startswith("6 other rows: Random Init, ImageNet, MAE*")
    held = published.table("medim_table1")
    fewer = {entry: name for entry, name in held.names.items() if entry != "random"}
    table = published.table
    monkeypatch.setattr(
        published,
        "table",
        lambda name: replace(held, names=fewer) if name == "medim_table1" else table(name),
    )
    assert "medim-five-methods" not in {s.id for s in claims.slips()}
