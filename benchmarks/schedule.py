"""How long jobs that wait for each other take on a number of GPUs."""

import heapq
from collections.abc import Sequence


def wall(jobs: Sequence[tuple[str, float, str | None]], gpus: int) -> float:
    """Time until the last job has ended, a GPU each.

    Whenever a GPU is free, of the jobs whose predecessor has ended the one starts after which the
    longest chain follows, as a scheduler does that knows the durations; Snakemake's does not, so
    this is a lower bound for it.

    Args:
        jobs: (id, duration, the job that has to end before, or None).
        gpus: how many jobs run at a time.
    """
    duration = {name: time for name, time, _ in jobs}
    after: dict[str | None, list[str]] = {}
    for name, _, before in jobs:
        after.setdefault(before, []).append(name)

    def chain(name: str) -> float:
        return duration[name] + max((chain(n) for n in after.get(name, [])), default=0.0)

    ready = [(-chain(name), name) for name in after.get(None, [])]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < gpus:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + duration[name], name))
        now, name = heapq.heappop(running)
        for following in after.get(name, []):
            heapq.heappush(ready, (-chain(following), following))
    return now
