"""Replays of released split rules, on rows solved by hand; `audit --public` has the real tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxrmim.manifest import released


def chexpert(rows: int) -> pd.DataFrame:
    table = pd.DataFrame(0.0, index=range(rows), columns=list(released.SINGLE))
    table[released.VIEW] = "Frontal"
    return table


def test_positions_and_index_labels_differ_behind_the_images_set_aside():
    # Of 400 rows, 1 image a class is set aside and 10 positions validate. Rows 0 to 4 hold the one
    # single-label image of each class, so that the position of every other row is 5 too low.
    table = chexpert(400)
    for k, name in enumerate(released.COMPETITION):
        table.loc[k, name] = 1.0
    train, valid = released.chexpert_mgca(table)
    positions = np.random.RandomState(0).choice(395, size=10, replace=False)
    assert valid.tolist() == sorted(positions + 5)
    dropped = set(range(5, 400)) - set(train.tolist())
    assert dropped == {p for p in positions if p >= 5}  # the wrong rows
    assert not set(train.tolist()) & set(range(5))
    shared = set(valid.tolist()) & set(train.tolist())
    assert shared == set((positions + 5).tolist()) - set(positions.tolist())
    assert len(shared) > 5


def test_only_frontal_images_with_that_one_label_are_set_aside():
    table = chexpert(200)
    table.loc[[10, 20, 30, 40, 50], "Edema"] = 1.0
    table.loc[10, released.VIEW] = "Lateral"
    table.loc[20, "Support Devices"] = 1.0
    table.loc[30, "Fracture"] = -1.0  # an uncertain label is a label
    table.loc[40, "Atelectasis"] = np.nan  # a blank is none
    table.loc[50, "Atelectasis"] = 1.0
    table.loc[60, "Fracture"] = 1.0  # not one of the five
    assert released.chexpert_aside(table).tolist() == [40]
    train, valid = released.chexpert_mgca(table)
    assert 40 not in set(train.tolist()) | set(valid.tolist())


def test_as_many_are_set_aside_as_there_are_up_to_a_thousandth():
    table = chexpert(4000)
    table.loc[:9, "Edema"] = 1.0
    table.loc[20:21, "Consolidation"] = 1.0
    aside = released.chexpert_aside(table)
    assert len(aside) == 6
    assert sorted(aside)[4:] == [20, 21]


def test_the_index_of_the_table_decides_nothing():
    table = chexpert(300)
    table.loc[7, "Edema"] = 1.0
    one = released.chexpert_mgca(table)
    two = released.chexpert_mgca(table.set_index(np.arange(300)[::-1]))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_a_missing_label_column():
    with pytest.raises(KeyError, match="Fracture"):
        released.chexpert_mgca(chexpert(10).drop(columns="Fracture"))


@pytest.mark.parametrize(
    ("rows", "sizes"),
    # Every size that the literature sheet states.
    [(12_954, (9067, 1944, 1943)), (26_684, (18_678, 4003, 4003)), (20, (14, 3, 3))],
)
def test_the_three_way_cut_by_row(rows, sizes):
    split = released.siim_mgca(rows)
    assert tuple((split == name).sum() for name in ("train", "valid", "test")) == sizes


def test_the_rsna_rule_is_of_the_sorted_ids():
    ids = np.array([f"p{i:03d}" for i in range(100)])
    order = np.random.default_rng(0).permutation(100)
    split = released.rsna_mgca(ids)
    assert (released.rsna_mgca(ids[order]) == split[order]).all()
    assert (split == released.siim_mgca(100)).all()
    with pytest.raises(ValueError, match="distinct"):
        released.rsna_mgca(np.array(["a", "a"]))


@pytest.mark.parametrize(("rows", "sizes"), [(30_130, (24_104, 6026)), (29_634, (23_707, 5927))])
def test_the_covidx_cut_by_image(rows, sizes):
    split = released.covidx_mgca(rows)
    assert ((split == "train").sum(), (split == "valid").sum()) == sizes


@pytest.mark.parametrize(
    ("rows", "sizes"), [(24_104, (241, 2410)), (23_707, (237, 2371)), (185_771, (1858, 18_577))]
)
def test_the_subsets_are_nested(rows, sizes):
    one, ten = (released.sample_mgca(rows, percent) for percent in (1, 10))
    assert (len(one), len(ten)) == sizes
    assert set(one.tolist()) < set(ten.tolist())
