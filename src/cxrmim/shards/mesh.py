"""Words that count as medical subject headings in a report (protocols §2, MedIM).

`mesh_radiology.txt` is the project's own list of single words that occur as MeSH headings or as
comma-separated parts of them (trees A, C and E) and that chest reports use.
"""

from importlib import resources

LISTS = {"radiology": "mesh_radiology.txt"}


def headings(name: str) -> frozenset[str]:
    """Lower-case words of a list.

    Args:
        name: a key of `LISTS`.
    """
    text = resources.files("cxrmim.shards").joinpath(LISTS[name]).read_text(encoding="ascii")
    lines = (line.strip() for line in text.splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))
