"""`snakemake --cores all --profile slurm`, with the committed profile, builds the same bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.slurm import checkout as checkouts
from tests.slurm.runs import Run, files

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1200)]
LOCAL = {"all", "tables", "figures", "page", "phantom_sheet"}


@pytest.fixture(scope="module")
def submitted(timed, start, tmp_path_factory) -> Run:
    """A finished build on the cluster, GPUs asked for."""
    folder = tmp_path_factory.mktemp("build") / "work"
    run = start(checkouts.checkout(folder, checkouts.with_gpus))
    run.must()
    return run


def rule(job: dict[str, str]) -> str:
    """The rule of a job: its comment is rule_<rule> or rule_<rule>_wildcards_<values>."""
    return job["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


def asked(folder: Path, name: str) -> dict[str, Any]:
    """What the profile gives a rule."""
    tree = checkouts.profile(folder)
    return tree["default-resources"] | tree["set-resources"].get(name, {})


def minutes(limit: str) -> int:
    """Slurm's [days-]hours:minutes:seconds in minutes."""
    days, _, clock = limit.rpartition("-")
    hours, rest = clock.split(":")[:2]
    return 1440 * int(days or 0) + 60 * int(hours) + int(rest)


def test_every_result_has_the_bytes_of_a_local_build(submitted, local):
    patterns = ("records/**/*.json", "tables/*", "figures/*", "artifacts/[cmps]*/**/*")
    made = files(submitted.folder, *patterns)
    wanted = files(local, *patterns)
    assert {name.split("/")[1] for name in wanted if name.startswith("records/")} >= {
        *("phantom", "manifest", "shards", "pretrain", "downstream")
    }
    assert sorted(made) == sorted(wanted)
    assert [name for name in wanted if made[name] != wanted[name]] == []


def test_the_jobs_are_those_announced_and_light_ones_stay_here(submitted):
    said = re.search(r"^scale demo: (\d+) jobs on a cluster", submitted.text, flags=re.M)
    assert said
    jobs = submitted.jobs()
    assert len(jobs) == int(said[1]) <= 14
    assert len({job["Comment"] for job in jobs}) == len(jobs)
    assert not {rule(job) for job in jobs} & LOCAL
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}


def test_each_job_asked_for_what_the_profile_and_params_say(submitted):
    for job in submitted.jobs():
        told = asked(submitted.folder, rule(job))
        assert job["Account"] == told["slurm_account"]
        assert job["Partition"] == told["slurm_partition"] == "main"
        assert float(memory(job)) == pytest.approx(told["mem_mb"], abs=1), rule(job)
        assert minutes(job["TimeLimit"]) == eval(told["runtime"], {"attempt": 1}), rule(job)
        assert (job["NumCPUs"], job["NumNodes"]) == ("1", "1")
        assert job["WorkDir"] == str(submitted.folder)
        assert job["JobName"] == re.search(r"SLURM run ID: (\S+)", submitted.text)[1]


def memory(job: dict[str, str]) -> float:
    """Memory of a job's node, in MB."""
    told = re.fullmatch(r"([\d.]+)([MG])", job["MinMemoryNode"])
    assert told
    return float(told[1]) * {"M": 1, "G": 1024}[told[2]]


def test_gpus_are_asked_for_by_those_that_compute_on_them(submitted):
    """The node has them as Slurm sees it; params let the training use the CPU."""
    given = {rule(job): job["TresPerJob"] for job in submitted.jobs() if "TresPerJob" in job}
    computing = ("pretrain", "downstream_imagenet_s0", "downstream_mgca_s0")
    assert given == dict.fromkeys(computing, "gres:gpu:1")


def test_a_second_call_has_nothing_to_do(submitted, start):
    again = start(submitted.folder)
    again.must()
    assert "Nothing to be done" in again.text
