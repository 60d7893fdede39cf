"""Fetching published files from the Hugging Face hub, once, held to their pins.

A file is described first, downloaded into a folder of its own, compared with its digest and only
then put in its place: whatever is interrupted leaves nothing there.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cxrmim import record
from cxrmim.errors import CxrmimError, DataError
from cxrmim.params import Params
from cxrmim.pretrain import places, published
from cxrmim.pretrain.published import Published


class HubError(CxrmimError):
    """The hub cannot be reached, or has no such file."""


@dataclass(frozen=True)
class Remote:
    """What the hub tells of a file.

    Attributes:
        commit: the commit that the file is taken from.
        sha256: of a large file, None for a small one.
        blob: git's sha1 of a small file.
    """

    commit: str
    sha256: str | None
    blob: str | None


class Hub(Protocol):
    """The two questions that a hub is asked."""

    def describe(self, repo: str, file: str, revision: str) -> Remote:
        """Commit and digest of a file."""

    def download(self, repo: str, file: str, commit: str, folder: Path) -> Path:
        """Put a file into a folder."""


class HuggingFace:
    """The Hugging Face hub through its own library; no token is sent."""

    def describe(self, repo: str, file: str, revision: str) -> Remote:
        """Commit and digest of a file.

        Raises:
            HubError: it cannot be reached, or has no such file.
        """
        import huggingface_hub

        try:
            info = huggingface_hub.HfApi(token=False).model_info(
                repo, revision=revision, files_metadata=True
            )
        except Exception as error:  # the library raises its own, httpx's and the system's
            raise HubError(f"the hub cannot be reached ({type(error).__name__})") from None
        for entry in info.siblings or []:
            if entry.rfilename == file:
                sha256 = entry.lfs.sha256 if entry.lfs else None
                return Remote(str(info.sha), sha256, entry.blob_id)
        raise HubError(f"the hub has no {file} in {repo} at {revision}")

    def download(self, repo: str, file: str, commit: str, folder: Path) -> Path:
        """Put a file into a folder.

        Raises:
            HubError: the download failed.
        """
        import huggingface_hub

        try:
            found = huggingface_hub.hf_hub_download(
                repo, file, revision=commit, local_dir=folder, token=False
            )
        except Exception as error:  # as above
            raise HubError(f"the download failed ({type(error).__name__})") from None
        return Path(found)


def fetch_all(params: Params, hub: Hub, names: list[str]) -> Iterator[str]:
    """Fetch what a scale needs, or what is named; one line a file.

    Raises:
        DataError: some could not be fetched; the lines before say which.
    """
    items = [published.find(n) for n in names] or [n.item for n in published.needed(params)]
    failed = 0
    for item in items:
        try:
            yield f"{item.path}: {fetch(params, item, hub)}"
        except CxrmimError as error:
            failed += 1
            yield f"{item.path}: {error}"
    if failed:
        raise DataError(f"{failed} of {len(items)} files could not be fetched, see above")
    if not items:
        yield "nothing to fetch: everything starts from random weights"


def fetch(params: Params, item: Published, hub: Hub) -> str:
    """Fetch one file unless it is there; what was done, in words.

    Raises:
        CxrmimError: it cannot be fetched, is not the pinned one, or another file lies in its place.
    """
    state, note = published.state(item)
    if state == "verified":
        return f"is there, {note}"
    if state != "missing":
        raise DataError(
            f"{note}; nothing was fetched: delete it, or keep it with `cxrmim weights import "
            f"{item.name} {item.path}`"
        )
    if item.repo is None:
        raise DataError(f"not on the hub; {published.by_hand(item)}")
    try:
        remote = hub.describe(item.repo, item.source, item.revision or "main")
        if item.revision is not None and remote.commit != item.revision:
            raise DataError(f"the hub gives commit {remote.commit}, not {item.revision}")
        places.FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=places.FOLDER) as folder:
            file = hub.download(item.repo, item.source, remote.commit, Path(folder))
            sha256 = _held(item, remote, file)
            origin = {
                "kind": "hub",
                "repo": item.repo,
                "revision": remote.commit,
                "file": item.source,
                "sha256": sha256,
            }
            _put(params, item, file, origin)
    except HubError as error:
        raise DataError(f"{error}; {published.by_hand(item)}") from None
    how = "as pinned" if item.sha256 else f"as the hub gives it, now in {places.LOCK}"
    return f"fetched, sha256 {sha256[:12]} {how}"


def _held(item: Published, remote: Remote, file: Path) -> str:
    """The download's sha256, after comparing it with the pin and with what the hub told."""
    got = record.digest(file)["sha256"]
    for source, wanted in (("pin", item.sha256), ("hub", remote.sha256)):
        if wanted is not None and got != wanted:
            raise DataError(
                f"the download has sha256 {got[:12]}, the {source} says {wanted[:12]}; nothing was "
                f"kept"
            )
    if item.sha256 is None and remote.sha256 is None:
        data = file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if blob != remote.blob:
            raise DataError(
                f"the download's git hash {blob[:12]} is not the hub's {str(remote.blob)[:12]}; "
                f"nothing was kept"
            )
    return str(got)


def _put(params: Params, item: Published, file: Path, origin: Mapping[str, object]) -> None:
    from cxrmim.pretrain import official  # imports torch: only where there is a file to read

    official.put(params, item, file, origin)
