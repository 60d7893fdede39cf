"""Metrics against scikit-learn and cases worked out by hand."""

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, roc_auc_score

from cxrmim import grid, plugins
from cxrmim.downstream import metrics, recompute, rle
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import masks, scores, truths
from cxrmim.downstream.tasks import probe, segment
from cxrmim.errors import DataError

DRAWS = Draws("set/task", 20)


def identity(count: int) -> pd.DataFrame:
    names = [str(i) for i in range(count)]
    return pd.DataFrame({"image": names, "patient": names, "source_row": range(count)})


def test_mean_auc_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 3)) < 0.4).astype(np.float32)
    score = np.round(rng.normal(size=(80, 3)) + truth, 1)
    found = probe.measure(scores(identity(80), "abc", truth, score, False), {}, DRAWS)
    assert found["metric"] == "mAUC"
    assert found["value"] == pytest.approx(
        roc_auc_score(truth, score.astype(np.float32), average="macro"), abs=1e-12
    )
    assert list(found["per_class"]) == ["a", "b", "c"]


def test_accuracy_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    real = rng.integers(0, 4, 60)
    score = np.round(rng.normal(size=(60, 4)) + 2 * np.eye(4)[real], 3)
    truth = np.eye(4, dtype=np.float32)[real]
    found = probe.measure(scores(identity(60), "abcd", truth, score, True), {}, DRAWS)
    assert found["value"] == accuracy_score(real, score.argmax(axis=1))
    recalls = [accuracy_score(real[real == k], score[real == k].argmax(axis=1)) for k in range(4)]
    assert list(found["per_class"].values()) == pytest.approx(recalls, abs=1e-12)


@settings(max_examples=60)
@given(
    truth=arrays(np.bool_, 12).filter(lambda t: t.any() and not t.all()),
    score=arrays(np.int64, 12, elements=st.integers(-50, 50)),
    scale=st.floats(0.1, 10),
)
def test_auc_depends_on_the_order_of_scores_alone(
    truth: np.ndarray, score: np.ndarray, scale: float
) -> None:
    """A monotone map keeps it, its mirror image is the rest to one, and ties count a half."""

    def auc(values: np.ndarray) -> float:
        return metrics.auc_per_class(truth[:, None].astype(float), values[:, None], "a", "")["a"]

    first = auc(score.astype(float))
    assert auc(np.exp(score * scale / 50)) == pytest.approx(first, abs=1e-12)
    assert auc(score.astype(float) ** 3 - 7) == pytest.approx(first, abs=1e-12)
    assert auc(-score.astype(float)) == pytest.approx(1 - first, abs=1e-12)
    wins = [
        Fraction(int(p > q)) + Fraction(int(p == q), 2) for p in score[truth] for q in score[~truth]
    ]
    assert first == pytest.approx(float(sum(wins) / len(wins)), abs=1e-12)
    assert metrics.separation(truth[:, None].astype(float), score[:, None], False) == first


def test_auc_by_hand() -> None:
    truth = np.array([[1], [1], [0], [0]], float)
    score = np.array([[3], [1], [1], [0]], float)  # 3 wins, 1 tie of 4 comparisons
    assert metrics.auc_per_class(truth, score, ["a"], "")["a"] == 3.5 / 4


def test_unknown_labels_are_left_out() -> None:
    truth = np.array([[1], [math.nan], [0], [0]])
    score = np.array([[0.5], [9], [0.2], [0.7]])
    assert metrics.auc_per_class(truth, score, ["a"], "")["a"] == 0.5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_class_absent_from_the_test_set_is_named_in_one_line(value: float) -> None:
    truth = np.array([[0, value], [1, value]])
    with pytest.raises(DataError, match=r"^set/task, test: class Rare has no \w+ image") as error:
        probe.measure(scores(identity(2), ["Common", "Rare"], truth, truth, False), {}, DRAWS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_have_no_metric(value: float) -> None:
    """They are refused by name, in one line, and never ranked."""
    truth = np.array([[0, 1], [1, 0], [1, 1]], np.float32)
    score = np.array([[0.1, 0.2], [0.5, 0.1], [0.3, value]])
    with pytest.raises(DataError, match=r"^set/task, test: score of Rare: 1 of 3 are NaN or") as e:
        probe.measure(scores(identity(3), ["Common", "Rare"], truth, score, False), {}, DRAWS)
    assert "\n" not in str(e.value)
    frame = masks(identity(3), *np.zeros((2, 3, 4, 4), bool), score[:, 1])
    with pytest.raises(DataError, match=r"^set/task, test: score: 1 of 3"):
        segment.measure(frame, {"empty": "one", "threshold": 0.5}, DRAWS)
    run = grid.Run("random-s0", "set", "probe", 1, 0)
    for multiclass in (False, True):
        frame = scores(identity(3), ["Common", "Rare"], truth, score, multiclass)
        with pytest.raises(DataError, match=rf"^{run.id}: test set's score_Rare: 1 of 3"):
            recompute.check(run, frame)


def test_unknown_truth_is_no_broken_score() -> None:
    truth = np.array([[0], [1], [math.nan]], np.float32)
    frame = scores(identity(3), ["a"], truth, np.array([[0.0], [1], [2]]), False)
    recompute.check(grid.Run("random-s0", "set", "probe", 1, 0), frame)
    assert probe.measure(frame, {}, DRAWS)["value"] == 1


def test_classes_come_in_the_order_of_the_protocols() -> None:
    """protocols.md 1: CheXpert's five and NIH's fourteen, which every file and table keeps."""
    five = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    fourteen = [
        *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule"),
        *("Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis"),
        *("Pleural_Thickening", "Hernia"),
    ]
    assert list(plugins.load("dataset", "chexpert").LABELS) == five
    spelled = [name.replace(" ", "_") for name in plugins.load("dataset", "nih").LABELS]
    assert spelled == fourteen
    rng = np.random.default_rng(0)
    truth = (rng.random((40, 14)) < 0.5).astype(np.float32)
    frame = scores(identity(40), fourteen, truth, rng.normal(size=(40, 14)), False)
    assert [c for c in frame if c.startswith("score_")] == [f"score_{n}" for n in fourteen]
    assert truths(frame)[0] == fourteen
    assert list(probe.measure(frame, {}, DRAWS)["per_class"]) == fourteen


def test_separation_leaves_out_classes_that_a_small_set_lacks() -> None:
    truth = np.array([[1, 0, 1], [1, 0, np.nan], [0, 0, 1], [0, 0, 0]], np.float32)
    score = np.array([[3, 5, 2], [1, 4, 9], [1, 3, 0], [0, 2, 1]], np.float32)
    # by hand: 3.5 of 4 comparisons; no positive; 1 of 2 with the unknown left out
    assert metrics.separation(truth, score, False) == pytest.approx((3.5 / 4 + 1 / 2) / 2)
    assert metrics.separation(truth[:, 1:2], score[:, 1:2], False) is None
    one_hot = np.eye(3, dtype=np.float32)
    assert metrics.separation(one_hot, np.roll(one_hot, 1, axis=0), True) == 0
    assert metrics.separation(one_hot, one_hot[[0, 1, 1]], True) == pytest.approx(2 / 3)


def test_single_label_sets_score_accuracy() -> None:
    truth = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    score = np.eye(3)[[0, 1, 1, 2]]
    found = probe.measure(scores(identity(4), "abc", truth, score, True), {}, DRAWS)
    assert (found["metric"], found["value"]) == ("accuracy", 0.75)
    assert found["per_class"] == {"a": 1.0, "b": 1.0, "c": 0.5}


def dice(predicted: np.ndarray, truth: np.ndarray, empty: str) -> dict:
    frame = masks(identity(len(truth)), predicted, truth)
    return segment.measure(frame, {"empty": empty, "threshold": 0.5}, DRAWS)


def test_dice_by_hand() -> None:
    truth, predicted = np.zeros((4, 8, 8), bool), np.zeros((4, 8, 8), bool)
    truth[0, :4], predicted[0, 2:6] = True, True  # half of each overlaps: 0.5
    predicted[1, 0, 0] = True  # false alarm: 0
    truth[2, 0] = True  # missed: 0; the fourth is empty on both sides
    assert dice(predicted, truth, "one")["value"] == (0.5 + 0 + 0 + 1) / 4
    assert dice(predicted, truth, "zero")["value"] == 0.5 / 4
    found = dice(predicted, truth, "one")
    assert (found["dice_one"], found["dice_zero"]) == (1.5 / 4, 0.5 / 4)
    assert (found["dice_positive"], found["positives"], found["predicted"]) == (0.25, 2, 2)


def test_dice_is_the_f1_score_of_pixels() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.random((2, 5, 9, 9)) < 0.4
    each = [f1_score(t.ravel(), p.ravel()) for t, p in zip(truth, predicted, strict=True)]
    assert dice(predicted, truth, "one")["value"] == pytest.approx(np.mean(each), abs=1e-12)


@settings(max_examples=60)
@given(
    truth=arrays(np.bool_, (3, 4, 4)),
    predicted=arrays(np.bool_, (3, 4, 4)),
    empty=st.sampled_from(["one", "zero"]),
)
def test_dice_is_symmetric_and_a_share(
    truth: np.ndarray, predicted: np.ndarray, empty: str
) -> None:
    overlap, area, real = ((m).sum(axis=(1, 2)) for m in (truth & predicted, predicted, truth))
    there, back = (metrics.dice(overlap, *two, empty) for two in ((area, real), (real, area)))
    assert (there == back).all()
    assert ((there >= 0) & (there <= 1)).all()
    whole = metrics.dice(real, real, real, "one")
    assert (whole == 1).all()
    for k in np.flatnonzero(area + real):
        iou = jaccard_score(truth[k].ravel(), predicted[k].ravel())
        assert there[k] == pytest.approx(2 * iou / (1 + iou), abs=1e-12)


def test_a_mask_keeps_its_highest_probability() -> None:
    """So that two runs that predict no mask are told apart, and images can be ranked."""
    truth = np.zeros((4, 4, 4), bool)
    truth[:2, 1, 1] = True
    frame = masks(identity(4), np.zeros_like(truth), truth, np.array([0.4, 0.2, 0.3, 0.1]))
    assert frame["score"].dtype == np.float32
    found = segment.measure(frame, {"empty": "one", "threshold": 0.5}, DRAWS)
    assert (found["auc"], found["threshold"], found["predicted"]) == (3 / 4, 0.5, 0)
    without = masks(identity(4), np.zeros_like(truth), truth)
    assert without["score"].tolist() == [0] * 4
    assert segment.measure(without, {"empty": "one", "threshold": 0.5}, DRAWS)["auc"] == 0.5


def test_a_test_set_without_any_finding() -> None:
    nothing = np.zeros((3, 4, 4), bool)
    assert dice(nothing, nothing, "one")["auc"] is None
    assert dice(~nothing, ~nothing, "one")["auc"] is None
    assert dice(nothing, nothing, "one")["value"] == 1.0
    assert dice(nothing, nothing, "zero")["value"] == 0.0
    assert dice(nothing, nothing, "one")["dice_positive"] is None


def test_recall_shares_ties_evenly() -> None:
    above, tied, own = (np.array(x) for x in ([0, 2, 0, 0], [0, 0, 9, 3], [1, 1, 1, 2]))
    assert metrics.recall_at(1, above, tied, own) == pytest.approx([1, 0, 0.1, 0.4])
    assert metrics.recall_at(3, above, tied, own) == pytest.approx([1, 1, 0.3, 1 - 1 / 10])
    assert metrics.recall_at(10, above, tied, own) == pytest.approx([1, 1, 1, 1])


def test_recall_with_several_own_candidates_is_hypergeometric() -> None:
    for tied, own, k in [(5, 3, 2), (20, 7, 5), (0, 4, 1), (3, 1, 10)]:
        want = 1 - math.comb(tied, k) / math.comb(tied + own, k) if k <= tied + own else 1.0
        found = metrics.recall_at(k, np.array([0]), np.array([tied]), np.array([own]))
        assert found[0] == pytest.approx(want, abs=1e-12)


@settings(max_examples=60)
@given(
    above=st.integers(0, 3), tied=st.integers(0, 3), own=st.integers(1, 3), below=st.integers(0, 2)
)
def test_recall_is_the_mean_over_all_orders_of_ties(
    above: int, tied: int, own: int, below: int
) -> None:
    """And grows with k, to certainty at the end of the list."""
    orders = set(permutations([False] * tied + [True] * own))
    found = []
    for k in range(1, above + tied + own + below + 1):
        hits = [any(([False] * above + list(order) + [False] * below)[:k]) for order in orders]
        value = metrics.recall_at(k, *(np.array([n]) for n in (above, tied, own)))[0]
        assert value == pytest.approx(sum(hits) / len(hits), abs=1e-12)
        found.append(value)
    assert found == sorted(found)
    assert found[-1] == 1


def test_run_lengths_come_back() -> None:
    rng = np.random.default_rng(2)
    for mask in [*(rng.random((6, 7, 5)) < 0.5), np.ones((7, 5), bool), np.zeros((7, 5), bool)]:
        assert (rle.decode(rle.encode(mask), 7, 5) == mask).all()


def test_run_lengths_are_siims() -> None:
    mask = np.zeros((4, 3), bool)
    mask[1:3, 0] = mask[3, 1] = mask[0, 2] = True  # down the columns: 1-2, then 7-8
    assert rle.encode(mask) == "1 2 4 2"
    assert rle.encode(np.zeros((4, 3), bool)) == "-1"
    for bad in ("1 2 3", "5 9"):
        with pytest.raises(ValueError, match="run"):
            rle.decode(bad, 4, 3)
