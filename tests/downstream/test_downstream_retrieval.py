"""Retrieval against brute force."""

import numpy as np
import pytest
import torch

from cxrmim.downstream import metrics, retrieval

COUNT, TEXTS = 37, 25


def embedded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(COUNT, 6, generator=random), dim=1)
    text = torch.nn.functional.normalize(torch.randn(TEXTS, 6, generator=random), dim=1)
    return image, text, torch.randint(0, TEXTS, (COUNT,), generator=random)


def brute(similar: np.ndarray, own: np.ndarray) -> list[list[int]]:
    """above, tied, own of every query: `similar` (N, N) queries by pairs, `own` bool alike."""
    out = []
    for row, mine in zip(similar, own, strict=True):
        best = row[mine].max()
        counts = (row > best)[~mine].sum(), (row == best)[~mine].sum(), (row == best)[mine].sum()
        out.append([int(c) for c in counts])
    return out


@pytest.mark.parametrize("duplicates", ["strict", "identical"])
@pytest.mark.parametrize("block", [1, 8, 1000])
def test_standing_is_that_of_brute_force(duplicates: str, block: int) -> None:
    image, text, which = embedded()
    found = retrieval.standing(image, text, which, duplicates, block)
    distinct = (image.double() @ text.double().T).numpy()
    similar = distinct[:, which.numpy()]  # (N, N) image by pair
    same = (which[:, None] == which[None, :]).numpy()
    own = same if duplicates == "identical" else np.eye(COUNT, dtype=bool)
    for way, matrix in (("i2t", similar), ("t2i", similar.T)):
        mine = [found[f"{way}_{c}"].tolist() for c in retrieval.COUNTS]
        assert np.array(mine).T.tolist() == brute(matrix, own)


def test_a_shared_report_counts_by_policy() -> None:
    """Two images of one study: image to text ties them, so strict recall at 1 is one half."""
    image = torch.eye(3)[[0, 0, 2]]
    text, which = torch.eye(3)[[0, 2]], torch.tensor([0, 0, 1])
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
    which = torch.tensor([0, 0, 1, 2])
    image, text = torch.eye(2)[[0] * 4], torch.eye(2)[[0] * 3]
    for duplicates in ("strict", "identical"):
        found = retrieval.standing(image, text, which, duplicates, 3)
        want = retrieval.chance(which.numpy(), duplicates)
        assert all((found[name] == want[name]).all() for name in want)


def test_reports_are_the_same_if_their_tokens_are() -> None:
    ids = np.array([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 7, 2]], np.int32)
    texts, which = retrieval.distinct(ids, np.array([2, 0, 1, 1]))
    assert len(texts) == 2
    assert which[0] == which[1]
    assert which[2] == which[3] != which[0]
    assert (ids[texts[which]] == ids[[2, 0, 1, 1]]).all()
