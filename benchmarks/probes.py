"""What the CPU of this machine can do, measured in a second: the rates that model.py needs."""

import platform
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.model import EXP_SLOTS, Hardware

_SECONDS = 0.25


@cache
def cpu() -> Hardware:
    """The fastest of many short trials, since other work on the machine only ever slows one."""
    size = 384  # a millisecond: short enough to run undisturbed now and then
    a, b, c = (torch.ones(size, size) for _ in range(3))
    multiply_adds = size**3 / _fastest(lambda: torch.mm(a, b, out=c))
    large, copy = torch.ones(2**24), torch.empty(2**24)
    bandwidth = 2 * 4 * large.numel() / _fastest(lambda: copy.copy_(large))
    instructions = torch.backends.cpu.get_cpu_capability()
    return Hardware(
        name=cpu_name(),
        slots=multiply_adds,
        bandwidth=bandwidth,
        exp_slots=EXP_SLOTS.get(instructions, EXP_SLOTS["DEFAULT"]),
    )


@cache
def torch_exp_rate() -> float:
    """Exponentials per second of torch.exp on data in the cache; for the record, not the floor."""
    t = torch.rand(2**15 * torch.get_num_threads())
    out = torch.empty_like(t)
    return t.numel() / _fastest(lambda: torch.exp(t, out=out))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _fastest(call) -> float:
    call()
    best, end = float("inf"), perf_counter() + _SECONDS
    while perf_counter() < end:
        start = perf_counter()
        call()
        best = min(best, perf_counter() - start)
    return best
