"""The ledger of a scale: both sides come from records and files, or a reason stands there."""

import csv
import io
import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
from fabricated import UNTRAINABLE, World
from hypothesis import example, given
from hypothesis import strategies as st

from cxrmim.errors import CheckError
from cxrmim.report import cells, ledger, published, render, switches
from cxrmim.report.book import Book
from cxrmim.report.ledger import Line, Measured
from cxrmim.report.statistics import contrast

ROOT = Path(__file__).parents[2]
DICE = {"dice_one": 0.75, "dice_zero": 0.25, "dice_positive": 0.5}


@pytest.fixture
def public(make) -> Path:
    """leakage.json as committed, in the folder of the world that is made next."""
    switches.LEAKAGE.parent.mkdir(parents=True)
    shutil.copy(ROOT / switches.LEAKAGE, switches.LEAKAGE)
    return switches.LEAKAGE


def lines_of(world: World) -> dict[str, Line]:
    return {line.topic: line for line in ledger.rows(Book(world.params))}


def all_measured(lines: dict[str, Line]) -> list[Measured]:
    return [m for line in lines.values() for m in line.measured]


def test_every_topic_has_a_line_in_order(make, public) -> None:
    stated = [(group, e) for group, entries in switches.load().items() for e in entries]
    lines = ledger.rows(Book(make().params))
    assert [(line.group, line.topic) for line in lines] == [(g, e.topic) for g, e in stated]
    for line, (_, entry) in zip(lines, stated, strict=True):
        assert line.switch == tuple(s.key for s in entry.switches)
        assert set(line.tests) >= set(entry.tests)
        assert line.docs.startswith("docs/")
        assert "{" not in line.default + line.other
        assert bool(line.reason) == all(m.difference is None for m in line.measured)


def test_a_measured_pair_is_ours_minus_the_other(make) -> None:
    """By hand: the mean over seeds of what the two rows' records say."""
    world = make()
    line = lines_of(world)["mask rule"]
    found = {(m.ours, m.other): m for m in line.measured}
    m = found["medim_figure3_left:medim:chexpert", "medim_figure3_left:medim-low:chexpert"]
    means = []
    for entry in ("medim", "medim-low"):
        runs = world.cell_runs("medim_figure3_left", entry, "chexpert", 10)
        records = [json.loads(world.path(run).read_text()) for run in runs]
        means.append(100 * fmean(record["metrics"]["value"] for record in records))
        assert len(runs) == m.n == 3
    assert m.ours_value == pytest.approx(means[0])
    assert m.other_value == pytest.approx(means[1])
    assert m.difference == pytest.approx(means[0] - means[1])
    assert m.difference != 0
    assert m.low is not None and m.high is not None and m.low < m.difference < m.high
    book = Book(world.params)
    c = contrast([(1.0, book.cell(m.ours)), (-1.0, book.cell(m.other))])
    assert (m.p, m.low, m.high) == (c.p, 100 * c.low, 100 * c.high)
    assert m.paired and m.source == "phantom data" and not m.reason


def test_an_edited_record_moves_its_lines_alone(make) -> None:
    world = make()
    before = all_measured(lines_of(world))
    (run, *_) = world.cell_runs("medim_table3", "medim-kwm", "chexpert", 10)
    world.write(run, {"value": 0.9})
    after = all_measured(lines_of(world))
    moved = {(a.ours, a.other) for a, b in zip(before, after, strict=True) if a != b}
    table = "medim_table3"
    assert moved == {
        (f"{table}:medim:chexpert", f"{table}:medim-kwm:chexpert"),
        (f"{table}:medim-kwm:chexpert", f"{table}:mgca:chexpert"),
    }


def test_a_row_is_compared_in_every_column_of_its_block(make) -> None:
    world = make()
    line = lines_of(world)["which strategies"]
    columns = [m.ours.rpartition(":")[2] for m in line.measured]
    assert columns == ["covidx", "chexpert", "siim"] * 2
    assert [m.other.rpartition(":")[2] for m in line.measured] == columns


def test_sides_on_two_test_sets_are_not_paired(make, public) -> None:
    lines = lines_of(make())
    (m, *rest) = lines["SIIM split"].measured
    assert (m.ours, m.other) == (
        "medim_protocols:medim:siim_10",
        "medim_protocols:medim:siim-released_10",
    )
    assert not m.paired and m.text.endswith("; not paired")
    assert m.difference is not None and m.low is not None and m.low < m.difference
    assert {r.kind for r in rest} == {"public"}
    alike = [m for m in lines["the whole protocol"].measured if "alike" in m.what]
    assert len(alike) == 6 and all(m.paired for m in alike)


def test_what_did_not_run_says_why_and_has_no_number(make) -> None:
    lines = lines_of(make())
    waiting = {f"not run yet: method {name} has no code yet" for name in UNTRAINABLE}
    waiting.add("not run yet: dataset covidx has no reader yet")
    reasons = {m.reason for m in all_measured(lines) if m.kind == "cells"} - {""}
    assert reasons <= waiting and len(reasons) > 1
    assert "not run yet: method cmitm has no code yet" in lines["-MITM"].reason
    for m in all_measured(lines):
        numbers = (m.ours_value, m.other_value, m.difference, m.low, m.high, m.p)
        assert (m.reason == "") == (m.difference is not None)
        if m.reason:
            assert set(numbers) == {None}
            assert (m.n, m.source, m.text) == (0, "", m.reason)
        else:
            assert m.source


def test_a_scale_without_the_papers_grid_has_no_cells(make, public) -> None:
    lines = lines_of(make("trend"))
    for m in all_measured(lines):
        if m.kind in ("cells", "metric"):
            assert (m.difference, m.reason) == (None, "not run at this scale")
    assert lines["CheXpert split"].reason == ""  # public tables are of no scale
    assert "grid.medim_table3.cells: none at this scale" in (
        lines["label share of MedIM's Table 3"].here
    )


def test_the_conventions_of_dice_come_from_the_records(make) -> None:
    world = make()
    for percent in (10, 100):
        for run in world.cell_runs("medim_table1", "medim", "siim", percent):
            dice = DICE | {"dice_one": DICE["dice_one"] + 0.03 * run.seed}
            world.write(run, {"value": 0.5, **dice})
    found = lines_of(world)["Dice of an empty mask"].measured
    ours = [m for m in found if "medim_table1:medim:" in m.ours]
    assert [round(m.difference or 0, 6) for m in ours] == [53.0, 53.0, 28.0, 28.0]
    assert {(m.n, m.low, m.p) for m in ours} == {(3, None, None)}
    assert ours[0].text == "+53.00 (78.00 against 25.00), n = 3"
    (random, *_) = (m for m in found if "medim_table1:random:" in m.ours)
    assert random.reason == "its records hold no dice_one"
    (run, *_) = world.cell_runs("medim_table1", "medim", "siim", 10)
    world.write(run, {"value": 0.5, **DICE, "dice_zero": 1.5})
    with pytest.raises(CheckError, match=r"metrics\.dice_zero is 1\.5"):
        lines_of(world)


def test_published_numbers_are_those_of_the_papers(make) -> None:
    (first, *rest) = lines_of(make())["MRM in the papers' tables (`mrm.source`)"].measured
    values = published.table("medim_table1").values
    assert first.kind == "published" and first.source == "published"
    assert first.ours_value == values["mrm", "chexpert_1"]
    assert [m.difference for m in (first, *rest) if m.kind == "published"] == [0, 0, 0]


def test_public_figures_come_from_their_file(make, public) -> None:
    world = make()
    texts = [m.text for m in all_measured(lines_of(world)) if m.kind == "public"]
    assert "ours 0 of 5,000, other 4,907 of 5,000 images" in texts
    assert "ours 0 of 1,807, other 161 of 1,910 images" in texts
    assert "ours 0 of 405, other 183 of 476 images" in texts
    assert "ours 77.59, other 74.99 Dice" in texts
    public.write_text(public.read_text().replace("4907", "4908"))
    lines = lines_of(world)
    (m, _) = lines["CheXpert split"].measured
    assert (m.other_value, m.difference) == (4908, -4908)
    assert m.source == "real public label tables"
    public.write_text(public.read_text().replace('"rule": "mgca"', '"rule": "other"'))
    with pytest.raises(CheckError, match=r"leakage\.json: no number at siim, mgca: "):
        lines_of(world)
    public.unlink()
    (m, _) = lines_of(world)["CheXpert split"].measured
    assert m.difference is None and "audit --public" in m.reason


def test_what_the_scale_sets_otherwise_is_told(make) -> None:
    lines = lines_of(make())
    batch = make().params.pretraining("cmitm")[1].batch
    assert lines["batch of CMITM's second stage"].here == f"pretrain.methods.cmitm.batch: {batch}"
    assert lines["text positions"].here == ""
    over = {"scales": {"demo": {"pretrain": {"text": {"positions": "zero"}}}}}
    changed = lines_of(make(over=over))
    assert changed["text positions"].here == "pretrain.text.positions: zero"


def test_at_scale_paper_nothing_is_set_otherwise(make) -> None:
    world = make("paper", fill=False)
    values = switches.Values(world.params)
    for entries in switches.load().values():
        for entry in entries:
            assert ledger.elsewhere(entry, values) == "", entry.topic


def test_csv_has_every_comparison_once(make, public) -> None:
    lines = ledger.rows(Book(make().params))
    text = ledger.to_csv(lines)
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == sum(max(1, len(line.measured)) for line in lines)
    assert {row["topic"] for row in found} == {line.topic for line in lines}
    flat = iter(found)
    for line in lines:
        for m in line.measured:
            row = next(flat)
            assert (row["ours"], row["other_side"], row["reason"]) == (m.ours, m.other, m.reason)
            assert row["difference"] == ("" if m.difference is None else f"{m.difference:+.2f}")
            assert row["p"] == ("" if m.p is None else f"{m.p:.3g}")
        if not line.measured:
            row = next(flat)
            assert (row["difference"], row["reason"]) == ("", line.reason)


@given(st.floats(-100, 100), st.floats(0, 10), st.floats(1e-9, 1))
@example(-0.004, 0.001, 0.5)
def test_a_result_in_one_line_reads_back(points: float, width: float, p: float) -> None:
    """Its numbers, in order; a nought has no sign of its own."""
    bounds = points - width, points + width
    m = Measured("cells", "x", "a", "b", 50.0, 50.0 - points, "points", points, *bounds, p, 3)
    assert "-0.00" not in m.text.replace(f"{50 - points:.2f}", "")
    read = [float(word.strip("(),")) for word in m.text.split() if word.strip("(),")[-1].isdigit()]
    assert read[0] == pytest.approx(points, abs=0.0051)
    assert (read[3], read[4]) == pytest.approx(bounds, abs=0.0051)
    assert (read[5], read[6]) == (pytest.approx(p, rel=0.06), 3)


def test_files_are_the_same_bytes_again(make, public) -> None:
    world = make()
    one, two = (ledger.rows(Book(world.params)) for _ in range(2))
    assert ledger.to_csv(one) == ledger.to_csv(two)
    assert ledger.to_markdown(one, world.params) == ledger.to_markdown(two, world.params)


def test_markdown_shows_whose_data_and_every_topic(make, public) -> None:
    world = make()
    lines = ledger.rows(Book(world.params))
    text = ledger.to_markdown(lines, world.params)
    assert render.banner(world.params) in text
    for line in lines:
        assert f"| {render.plain(line.topic)} |" in text
    for m in (m for line in lines for m in line.measured):
        assert render.plain(m.text) in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {7, 9}


SIDES = [  # by hand, in order: our side, the side that is subtracted
    (
        "valid_as_test, all views: shared.images.train-valid",
        "mgca, all views: shared.images.train-valid",
    ),
    (
        "valid_as_test, frontal: shared.images.train-valid",
        "mgca, frontal: shared.images.train-valid",
    ),
    ("medim_protocols:medim:covidx_10", "medim_protocols:medim:covidx-released_10"),
    ("medim_protocols:medim:siim_10", "medim_protocols:medim:siim-released_10"),
    ("fractions, by image: shared.images.train-valid", "mgca: shared.images.train-valid"),
    ("fractions, by image: shared.images.train-test", "mgca: shared.images.train-test"),
    ("fractions, by image: shared.images.valid-test", "mgca: shared.images.valid-test"),
    ("fractions, by image: figures.cut_masks_test", "mgca: figures.cut_masks_test"),
    (
        "fractions, by image: figures.true_mask_dice_positive",
        "mgca: figures.true_mask_dice_positive",
    ),
    (
        "fractions, by patient: shared.patients.train-test",
        "fractions, by image: shared.patients.train-test",
    ),
    ("mrm: figures.positive_rate_valid", "fractions, by patient: figures.positive_rate_valid"),
    ("medim_table3:medim", "medim_table3:mgca"),
    ("medim_figure3_left:medim", "medim_figure3_left:medim-none"),
    ("medim_figure3_left:medim", "medim_figure3_left:medim-random"),
    ("medim_figure3_left:medim", "medim_figure3_left:medim-low"),
    ("medim_figure3_right:medim", "medim_figure3_right:medim-r25"),
    ("medim_figure3_right:medim", "medim_figure3_right:medim-r75"),
    ("medim_table3:medim", "medim_table3:medim-kwm"),
    ("medim_table3:medim-kwm", "medim_table3:mgca"),
    ("cmitm_table2:cmitm", "cmitm_table2:cmitm-joint"),
    ("cmitm_figure2:cmitm", "cmitm_figure2:cmitm-s1"),
    ("cmitm_figure2:cmitm", "cmitm_figure2:cmitm-nomitm"),
    ("cmitm_table2:cmitm", "cmitm_table2:cmitm-nodecoder"),
    ("cmitm_table2:cmitm", "cmitm_table2:cmitm-nomask"),
    ("cmitm_figure3:cmitm", "cmitm_figure3:cmitm-r25"),
    ("cmitm_figure3:cmitm", "cmitm_figure3:cmitm-r50"),
    ("medim_protocols:medim:chexpert_10", "medim_protocols:medim:chexpert-released_10"),
    ("dice_one of medim_table1:medim:siim_10 medim_table1:medim:siim_100", "dice_zero"),
    ("dice_one of medim_table1:medim:siim_10 medim_table1:medim:siim_100", "dice_positive"),
    ("dice_one of medim_table1:random:siim_10 medim_table1:random:siim_100", "dice_zero"),
    ("fractions, by image: figures.empty_prediction_dice", "mgca: figures.empty_prediction_dice"),
    ("medim_protocols:medim", "medim_protocols:medim-released"),
    ("medim_protocols:medim:chexpert_10", "medim_protocols:medim-released:chexpert-released_10"),
    ("medim_protocols:medim:covidx_10", "medim_protocols:medim-released:covidx-released_10"),
    ("medim_protocols:medim:siim_10", "medim_protocols:medim-released:siim-released_10"),
    ("medim_table1:mrm", "cmitm_table1:mrm"),
    ("medim_table1:mrm:chexpert_1", "cmitm_table1:mrm:chexpert_1"),
    ("medim_table1:mrm:chexpert_10", "cmitm_table1:mrm:chexpert_10"),
    ("medim_table1:mrm:chexpert_100", "cmitm_table1:mrm:chexpert_100"),
]


def test_the_sides_of_every_comparison_are_the_ones_that_its_text_names() -> None:
    """A sign or a cell that is swapped in ledger.yaml leaves every other test content."""

    def sides(m) -> tuple[str, str]:
        if m.kind == "public":
            return f"{m.ours.rule}: {m.ours.path}", f"{m.other.rule}: {m.other.path}"
        return m.ours + (f" of {' '.join(m.cells)}" if m.kind == "metric" else ""), m.other

    stated = [e for entries in switches.load().values() for e in entries]
    assert [sides(m) for e in stated for m in e.measured] == SIDES


def test_the_table_of_both_protocols_names_its_sides() -> None:
    layout = cells.layout_of("medim_protocols")
    assert {key: name.endswith(", released") for key, name in layout.datasets.items()} == {
        key: key.endswith("-released") for key in layout.datasets
    }
    assert dict(layout.names) == {"medim": "MedIM, paper", "medim-released": "MedIM, released"}
