"""The Slurm profile, held to what is known to go wrong, and what a cluster is asked for."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxrmim import params as params_module
from cxrmim import paths
from cxrmim.plan import Plan
from tests.workflow.conftest import REPO, Place

PROFILE = yaml.safe_load((REPO / "slurm/config.yaml").read_text(encoding="utf-8"))
RULES = {
    path: path.read_text(encoding="utf-8")
    for path in [REPO / "Snakefile", *sorted((REPO / "workflow/rules").glob("*.smk"))]
}
MOST = 250  # jobs of scale paper


@pytest.fixture
def paper(tree, write_params, tmp_path) -> Place:
    """Scale paper with folders for roots that hold nothing: enough for a dry run."""
    tree["scale"] = "paper"
    for name in tree["manifest"]["roots"]:
        root = tmp_path / "raw" / name
        root.mkdir(parents=True)
        tree["manifest"]["roots"][name] = str(root)
    (tmp_path / "raw/lists").mkdir()
    tree["manifest"]["lists"] = str(tmp_path / "raw/lists")
    write_params(tree)
    return Place(tmp_path)


def laid_out(path: Path) -> Plan:
    loaded = params_module.load(path)
    return Plan(loaded, paths.Paths(loaded.scale))


def stated(name: str) -> dict[str, Any]:
    """Resources that the profile gives a rule."""
    return PROFILE["default-resources"] | PROFILE["set-resources"].get(name, {})


def evaluated(value: Any, attempt: int) -> Any:
    return eval(value, {"attempt": attempt}) if isinstance(value, str) else value


def shown(place: Place, *arguments: str) -> str:
    """A dry run of everything under the profile."""
    out = place.call(
        "snakemake",
        *("--snakefile", str(REPO / "Snakefile"), "--directory", str(place.folder)),
        *("--profile", str(REPO / "slurm"), "--cores", "all", "-n", "--forceall", *arguments),
    )
    assert out.returncode == 0, out.stderr[-3000:]
    return out.stdout + out.stderr


def counted(text: str) -> dict[str, int]:
    """The dry run's own count of jobs, by rule."""
    table = re.search(r"Job stats:\njob +count\n-+ +-+\n(.*?)\ntotal ", text, flags=re.S)
    assert table
    rows = (line.split() for line in table[1].splitlines())
    return {name: int(count) for name, count in rows}


def test_a_failed_job_is_tried_again_by_the_profile_alone():
    """A rule's own retries would multiply with them."""
    assert PROFILE["restart-times"] >= 1
    for path, text in RULES.items():
        assert not re.search(r"^\s*retries:", text, flags=re.M), path


def test_no_job_arrays():
    """A failing task of an array takes another's finished output with it."""
    assert not [key for key in PROFILE if "array" in key]


def test_a_controller_may_be_away_for_a_minute():
    assert PROFILE["slurm-status-attempts"] >= 20


def test_finished_results_of_a_failed_job_are_kept_and_a_killed_one_is_done_again():
    """On a cluster, and by the profile that Snakemake takes where none is named."""
    local = yaml.safe_load((REPO / "profiles/default/config.yaml").read_text(encoding="utf-8"))
    for profile in (PROFILE, local):
        assert profile["keep-incomplete"]
        assert profile["rerun-incomplete"]


def test_the_default_profile_is_found(paper):
    """It is where Snakemake looks for it, from the root and from elsewhere."""
    assert "workflow specific profile profiles/default" in Place(REPO).must("snakemake", "-n")
    assert f"workflow specific profile {REPO}/profiles/default" in shown(paper)


def test_partition_and_account_stand_in_one_place():
    text = (REPO / "slurm/config.yaml").read_text(encoding="utf-8")
    for key in ("slurm_partition", "slurm_account"):
        assert text.count(key) == 1
        assert key in PROFILE["default-resources"]


def test_jobs_run_with_the_python_of_who_submits():
    for path, text in RULES.items():
        for shell in re.findall(r"shell:\n((?:\s+\".*\n)+)", text):
            assert re.match(r'\s+"(\$PYTHON|\{params\.launcher\}) ', shell), path
    assert sum("shell:" in text for text in RULES.values()) >= 6


def test_every_rule_has_memory_and_a_time_that_grows():
    names = {name for text in RULES.values() for name in re.findall(r"^rule (\w+):", text, re.M)}
    assert set(PROFILE["set-resources"]) <= names
    for name in names | {"downstream"}:
        asked = stated(name)
        assert asked["mem_mb"] > 200, name  # two nested Snakemakes take as much
        assert evaluated(asked["runtime"], 2) > evaluated(asked["runtime"], 1), name


def test_a_pretraining_is_warned_before_its_time_is_up():
    asked = stated("pretrain")
    warned = re.fullmatch(r"--signal=USR1@(\d+)", evaluated(asked["slurm_extra"], 1))
    assert warned
    assert 60 <= int(warned[1]) < 60 * evaluated(asked["runtime"], 1)


def test_the_papers_scale_is_few_jobs_and_the_dry_run_says_how_many(paper):
    text = shown(paper)
    line = re.search(r"^scale paper: (\d+) jobs on a cluster \((.*)\)$", text, flags=re.M)
    assert line
    jobs = counted(text)
    local = re.search(r"\nlocalrules:\n((?:    \w+,\n)+)", RULES[REPO / "Snakefile"])
    assert local
    here = set(re.findall(r"\w+", local[1]))
    assert {"all", "tables", "figures", "page"} <= here
    assert sum(count for name, count in jobs.items() if name not in here) == int(line[1]) <= MOST
    said = dict(re.findall(r"(\w+) (\d+)", line[2]))
    assert int(said["manifest"]) == jobs["manifest"]
    assert int(said["shards"]) == jobs["shards"] + jobs["shards_audit"]
    assert int(said["pretrain"]) == jobs["pretrain"]
    rest = sum(count for name, count in jobs.items() if name.startswith("downstream_"))
    assert int(said["downstream"]) == rest


def test_gpus_and_cpus_follow_from_params(paper):
    plan = laid_out(paper.folder / "params.yaml")
    assert plan.resources("pretrain") == {"cpus_per_task": 8, "nodes": 1, "gpu": 1}
    assert plan.resources("shards") == {"cpus_per_task": 4}
    for job in plan.jobs:
        assert ("gpu" in job.resources) == (not job.id.startswith("baseline-")), job.id
        assert job.resources["cpus_per_task"] == plan.params.threads.downstream
    for stop in ("phantom", "manifest", "shards", "pretrain"):
        text = RULES[REPO / f"workflow/rules/{stop}.smk"]
        assert f'**plan.resources("{stop}")' in text
    assert "**job.resources" in RULES[REPO / "workflow/rules/downstream.smk"]


@pytest.mark.parametrize("scale", ["demo", "trend"])
def test_a_small_scale_asks_for_no_gpu(scale):
    loaded = params_module.load(REPO / "params.yaml", scale)
    plan = Plan(loaded, paths.Paths(scale))
    asked = [plan.resources("pretrain"), *(job.resources for job in plan.jobs)]
    assert not [one for one in asked if "gpu" in one]


def test_a_training_over_several_nodes_is_one_job(tree, write_params):
    tree["pretrain"] |= {"processes": 8, "nodes": 2}
    tree["scale"] = "phantom"
    plan = laid_out(write_params(tree))
    asked = plan.resources("pretrain")
    assert asked["nodes"] == asked["tasks"] == 2
    assert asked["gpu"] == 8
    assert asked["cpus_per_task"] == 4 * plan.params.threads.pretrain
    told = plan.pretrain_launcher
    # What a shell makes of it: srun and the programs replaced by ones that show their arguments.
    script = f"""
        srun() {{ echo "srun $*" >&2; while [ "$1" != bash ]; do shift; done; "$@"; }}
        hostname() {{ echo first; }}
        PYTHON=echo; SLURM_JOB_ID=70123
        {told} --checkpoint medim-s0
    """
    out = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    assert "--nodes 2 --ntasks 2 --ntasks-per-node 1" in out.stderr
    words = shlex.split(out.stdout)
    assert words[:2] == ["-m", "torch.distributed.run"]
    for option, value in (
        ("--nnodes", "2"),
        ("--nproc-per-node", "4"),
        ("--rdzv-endpoint", "first:29523"),
        ("--rdzv-id", "70123"),
    ):
        assert words[words.index(option) + 1] == value
    assert words[-4:] == ["-m", "cxrmim.pretrain", "--checkpoint", "medim-s0"]


def test_nodes_must_share_the_processes_evenly(tree, write_params):
    from cxrmim.errors import ParamsError

    tree["pretrain"] |= {"processes": 3, "nodes": 2}
    with pytest.raises(ParamsError, match=r"pretrain\.nodes = 2: must divide"):
        params_module.load(write_params(tree))


def test_snakemake_lets_the_signal_pass(tmp_path):
    """It reaches every process of a Slurm job, and only the training has a use for it."""
    script = (
        "import os, signal, subprocess, sys\n"
        "from cxrmim import plan\n"
        "plan._shield()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "out = subprocess.run(['bash', '-c', 'kill -USR1 $$; echo alive'], capture_output=True)\n"
        "sys.exit(out.stdout != b'alive\\n')\n"
    )
    Place(tmp_path).must("python", "-c", script)
