"""The one stopwatch of the benchmarks; all results are in seconds.

On a CPU it is wall time with warm caches. On a GPU it is the time between two events of the
device, from an idle device whose L2 cache was swept to an idle device.
"""

from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import torch

SWEPT = 2**27  # bytes; more than any L2 cache here


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def sweeper(device: str) -> Callable[[], None]:
    """A call that leaves the device idle, and nothing of what was computed in a GPU's L2."""
    if device != "cuda":
        return lambda: None
    swept = torch.empty(SWEPT, dtype=torch.int8, device=device)

    def sweep() -> None:
        swept.zero_()
        torch.cuda.synchronize()

    return sweep


def timed(call: Callable[[], Any], device: str = "cpu") -> tuple[Any, float]:
    """(result, seconds) of one call by the wall clock, launching included."""
    synchronize(device)
    start = perf_counter()
    result = call()
    synchronize(device)
    return result, perf_counter() - start


def times(
    call: Callable[[], Any], device: str = "cpu", *, seconds: float, least: int = 3, most: int
) -> list[float]:
    """Of several calls: at least `least`, at most `most`, and no new one after `seconds`."""
    sweep, found = sweeper(device), list[float]()
    end = perf_counter() + seconds
    while len(found) < least or (len(found) < most and perf_counter() < end):
        sweep()
        found.append(_between_events(call) if device == "cuda" else timed(call)[1])
    return found


def _between_events(call: Callable[[], Any]) -> float:
    begin, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    stop.record()
    stop.synchronize()
    return 1e-3 * begin.elapsed_time(stop)


def by_turns(
    calls: Sequence[Callable[[], Any]], *, seconds: float, least: int
) -> list[list[float]]:
    """Of each call, which take turns on the CPU, so that a drift of the machine hits all alike."""
    found: list[list[float]] = [[] for _ in calls]
    end = perf_counter() + seconds
    while len(found[0]) < least or perf_counter() < end:
        for call, own in zip(calls, found, strict=True):
            own.append(timed(call)[1])
    return found


def fastest(call: Callable[[], Any], seconds: float) -> float:
    """The least of many short trials: other work on the machine only ever slows one."""
    call()
    return min(times(call, seconds=seconds, most=1_000_000))


def process_seconds(call: Callable[[], Any], *, calls: int, repeats: int) -> float:
    """Of the process, per call: the least mean of several rounds of many calls."""
    means = []
    for _ in range(repeats):
        start = process_time()
        for _ in range(calls):
            call()
        means.append((process_time() - start) / calls)
    return min(means)
