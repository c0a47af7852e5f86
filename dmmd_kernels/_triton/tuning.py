"""Tiles that were measured to be faster than the table's (regimes.py), for this process.

An entry depends on the regime, the kernel's profiles and the GPU; like the table, not on n or m.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from dmmd_kernels._triton.regimes import Regime, architecture

_FASTER: dict[str, Regime] = {}
_ROUNDS = 7
# Rows, columns, warps and stages to try. A direct tile has one row per lane.
_TILES = {
    "direct": [(32 * warps, columns, warps, 1) for warps in (2, 4, 8) for columns in (4, 8, 16)],
    "fused": list(product((64, 128), (16, 32, 64), (4, 8), (1, 2, 3))),
    "panels": list(product((32, 64, 128), (32, 64, 128), (4, 8), (1,))),
}


def faster(row: Regime, code: int, device: torch.device) -> Regime:
    """What was found for this row of the table, or the row."""
    return _FASTER.get(_key(row, code, device), row) if _FASTER else row


def candidates(row: Regime) -> Iterator[Regime]:
    """The row itself, and the other tiles of its kind."""
    yield row
    for rows, columns, warps, stages in _TILES[row.kind]:
        other = replace(row, rows=rows, columns=columns, warps=warps, stages=stages)
        if other != row:
            yield other


def search(
    row: Regime,
    code: int,
    device: torch.device,
    call: Callable[[], Tensor],
    clock: Callable[[Callable[[], Tensor]], float],
    file: Path | None,
) -> Regime:
    """The candidate with which the call takes least time by the clock; in use from now on.

    One that the GPU lacks the resources for is passed over. The best is read from the file if it
    is there, and written there if it is not.
    """
    key = _key(row, code, device)
    known = json.loads(file.read_text()) if file and file.exists() else {}
    if key in known:
        _FASTER[key] = Regime(**known[key])
        return _FASTER[key]
    seconds: dict[Regime, float] = {}
    try:
        for candidate in candidates(row):
            _FASTER[key] = candidate
            with suppress(OutOfResources):  # of shared memory or registers: not for this GPU
                seconds[candidate] = clock(call)
    finally:
        del _FASTER[key]
    best = _FASTER[key] = min(seconds, key=seconds.__getitem__)
    if file:
        file.write_text(json.dumps(known | {key: asdict(best)}, indent=1) + "\n")
    return best


def median_seconds(call: Callable[[], Tensor]) -> float:
    """Of several calls on the current GPU, after one that compiles."""
    call()
    times = []
    for _ in range(_ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _key(row: Regime, code: int, device: torch.device) -> str:
    what = "gradient" if row.grad else "value"
    return f"{row.kind} {what} d<={row.d} profiles={code:x} sm_{architecture(device)}"
