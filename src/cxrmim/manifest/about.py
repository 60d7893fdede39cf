"""What a dataset is and where it comes from: what `cxrmim doctor` compares a root with.

A reader's module states `ABOUT`, and may have

- ``needs(options) -> tuple[Part, ...]``: what a root must hold for these options, instead of
  `About.parts`;
- ``probe(root) -> str | None``: a look for what is no `Part`; one line that says what is missing
  and where it was looked for, None if nothing is;
- ``NAMED``: which of images, studies and patients its tables name; the others are our own guess.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One thing that a root must hold.

    Attributes:
        what: its name in words.
        names: paths below the root; one of them suffices.
        rows: rows of the published table below its header, None for what is no table.
        folder: they are folders; otherwise files, also gzipped.
    """

    what: str
    names: tuple[str, ...]
    rows: int | None = None
    folder: bool = False


@dataclass(frozen=True)
class About:
    """A dataset as published.

    Attributes:
        title: its name and version.
        source: where to get it, and under which terms.
        parts: what the root must hold whatever the options; see ``needs`` above.
        suffixes: of its image files, lower case.
        folders: folders below the root that hold images; each that is there is counted.
        images: published number of image files.
        used: about how many of them the default switches keep.
        format: `jpeg`, `png` or `dicom`: decides how long preparation takes.
        labelled: number of images that the tables label, where `used` is a draw among them.
    """

    title: str
    source: str
    parts: tuple[Part, ...]
    suffixes: tuple[str, ...]
    folders: tuple[str, ...]
    images: int
    used: int
    format: str
    labelled: int | None = None
