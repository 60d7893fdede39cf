"""No run looks at the truth of the test images before it has scored them."""

import numpy as np
import pytest
from tests.downstream.conftest import Workspace

from cxrmim import grid
from cxrmim.downstream import runs
from cxrmim.downstream.contract import Bench, Result
from cxrmim.shards.store import Masks

WHOLE = ["mae-s0/chexpert-probe-100-s0", "mae-s0/chexpert-finetune-100-s0"]
NAMES = [*WHOLE, "medim-s0/siim-segment-100-s0", "baseline-pixels/chexpert-probe-100-s0"]


class Turned(Bench):
    """A bench on which one split has other labels and masks."""

    split = ""

    def labels(self, dataset: str) -> np.ndarray:
        found = super().labels(dataset)
        if self.split:
            rows = self.rows(dataset, self.split)
            found[rows] = np.random.default_rng(0).permutation(1 - found[rows])
        return found

    def masks(self, dataset: str) -> Masks:
        found = np.asarray(super().masks(dataset)) > 0
        if self.split:
            rows = self.rows(dataset, self.split)
            found[rows] = ~found[rows]
        return Masks(np.packbits(found, axis=-1))


def do(workspace: Workspace, name: str, split: str) -> Result:
    over = {"schedule": {"chexpert": {"100": [2, 12, 0.1]}}, "validate_every": 1}
    bench = Turned(workspace.changed(finetune=over).params)
    bench.split = split
    return runs.predict(grid.Run.parse(name), bench)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_of_test_images_decides_no_score(workspace: Workspace, name: str) -> None:
    plain, turned = (do(workspace, name, split) for split in ("", "test"))
    given = [c for c in plain.predictions if str(c).startswith(("score", "rle"))]
    assert given
    assert plain.predictions[given].equals(turned.predictions[given])
    kept = [c for c in plain.predictions if str(c).startswith(("label", "truth_area"))]
    assert not plain.predictions[kept].equals(turned.predictions[kept])
    for key in ("best_epoch", "best_step", "valid_loss", "valid_value", "lr", "train_value", "C"):
        assert plain.details.get(key) == turned.details.get(key), key


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_of_validation_images_decides_what_is_kept(
    workspace: Workspace, name: str
) -> None:
    plain, turned = (do(workspace, name, split) for split in ("", "valid"))
    assert plain.details != turned.details
