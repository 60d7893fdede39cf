"""Baselines, retrieval and attention as tasks, and the tasks' plug-in contract."""

import base64
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tests.downstream.conftest import Workspace

from cxrmim import grid, plugins
from cxrmim.downstream import baselines, pairs, runs
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.recompute import Draws
from cxrmim.downstream.tasks import attend, probe, retrieve, segment
from cxrmim.errors import DataError, ParamsError
from cxrmim.params import Params
from cxrmim.pretrain.contract import Batch, NoTextError
from cxrmim.pretrain.parts.words import collate

DRAWS = Draws("a/b", 20)


@pytest.mark.parametrize("name", plugins.names("task"))
def test_options_are_the_keys_of_params(name: str, demo: Params, paper: Params) -> None:
    for params in (demo, paper):
        block = getattr(params.downstream, name)
        model = plugins.load("task", name).Options
        assert set(model.model_fields) == set(block)
        model.model_validate(block)


def test_tasks_and_baselines_import_without_torch() -> None:
    """A dry run, a recount of metrics and most baselines must not pay for it."""
    modules = [f"cxrmim.downstream.tasks.{name}" for name in plugins.names("task")]
    modules += ["cxrmim.downstream.runs", "cxrmim.downstream.__main__"]
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_prior_scores_one_half(bench: Bench) -> None:
    result = runs.predict(grid.Run("baseline-prior", "chexpert", "probe", 10, 0), bench)
    found = probe.measure(result.predictions, {}, DRAWS)
    assert found["value"] == 0.5
    assert set(found["per_class"].values()) == {0.5}
    assert set(found["replicates"]) == {0.5}


def test_pixels_find_what_is_in_the_pixels(bench: Bench) -> None:
    few, many = (
        probe.measure(
            runs.predict(grid.Run("baseline-pixels", "chexpert", "probe", p, 0), bench).predictions,
            {},
            DRAWS,
        )["value"]
        for p in (10, 100)
    )
    assert many > 0.8
    assert many > few > 0.5


def test_pixels_fall_back_to_the_prior(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = bench.labels("chexpert").copy()
    labels[bench.rows("chexpert", "train"), 1] = 0
    monkeypatch.setattr(bench, "labels", lambda _: labels)
    result = runs.predict(grid.Run("baseline-pixels", "chexpert", "probe", 100, 0), bench)
    assert result.predictions["score_Cardiomegaly"].std() == 0
    assert "Cardiomegaly" not in result.details["C"]


@pytest.mark.parametrize("name", ["prior", "pixels"])
def test_baselines_of_single_label_sets(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[rng.choice(3, 160, p=[0.6, 0.2, 0.2])]
    monkeypatch.setattr(bench, "labels", lambda _: labels)
    monkeypatch.setattr(bench, "classes", lambda _: ("a", "b", "c"))
    monkeypatch.setattr(bench, "multiclass", lambda _: True)
    for checkpoint in (f"baseline-{name}", "random-s0"):
        result = runs.predict(grid.Run(checkpoint, "chexpert", "probe", 100, 0), bench)
        found = probe.measure(result.predictions, {}, DRAWS)
        assert found["metric"] == "accuracy"
        if checkpoint == "baseline-prior":
            assert found["value"] == (result.predictions["class"] == 0).mean()


def test_predicting_nothing_scores_the_share_of_negatives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = np.zeros((72, 56, 56), np.uint8)
    test = bench.rows("siim", "test")
    masks[test[:4], 20:30, 20:30] = 255
    monkeypatch.setattr(bench, "masks", lambda _: masks)
    monkeypatch.setattr(bench, "rows", lambda *_: test[:16])
    result = runs.predict(grid.Run("baseline-empty", "siim", "segment", 100, 0), bench)
    found = segment.measure(result.predictions, {"empty": "one", "threshold": 0.5}, DRAWS)
    assert found["value"] == found["dice_one"] == 0.75
    assert (found["dice_zero"], found["dice_positive"], found["predicted"]) == (0.0, 0.0, 0)
    assert found["auc"] == 0.5
    zero = {"empty": "zero", "threshold": 0.5}
    assert segment.measure(result.predictions, zero, DRAWS)["value"] == 0.0


def test_chance_is_k_over_the_pool(bench: Bench) -> None:
    result = runs.predict(grid.Run("baseline-chance", "mimic", "retrieve", 100, 0), bench)
    found = retrieve.measure(result.predictions, {}, DRAWS)
    pool = len(bench.rows("mimic", "test"))
    for k in (1, 5, 10):
        assert found[f"t2i_r{k}"] == pytest.approx(k / pool)
        assert found[f"i2t_r{k}"] == pytest.approx(k / pool)


def test_an_unknown_baseline_is_named(bench: Bench) -> None:
    with pytest.raises(ParamsError, match=r"downstream.baselines.probe: no baseline 'luck'"):
        runs.predict(grid.Run("baseline-luck", "chexpert", "probe", 100, 0), bench)


@pytest.mark.parametrize("side", [32, 56, 50])
def test_shrinking_averages_by_area(side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, side, side)).astype(np.uint8)
    small = baselines.shrink(images, np.array([2, 0]))
    assert small.shape == (2, 256)
    edges = np.linspace(0, side, 17).round().astype(int)
    cell = images[2, edges[3] : edges[4], edges[15] : edges[16]].mean() / 255
    assert small[0, 3 * 16 + 15] == pytest.approx(cell)


@pytest.mark.parametrize("task", ["retrieve", "attend"])
def test_a_method_without_text_is_named(bench: Bench, task: str) -> None:
    with pytest.raises(NoTextError, match=r"^random-s0: cannot"):
        runs.predict(grid.Run("random-s0", "mimic", task, 100, 0), bench)


def test_a_dataset_without_reports_or_masks_is_named(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"^siim: "):
        runs.predict(grid.Run("medim-s0", "siim", "retrieve", 100, 0), bench)
    with pytest.raises(DataError, match=r"^mimic: "):
        runs.predict(grid.Run("medim-s0", "mimic", "segment", 100, 0), bench)


def test_retrieval_measures_both_ways(bench: Bench) -> None:
    result = runs.predict(grid.Run("mgca-s0", "mimic", "retrieve", 100, 0), bench)
    found = retrieve.measure(result.predictions, {}, DRAWS)
    names = [f"{way}_r{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]
    assert found["value"] == found["i2t_r10"]
    assert all(0 <= found[name] <= 1 for name in names)
    assert found["t2i_r1"] <= found["t2i_r5"] <= found["t2i_r10"]
    assert set(found["replicates_of"]) == set(names) - {"i2t_r10"}


@pytest.mark.parametrize("options", [{"size": 6}, {"duplicates": "merge"}])
def test_chance_has_the_pool_of_the_methods(workspace: Workspace, options: dict) -> None:
    bench = Bench(workspace.changed(retrieve=options).params)
    frames = [
        runs.predict(grid.Run(checkpoint, "mimic", "retrieve", 100, 0), bench).predictions
        for checkpoint in ("baseline-chance", "mgca-s0")
    ]
    assert frames[0]["image"].tolist() == frames[1]["image"].tolist()
    assert len(frames[0]) < len(bench.rows("mimic", "test"))
    found = retrieve.measure(frames[0], {}, DRAWS)
    assert found["i2t_r5"] == pytest.approx(5 / len(frames[0]))


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("task", ["retrieve", "attend"])
def test_captions_are_cut_into_words_as_the_method_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, task: str, released: bool
) -> None:
    asked = []

    def spy(*args: object, released: bool = False) -> object:
        asked.append(released)
        return collate(*args, released=released)

    kind = type(bench.method("medim-s0"))
    monkeypatch.setattr(kind, "released_words", property(lambda _: released))
    monkeypatch.setattr("cxrmim.pretrain.parts.words.collate", spy)
    runs.predict(grid.Run("medim-s0", "mimic", task, 100, 0), bench)
    assert asked and set(asked) == {released}


def test_attention_covers_the_figure(bench: Bench) -> None:
    result = runs.predict(grid.Run("medim-s0", "mimic", "attend", 100, 0), bench)
    frame, grid_size = result.predictions, result.details["grid"]
    assert (len(frame), grid_size, result.details["side"]) == (3, 3, 48)
    for _, row in frame.iterrows():
        assert len(row["words"]) == len(row["mesh"]) == len(row["chosen"])
        assert 0 < sum(row["chosen"]) < len(row["words"])
        for name in ("kwm", "sdm"):
            assert len(row[f"attention_{name}"]) == grid_size**2
            assert sum(row[f"mask_{name}"]) == grid_size**2 // 2
            mask = np.array(row[f"mask_{name}"])
            attention = np.array(row[f"attention_{name}"])
            assert attention[mask].min() >= attention[~mask].max()
    shown = result.details["pairs"][0]
    maps = {f"{kind}_{name}" for kind in ("attention", "mask") for name in ("kwm", "sdm")}
    assert set(shown) == {"words", "mesh", "chosen", "pixels"} | maps  # what the report reads
    assert base64.b64decode(shown["pixels"]) == frame["pixels"][0]
    assert len(frame["pixels"][0]) == 48 * 48
    found = attend.measure(frame, {}, DRAWS)
    assert 4 / 9 <= found["value"] <= 1


def test_attention_of_one_sentence_is_that_sentences(bench: Bench) -> None:
    """SDM's map is that of the sentence flagged in the predictions."""
    run = grid.Run("medim-s0", "mimic", "attend", 100, 0)
    frame = runs.predict(run, bench).predictions
    table = bench.shards("mimic").table.read()
    rows = np.array([table.index[table["source_row"] == s][0] for s in frame["source_row"]])
    reports, report = bench.reports("mimic")
    text = collate(reports, report[rows])
    image = bench.view("medim-s0")(torch.from_numpy(np.array(bench.shards("mimic").images[rows])))
    with torch.no_grad():
        aligned = bench.method("medim-s0").align(Batch(image, text))
    for i, chosen in enumerate(frame["chosen"]):
        flags = torch.tensor(chosen)
        want = aligned.attention[i][: len(flags)][flags].sum(0)
        np.testing.assert_allclose(frame["attention_sdm"][i], want.numpy(), atol=2e-5)


def test_credentialed_pairs_stay_out_of_the_record(workspace: Workspace) -> None:
    manifest = workspace.params.manifest.model_copy(update={"source": "real"})
    params = workspace.params.model_copy(update={"manifest": manifest})
    details = runs.predict(grid.Run("medim-s0", "mimic", "attend", 100, 0), Bench(params)).details
    assert "pairs" not in details
    assert "withheld" in details["note"]


def test_masked_share_of_flat_attention_is_the_masked_area() -> None:
    frame = pd.DataFrame(
        {"attention_kwm": [[0.25] * 4, [0.0] * 4], "mask_kwm": [[True, False] * 2] * 2}
    )
    assert attend.measure(frame, {}, DRAWS)["value"] == 0.5
    peak = pd.DataFrame({"attention_kwm": [[1.0, 0, 0, 0]], "mask_kwm": [[True] + [False] * 3]})
    assert attend.measure(peak, {}, DRAWS)["value"] == 1.0


def test_the_richest_reports_are_shown(bench: Bench) -> None:
    reports, report = bench.reports("mimic")
    offered = report[bench.rows("mimic", "test")]
    chosen = pairs.choose(reports, offered, 4)
    assert len({tuple(p.words) for p in chosen}) == 4
    assert chosen == pairs.choose(reports, offered, 4)
    hits = [pairs._hits(p.words, p.mesh, p.sentences) for p in chosen]
    assert all(len(h) >= pairs.SENTENCES for h in hits)
    assert [sum(h.values()) for h in hits] == sorted((sum(h.values()) for h in hits), reverse=True)
    assert all(h[p.sentence] == max(h.values()) for h, p in zip(hits, chosen, strict=True))
    with pytest.raises(DataError, match="attend"):
        pairs.choose(reports, offered[:0], 1)


def test_words_are_spelled_from_their_pieces() -> None:
    pieces = {1: "[CLS]", 5: "cardio", 6: "##megaly", 7: "mild", 2: "[SEP]"}
    assert pairs.spell([1, 7, 5, 6, 2], [-1, 0, 1, 1, -1], pieces) == ["mild", "cardiomegaly"]


def test_negated_mesh_words_do_not_count() -> None:
    words = ["no", "effusion", "large", "effusion"]
    assert pairs._hits(words, [False, True, False, True], [0, 0, 1, 1]) == {0: 0, 1: 1}
