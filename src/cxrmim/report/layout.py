"""How a block of the grid is laid out: columns, headings and names as the paper prints them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cxrmim.errors import ParamsError
from cxrmim.schema import Block, Cells

DATASETS = {
    "mimic": "MIMIC-CXR",
    "chexpert": "CheXpert",
    "covidx": "COVIDx",
    "siim": "SIIM",
    "nih": "NIH X-ray",
    "rsna": "RSNA",
}
METHODS = {
    "random": "Random init",
    "imagenet": "ImageNet",
    "mae": "MAE",
    "gloria": "GLoRIA",
    "mrm": "MRM",
    "mgca": "MGCA",
    "medim": "MedIM",
    "cmitm": "CMITM",
}
ROWS = METHODS | {f"{entry}-shuffled": f"{name}, pairs shuffled" for entry, name in METHODS.items()}


@dataclass(frozen=True)
class Measure:
    """One number of a run and the column that prints it.

    `key`, `group` and `heading` are patterns: {dataset} (the one that is read), {entry} (how it is
    read), {name} and {percent} are filled in.
    `metric` is the number's key among a record's metrics; `sampled` says whether records hold
    bootstrap replicates of it, as they do of whatever is a mean over test images.
    """

    key: str = "{dataset}_{percent}"
    group: str = "{name}"
    heading: str = "{percent}%"
    metric: str = "value"
    sampled: bool = True


@dataclass(frozen=True)
class Column:
    """One printed column: a measure of one dataset, task and share of labels."""

    key: str
    group: str
    heading: str
    metric: str
    cells: Cells
    percent: int
    sampled: bool = True

    @property
    def title(self) -> str:
        """Group and heading in one line."""
        return " ".join(part for part in (self.group, self.heading) if part)


@dataclass(frozen=True)
class Layout:
    """The printed form of one block of the grid.

    Args:
        title: what the paper calls it.
        caption: one or two sentences without a final "n" or banner; those are added.
        measures: columns of each dataset, task and share of labels.
        datasets: names of datasets, or of readings, where they differ from `DATASETS`.
        stub: heading of the row names.
        marks: headings of further columns that describe a row.
        marked: their cells by entry.
        names: row names by entry, where no paper printed one and they differ from `ROWS`; an option
            of the entry stands in braces, as ``{ratio:.0%}``, so that no scale prints another's.
        decimals: digits after the point of the published values.
        multiple_of: a baseline; our values are also given as multiples of its value.
        prints: what the table shows: its `cells`, or the `cost` of pretraining beside them.
    """

    title: str
    caption: str
    measures: tuple[Measure, ...] = (Measure(),)
    datasets: Mapping[str, str] = field(default_factory=dict)
    stub: str = "Methods"
    marks: tuple[str, ...] = ()
    marked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    decimals: int = 2
    multiple_of: str | None = None
    prints: Literal["cells", "cost"] = "cells"

    def columns(self, block: str, grid: Block, readers: Mapping[str, str]) -> tuple[Column, ...]:
        """Columns of a block, in grid order.

        Args:
            block: its name.
            grid: what it needs.
            readers: the dataset that each of its dataset entries reads; it names the column.

        Raises:
            ParamsError: two columns would have one key.
        """
        names = DATASETS | dict(self.datasets)
        found: dict[str, Column] = {}
        for cells in grid.cells:
            for percent in cells.percents:
                reader = readers[cells.dataset]
                words = {
                    "dataset": reader,
                    "entry": cells.dataset,
                    "name": names.get(cells.dataset, names.get(reader, reader)),
                    "percent": percent,
                }
                for measure in self.measures:
                    key, group, heading = (
                        text.format(**words)
                        for text in (measure.key, measure.group, measure.heading)
                    )
                    if key in found:
                        raise ParamsError(
                            f"grid.{block}.cells: two columns would be called {key!r}; "
                            f"keep one dataset, task and percent of them"
                        )
                    found[key] = Column(
                        key, group, heading, measure.metric, cells, percent, measure.sampled
                    )
        return tuple(found.values())
