"""Where a query's own pair stands among all candidates (MedIM 3.1, table 2)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
COUNTS = ("above", "tied", "own")
WAYS = ("t2i", "i2t")  # text query for images, image query for texts


def standing(
    image: Tensor, text: Tensor, which: Tensor, duplicates: str, block: int
) -> dict[str, Ints]:
    """Count the candidates above and level with each query's own pair, both ways.

    Pairs are per image: two images of a study are two pairs with one report. Reports are embedded
    once each, so that equal reports tie exactly. Similarities are cosines in float64, a block of
    queries at a time.

    Args:
        image: (N, d) L2-normalised images.
        text: (R, d) L2-normalised distinct reports.
        which: (N,) report of each pair.
        duplicates: `strict`: only the own pair counts; `identical`: any pair with the same report.
        block: queries a block.

    Returns:
        For both `WAYS`, (N,) counts of other candidates more similar than the best own one
        (`above`), exactly as similar (`tied`), and of own ones of that similarity (`own`).
    """
    image, text = image.double(), text.double()
    copies = torch.bincount(which, minlength=len(text))
    found: dict[str, list[Tensor]] = {f"{way}_{c}": [] for way in WAYS for c in COUNTS}
    for rows in torch.split(torch.arange(len(image), device=image.device), block):
        mine = which[rows, None]
        similar = image[rows] @ text.T  # every text stands for `copies` candidates
        best = similar.gather(1, mine)
        own = copies[mine] if duplicates == "identical" else torch.ones_like(mine)
        found["i2t_above"].append(((similar > best) * copies).sum(1))
        found["i2t_tied"].append(((similar == best) * copies).sum(1) - own[:, 0])
        found["i2t_own"].append(own[:, 0])
        similar = text[which[rows]] @ image.T
        is_own = which == mine if duplicates == "identical" else _diagonal(rows, len(image))
        best = similar.masked_fill(~is_own, -torch.inf).amax(1, keepdim=True)
        level = similar == best
        found["t2i_above"].append((similar > best).sum(1))
        found["t2i_tied"].append((level & ~is_own).sum(1))
        found["t2i_own"].append((level & is_own).sum(1))
    return {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}


def chance(which: Ints, duplicates: str) -> dict[str, Ints]:
    """`standing` of a predictor that finds all candidates equally similar."""
    count = len(which)
    own = np.bincount(which)[which] if duplicates == "identical" else np.ones(count, np.int64)
    one = {"above": np.zeros(count, np.int64), "tied": count - own, "own": own}
    return {f"{way}_{c}": one[c].astype(np.int64) for way in WAYS for c in COUNTS}


def distinct(ids: NDArray[np.int32], report: Ints) -> tuple[Ints, Ints]:
    """Distinct reports of pairs; reports are the same if their token ids are.

    Args:
        ids: (R, L) token ids of all reports.
        report: (N,) report of each pair.

    Returns:
        (one report number for each distinct report, (N,) index of each pair's among them).
    """
    rows, place = np.unique(report, return_inverse=True)
    _, first, same = np.unique(
        np.asarray(ids[rows]), axis=0, return_index=True, return_inverse=True
    )
    return rows[first], same.reshape(-1)[place.reshape(-1)].astype(np.int64)


def _diagonal(rows: Tensor, count: int) -> Tensor:
    return rows[:, None] == torch.arange(count, device=rows.device)
