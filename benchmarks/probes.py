"""What the CPU of this machine can do, measured in a second: the rates that model.py needs."""

import platform
from functools import cache
from pathlib import Path

import torch

from benchmarks.clock import fastest
from benchmarks.hardware import EXP_SLOTS, Hardware

_SECONDS = 0.25


@cache
def cpu() -> Hardware:
    """The fastest of many short trials, since other work on the machine only ever slows one."""
    size = 384  # a millisecond: short enough to run undisturbed now and then
    a, b, c = (torch.ones(size, size) for _ in range(3))
    multiply_adds = size**3 / fastest(lambda: torch.mm(a, b, out=c), _SECONDS)
    large, copy = torch.ones(2**24), torch.empty(2**24)
    bandwidth = 2 * 4 * large.numel() / fastest(lambda: copy.copy_(large), _SECONDS)
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
    return t.numel() / fastest(lambda: torch.exp(t, out=out), _SECONDS)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
