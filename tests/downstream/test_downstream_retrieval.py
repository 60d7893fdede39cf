"""Retrieval against brute force, and which pairs are ranked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.downstream.conftest import Workspace

from cxrmim import grid
from cxrmim.downstream import metrics, retrieval, runs
from cxrmim.downstream.contract import Bench
from cxrmim.downstream.tasks import retrieve
from cxrmim.errors import DataError, ParamsError

COUNT, TEXTS = 37, 25
POLICIES = ["strict", "identical"]
RUN = grid.Run("mgca-s0", "mimic", "retrieve", 100, 0)


def embedded(width: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(n, width)).astype(np.float32) for n in (COUNT, TEXTS))
    return (
        image / np.linalg.norm(image, axis=1, keepdims=True),
        text / np.linalg.norm(text, axis=1, keepdims=True),
        rng.integers(0, TEXTS, COUNT),
    )


def brute(
    image: np.ndarray, text: np.ndarray, which: np.ndarray, duplicates: str
) -> dict[str, list[int]]:
    """The definition, a pair at a time; Python's floats are float64 and are added in order."""
    similar = [
        [sum(float(a) * float(b) for a, b in zip(x, text[r], strict=True)) for r in which]
        for x in image
    ]  # image by pair
    out: dict[str, list[int]] = {f"{way}_{c}": [] for way in ("i2t", "t2i") for c in "ato"}
    for query in range(len(image)):
        lists = {"i2t": similar[query], "t2i": [row[query] for row in similar]}
        for way, values in lists.items():
            own = [
                k == query or (duplicates == "identical" and which[k] == which[query])
                for k in range(len(image))
            ]
            best = max(v for v, mine in zip(values, own, strict=True) if mine)
            out[f"{way}_a"].append(sum(v > best for v in values))
            pairs = list(zip(values, own, strict=True))
            out[f"{way}_t"].append(sum(v == best and not mine for v, mine in pairs))
            out[f"{way}_o"].append(sum(v == best and mine for v, mine in pairs))
    return out


def agree(found: dict[str, np.ndarray], want: dict[str, list[int]]) -> None:
    for way in ("i2t", "t2i"):
        for count in retrieval.COUNTS:
            assert found[f"{way}_{count}"].tolist() == want[f"{way}_{count[0]}"], (way, count)


@pytest.mark.parametrize("duplicates", POLICIES)
@pytest.mark.parametrize("block", [1, 8, 1000])
def test_standing_is_that_of_brute_force(duplicates: str, block: int) -> None:
    image, text, which = embedded()
    found = retrieval.standing(image, text, which, duplicates, block)
    agree(found, brute(image, text, which, duplicates))


@settings(max_examples=30)
@given(
    image=arrays(np.float32, (9, 3), elements=st.integers(-2, 2)),
    text=arrays(np.float32, (5, 3), elements=st.integers(-2, 2)),
    which=arrays(np.int64, 9, elements=st.integers(0, 4)),
    duplicates=st.sampled_from(POLICIES),
    block=st.integers(1, 10),
)
def test_ties_of_all_kinds_are_counted(
    image: np.ndarray, text: np.ndarray, which: np.ndarray, duplicates: str, block: int
) -> None:
    found = retrieval.standing(image, text, which, duplicates, block)
    agree(found, brute(image, text, which, duplicates))


def test_ties_and_near_ties_do_not_depend_on_blocks() -> None:
    """Wide embeddings, of which some are equal and some differ by one last bit of one number."""
    image, text, which = embedded(64)
    text[5], text[6], image[7] = text[4], text[4], image[3]
    text[6, 2] = np.nextafter(text[6, 2], np.float32(1))
    which[:6] = [4, 5, 6, 4, 5, 6]
    image[:6] = image[0]
    first = retrieval.standing(image, text, which, "strict", 1)
    agree(first, brute(image, text, which, "strict"))
    for block in (3, 7, 16, 37):
        again = retrieval.standing(image, text, which, "strict", block)
        assert all((again[name] == first[name]).all() for name in first)
    # in float32 alone the last bit is lost, or equal pairs part
    exact = image.astype(np.float64) @ text[which].astype(np.float64).T
    assert 0 < abs(exact[0, 0] - exact[0, 2]) < 2e-8


def test_many_ties_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image, text, which = embedded()
    text[:] = text[0]
    want = retrieval.standing(image, text, which, "strict", 16)
    monkeypatch.setattr(retrieval, "CHUNK", 5)
    found = retrieval.standing(image, text, which, "strict", 16)
    assert all((found[name] == want[name]).all() for name in want)
    assert (found["i2t_tied"] == COUNT - 1).all()


@pytest.mark.parametrize("duplicates", POLICIES)
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_collapsed_encoder_is_ranked_as_any_other(
    noise: float, duplicates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of near ties are computed exactly as a whole; what comes out is the same."""
    image, text, which = embedded(64)
    rng = np.random.default_rng(1)
    image[:30] = image[0] + noise * rng.normal(size=(30, 64))
    text[:20] = image[0] + noise * rng.normal(size=(20, 64))
    monkeypatch.setattr(retrieval, "STRIP", 5)
    calls, real = [], retrieval._all_exactly
    monkeypatch.setattr(retrieval, "_all_exactly", lambda *a: calls.append(1) or real(*a))
    found = retrieval.standing(image, text, which, duplicates, 16)
    assert calls
    agree(found, brute(image, text, which, duplicates))
    calls.clear()
    monkeypatch.setattr(retrieval, "DENSE", 1.0)
    again = retrieval.standing(image, text, which, duplicates, 16)
    assert not calls
    assert all((found[name] == again[name]).all() for name in found)


def test_counts_beyond_a_byte() -> None:
    """600 images, all but one nearer to the last text than its own image."""
    count = 600
    image = np.tile(np.array([[1, 0]], np.float32), (count, 1))
    image[-1] = [0, 1]
    text = np.tile(np.array([[1, 0]], np.float32), (count, 1))
    found = retrieval.standing(image, text, np.arange(count), "strict", 512)
    assert found["t2i_above"][-1] == count - 1
    assert found["t2i_above"][:-1].max() == 0
    assert (found["t2i_tied"][:-1] == count - 2).all()


def test_a_shared_report_counts_by_policy() -> None:
    """Two images of one study: image to text ties them, so strict recall at 1 is one half."""
    image = np.eye(3, dtype=np.float32)[[0, 0, 2]]
    text, which = np.eye(3, dtype=np.float32)[[0, 2]], np.array([0, 0, 1])
    strict = retrieval.standing(image, text, which, "strict", 2)
    identical = retrieval.standing(image, text, which, "identical", 2)

    def r1(found: dict[str, np.ndarray]) -> list[float]:
        return metrics.recall_at(1, *(found[f"i2t_{c}"] for c in retrieval.COUNTS)).tolist()

    assert r1(strict) == [0.5, 0.5, 1.0]
    assert r1(identical) == [1.0, 1.0, 1.0]


def test_chance_is_k_over_the_pool() -> None:
    which = np.array([0, 0, 1, 2])
    found = retrieval.chance(which, "strict")
    assert metrics.recall_at(1, *(found[f"t2i_{c}"] for c in retrieval.COUNTS)).mean() == 1 / 4
    found = retrieval.chance(which, "identical")
    hits = metrics.recall_at(1, *(found[f"i2t_{c}"] for c in retrieval.COUNTS))
    assert hits == pytest.approx([0.5, 0.5, 0.25, 0.25])


def test_equal_embeddings_score_as_chance() -> None:
    which = np.array([0, 0, 1, 2])
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 50)).astype(np.float32)
    for duplicates in POLICIES:
        found = retrieval.standing(one.repeat(4, 0), one.repeat(3, 0), which, duplicates, 3)
        want = retrieval.chance(which, duplicates)
        assert all((found[name] == want[name]).all() for name in want)


def test_reports_are_the_same_if_their_tokens_are() -> None:
    ids = np.array([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 7, 2]], np.int32)
    texts, which = retrieval.distinct(ids, np.array([2, 0, 1, 1]))
    assert len(texts) == 2
    assert which[0] == which[1]
    assert which[2] == which[3] != which[0]
    assert (ids[texts[which]] == ids[[2, 0, 1, 1]]).all()


def pool(workspace: Workspace, **options: object) -> retrieval.Pool:
    given = {"size": None, "duplicates": "strict", **options}
    return retrieval.pool(Bench(workspace.changed(retrieve=given).params), "mimic")


def test_the_pool_is_the_held_out_pairs(workspace: Workspace) -> None:
    bench = Bench(workspace.params)
    found, (reports, report) = pool(workspace), bench.reports("mimic")
    rows = bench.rows("mimic", "test")
    assert found.rows.tolist() == rows.tolist()
    assert (reports.ids[found.texts[found.which]] == reports.ids[report[rows]]).all()
    assert len(found.texts) < len(rows)  # some pairs share a report


def test_merging_keeps_each_report_once_with_its_first_pair(workspace: Workspace) -> None:
    full, merged = pool(workspace), pool(workspace, duplicates="merge")
    assert len(merged.rows) == len(merged.texts) == len(full.texts)
    assert sorted(merged.which) == list(range(len(merged.rows)))
    for row, text in zip(merged.rows, merged.texts[merged.which], strict=True):
        same = full.rows[full.texts[full.which] == text]
        assert row == same.min()


@pytest.mark.parametrize("duplicates", ["strict", "identical", "merge"])
def test_a_pool_of_a_size_is_drawn_by_the_dataset_alone(
    workspace: Workspace, duplicates: str
) -> None:
    full = pool(workspace, duplicates=duplicates)
    found = [pool(workspace, size=5, duplicates=duplicates) for _ in range(2)]
    assert found[0].rows.tolist() == found[1].rows.tolist()
    assert set(found[0].rows) < set(full.rows)
    assert len(found[0].rows) == 5
    assert found[0].rows.tolist() != full.rows[:5].tolist()
    where = np.searchsorted(full.rows, found[0].rows)
    got = found[0].texts[found[0].which]
    assert got.tolist() == full.texts[full.which[where]].tolist()
    params = workspace.changed(retrieve={"size": 5, "duplicates": duplicates}).params
    frames = [
        runs.predict(grid.Run(checkpoint, "mimic", "retrieve", 100, 0), Bench(params)).predictions
        for checkpoint in ("mgca-s0", "medim-s0")
    ]
    table = Bench(params).shards("mimic").table.read()["source_row"]
    for frame in frames:
        assert frame["source_row"].tolist() == table.iloc[found[0].rows].tolist()


def test_a_pool_cannot_be_larger_than_what_is_held_out(workspace: Workspace) -> None:
    count = len(pool(workspace).rows)
    assert len(pool(workspace, size=count).rows) == count
    with pytest.raises(ParamsError, match=rf"^downstream.retrieve.size = {count + 1}: .*{count}"):
        pool(workspace, size=count + 1)
    with pytest.raises(ParamsError, match=r"^downstream.retrieve.size"):
        pool(workspace, size=count, duplicates="merge")


def test_blocks_change_nothing_and_duplicates_do(workspace: Workspace) -> None:
    def counts(**over: object) -> dict[str, list[int]]:
        bench = Bench(workspace.changed(retrieve=over).params)
        frame = runs.predict(RUN, bench).predictions
        return {c: frame[c].tolist() for c in frame if c.startswith(("i2t", "t2i"))}

    strict = counts(block=1024)
    assert counts(block=3) == strict
    assert counts(duplicates="identical") != strict
    assert len(counts(duplicates="merge")["i2t_own"]) < len(strict["i2t_own"])


def test_embeddings_that_are_no_numbers_are_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(workspace.params)
    kind, real = type(bench.method("mgca-s0")), type(bench.method("mgca-s0")).embed_image
    monkeypatch.setattr(kind, "embed_image", lambda self, x: real(self, x) * float("nan"))
    with pytest.raises(DataError, match=rf"^{RUN.id}: numbers of the image embeddings: \d+ of"):
        retrieve.run(RUN, bench)
