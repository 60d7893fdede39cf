"""Metrics against scikit-learn and cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from cxrmim.downstream import metrics, rle
from cxrmim.downstream.bootstrap import Draws
from cxrmim.downstream.contract import masks, scores
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
    return segment.measure(frame, {"empty": empty}, DRAWS)


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


def test_a_test_set_without_any_finding() -> None:
    nothing = np.zeros((3, 4, 4), bool)
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
