"""The stated formulae are what torch counts, to the last operation."""

from __future__ import annotations

import pytest
import torch
from benchmarks.pretrain_steps import Job, count

from benchmarks import flops

ENTRIES = ("mgca", "medim", "medim-kwm", "cmitm", "cmitm-r25", "cmitm-nomask", "mrm")


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_needed_is_all_that_is_counted(demo, entry):
    torch.manual_seed(0)
    job = Job(demo, entry, 3, "cpu")
    needed = flops.needed(job.method, job.batch)
    assert all(number > 0 for number in needed.values())
    assert count(job) == sum(needed.values())


@pytest.mark.parametrize("entry", ["mae", "cmitm-s1", "cmitm-nodecoder"])
def test_other_methods_have_no_formula(demo, entry):
    torch.manual_seed(0)
    job = Job(demo, entry, 2, "cpu")
    with pytest.raises(KeyError):
        flops.needed(job.method, job.batch)
