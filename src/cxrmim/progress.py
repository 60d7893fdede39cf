"""Progress bars: shown on a terminal, silent elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar on stderr that appears if the loop takes over two seconds.

    Args:
        items: what to iterate over.
        what: the bar's label.
        total: number of items where `items` has no length.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as bar

    yield from bar(items, what, total=total, console=Console(stderr=True), transient=True)


@contextmanager
def meter(
    what: str, total: int, done: int = 0, *, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """A bar on stderr with the time left and a line that changes.

    Args:
        what: the bar's label.
        total: all steps.
        done: steps that were done before.
        shown: False for a process that is not to draw.

    Yields:
        A function that is told the steps done so far and the line.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda step, line: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done, line="")

        def tell(step: int, line: str) -> None:
            bar.update(task, completed=step, line=line)

        yield tell
