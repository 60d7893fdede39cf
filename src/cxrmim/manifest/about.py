"""What a dataset is and where it comes from: what `cxrmim doctor` compares a root with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One thing that a root must hold.

    Attributes:
        what: its name in words.
        names: paths below the root, each a file (also gzipped) or a folder; one of them suffices.
        rows: rows of the published table below its header, None for what is no table.
    """

    what: str
    names: tuple[str, ...]
    rows: int | None = None


@dataclass(frozen=True)
class About:
    """A dataset as published.

    Attributes:
        title: its name and version.
        source: where to get it, and under which terms.
        parts: what the root must hold for every choice of switches.
        suffixes: of its image files, lower case.
        folders: folders below the root that hold images; each that is there is counted.
        images: published number of image files.
        used: about how many of them the default switches keep.
        format: `jpeg`, `png` or `dicom`: decides how long preparation takes.
    """

    title: str
    source: str
    parts: tuple[Part, ...]
    suffixes: tuple[str, ...]
    folders: tuple[str, ...]
    images: int
    used: int
    format: str
