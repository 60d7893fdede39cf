"""The checkout as a zip without git, for a blind review: `cxrmim pack FILE.zip`.

It holds what git tracks at the last commit, and so no artifact, and names nobody: the places where
authors stand are rewritten, and what would be written is searched for the names that git knows.
Equal commits give equal bytes.
"""

import argparse
import configparser
import hashlib
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cxrmim import git, record
from cxrmim.check import HOW
from cxrmim.errors import CheckError, CxrmimError
from cxrmim.params import Params
from cxrmim.paths import PUBLIC, Paths

Files = dict[str, bytes]
DATE = (1980, 1, 1, 0, 0, 0)
ANONYMOUS = "Anonymous authors"
PLAIN, PROGRAM = "100644", "100755"  # modes of the files that a zip can hold
OPEN = ("records", "tables", "figures", "report")  # below the folder of a scale; and .dvc pointers
ROOTED = "params.yaml"
POINTERS = (".dvc", ".gitignore")
# Of CITATION.cff: who wrote it, and where it can be found.
WHO = (
    *("authors", "contact", "doi", "identifiers", "license-url", "preferred-citation"),
    *("repository", "url"),
)
SHORTEST = 4  # characters of a name of git's that is searched for; of a given word, any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("file", metavar="FILE.zip", type=Path, help="the zip to write")
    parser.add_argument(
        "--word",
        metavar="WORD",
        action="append",
        default=[],
        help="stop if a file holds this too: your group, your account on the cluster",
    )


def command(params: Params, args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Write the zip and say what is in it.

    Raises:
        CxrmimError: the folder is no clean checkout, or a file must not go out.
    """
    if args.file.exists():
        raise CheckError(f"{args.file}: is there already; name a new file")
    files, programs = tracked()
    refuse_artifacts(files)
    known, edited = names(args.word), []
    folders = roots(files[ROOTED]) if ROOTED in files else []
    for path, old in files.items():
        files[path] = anonymous(path, old, folders)
        if files[path] != old:
            edited.append(path)
        places = [(f"{path}, line {line}", *hit) for line, *hit in found(files[path], known)]
        named = [(f"{path}, its name", *hit) for _, *hit in found(path.encode(), known)]
        for place, word, source in named + places:
            raise CheckError(
                f"{place}: holds {word!r} ({source}); change it on a branch for the "
                f"review, commit, and pack that"
            )
    data = zipped(files, programs)
    args.file.parent.mkdir(parents=True, exist_ok=True)
    args.file.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    say(f"{args.file}: {len(files)} files, {len(data)} bytes, sha256 {digest}")
    told = [path for path in edited if not path.endswith(HOW)]
    many = len(edited) - len(told)
    say(f"rewritten: {', '.join(told)}" + (f" and roots in {many} circumstances" if many else ""))


def tracked() -> tuple[Files, set[str]]:
    """Bytes of every file that git tracks, and which of them are programs.

    Raises:
        CxrmimError: this is not the root of a checkout, or a tracked file differs from the last
            commit, or is no plain file.
    """
    prefix = git.ask("rev-parse", "--show-prefix")
    if prefix is None or git.ask("rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise CxrmimError("no git checkout here: a blind zip is made of what git tracks")
    if prefix.strip():
        raise CxrmimError("run `cxrmim pack` from the root of the checkout")
    changed = git.lines("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise CxrmimError(
            f"{changed[0][3:]}: not as in the last commit ({len(changed)} such files); commit or "
            f"`git stash` first"
        )
    files, programs = {}, set()
    for entry in (git.ask("ls-files", "--stage", "-z") or b"").decode().split("\0")[:-1]:
        about, _, path = entry.partition("\t")
        mode = about.split()[0]
        if mode not in (PLAIN, PROGRAM):
            raise CheckError(f"{path}: a link or a submodule; a blind zip holds plain files only")
        files[path] = Path(path).read_bytes()
        if mode == PROGRAM:
            programs.add(path)
    return files, programs


def refuse_artifacts(files: Files) -> None:
    """Stop if git tracks what may be made of patients' data (docs/privacy.md).

    Raises:
        CheckError: a file below a scale's folder is neither a result nor a pointer.
    """
    results = Paths("x").results.parent
    for path in map(PurePosixPath, files):
        if not path.is_relative_to(results) or path.is_relative_to(PUBLIC):
            continue
        place = "".join(path.relative_to(results).parts[1:-1][:1])
        pointer = place == "artifacts" and path.name.endswith(POINTERS)
        if place not in OPEN and not pointer:
            raise CheckError(
                f"{path}: git tracks it, but it is no result; `git rm --cached {path}`"
            )


def roots(params: bytes) -> list[str]:
    """Data roots and lists that params.yaml names, at any scale, the longest first."""

    def below(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            block = tree.get("manifest")
            if isinstance(block, dict):
                yield from filter(None, [*(block.get("roots") or {}).values(), block.get("lists")])
            for inner in tree.values():
                yield from below(inner)

    return sorted(set(below(yaml.safe_load(params))), key=lambda name: (-len(name), name))


def anonymous(path: str, data: bytes, folders: list[str]) -> bytes:
    """A file's bytes without its authors, remotes and data roots; most stay as they are."""
    if path == ".dvc/config":
        return _without_git(data)
    if path == "CITATION.cff":
        return _citation(data.decode()).encode()
    if path == "LICENSE":
        return re.sub(rb"(?m)^(Copyright \(c\) [0-9, -]*).*$", rb"\1" + ANONYMOUS.encode(), data)
    if path == "pyproject.toml":
        return re.sub(
            rb"(?ms)^(authors|maintainers) = \[.*?\]$",
            rb'\1 = [{ name = "' + ANONYMOUS.encode() + rb'" }]',
            data,
        )
    if path.endswith(HOW):
        tree = json.loads(data)
        return record.canonical(tree | {"roots": {}}) if tree.get("roots") else data
    if path == "slurm/config.yaml":
        for key, value in ((b"account", b"default"), (b"partition", b"main")):
            data = re.sub(rb"(slurm_" + key + rb": *)[^\s,}]+", rb"\1" + value, data)
        return data
    for folder in folders if path == ROOTED else []:
        value = rb"""(?<=[:\s{])(["']?)""" + re.escape(folder.encode()) + rb"\1(?=[\s,}]|$)"
        data = re.sub(value, b"null", data)
    return data


def _without_git(data: bytes) -> bytes:
    """DVC's configuration for a folder that is no repository and has no remote."""
    old = configparser.ConfigParser(interpolation=None)
    old.read_string("\n".join(line.strip() for line in data.decode().splitlines()))
    core = dict(old["core"]) if old.has_section("core") else {}
    core.pop("remote", None)
    lines = [f"    {key} = {value}" for key, value in sorted((core | {"no_scm": "true"}).items())]
    return "\n".join(["[core]", *lines, ""]).encode()


def _citation(text: str) -> str:
    blocks = re.split(r"(?m)^(?=\S)", text)
    kept = [block for block in blocks if not block.startswith(WHO)]
    return "".join([*kept, f"authors:\n  - name: {ANONYMOUS}\n"])


def names(words: list[str]) -> dict[str, str]:
    """Words that must not be in the zip: what git knows of its users, and the given ones.

    A name of git's that is also the project's is none.

    Returns:
        {word: where it comes from}
    """
    given, out = dict.fromkeys(words, "--word"), dict[str, str]()
    for line in git.lines("log", "--format=%an%n%ae%n%cn%n%ce"):
        out.setdefault(line, "git log")
    for key in ("user.name", "user.email"):
        for line in git.lines("config", key):
            out.setdefault(line, f"git config {key}")
    for line in git.lines("remote", "-v"):
        url = line.split()[1]
        if re.search(r"://|@", url):
            out.setdefault("/".join(re.split("[/:]", url.removesuffix(".git"))[-2:]), "git remote")
    if len(Path.home().parts) > 2:
        out.setdefault(str(Path.home()), "your home folder")
    project = {"cxrmim"}
    kept = {w: s for w, s in out.items() if len(w) >= SHORTEST and w.casefold() not in project}
    return given | kept


def found(data: bytes, words: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    """(line, word, where it comes from) of the words that stand in a file, whatever their case."""
    text = _folded(data.decode(errors="replace"))
    for word, source in words.items():
        match = re.search(rf"(?<![^\W_]){re.escape(_folded(word))}(?![^\W_])", text)
        if match:
            yield text.count("\n", 0, match.start()) + 1, word, source


def _folded(text: str) -> str:
    """The text whatever its case and however its accents are written."""
    return unicodedata.normalize("NFC", text.casefold())


def zipped(files: Files, programs: set[str]) -> bytes:
    """A zip of files below one folder; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(files):
            info = zipfile.ZipInfo(f"cxrmim/{path}", DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, whose modes the next line holds
            info.external_attr = int(PROGRAM if path in programs else PLAIN, 8) << 16
            archive.writestr(info, files[path])
    return buffer.getvalue()
