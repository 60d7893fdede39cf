"""Figures: what they show equals the records, published points are the papers', all is readable."""

import csv
import io
import json
import math
import re
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import World
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from cxrmim import grid, plugins
from cxrmim.errors import CheckError
from cxrmim.report import cells, charts, published, render
from cxrmim.report.book import Book
from cxrmim.report.charts_bootstrap import expected

PROTOCOLS = Path(__file__).parents[3] / "shared" / "protocols.md"
REAL = {"scales": {"demo": {"manifest": {"source": "real"}}}}
CLASSES = ("Edema", "Pleural Effusion", "Pleural_Thickening")
FIGURES = plugins.names("figure")
SHOWING = {
    "demo": FIGURES,
    "trend": [n for n in FIGURES if hasattr(plugins.load("figure", n), "OF")],
}


def train(world: World, checkpoint: str, **over: Any) -> None:
    """A pretraining record with a curve; `over` replaces or, with None, drops its metrics."""
    entry = grid.entry_of(checkpoint).entry
    method, block = world.params.pretraining(entry)
    rng = np.random.default_rng(len(checkpoint))
    losses = {"total": 2.0, "pixels": 1.0, f"{method}_loss": 1.0}
    metrics: dict[str, Any] = {"images": 100, "steps": 0}
    if block.trains:
        curve = (5 * np.exp(-np.arange(50) / 20) + rng.random(50)).round(5).tolist()
        metrics |= {"steps": 176, "curve": curve, "losses": losses}
    metrics = {k: v for k, v in (metrics | over).items() if v is not None}
    world.write_data("pretrain", checkpoint, metrics)


def classify(world: World, run: grid.Run, **over: Any) -> None:
    """A record of a run with a mean AUC over `CLASSES`."""
    rng = np.random.default_rng(run.seed + 10 * run.percent + len(run.id))
    aucs = dict(zip(CLASSES, rng.random(len(CLASSES)).round(5).tolist(), strict=True))
    counts = dict(zip(CLASSES, (40, 3, 100), strict=True))
    metrics = {"metric": "mAUC", "per_class": aucs, "positives": counts}
    world.write(run, metrics | {"value": statistics.fmean(aucs.values())} | over)


@pytest.fixture
def filled(make):
    """A world whose pretrainings have curves, and whose CheXpert runs have classes."""

    def maker(scale: str = "demo", **options: Any) -> World:
        world = make(scale, **options)
        for item in grid.pretrainings(world.params):
            train(world, item.checkpoint)
        for run in grid.runs(world.params):
            if grid.reader(world.params, run.dataset) == "chexpert":
                classify(world, run)
        return world

    return maker


def drawn(world: World, name: str) -> Figure:
    """A figure as the build draws it; the canvas is laid out."""
    params = world.params
    with charts.style(params):
        out: Figure = plugins.load("figure", name).draw(Book(params))
        charts.label(out, render.banner(params))
        out.draw_without_rendering()
    return out


def rows(world: World, name: str) -> list[dict[str, str]]:
    """The csv of a figure that brings its own."""
    lines = plugins.load("figure", name).data(Book(world.params))
    return list(csv.DictReader(io.StringIO(render.csv_text(lines))))


def metrics(world: World, run: grid.Run) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(world.path(run).read_text())["metrics"]
    return held


def texts(figure: Figure) -> list[Text]:
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert found
    return found


# What is drawn can be read


@pytest.mark.parametrize("scale", SHOWING)
def test_every_figure_is_readable_at_its_width(filled, scale) -> None:
    world = filled(scale)
    for name in SHOWING[scale]:
        figure = drawn(world, name)
        assert figure.get_figwidth() in (charts.SINGLE, charts.DOUBLE)
        labels = ticks(figure)
        for text in texts(figure):
            assert text.get_fontsize() >= charts.LEAST, (name, text)
            if text not in labels:
                box, place = figure.bbox, text.get_window_extent()
                assert box.x0 - 1 <= place.x0 <= place.x1 <= box.x1 + 1, (name, text)
                assert box.y0 - 1 <= place.y0 <= place.y1 <= box.y1 + 1, (name, text)
        for axes in (axes for axes in figure.axes if axes.axison):
            low, high = sorted(axes.get_xlim())
            places = [
                label.get_window_extent()
                for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
                if low <= at <= high and label.get_text()
            ]
            for left, right in pairwise(sorted(places, key=lambda place: place.x0)):
                assert left.x1 <= right.x0, (name, axes.get_title())


def ticks(figure: Figure) -> set[Text]:
    """Tick labels; those out of their axis's range are placed but not drawn."""
    return {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels()
    }


def test_series_differ_in_shape_as_well_as_in_colour() -> None:
    looks = charts.looks([*charts.LOOKS, "toy", "another"])
    for part in ("colour", "marker", "line"):
        found = [str(getattr(look, part)) for look in looks.values()]
        if part == "marker":
            assert len(set(found)) == len(found)
    pairs = {(look.marker, str(look.line)) for look in looks.values()}
    assert len(pairs) == len(looks)


def test_the_same_records_are_the_same_bytes(filled, tmp_path) -> None:
    world = filled()
    for name in FIGURES:
        made = []
        for number in range(2):
            figure = drawn(world, name)
            paths = [tmp_path / f"{name}{number}.{suffix}" for suffix in ("svg", "png")]
            with charts.style(world.params):
                for path in paths:
                    charts.save(figure, path)
            made.append([path.read_bytes() for path in paths])
        assert made[0] == made[1], name


# Published points


def test_published_points_are_those_that_protocols_name() -> None:
    found = {
        (figure, entry): (point.option, point.value, sorted(point.values.items()))
        for figure in FIGURES
        for entry, point in published.points(figure).items()
    }
    full = [("chexpert", 89.25), ("covidx", 90.34), ("siim", 63.50)]
    cmitm = ("ratio", 0.75, [("covidx", 79.5), ("rsna", 91.6)])
    assert found == {
        ("medim_figure3_left", "medim"): ("ratio", 0.5, full),
        ("medim_figure3_right", "medim"): ("ratio", 0.5, full),
        ("cmitm_figure2", "cmitm"): cmitm,
        ("cmitm_figure3", "cmitm"): cmitm,
        ("cmitm_figure3", "cmitm-nomask"): ("ratio", 0.0, [("covidx", 77.0), ("rsna", 90.9)]),
    }
    if PROTOCOLS.is_file():
        said = PROTOCOLS.read_text().split("Figures. ")[1].split("\n")[0]
        for text in ("High@50 %", "(91.6/79.5)", "best 75 % (= 91.6/79.5", "90.9/77.0"):
            assert text in said


def test_no_number_of_a_figure_is_typed_twice() -> None:
    text = (published.FOLDER / "figure_points.csv").read_text()
    printed = {f"{v:g}" for n in ("medim_table3", "cmitm_table2") for v in values(n)}
    assert not printed & set(re.split(r"[,\n]", text))


def values(table: str) -> list[float]:
    return list(published.table(table).values.values())


def diamonds(figure: Figure) -> list[tuple[bool, float]]:
    """Hollow diamonds: whether their axes have a scale, and their height there."""
    return [
        (axes.axison, float(np.ravel(line.get_ydata())[0]))
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() == "D" and line.get_markerfacecolor() == "white"
    ]


@pytest.mark.parametrize("name", [n for n in FIGURES if published.points(n)])
@pytest.mark.parametrize("real", [False, True])
def test_published_points_share_an_axis_with_ours_on_real_data_only(filled, name, real) -> None:
    world = filled(over=REAL if real else {})
    figure, points = drawn(world, name), published.points(name).values()
    printed = sorted(v for point in points for v in point.values.values())
    on_axis = sorted(height for scaled, height in diamonds(figure) if scaled)
    assert on_axis == (printed if real else [])
    assert len([1 for scaled, _ in diamonds(figure) if not scaled]) == len(printed)
    decimals = cells.layout_of(name).decimals
    said = [text.get_text() for text in texts(figure)]
    for value in printed:
        assert f"{value:.{decimals}f}" in said
    assert sum(text.startswith("published") for text in said) == 1  # the legend
    assert any("not on our axis" in text for text in said) != real


@pytest.mark.parametrize(("ratio", "marked"), [(0.6, True), (0.75, False)])
def test_another_ratio_than_the_papers_is_said(filled, ratio, marked) -> None:
    cmitm = {"cmitm": {"options": {"ratio": ratio}}}
    world = filled(over={"scales": {"demo": {"pretrain": {"methods": cmitm}}}})
    said = [text.get_text() for text in texts(drawn(world, "cmitm_figure3"))]
    assert ("at 75%" in said) == marked
    assert any(text.startswith("at 75%: masking ratio of the paper") for text in said) == marked


def test_published_points_are_in_the_cells_of_a_figure(filled) -> None:
    table = cells.build(filled().params, "cmitm_figure3", cells.layout_of("cmitm_figure3"))
    found = {(r.entry, c.column.key): c.published for r in table.rows for c in r.cells}
    assert found["cmitm", "rsna"] == 91.6
    assert found["cmitm-r25", "rsna"] is None
    assert [r.entry for r in table.rows][:4] == ["cmitm-nomask", "cmitm-r25", "cmitm-r50", "cmitm"]


# Training curves


def test_training_curves_are_those_of_the_records(filled) -> None:
    world = filled()
    found = rows(world, "training_curves")
    held = {}
    for item in grid.pretrainings(world.params):
        record = json.loads(world.paths.record("pretrain", item.checkpoint).read_text())
        if "curve" in record["metrics"]:
            held[item.entry, str(item.seed)] = record["metrics"]["curve"]
    assert held
    assert {(line["entry"], line["seed"]) for line in found} == set(held)
    for key, curve in held.items():
        mine = [line for line in found if (line["entry"], line["seed"]) == key]
        assert [float(line["loss"]) for line in mine] == pytest.approx(curve, rel=1e-5)
        steps = [float(line["step"]) for line in mine]
        assert steps == pytest.approx([176 / 50 * (k + 0.5) for k in range(50)])


def test_losses_of_other_terms_stand_in_other_panels(filled) -> None:
    world = filled()
    train(world, "medim-kwm-s0", losses={"total": 1.0, "kwm": 1.0})
    figure = drawn(world, "training_curves")
    panels = [
        {text.get_text() for text in axes.get_legend().get_texts()}
        for axes in figure.axes
        if axes.get_legend()
    ]
    assert {"medim-kwm"} in panels
    assert any({"medim", "medim-low"} <= panel for panel in panels)
    assert "imagenet (stand-in)" in set().union(*panels)


FORGED = {
    "curve": (None, [], "none", [1.0, math.nan], [1.0, math.inf], [1.0, "2"], [True], [1.0] * 177),
    "steps": (None, 0, -1, 176.0, True, "176"),
    "losses": (None, [], {"pixels": 1.0}),
}


def test_a_forged_curve_is_an_error_that_names_file_and_key(filled) -> None:
    world = filled()
    for key, value in ((k, v) for k, vs in FORGED.items() for v in vs):
        train(world, "mgca-s0", **{key: value})
        where = re.escape(str(world.paths.record("pretrain", "mgca-s0"))) + rf": metrics\.{key}"
        with pytest.raises(CheckError, match=where):
            rows(world, "training_curves")


def test_a_curve_of_another_record_is_an_error(filled) -> None:
    world = filled()
    path = world.paths.record("pretrain", "mgca-s0")
    for key in ("kind", "id", "scale", "source"):
        train(world, "mgca-s0")
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: "other"}))
        with pytest.raises(CheckError, match=rf"mgca-s0\.json: {key} is 'other'"):
            drawn(world, "training_curves")
    path.unlink()
    with pytest.raises(CheckError, match=r"mgca-s0\.json"):
        drawn(world, "training_curves")


# Label efficiency


@pytest.mark.parametrize("scale", SHOWING)
def test_label_efficiency_is_that_of_the_records(filled, scale) -> None:
    world = filled(scale)
    found = rows(world, "label_efficiency")
    assert {line["table"] for line in found} == {
        n for n in plugins.load("figure", "label_efficiency").OF if n in world.params.grid
    }
    measured = [line for line in found if line["state"] == "measured"]
    assert measured
    for line in measured:
        if line["row"].startswith(grid.BASELINE):
            continue
        runs = world.cell_runs(line["table"], line["row"], line["dataset"], int(line["percent"]))
        held = [100 * metrics(world, run)["value"] for run in runs]
        assert float(line["mean"]) == pytest.approx(statistics.fmean(held), abs=0.006)
        assert float(line["sd"]) == pytest.approx(statistics.stdev(held), abs=0.006)
        assert int(line["n"]) == len(runs)


def test_published_curves_have_axes_of_their_own(filled) -> None:
    for axes in drawn(filled(), "label_efficiency").axes:
        hollow = [line.get_markerfacecolor() == "white" for line in axes.lines]
        assert all(hollow) or not any(hollow)


# AUC by class


@pytest.mark.parametrize("scale", SHOWING)
def test_aucs_by_class_are_those_of_the_records(filled, scale) -> None:
    world = filled(scale)
    found = rows(world, "per_class_auc")
    table = "medim_table1" if scale == "demo" else "trend"
    assert {line["table"] for line in found} == {table} | (
        {"cmitm_table1"} & set(world.params.grid)
    )
    assert {line["percent"] for line in found} == {"100"}
    for line in found:
        if line["row"].startswith(grid.BASELINE):
            continue
        runs = world.cell_runs(line["table"], line["row"], line["dataset"], 100)
        held = [100 * metrics(world, run)["per_class"][line["class"]] for run in runs]
        assert float(line["mean"]) == pytest.approx(statistics.fmean(held), abs=0.006)
        assert float(line["sd"]) == pytest.approx(statistics.stdev(held), abs=0.006)
        assert int(line["positives"]) == metrics(world, runs[0])["positives"][line["class"]]
    entries = {line["row"] for line in found if line["table"] == table}
    assert {"medim", "mgca", "baseline-pixels"} <= entries
    assert len(found) % len(CLASSES) == 0


BAD_CLASSES = {
    "per_class": (
        None,
        [],
        {"Edema": 0.5},
        dict.fromkeys(CLASSES, 1.5),
        dict.fromkeys(CLASSES, "1"),
    ),
    "positives": (None, 7, dict.fromkeys(CLASSES, -1), dict.fromkeys(CLASSES, 1)),
}


def test_forged_classes_are_an_error(filled) -> None:
    world = filled()
    run = world.cell_runs("medim_table1", "medim", "chexpert", 100)[-1]
    for key, value in ((k, v) for k, vs in BAD_CLASSES.items() for v in vs):
        classify(world, run, **{key: value})
        with pytest.raises(CheckError, match=re.escape(f"{run.id}.json: metrics.{key}")):
            rows(world, "per_class_auc")


def test_a_scale_without_classes_says_so(make) -> None:
    world = make()
    assert rows(world, "per_class_auc") == []
    (text,) = (t for t in texts(drawn(world, "per_class_auc")) if "PHANTOM" not in t.get_text())
    assert "mean AUC" in text.get_text()


# Reliability of the bootstrap


def test_halves_are_those_of_the_records(filled) -> None:
    world = filled()
    found = {x["of"]: x for x in rows(world, "bootstrap_reliability") if x["part"] == "halves"}
    checked = 0
    for run in grid.runs(world.params):
        held = np.array(metrics(world, run).get("replicates", []))
        name = f"{run.id}:value"
        if run.task == "attend" or np.std(held) == 0 or name not in found:
            continue
        half = len(held) // 2
        assert float(found[name]["x"]) == pytest.approx(100 * held[:half].std(ddof=1), rel=1e-3)
        assert float(found[name]["y"]) == pytest.approx(100 * held[half:].std(ddof=1), rel=1e-3)
        checked += 1
    assert checked > 50


def test_spreads_over_seeds_and_images_are_those_of_the_cells(filled) -> None:
    world = filled()
    found = {x["of"]: x for x in rows(world, "bootstrap_reliability") if x["part"] == "seeds"}
    runs = world.cell_runs("medim_table1", "medim", "chexpert", 10)
    held = [metrics(world, run) for run in runs]
    line = found["medim_table1:medim:chexpert_10"]
    assert float(line["x"]) == pytest.approx(
        100 * statistics.stdev(h["value"] for h in held), rel=1e-3
    )
    drawn_ = np.mean([h["replicates"] for h in held], axis=0)
    assert float(line["y"]) == pytest.approx(100 * drawn_.std(ddof=1), rel=1e-3)


def test_constant_predictors_are_left_out_and_counted(filled) -> None:
    world = filled()
    (run,) = grid.runs_of_cell(
        world.params, "baseline-prior", world.params.grid["medim_table1"].cells[0], 10
    )
    before = drawn(world, "bootstrap_reliability")
    assert not any("Left out: 1 " in t.get_text() for t in texts(before))
    count = world.params.downstream.bootstrap
    classify(world, run, value=0.5, replicates=[0.5] * count)
    after = drawn(world, "bootstrap_reliability")
    assert any("Left out: 1 " in t.get_text() for t in texts(after))
    assert f"{run.id}:value" not in {x["of"] for x in rows(world, "bootstrap_reliability")}


@given(st.integers(20, 10**6))
def test_the_expected_error_is_that_of_the_normal_quantile(replicates) -> None:
    normal = statistics.NormalDist()
    z = normal.inv_cdf(0.975)
    error = math.sqrt(0.025 * 0.975 / replicates) / normal.pdf(z) / z
    assert expected(replicates) == pytest.approx(100 * error, rel=1e-5)


# Credentialed data


def test_figures_of_real_data_show_no_image(filled) -> None:
    world = filled(over=REAL)
    for name in FIGURES:
        figure = drawn(world, name)
        assert not any(axes.images for axes in figure.axes), name
    said = " ".join(text.get_text() for text in texts(drawn(world, "medim_figure2")))
    assert "credentialed" in said
    assert rows(world, "medim_figure2") == []


def test_masked_patches_are_black_and_outlined(filled) -> None:
    world = filled()
    figure = drawn(world, "medim_figure2")
    (run,) = world.cell_runs("medim_figure2", "medim", "mimic", 100)
    details = json.loads(world.path(run).read_text())["details"]
    patch = details["side"] // details["grid"]
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 5 * len(details["pairs"])
    for number, pair in enumerate(details["pairs"]):
        for column, key in ((2, "kwm"), (4, "sdm")):
            axes = panels[5 * number + column]
            image = np.asarray(axes.images[0].get_array())
            masked = np.reshape(pair[f"mask_{key}"], (details["grid"],) * 2)
            hidden = np.kron(masked, np.ones((patch, patch))) > 0
            assert not image[hidden].any()
            assert image[~hidden].any()
            assert len(axes.collections) == 1


def test_a_bar_is_one_standard_deviation_each_way(filled) -> None:
    world = filled()
    figure = drawn(world, "medim_figure3_left")
    table = cells.build(world.params, "medim_figure3_left", cells.layout_of("medim_figure3_left"))
    wanted = {
        round(200 * cell.sd, 6) for row in table.rows for cell in row.cells if cell.sd is not None
    }
    bars = [part for axes in figure.axes for part in axes.containers]
    found = {
        round(float(np.ptp(segment[:, 1])), 6)
        for bar in bars
        for lines in bar.lines[2]
        for segment in lines.get_segments()
    }
    assert found - {0.0} == wanted - {0.0} != set()


def test_the_dashed_line_is_the_best_trivial_baseline(filled) -> None:
    from cxrmim.report import charts_cells

    params = filled().params
    table = cells.build(params, "medim_figure3_left", cells.layout_of("medim_figure3_left"))
    several = 0
    for index in range(len(table.columns)):
        means = [row.cells[index].mean for row in table.rows if row.baseline]
        known = [mean for mean in means if mean is not None]
        several += len(set(known)) > 1
        best = charts_cells._baseline(table, index)
        assert (best[1] if best else None) == max(known, default=None)
    assert several
