"""The bootstrap against a slow loop over the same draws."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrmim.downstream import bootstrap
from cxrmim.errors import DataError


def data(count: int = 60, classes: int = 3) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    truth = (rng.random((count, classes)) < 0.3).astype(np.float32)
    score = np.round(rng.normal(size=truth.shape) + truth, 1).astype(np.float32)
    return [f"p{i // 3}" for i in range(count)], truth, score


def test_auc_equals_the_slow_loop() -> None:
    groups, truth, score = data()
    weights = bootstrap.draws(groups, 40, "a/b", truth)
    slow = [
        np.mean(
            [
                roc_auc_score(truth[:, k], score[:, k], sample_weight=w)
                for k in range(truth.shape[1])
            ]
        )
        for w in weights
    ]
    assert bootstrap.auc(truth, score, weights) == pytest.approx(slow, abs=1e-12)


def test_auc_leaves_unknown_labels_out() -> None:
    groups, truth, score = data()
    weights = bootstrap.draws(groups, 10, "a/b", truth)
    unknown = truth.copy()
    unknown[::5, 0] = np.nan
    known = ~np.isnan(unknown[:, 0])
    alone = bootstrap.auc(truth[known][:, :1], score[known][:, :1], weights[:, known])
    both = (
        bootstrap.auc(unknown, score, weights) * 3
        - bootstrap.auc(truth[:, 1:], score[:, 1:], weights) * 2
    )
    assert both == pytest.approx(alone, abs=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, truth, score = data()
    weights = bootstrap.draws(groups, 30, "a/b", truth)
    whole = bootstrap.auc(truth, score, weights), bootstrap.mean(score[:, 0], weights)
    monkeypatch.setattr(bootstrap, "CHUNK", 130)
    assert (bootstrap.auc(truth, score, weights) == whole[0]).all()
    assert bootstrap.mean(score[:, 0], weights) == pytest.approx(whole[1], abs=1e-12)


def test_mean_equals_resampling() -> None:
    groups, _, score = data()
    weights = bootstrap.draws(groups, 10, "a/b")
    slow = [np.repeat(score[:, 0].astype(float), w).mean() for w in weights]
    assert bootstrap.mean(score[:, 0], weights) == pytest.approx(slow)


def test_patients_are_drawn_whole() -> None:
    groups, truth, _ = data()
    weights = bootstrap.draws(groups, 50, "a/b", truth).reshape(50, -1, 3)
    assert (weights == weights[:, :, :1]).all()
    assert (weights[:, :, 0].sum(axis=1) == 20).all()
    assert weights.std() > 0


def test_every_draw_holds_every_class() -> None:
    groups, truth, _ = data()
    truth[:, 0] = 0
    truth[:3, 0] = 1  # one patient: a third of plain draws lack it
    weights = bootstrap.draws(groups, 200, "a/b", truth).astype(int)
    assert (weights @ (truth == 1) > 0).all()
    plain = bootstrap.draws(groups, 200, "a/b").astype(int)
    assert not (plain @ (truth == 1) > 0).all()


def test_a_class_too_rare_to_draw_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, truth, _ = data()
    monkeypatch.setattr(bootstrap, "TRIES", 1)
    truth[:, 0] = 0
    truth[0, 0] = 1
    with pytest.raises(DataError, match=r"^x/y: a class is so rare"):
        bootstrap.draws(groups, 500, "x/y", truth)


def test_the_key_seeds_the_draws() -> None:
    groups = data()[0]
    bootstrap._draws.cache_clear()
    first = bootstrap.draws(groups, 5, "a/b").copy()
    bootstrap._draws.cache_clear()
    assert (bootstrap.draws(groups, 5, "a/b") == first).all()
    assert (bootstrap.draws(groups, 5, "a/c") != first).any()


def test_a_thousand_replicates_are_cheap() -> None:
    groups, truth, score = data(999, 5)
    weights = bootstrap.draws(groups, 1000, "a/b", truth)
    started = time.process_time()
    values = bootstrap.rounded(bootstrap.auc(truth, score, weights))
    assert time.process_time() - started < 1.0  # about 0.15 s; the bound allows a busy machine
    assert values == [round(v, 5) for v in values]
    assert len(str(values)) < 10_500
