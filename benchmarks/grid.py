"""The grid of sizes a GPU is measured on: ours in both precisions, and torch at its best.

    python benchmarks/grid.py OUTDIR [--seconds 240] [--device cuda]

Writes OUTDIR/grid.json, and a short table that it prints, OUTDIR/grid.txt. Every row: median, 20th
and 80th percentile in ms, pairs per second, percent of the floor (model.py), error against
float64, peak memory. A provider is checked before it is timed. Whatever fails, fails alone: its row
has a note instead of a time. Cases come in the order of their importance, and what has not begun
when the seconds are over is left out and counted. Both files are written anew after each row.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.model import FLOW_STEPS
from benchmarks.notes import describe, versions
from benchmarks.peers import KeOps
from benchmarks.plain import Chunked, Compiled, InPlace, Plain, cdist, expanded, signed
from benchmarks.problems import Case, problem, relative_error
from benchmarks.providers import Ours

DIMS = (64, 2, 512, 16, 3, 128, 256, 1024, 3072)
SIZES = (32768, 1024, 8192, 131072, 1048576)
BATCHES = ((64, 256), (4096, 64))  # (blocks, points)
FLOWS = ((0, 1024, 2), (128, 512, 2), (0, 4096, 64))  # (flows, particles = samples, d)
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
            for flows, points, d in FLOWS:
                yield "flow", Case(device, "gaussian", points, points, d, flows)
            yield from (("mmd2", Case(device, "mixture", size, size, d)) for d in (2, 64))
            for blocks, points in BATCHES:
                yield "mmd2", Case(device, "gaussian", points, points, 64, blocks)
                yield "witness_grad", Case(device, "gaussian", points, points, 64, blocks)


class OurFlow(Ours):
    """Whatever dk.flow takes by itself: in few dimensions all steps are one launch of CUDA C++."""

    def __init__(self, device: str):
        super().__init__("auto", device)
        self.name = "dmmd highest"


class Graphed(InPlace):
    """The eager loop of a flow, captured once as a CUDA graph; only its replay is timed."""

    def __init__(self):
        super().__init__()
        self.name = "torch-graphed"

    def why_not(self, op, p):
        return super().why_not(op, p) if p.case.device == "cuda" else "CUDA graphs need a GPU"

    def prepare(self, op, p):
        run = super().prepare(op, p)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # what is allocated at first use must not be captured
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()

        def replay():
            graph.replay()
            return result

        return replay


class FlexAttention(Plain):
    """A gaussian as attention: scores ⟨z, x⟩/σ² - |x|²/2σ², values [w x, w], the sum undone."""

    ops = frozenset({"witness_grad"})

    def __init__(self):
        super().__init__("flex", expanded, copies=0)

    def why_not(self, op, p):
        is_taken = p.case.kernel == "gaussian" and 16 <= p.case.d <= 128 and not p.case.batch
        return None if is_taken else "written for one gaussian of 16 to 128 dimensions"

    def witness_grad(self, p, z, x, y):
        u, w = signed(x, y)
        scale, d = p.sigma**-2, u.shape[-1]
        bias = u.square().sum(-1) * (scale / 2)
        values = torch.nn.functional.pad(torch.cat([w[:, None] * u, w[:, None]], -1), (0, d - 1))
        from torch.nn.attention.flex_attention import AuxRequest

        out, aux = attention(z.is_cuda)(
            z[None, None], u[None, None], values[None, None],
            score_mod=lambda score, _b, _h, _i, j: score - bias[j], scale=scale,
            return_aux=AuxRequest(lse=True),
        )  # fmt: skip
        sums = out[0, 0] * torch.exp(aux.lse[0, 0] - z.square().sum(-1) * (scale / 2))[:, None]
        return (sums[:, :d] - z * sums[:, d : d + 1]) * scale


@cache
def attention(is_compiled: bool) -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if is_compiled else flex_attention


def providers(device: str, op: str) -> Iterator:
    if op == "flow":
        yield OurFlow(device)
    else:
        yield OursIn(device, "highest")
        yield OursIn(device, "high")
    yield from (p for p in PEERS if op in p.ops)


def _is_usual(op: str, p) -> bool:
    """Where a peer that compiles for each problem is asked."""
    return p.case.d in (2, 64) and p.case.n == SIZES[0] and not p.case.batch


PEERS = (
    Plain("expanded", expanded),
    Plain("cdist", cdist),
    Chunked(),
    Compiled(_is_usual),
    KeOps(_is_usual),
    FlexAttention(),
    InPlace(),
    Graphed(),
)


def row(op: str, case: Case, provider) -> dict:
    """What is known of one provider on one case; `note` says why there is no time."""
    found = describe(op, provider.name, case)
    try:
        p = problem(case)
        if reason := provider.why_not(op, p):
            return found | {"note": reason}
        return found | measured(op, case, provider.prepare(op, p), p, found.get("floor_ms"))
    except Exception as error:  # out of memory, a peer's limits, a compiler's failure
        return found | {"note": f"{type(error).__name__}: {str(error)[:120]}", "failed": True}


def measured(op: str, case: Case, call: Callable, p, floor_ms: float | None) -> dict:
    """First call, peak memory, error, and then times."""
    found: dict = {}
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
    found["ms"] = statistics.median(times)
    found["ms20"], found["ms80"] = times[len(times) // 5], times[-1 - len(times) // 5]
    blocks = {"mmd2": 3, "witness_grad": 2, "flow": 2 * FLOW_STEPS}.get(op, 1)
    pairs = blocks * case.n * case.m * max(case.batch, 1)
    found["pairs_per_s"] = 1e3 * pairs / found["ms"]
    if floor_ms is not None:
        found["percent"] = 100 * floor_ms / found["ms"]
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
    failures = [r for r in rows if r.get("failed")]
    lines += [
        f"failed: {r['provider']}, {r['op']} n={r['n']} d={r['d']} B={r['batch']}: {r['note']}"
        for r in failures
    ]
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
        (options.out / "grid.txt").write_text(f"{table(rows)}\n")
    end = f"{len(rows)} rows; {left_out} left out after {options.seconds:.0f} s\n"
    (options.out / "grid.txt").write_text(f"{table(rows)}\n{end}")
    print(f"{table(rows)}\n{end}")  # noqa: T201


if __name__ == "__main__":
    main()
