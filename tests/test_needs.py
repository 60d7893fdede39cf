"""What tests need: who may install packages, and what is said where nobody may."""

from __future__ import annotations

import os
import shutil
import stat

import pytest

from tests import needs


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """An apt-get that notes its arguments and fails where it is told."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(needs, "LOCK", tmp_path / "lock")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = tmp_path / "apt-get"

    def fails_on(word: str) -> None:
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
            f'case "$2" in {word}) echo first >&2; echo E: no room >&2; exit 100;; esac\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        try:
            needs.install("one", "two")
        finally:
            fails_on.calls = (tmp_path / "calls").read_text().splitlines()

    return fails_on


def test_the_lists_come_first_and_no_more_than_is_asked_for(apt):
    apt("nothing")
    assert apt.calls == ["-q update", "-q install -y --no-install-recommends one two"]


@pytest.mark.parametrize("word", ["update", "install"])
def test_a_failure_is_told_in_its_last_words(apt, word):
    with pytest.raises(needs.PackageError, match=f"apt-get {word} failed: E: no room$"):
        apt(word)


def test_it_says_who_may_not(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(needs.PackageError, match="x cannot be installed: apt-get is not here"):
        needs.install("x")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(needs.PackageError, match="x cannot be installed: needs root"):
        needs.install("x")


def test_what_lacks_is_a_failure_in_ci_alone(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no root"):
        needs.declined("no root")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no root"):
        needs.declined("no root")
