"""Tiles that were measured to be faster than the table's (regimes.py), for this process.

An entry depends on the op (tunable.py), the regime, the kernel's profiles and the GPU; like the
tables, not on n or m.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from triton.runtime.errors import OutOfResources

from dmmd_kernels.backends._triton.regimes import Regime, architecture

_FASTER: dict[str, Regime] = {}
_ROUNDS = 7
# Rows, columns, warps and stages to try: of a sweep by its kind, of other ops by their name. A
# direct tile has one row per lane. Sums that are kept in memory must not be read a round ahead, so
# second order and parameters have one stage.
_TILES = {
    "direct": [(32 * warps, columns, warps, 1) for warps in (2, 4, 8) for columns in (4, 8, 16)],
    "fused": list(product((64, 128), (16, 32, 64), (4, 8), (1, 2, 3))),
    "panels": list(product((32, 64, 128), (16, 32, 64), (4, 8), (1,))),
    "sides": list(product((64, 128), (32, 64), (4, 8), (1, 2, 3))),
    "second_order": list(product((64, 128), (16, 32, 64), (4, 8), (1,))),
    "parameters": list(product((64, 128), (32, 64, 128), (4, 8), (1,))),
}


def faster(op: str, row: Regime, code: int, device: torch.device) -> Regime:
    """What was found for this row of the op's table, or the row."""
    return _FASTER.get(_key(op, row, code, device), row) if _FASTER else row


def candidates(op: str, row: Regime) -> Iterator[Regime]:
    """The row itself, and the other tiles it could have."""
    yield row
    for rows, columns, warps, stages in _TILES[op if op in _TILES else row.kind]:
        other = replace(row, rows=rows, columns=columns, warps=warps, stages=stages)
        if other != row:
            yield other


def search(
    op: str,
    row: Regime,
    code: int,
    device: torch.device,
    call: Callable[[], object],
    clock: Callable[[Callable[[], object]], float],
    file: Path | None,
) -> Regime:
    """The candidate with which the call takes least time by the clock; in use from now on.

    One that the GPU lacks the resources for is passed over. The best is read from the file if it
    is there, and written there if it is not.

    Raises:
        ValueError: the file is not one of these, or has tiles that are none of the candidates.
    """
    key = _key(op, row, code, device)
    known = _read(file) if file and file.exists() else {}
    if key in known:
        found = [c for c in candidates(op, row) if _tile(c) == known[key]]
        if not found:
            raise ValueError(
                f"tune: {key!r} in {file} must be tiles that are tried, got {known[key]!r}; "
                "delete the entry to have them timed again"
            )
        _FASTER[key] = found[0]
        return found[0]
    seconds: dict[Regime, float] = {}
    try:
        for candidate in candidates(op, row):
            _FASTER[key] = candidate
            with suppress(OutOfResources):  # of shared memory or registers: not for this GPU
                seconds[candidate] = clock(call)
    finally:
        del _FASTER[key]
    best = _FASTER[key] = min(seconds, key=seconds.__getitem__)
    if file:
        file.write_text(json.dumps(known | {key: _tile(best)}, indent=1) + "\n")
    return best


def median_seconds(call: Callable[[], object]) -> float:
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


def _read(file: Path) -> dict[str, dict[str, int]]:
    try:
        known = json.loads(file.read_text())
    except ValueError:  # no JSON, or no text
        known = None
    if not isinstance(known, dict):
        raise ValueError(
            f"tune: file must be JSON that tune wrote, got {file}; delete it or name another"
        )
    return known


def _tile(row: Regime) -> dict[str, int]:
    return {name: getattr(row, name) for name in ("rows", "columns", "warps", "stages")}


def _key(op: str, row: Regime, code: int, device: torch.device) -> str:
    return f"{op}: {row.kind} d<={row.d} profiles={code:x} sm_{architecture(device)}"
