"""The grid of sizes a GPU is measured on: ours in both precisions, and torch at its best.

    python -m benchmarks.grid OUT [--parts 64 2 flows rest] [--only ours] [--seconds 240] [--append]

Writes OUT/grid.json, and a short table that it prints, OUT/grid.txt. Every row: median, 20th and
80th percentile in ms, pairs per second, percent of the floor (model.py), error against float64,
peak memory. A provider is checked before it is timed.

A part of the grid is a process of its own: all ops in d dimensions at the middle size, on normals,
digits and clusters; `flows`; or `rest`, all other sizes, batches and kernels. Both files are
written anew before and after each row, and a row that is there is not measured again. So one that
ends its process, or takes longer than it may, is known by its note, and the part goes on behind it.
What has not begun when the seconds are over is left out and counted.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.clock import synchronize, timed, times
from benchmarks.grid_providers import USUAL, ours, peers
from benchmarks.model import FLOW_STEPS
from benchmarks.notes import describe, versions
from benchmarks.problems import Case, problem, relative_error

DIMS = (64, 2, 512, 16, 128, 3, 256, 1024, 3072)
SIZES = (USUAL, 1024, 8192, 131072, 1048576)
PARTS = (*map(str, DIMS), "flows", "rest")
BATCHES = ((64, 256), (4096, 64))  # (blocks, points)
FLOWS = ((0, 1024, 2), (128, 512, 2), (0, 4096, 64))  # (flows, particles = samples, d)
MOST = {"witness_grad": 2**41, "mmd2": 2**41, "kernel_matrix": 2**30}  # pairs, and numbers written
_ROUNDS = 20
_SECONDS = 0.5  # for the rounds of one row
_LIMITS = {"ours": 20, "peers": 90}  # seconds of a row; peers may compile
_LOST = 3  # the exit status of a process that can launch nothing more

Task = tuple[str, Case, object]


def cases(device: str, part: str, middle: int) -> Iterator[tuple[str, Case]]:
    if part == "flows":
        for flows, points, d in FLOWS:
            points = min(points, middle)
            yield "flow", Case(device, "gaussian", points, points, d, flows)
    elif part == "rest":
        yield from others(device, middle)
    else:
        yield from at_size(device, middle, int(part))
        for data in ("digits", "clusters") if part == "64" else ("clusters",):
            for op in ("witness_grad", "mmd2"):
                yield op, Case(device, "gaussian", middle, middle, int(part), data=data)


def at_size(device: str, size: int, d: int) -> Iterator[tuple[str, Case]]:
    for op in ("witness_grad", "mmd2", "kernel_matrix"):
        if size * size * max(d / 64, 1) <= MOST[op]:
            yield op, Case(device, "gaussian", size, size, d)


def others(device: str, middle: int) -> Iterator[tuple[str, Case]]:
    """In the order of their importance."""
    yield from (("mmd2", Case(device, "mixture", middle, middle, d)) for d in (2, 64))
    for blocks, points in BATCHES:
        for op in ("mmd2", "witness_grad"):
            points = min(points, middle)
            yield op, Case(device, "gaussian", points, points, 64, blocks)
    for size in (middle, *(s for s in SIZES if middle == SIZES[0] and s != middle)):
        for d in DIMS if size <= middle else DIMS[:2]:
            yield from at_size(device, size, d)


def tasks(options: argparse.Namespace, part: str) -> Iterator[Task]:
    """Ours before the peers', who meet normals only: what they take does not depend on the data."""
    some = list(cases(options.device, part, options.size))
    if options.only in (None, "ours"):
        yield from ((op, case, p) for op, case in some for p in ours(options.device, op))
    if options.only in (None, "peers"):
        plain = (c for c in some if c[1].data == "normal")
        yield from ((op, case, p) for op, case in plain for p in peers(op))


# -- A row ----------------------------------------------------------------------------------------


def row(op: str, case: Case, provider) -> dict:
    """What is known of one provider on one case; `note` says why there is no time."""
    found = about(op, case, provider)
    try:
        p = problem(case)
        if reason := provider.why_not(op, p):
            return found | {"note": reason}
        return found | measured(op, case, provider.prepare(op, p), p, found.get("floor_ms"))
    except Exception as error:  # out of memory, a peer's limits, a compiler's failure
        return found | {"note": f"{type(error).__name__}: {str(error)[:120]}", "failed": True}


def about(op: str, case: Case, provider) -> dict:
    return describe(op, provider.name, case) | {"data": case.data}


def measured(op: str, case: Case, call: Callable, p, floor_ms: float | None) -> dict:
    """First call, peak memory, error, and then times."""
    found: dict = {}
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    outputs, first = timed(call, case.device)
    found["first_ms"] = 1e3 * first
    if case.device == "cuda":
        found["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    found["error"] = relative_error(op, p, outputs)
    del outputs
    rounds = sorted(times(call, case.device, seconds=_SECONDS, most=_ROUNDS))
    fifth = len(rounds) // 5
    found["ms"] = 1e3 * statistics.median(rounds)
    found["ms20"], found["ms80"] = 1e3 * rounds[fifth], 1e3 * rounds[-1 - fifth]
    blocks = {"mmd2": 3, "witness_grad": 2, "flow": 2 * FLOW_STEPS}.get(op, 1)
    pairs = blocks * case.n * case.m * max(case.batch, 1)
    found["pairs_per_s"] = 1e3 * pairs / found["ms"]
    if floor_ms is not None:
        found["percent"] = 100 * floor_ms / found["ms"]
    return found


# -- The files ------------------------------------------------------------------------------------

_KEY = ("op", "kernel", "data", "n", "d", "batch", "device")


def key(found: dict) -> tuple:
    return tuple(found[name] for name in _KEY)


def kept(out: Path) -> list[dict]:
    path = out / "grid.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def keep(out: Path, rows: list[dict], device: str) -> None:
    """Both files, each in one piece: who is ended while writing leaves the old one."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    whole = json.dumps({"device": name, "versions": versions(), "rows": rows}, indent=1)
    for path, text in ((out / "grid.json", whole), (out / "grid.txt", f"{table(rows)}\n")):
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)


def table(rows: list[dict]) -> str:
    """One line for each case: ours in both precisions against the fastest of the others."""
    show = lambda r, name, form: form.format(r[name]) if r and name in r else "–"
    columns = "{:13} {:8} {:>8} {:>5} {:>5} {:>9} {:>8} {:>4} {:>9} {:>9} {:>8} {:>7}"
    head = "op data n d B highest error % high peer error faster"
    lines = [columns.format(*head.split())]
    for case in dict.fromkeys(map(key, rows)):
        same = {r["provider"]: r for r in rows if key(r) == case and "ms" in r}
        ours, high = same.pop("dmmd highest", None), same.pop("dmmd high", None)
        peer = min(same.values(), key=lambda r: r["ms"], default=None)
        op, kernel, data, *sizes, _ = case
        cells = [op, data if kernel == "gaussian" else kernel, *sizes]
        cells += [show(ours, "ms", "{:.3f}"), show(ours, "error", "{:.0e}")]
        cells += [show(ours, "percent", "{:.0f}"), show(high, "ms", "{:.3f}")]
        cells += [show(peer, "ms", "{:.3f}"), show(peer, "error", "{:.0e}")]
        cells += [f"{peer['ms'] / ours['ms']:.1f}x" if ours and peer else "–"]
        lines.append(columns.format(*cells))
    failures = [r for r in rows if r.get("failed")]
    lines += [
        f"failed: {r['provider']}, {r['op']} {r['data']} n={r['n']} d={r['d']} B={r['batch']}: "
        f"{r['note']}"
        for r in failures
    ]
    return "\n".join(lines)


# -- The run --------------------------------------------------------------------------------------


def run_part(options: argparse.Namespace, part: str) -> int:
    """In the process of a part: every row that is not there yet, until time is over."""
    rows = kept(options.out)
    done = {(*key(r), r["provider"]) for r in rows}
    for op, case, provider in tasks(options, part):
        found = about(op, case, provider)
        if (*key(found), provider.name) in done:
            continue
        if time.time() > options.until:
            return 0
        began = {"note": "it began, and its process did not live to see the end", "failed": True}
        keep(options.out, [*rows, found | began], options.device)
        is_ours = provider.name.startswith("dmmd")
        signal.alarm(_LIMITS["ours" if is_ours else "peers"])  # also ends what hangs in a library
        rows.append(row(op, case, provider))
        signal.alarm(0)
        keep(options.out, rows, options.device)
        if rows[-1].get("failed") and is_lost(options.device):
            return _LOST
    return 0


def is_lost(device: str) -> bool:
    try:
        synchronize(device)
    except Exception:  # whatever torch makes of a CUDA error
        return True
    return False


def run_parts(options: argparse.Namespace) -> None:
    """Each part in a process of its own, begun again behind a row that ended it."""
    end = options.until or time.time() + options.seconds
    for place, part in enumerate(options.parts):
        until = time.time() + (end - time.time()) / (len(options.parts) - place)
        command = [sys.executable, "-m", "benchmarks.grid", str(options.out), "--append"]
        command += [f"--device={options.device}", f"--size={options.size}", f"--part={part}"]
        command += [f"--only={options.only}"] * bool(options.only) + [f"--until={until}"]
        while time.time() < until:
            before = len(kept(options.out))
            child = subprocess.Popen(command, cwd=Path(__file__).parents[1])
            try:
                ended = child.wait(max(until - time.time(), 0) + 2)  # to end the row it is at
            except subprocess.TimeoutExpired:
                break
            finally:
                child.kill()
                child.wait()
            if ended == 0 or len(kept(options.out)) == before:
                break


def left_out(options: argparse.Namespace) -> int:
    done = {(*key(r), r["provider"]) for r in kept(options.out)}
    wanted = (
        about(*t) | {"provider": t[2].name} for part in options.parts for t in tasks(options, part)
    )
    return sum((*key(found), found["provider"]) not in done for found in wanted)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--only", choices=("ours", "peers"))
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=SIZES[0], help="points at the middle size")
    parser.add_argument("--append", action="store_true", help="go on from what is in OUT")
    parser.add_argument("--until", type=float, help="when to end instead, as `date +%%s` says it")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of a process of run_parts
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.part:
        return run_part(options, options.part)
    if not options.append:
        (options.out / "grid.json").unlink(missing_ok=True)
    before = len(kept(options.out))
    run_parts(options)
    rows = kept(options.out)
    end = f"{len(rows)} rows; {left_out(options)} left out"
    print(f"{table(rows)}\n{end}")  # noqa: T201
    failed = [r for r in rows[before:] if r.get("failed") and r["provider"].startswith("dmmd")]
    return 1 if failed or len(rows) == before else 0


if __name__ == "__main__":
    sys.exit(main())
