"""Lock, environment and metadata agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version


def lock(repo: Path) -> dict[str, str]:
    lines = (repo / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [ln.split("==") for ln in lines if ln and not ln.startswith("#")]
    return {name.lower(): version for name, version in pins}


def project(repo: Path) -> dict:
    return tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_lock_pins_every_requirement_within_its_bounds(repo):
    pins = lock(repo)
    spec = project(repo)
    for text in [*spec["dependencies"], *spec["optional-dependencies"]["test"]]:
        need = Requirement(text)
        assert need.name.lower() in pins, need.name
        assert need.specifier.contains(Version(pins[need.name.lower()])), text


def test_torch_and_its_companions_are_locked_together(repo):
    pins = lock(repo)
    assert {"torch", "torchvision", "timm", "transformers"} <= set(pins)


def test_conda_users_get_the_same_lock(repo):
    tree = yaml.safe_load((repo / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = tree["dependencies"]
    assert "-r requirements.lock" in pip["pip"]
    python = next(d for d in conda if d.startswith("python="))
    minimum = Version(project(repo)["requires-python"].removeprefix(">="))
    assert Version(python.removeprefix("python=")) >= minimum


def test_versions_agree(repo):
    version = project(repo)["version"]
    citation = yaml.safe_load((repo / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert f"## {version}" in (repo / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_registry_host_is_named(repo):
    hosts = re.compile(r"(pypi\.org|pythonhosted|debian\.org|npmjs)")
    for name in ("requirements.lock", "environment.yml", "Makefile", "pyproject.toml", ".ci/run"):
        assert not hosts.search((repo / name).read_text(encoding="utf-8")), name
