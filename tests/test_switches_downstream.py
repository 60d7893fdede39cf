"""Downstream rows of the ledger: every choice of a task is one of them."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import pytest

from cxrmim import plugins
from cxrmim.report import switches
from tests.test_switches import choices, lines, stated


def options(kind: Any) -> list[str]:
    """Names that a field offers, yes and no included."""
    return ["true", "false"] if kind is bool and get_origin(kind) is None else choices(kind)


@pytest.mark.parametrize("task", plugins.names("task"))
def test_every_choice_of_a_task_is_a_row_with_its_names(repo, task):
    """An option that offers names, or yes and no, is a switch."""
    model = plugins.options("task", task)
    assert model is not None
    known = stated(switches.load())
    for name, field in model.model_fields.items():
        named = options(field.annotation)
        if name == "schedule" or not named:  # its keys are percents
            continue
        key = f"downstream.{task}.{name}"
        assert key in known
        text = "\n".join(line for line in lines(repo) if f"`downstream.{task}." in line)
        for choice in named if named != ["true", "false"] else ():
            assert f"`{choice}`" in text, f"{key}: {choice}"


def test_a_switch_with_one_side_says_so(paper):
    """Nothing flips `pool` of retrieval: no code was released, and there is one choice only."""
    model = plugins.options("task", "retrieve")
    assert model is not None
    assert get_args(model.model_fields["pool"].annotation) == (paper.downstream.retrieve["pool"],)


def test_what_the_papers_took_from_mrm_is_said(repo):
    """`mrm.source`: neither paper's MRM row is what this project runs."""
    (line,) = (each for each in lines(repo) if "`grid.medim_table1.rows`" in each)
    for part in ("88.50", "fine-tuning", "`grid.cmitm_table1.rows`", "copied", "re-run"):
        assert part in line


def test_every_dataset_of_a_schedule_is_a_switch(paper):
    known = stated(switches.load())
    keys = {f"downstream.finetune.schedule.{d}" for d in paper.downstream.finetune["schedule"]}
    assert keys == {key for key in known if key.startswith("downstream.finetune.schedule.")}
