"""Where a host waits for its card within steps: what the card warns of and what a profile shows.

On a CPU the operations and calls are counted that would wait. What a CPU cannot show is a copy by
`.to(device)`, which only a card tells.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

SPAN = "a step"
# Not "synchronizing" alone: the first switch of the mode warns that the mode is a prototype.
WARNED = "called a synchronizing CUDA operation"
CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
# Operations whose result, or its shape, the host waits for on a GPU; functions that fetch a tensor
# (not `numpy`: a card's tensor refuses it).
OPERATIONS = (
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero",
    "_unique", "_unique2", "unique_dim", "unique_consecutive",
)  # fmt: skip
FETCHES = ("cpu", "tolist")


def waits(step: Callable[[], None], steps: int, device: torch.device) -> Counter[str]:
    """What the host waits for within steps, by name.

    Args:
        step: takes one.
        steps: how many on a CPU; on a card, as often for its warnings and for the profile.
        device: that `step` computes on.
    """
    if device.type != "cuda":
        with Spy() as spy, Fetches(spy.found):
            for _ in range(steps):
                step()
        return spy.found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = Counter(str(w.message) for w in caught if WARNED in str(w.message))
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(steps):
            with record_function(SPAN):
                step()
        torch.cuda.synchronize()
    return told + waiting(seen.events() or ())


def waiting(events: Iterable[Any]) -> Counter[str]:
    """Calls of a profile that make the host wait within a step, and copies that must.

    Args:
        events: of torch.profiler; steps are named `SPAN`.

    Raises:
        ValueError: there is no step among them.
    """
    kept = list(events)
    # A card's trace repeats the span on the device, where it lasts until the kernels have ended.
    steps = [e.time_range for e in kept if e.name == SPAN and e.device_type == DeviceType.CPU]
    if not steps:
        raise ValueError("the profile shows no step")
    found: Counter[str] = Counter()
    for event in kept:
        inside = any(span.start <= event.time_range.start <= span.end for span in steps)
        copied = event.name.startswith("Memcpy") and ("Pageable" in event.name)
        if (event.name in CALLS and inside) or copied or event.name.startswith("Memcpy DtoH"):
            found[event.name] += 1
    return found


class Spy(TorchDispatchMode):
    """Counts the operations that a card's host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).removeprefix("aten.").split(".")[0]
        picked = args[1] if name.startswith("index") and len(args) > 1 else None
        listed = picked if isinstance(picked, (list, tuple)) else ()
        if name in OPERATIONS or any(getattr(i, "dtype", None) == torch.bool for i in listed):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Fetches(TorchFunctionMode):
    """Counts the calls that fetch a tensor, which on a CPU are no operations."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in FETCHES:
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))
