"""A run's state on a second machine: pulled from a folder or from S3, and sent without git."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cxrmim import job, metadata, params, pointers
from cxrmim.errors import CheckError, CxrmimError, ParamsError
from tests.workflow.conftest import REPO, Place, copied

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]
ARTIFACTS = "results/demo/artifacts"
NOTHING = "Nothing to be done"
RUN = "medim-s0/siim-segment-100-s0"
# An ordinary user may not write what is write-protected; root gives that right up here.
RIGHTS = "-dac_override,-dac_read_search,-fowner"
USER = (
    ("setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}")
    if os.geteuid() == 0 and sys.platform == "linux"
    else ("env",)
)


@pytest.fixture(scope="module")
def remote(attested, tmp_path_factory) -> Path:
    """The attested state, pushed to a folder."""
    folder = tmp_path_factory.mktemp("remote") / "store"
    attested.must("dvc", "push", "-q")
    shutil.copytree(attested.folder / "dvc-remote", folder)
    return folder


def cloned(attested: Place, remote: Path | str, folder: Path, cache: str = "copy") -> Place:
    """A second machine: the git checkout, DVC's remote and kind of cache; nothing pulled yet."""
    attested.must("git", "clone", "-q", str(attested.folder), str(folder))
    here = Place(folder)
    here.must("dvc", "remote", "add", "-q", "-d", "--local", "store", str(remote))
    here.must("dvc", "config", "--local", "cache.type", cache)
    return here


def dry(here: Place, *targets: str) -> str:
    out = here.snakemake("-n", *targets)
    assert out.returncode == 0, out.stderr[-3000:]
    return out.stdout + out.stderr


def scatter_times(folder: Path) -> None:
    """Give every file below a time of its own, some of them in the future; of links, either end."""
    draw = random.Random(0)
    for path in sorted(folder.rglob("*")):
        time = draw.uniform(1.0e9, 2.0e9)
        os.utime(path, (time, time), follow_symlinks=draw.random() < 0.5)


def stored(here: Place) -> dict[str, str]:
    """{path: md5} of the objects in DVC's cache."""
    base = here.folder / ".dvc/cache/files/md5"
    files = (p for p in sorted(base.rglob("*")) if p.is_file())
    return {
        p.relative_to(base).as_posix(): hashlib.md5(
            p.read_bytes(), usedforsecurity=False
        ).hexdigest()
        for p in files
    }


def intact(here: Place) -> bool:
    """Whether each object in DVC's cache has the content that it is named for."""
    return all(
        name.replace("/", "").removesuffix(".dir") == md5 for name, md5 in stored(here).items()
    )


def held(here: Place) -> dict[str, bytes]:
    """The artifacts, without what git and DVC leave alone."""
    apart = ("logs/report/", ".snakemake_timestamp", ".gitignore")
    files = here.files("artifacts/*/**/*")
    return {name: data for name, data in files.items() if not any(part in name for part in apart)}


@pytest.mark.parametrize("cache", ["copy", "hardlink", "symlink"])
def test_after_a_pull_there_is_nothing_to_do(attested, remote, tmp_path, cache):
    here = cloned(attested, remote, tmp_path / "second", cache)
    here.must("dvc", "pull", "-q")
    assert NOTHING in dry(here)
    file = here.folder / ARTIFACTS / f"predictions/{RUN}.parquet"
    kinds = {"copy": (False, 1), "hardlink": (False, 2), "symlink": (True, 1)}
    assert (file.is_symlink(), file.stat().st_nlink) == kinds[cache]

    shutil.rmtree(here.folder / ARTIFACTS / "predictions")
    shutil.rmtree(here.folder / ARTIFACTS / "shards/mimic")
    here.must("dvc", "checkout", "-q")
    scatter_times(here.folder / "results")
    assert NOTHING in dry(here)


def test_without_snakemakes_notes_all_would_be_made_again(attested, remote, tmp_path):
    here = cloned(attested, remote, tmp_path / "second")
    here.must("dvc", "pull", "-q")
    (here.folder / metadata.packed("demo")).unlink()
    assert NOTHING not in dry(here)


def test_tables_figures_and_page_need_only_the_notes(attested, remote, tmp_path):
    here = cloned(attested, remote, tmp_path / "second")
    here.must("dvc", "pull", "-q", f"{ARTIFACTS}/snakemake.dvc")
    assert NOTHING in dry(here, "tables", "figures", "page")
    assert sum(p.stat().st_size for p in (here.folder / ".dvc/cache").rglob("*")) < 500_000


def test_a_pull_of_the_predictions_measures_every_metric_again(attested, remote, tmp_path):
    here = cloned(attested, remote, tmp_path / "second")
    here.must("dvc", "pull", "-q", f"{ARTIFACTS}/predictions.dvc")
    told = here.must("cxrmim", "check", "--full")
    count = len(list((here.folder / ARTIFACTS / "predictions").rglob("*.parquet")))
    assert f"metrics of {count} of {count} runs measured again" in told


def redo(here: Place) -> None:
    """Make one run again, as an ordinary user; the cache's objects stay what they are."""
    record = here.folder / f"results/demo/records/downstream/{RUN}.json"
    before, kept = stored(here), record.read_bytes()
    record.unlink()
    command = ("snakemake", "--snakefile", str(REPO / "Snakefile"), "--cores", "2")
    out = here.call(*USER, *command)
    assert out.returncode == 0, out.stderr[-3000:]
    assert record.read_bytes() == kept
    assert stored(here) == before
    assert intact(here)


def test_a_run_replaces_links_into_the_cache_and_can_be_attested(attested, remote, tmp_path):
    here = cloned(attested, remote, tmp_path / "second", "symlink")
    here.must("dvc", "pull", "-q")
    redo(here)
    assert not (here.folder / ARTIFACTS / f"predictions/{RUN}.parquet").is_symlink()
    here.must(*USER, "cxrmim", "attest")
    assert intact(here)
    assert NOTHING in dry(here)


def test_hard_links_are_refused_until_dvc_unprotects_them(attested, remote, tmp_path):
    """Snakemake takes a file that may not be written for one that must not be replaced."""
    here = cloned(attested, remote, tmp_path / "second", "hardlink")
    here.must("dvc", "pull", "-q")
    before = stored(here)
    (here.folder / f"results/demo/records/downstream/{RUN}.json").unlink()
    out = here.call(
        *USER, "snakemake", "--snakefile", str(REPO / "Snakefile"), "--cores", "2", "--quiet"
    )
    assert out.returncode != 0
    assert "Write-protected output files" in out.stderr
    assert f"predictions/{RUN}.parquet" in out.stderr
    assert stored(here) == before
    here.must("git", "checkout", "-q", "--", "results")
    here.must("dvc", "unprotect", f"{ARTIFACTS}/predictions")
    redo(here)


def test_dvc_repro_leaves_the_recorded_state_alone(attested, remote, tmp_path):
    """The report's logs are its own: else the next pull would stop at files that were edited."""
    here = cloned(attested, remote, tmp_path / "second", "symlink")
    here.must("dvc", "pull", "-q")
    here.must(*USER, "dvc", "repro")
    assert intact(here)
    pointers_of = [str(path) for path in sorted(here.folder.glob(f"{ARTIFACTS}/*.dvc"))]
    assert "up to date" in here.must("dvc", "status", *pointers_of)
    here.must("dvc", "pull", "-q")
    assert NOTHING in dry(here)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_jobs_log_is_not_written_into_the_cache(tmp_path, link):
    """A job that is called by hand, without Snakemake, which removes old logs."""
    kept, path = tmp_path / "object", tmp_path / "job.log"
    kept.write_text("old")
    kept.chmod(0o444)
    link(kept, path)
    job._log_to(path)
    job.log.info("new")
    logging.shutdown(job.log.handlers)
    assert kept.read_text() == "old"
    assert "new" in path.read_text()


@pytest.fixture
def s3(monkeypatch) -> Iterator[tuple[str, str]]:
    """A local S3 server with a bucket: its address, and a URL in the bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="cxrmim")
        yield f"http://{host}:{port}", "s3://cxrmim/store"
    finally:
        server.stop()


def test_s3_takes_and_gives_back_the_state(attested, s3, tmp_path):
    endpoint, url = s3
    first = copied(attested, tmp_path / "first")
    second = cloned(attested, url, tmp_path / "second")
    first.must("dvc", "remote", "add", "-q", "-d", "--local", "store", url)
    for here in (first, second):
        here.must("dvc", "remote", "modify", "--local", "store", "endpointurl", endpoint)
    first.must("dvc", "push", "-q")
    second.must("dvc", "pull", "-q")
    assert held(second) == held(attested) != {}
    assert NOTHING in dry(second)


class Credentialed:
    """A folder whose scale reads real data, with artifacts that DVC holds, and two remotes."""

    def __init__(self, folder: Path, allowed: str | None) -> None:
        self.place = Place(folder / "work")
        self.remotes = {name: folder / name for name in ("allowed", "other")}
        self.place.folder.mkdir()
        tree = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
        tree["scale"], tree["manifest"]["remote"] = "paper", allowed
        (self.place.folder / "params.yaml").write_text(yaml.safe_dump(tree))
        self.params = params.load(self.place.folder / "params.yaml")
        self.place.must("dvc", "init", "-q", "--no-scm")
        for name, store in self.remotes.items():
            self.place.must("dvc", "remote", "add", "-q", name, str(store))
        self.place.must("dvc", "remote", "default", "other")
        files = [
            self.place.folder / f"results/paper/artifacts/{name}/a"
            for name in (*pointers.RECORDED, *pointers.UNRECORDED)
        ]
        for file in files:
            file.parent.mkdir(parents=True)
            file.write_text(file.parent.name)
        self.place.must("dvc", "add", "-q", *(str(file.parent) for file in files))

    def pushed(self, *arguments: str) -> dict[str, int]:
        """Objects in each remote after a push."""
        self.place.must("dvc", "push", *arguments)
        return {
            name: sum(p.is_file() for p in store.rglob("*")) for name, store in self.remotes.items()
        }


def test_what_is_made_of_real_data_is_not_pushed(tmp_path, monkeypatch):
    here = Credentialed(tmp_path, None)
    monkeypatch.chdir(here.place.folder)
    assert len(list(pointers.unguarded(here.params))) == 6
    pointers.guard(here.params)
    assert list(pointers.unguarded(here.params)) == []
    for arguments in ((), ("--remote", "other"), ("--remote", "allowed")):
        assert here.pushed(*arguments) == {"allowed": 0, "other": 0}


def test_what_is_made_of_real_data_is_pushed_to_the_allowed_remote_alone(tmp_path, monkeypatch):
    here = Credentialed(tmp_path, "allowed")
    monkeypatch.chdir(here.place.folder)
    pointers.guard(here.params)
    assert list(pointers.unguarded(here.params)) == []
    assert here.pushed("--remote", "other") == {"allowed": 0, "other": 0}
    assert here.pushed() == {"allowed": 12, "other": 0}
    (here.place.folder / "results/paper/artifacts/shards/b").write_text("new")
    here.place.must("dvc", "add", "-q", "results/paper/artifacts/shards")
    assert list(pointers.unguarded(here.params)) == []  # DVC keeps the fields


def test_a_pointer_that_lets_real_data_out_is_named(tmp_path, monkeypatch):
    here = Credentialed(tmp_path, "allowed")
    monkeypatch.chdir(here.place.folder)
    pointers.guard(here.params)
    pointer = Path("results/paper/artifacts/shards.dvc")
    pointer.write_text(pointer.read_text().replace("remote: allowed", "remote: other"))
    (told,) = pointers.unguarded(here.params)
    assert str(pointer) in told
    assert "'other'" in told
    assert "'allowed'" in told


def test_an_attestation_that_breaks_off_leaves_nothing_to_push(tmp_path, monkeypatch):
    here = Credentialed(tmp_path, None)
    monkeypatch.chdir(here.place.folder)
    monkeypatch.setattr(pointers.check, "require", lambda found, say: None)
    monkeypatch.setattr(pointers, "_strays", lambda params, prune: None)
    called: list[str] = []

    def dvc(*args: str) -> None:
        called.append(args[0])
        here.place.must("dvc", "add", "-q", "results/paper/artifacts/shards")
        raise CheckError("the disk is full")

    monkeypatch.setattr(pointers, "dvc", dvc)
    for pointer in Path("results/paper/artifacts").glob("*.dvc"):
        pointer.unlink()
    with pytest.raises(CheckError, match="full"):
        pointers.attest(here.params, print)
    assert called == ["add"]
    assert here.pushed() == {"allowed": 0, "other": 0}

    unknown = here.params.model_copy(deep=True)
    object.__setattr__(unknown.manifest, "remote", "elsewhere")
    with pytest.raises(ParamsError, match="elsewhere"):
        pointers.attest(unknown, print)
    assert called == ["add"]


def test_nothing_is_attested_while_snakemake_works(tmp_path, monkeypatch):
    loaded = params.load(REPO / "params.yaml", "demo")
    monkeypatch.chdir(tmp_path)
    writing = Path("results/demo/artifacts/shards/.7-01234567.mimic")
    writing.mkdir(parents=True)
    lock = Path(".snakemake/locks/0.output.lock")
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(CxrmimError, match="recover"):
        pointers.attest(loaded, print)
    assert writing.is_dir()


def test_a_remote_that_dvc_does_not_know_is_refused(tmp_path, monkeypatch):
    here = Credentialed(tmp_path, "elsewhere")
    monkeypatch.chdir(here.place.folder)
    with pytest.raises(ParamsError, match=r"manifest\.remote = 'elsewhere'"):
        pointers.guard(here.params)


def test_generated_data_may_be_pushed_anywhere(attested):
    loaded = params.load(attested.folder / "params.yaml")
    assert pointers.pushed(loaded) == {}
    assert list(pointers.unguarded(loaded)) == []


@pytest.fixture(scope="module")
def blind(attested, tmp_path_factory) -> Place:
    """The attested state as a reviewer has it: unpacked, below no repository."""
    folder = tmp_path_factory.mktemp("blind")
    attested.must("cxrmim", "pack", str(folder / "blind.zip"))
    with zipfile.ZipFile(folder / "blind.zip") as archive:
        archive.extractall(folder)
    here = Place(folder / "cxrmim")
    assert here.call("git", "rev-parse").returncode != 0
    return here


def test_a_blind_zip_is_checked_and_its_report_remade(blind, tmp_path):
    here = copied(blind, tmp_path / "blind")
    before = here.files("tables/*", "figures/*", "report/**/*")
    for name in ("tables/medim_table1.md", "report/index.html"):
        (here.folder / "results/demo" / name).write_text("stale")
    here.must("dvc", "repro")
    assert here.files("tables/*", "figures/*", "report/**/*") == before
    assert "no contradiction" in here.must("cxrmim", "check")


def test_a_blind_zip_tells_of_every_number(blind):
    told = blind.must("cxrmim", "trace", "medim_table1:medim:chexpert_100")
    assert "BAD" not in told
    assert "[ok] dvc.lock" in told
    assert "not attested" not in told


def test_what_needs_git_says_so_in_one_line(blind):
    out = blind.call("cxrmim", "compare")
    assert (out.returncode, out.stderr) == (0, "")
    assert "not committed in this checkout" in out.stdout
    out = blind.call("cxrmim", "diff", "HEAD~1", "results/demo")
    assert out.returncode == 2
    assert "revision of git" in out.stderr
    assert out.stderr.count("\n") == 1
    out = blind.call("cxrmim", "pack", "again.zip")
    assert out.returncode == 1
    assert out.stderr.count("\n") == 1


def test_snakemake_says_what_a_blind_zip_lacks(blind):
    """No artifact is in it: on generated data all of it would be made."""
    told = dry(blind)
    assert NOTHING not in told
    assert "phantom" in told
