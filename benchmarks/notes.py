"""What is written beside a time: the case, its floor, and the versions of what ran."""

from importlib import metadata

import torch

from benchmarks.hardware import HARDWARE, Hardware
from benchmarks.model import floor, work
from benchmarks.probes import cpu
from benchmarks.problems import Case


def describe(op: str, provider: str, case: Case) -> dict:
    amount = work(op, case.n, case.m, case.d, case.batch)
    hardware = hardware_of(case.device)
    note = {
        "op": op,
        "kernel": case.kernel,
        "provider": provider,
        "device": case.device,
        "n": case.n,
        "m": case.m,
        "d": case.d,
        "batch": case.batch,
        "evaluations": amount.evaluations,
        "flops": amount.flops,
        "bytes": amount.traffic,
    }
    if hardware is not None:
        seconds, unit = floor(amount, case.kernel, hardware)
        note |= {"floor_ms": 1e3 * seconds, "binds": unit}
    return note


def hardware_of(device: str) -> Hardware | None:
    """None for a GPU whose rates nobody has written down."""
    if device == "cpu":
        return cpu()
    name = torch.cuda.get_device_name()
    return next((rates for key, rates in HARDWARE.items() if key in name), None)


def versions() -> dict[str, str]:
    found = {}
    for name in ("dmmd-kernels", "torch", "triton", "pykeops", "geomloss"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
