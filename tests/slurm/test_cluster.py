"""What the cluster of the tests does where there can be none."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.slurm import cluster as module

REAL = "ClusterName=real\n"


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A machine of our own: nothing of this one is looked at or changed."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(module, "ETC", tmp_path / "etc")
    monkeypatch.setattr(module, "BASE", tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "etc/slurm.conf"


def test_another_clusters_configuration_is_left_alone(elsewhere):
    elsewhere.write_text(REAL)
    with pytest.raises(module.ClusterError, match=r"slurm\.conf is of another cluster"):
        module.Cluster().start()
    module.Cluster().stop()
    assert elsewhere.read_text() == REAL


def test_our_own_is_removed(elsewhere):
    elsewhere.write_text(module.configuration("host")["slurm.conf"])
    assert module.missing() is None
    module.Cluster().stop()
    assert not elsewhere.exists()


def test_it_says_what_is_lacking(elsewhere, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "needs the packages slurmctld slurmd" in str(module.missing())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert module.missing() == "a Slurm cluster needs root"
