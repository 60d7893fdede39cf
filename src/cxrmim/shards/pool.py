"""Rows decoded by worker processes, chunk by chunk, in order.

Processes and not threads: a decoder that crashes, or a worker that the system kills for memory,
ends a worker, not the job; and pydicom, which is Python, decodes on every core.
"""

import hashlib
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import numpy as np

from cxrmim.errors import CxrmimError
from cxrmim.shards.bits import pack
from cxrmim.shards.images import (
    Grey,
    UnreadableError,
    decode,
    dhash,
    fitted,
    read_bytes,
    square,
    state,
)
from cxrmim.shards.journal import Array, Chunk, Outcome, state_of
from cxrmim.shards.masks import decode_rle

ROWS = 64  # of a chunk: what a kill can cost a worker, about two seconds of decoding
AHEAD = 2  # chunks in flight for each worker


@dataclass(frozen=True)
class Item:
    """A row's work: its file and its mask's run-length codes, None without masks."""

    path: Path
    codes: tuple[str, ...] | None


@dataclass(frozen=True)
class Result:
    """A row's outcome and its arrays: image (S, S) and mask (S, ceil(S / 8))."""

    outcome: Outcome
    arrays: dict[str, Grey] = field(default_factory=dict)


def process(item: Item, side: int, scaled: bool) -> Result:
    """Read, decode and resize one image and its mask.

    Args:
        item: which.
        side: S in px.
        scaled: whether JPEGs are decoded at a reduced scale.
    """
    digest, size = "", 0
    try:
        content = read_bytes(item.path)
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        found = decode(content, side if scaled else None)
        image = square(found.pixels, side, found.shape)
        arrays = {"images": image}
        if item.codes is not None:
            arrays["masks"] = pack(square(decode_rle(item.codes, *found.shape), side))
    except UnreadableError as error:
        return Result(Outcome(digest, size, reason=str(error)))
    pixels = hashlib.sha256(image.data).hexdigest()
    height, width = fitted(found.shape, side)
    return Result(Outcome(digest, size, pixels, dhash(image), height, width), arrays)


def states(items: Sequence[Item]) -> str:
    """`Chunk.state` of rows: sizes and times of their files."""
    return state_of([state(item.path) for item in items])


def work(items: Sequence[Item], side: int, scaled: bool) -> Chunk:
    """Process a chunk's rows.

    The files' times are taken first: a file that changes while it is read is read again on the
    next start.
    """
    before = states(items)
    results = [process(item, side, scaled) for item in items]
    shapes = {"images": (side, side)}
    if any(item.codes is not None for item in items):
        shapes["masks"] = (side, -(-side // 8))
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        rows = [r.arrays[name] for r in results if r.arrays]
        arrays[name] = np.stack(rows) if rows else np.zeros((0, *shape), dtype=np.uint8)
    return Chunk([r.outcome for r in results], arrays, before)


def chunks(
    items: Sequence[Item], first: int, side: int, scaled: bool, threads: int, dataset: str
) -> Iterator[Chunk]:
    """Process rows; the chunks come in order and do not depend on the number of workers.

    Args:
        items: all rows.
        first: row to begin with, the first of a chunk.
        side: S in px.
        scaled: whether JPEGs are decoded at a reduced scale.
        threads: worker processes; with 1, or one chunk, this process does the work.
        dataset: for messages.

    Raises:
        CxrmimError: a worker process died.
    """
    parts = (items[i : i + ROWS] for i in range(first, len(items), ROWS))
    count = min(threads, -(-(len(items) - first) // ROWS))
    job = partial(work, side=side, scaled=scaled)
    if count <= 1:
        yield from map(job, parts)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_start) as pool:
        running: deque[Future[Chunk]] = deque(
            pool.submit(job, part) for part in islice(parts, AHEAD * count)
        )
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(job, part) for part in islice(parts, 1))
        except BrokenProcessPool:
            raise CxrmimError(
                f"{dataset}: a worker process died while it decoded images, killed or out of "
                f"memory; run again, with fewer threads.shards if memory is short: what is done "
                f"is kept"
            ) from None
        finally:
            for future in running:
                future.cancel()


def _start() -> None:
    """Set a worker up: an interrupt is the parent's to handle, and a dead parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
