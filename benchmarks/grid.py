"""The grid of sizes a GPU is measured on: ours in both precisions, and torch at its best.

    python benchmarks/grid.py OUTDIR [--seconds 240] [--device cuda]

Writes OUTDIR/grid.json, and a short table that it prints, OUTDIR/grid.txt. Every row: median, 20th
and 80th percentile in ms, pairs per second, percent of the floor (model.py), error against
float64, peak memory. A provider is
checked before it is timed; out of memory is a note, not a failure. Cases come in the order of their
importance, and what has not begun when the seconds are over is left out and counted.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

import dmmd_kernels as dk
from benchmarks.notes import describe, versions
from benchmarks.plain import Chunked, Compiled, Plain, cdist, expanded
from benchmarks.problems import Case, problem, relative_error
from benchmarks.providers import Ours

DIMS = (64, 2, 512, 16, 3, 128, 256, 1024, 3072)
SIZES = (32768, 1024, 8192, 131072, 1048576)
BATCHES = ((64, 256), (4096, 64))  # (blocks, points)
MOST = {"witness_grad": 2**41, "mmd2": 2**41, "kernel_matrix": 2**30}  # pairs, and numbers written
_ROUNDS = 20
_SECONDS = 0.5  # for the rounds of one row


class OursIn(Ours):
    """Our backend in one precision."""

    def __init__(self, device: str, precision: str):
        super().__init__("triton" if device == "cuda" else "native", device)
        self.name, self.precision = f"dmmd {precision}", precision

    def bind(self, op, *arguments, **options) -> Callable:
        return super().bind(op, *arguments, precision=self.precision, **options)


def cases(device: str) -> Iterator[tuple[str, Case]]:
    """The middle of the grid first: all d at one size, then other sizes, batches and kernels."""
    ops = ("witness_grad", "mmd2", "kernel_matrix")
    for size in SIZES:
        for d in DIMS if size <= 32768 else DIMS[:2]:
            for op in ops:
                if size * size * max(d / 64, 1) <= MOST[op]:
                    yield op, Case(device, "gaussian", size, size, d)
        if size == SIZES[0]:
            yield from (("mmd2", Case(device, "mixture", size, size, d)) for d in (2, 64))
            for blocks, points in BATCHES:
                yield "mmd2", Case(device, "gaussian", points, points, 64, blocks)
                yield "witness_grad", Case(device, "gaussian", points, points, 64, blocks)


def providers(device: str, op: str) -> Iterator:
    yield OursIn(device, "highest")
    yield OursIn(device, "high")
    yield from (p for p in PEERS if op in p.ops)


PEERS = (
    Plain("expanded", expanded),
    Plain("cdist", cdist),
    Chunked(),
    Compiled(lambda op, p: p.case.d == 64 and p.case.n == SIZES[0]),
)


def row(op: str, case: Case, provider) -> dict:
    """What is known of one provider on one case; `note` says why there is no time."""
    p = problem(case)
    found = describe(op, provider.name, case)
    if reason := provider.why_not(op, p):
        return found | {"note": reason}
    try:
        call = provider.prepare(op, p)
        if case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = perf_counter()
        outputs = call()
        synchronize(case.device)
        found["first_ms"] = 1e3 * (perf_counter() - start)
        if case.device == "cuda":
            found["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        found["error"] = relative_error(op, p, outputs)
        del outputs
        times = sorted(clock(call, case.device))
    except (RuntimeError, dk.BackendError) as error:  # out of memory, or a peer's limits
        return found | {"note": f"{type(error).__name__}: {str(error)[:120]}"}
    found["ms"] = statistics.median(times)
    found["ms20"], found["ms80"] = times[len(times) // 5], times[-1 - len(times) // 5]
    pairs = {"mmd2": 3, "witness_grad": 2}.get(op, 1) * case.n * case.m * max(case.batch, 1)
    found["pairs_per_s"] = 1e3 * pairs / found["ms"]
    if "floor_ms" in found:
        found["percent"] = 100 * found["floor_ms"] / found["ms"]
    return found


def clock(call: Callable, device: str) -> list[float]:
    """Milliseconds of several calls, each from an idle device to an idle device."""
    times: list[float] = []
    end = perf_counter() + _SECONDS
    while len(times) < 3 or (len(times) < _ROUNDS and perf_counter() < end):
        if device == "cuda":
            begin, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            stop.record()
            stop.synchronize()
            times.append(begin.elapsed_time(stop))
        else:
            start = perf_counter()
            call()
            times.append(1e3 * (perf_counter() - start))
    return times


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def table(rows: list[dict]) -> str:
    """One line for each case: ours in both precisions against the fastest of the others."""
    lines = [f"{'op':13} {'n':>8} {'d':>5} {'B':>5} {'highest':>9} {'error':>8} {'%':>4} "
             f"{'high':>9} {'peer':>9} {'error':>8} {'faster':>7}"]  # fmt: skip
    key = lambda r: (r["op"], r["kernel"], r["n"], r["d"], r["batch"])
    for case in dict.fromkeys(map(key, rows)):
        same = {r["provider"]: r for r in rows if key(r) == case and "ms" in r}
        ours, high = same.pop("dmmd highest", None), same.pop("dmmd high", None)
        peer = min(same.values(), key=lambda r: r["ms"], default=None)
        show = lambda r, name, form: form.format(r[name]) if r and name in r else "–"
        faster = f"{peer['ms'] / ours['ms']:.1f}x" if ours and peer else "–"
        lines.append(
            f"{case[0]:13} {case[2]:>8} {case[3]:>5} {case[4]:>5} {show(ours, 'ms', '{:.3f}'):>9} "
            f"{show(ours, 'error', '{:.0e}'):>8} {show(ours, 'percent', '{:.0f}'):>4} "
            f"{show(high, 'ms', '{:.3f}'):>9} {show(peer, 'ms', '{:.3f}'):>9} "
            f"{show(peer, 'error', '{:.0e}'):>8} {faster:>7}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    deadline = perf_counter() + options.seconds
    rows: list[dict] = []
    left_out = 0
    tasks = [
        partial(row, *c, p) for c in cases(options.device) for p in providers(c[1].device, c[0])
    ]
    for task in tasks:
        if perf_counter() > deadline:
            left_out += 1
            continue
        rows.append(task())
        name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        whole = {"device": name, "versions": versions(), "left_out": left_out, "rows": rows}
        (options.out / "grid.json").write_text(json.dumps(whole, indent=1))
    text = f"{table(rows)}\n{len(rows)} rows; {left_out} left out after {options.seconds:.0f} s\n"
    (options.out / "grid.txt").write_text(text)
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
