"""What a call of ours takes besides time: memory beyond its points, and a second thread's worth.

No peers. A second thread should make it 1.8 times as fast; 10⁵ particles, whose matrices would fill
80 GB, should take 200 MB.
"""

import re
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import Tensor

from benchmarks.clock import timed
from benchmarks.notes import describe
from benchmarks.problems import Case, Problem, problem, relative_error
from benchmarks.providers import MODE, Ours

NATIVE = Ours("native", "cpu")
THREADS, ROUNDS = 2, 7
CALLS = {
    "small": [("witness_grad", 200, 2), ("mmd2_grad", 200, 2)],
    "default": [("witness_grad", 10000, 2), ("witness_grad", 10000, 64), ("mmd2_grad", 4096, 64)],
}
LARGE = Case("cpu", "gaussian", *((2000, 2000, 2) if MODE == "small" else (100000, 100000, 64)))


@pytest.fixture(autouse=True)
def threads():
    """Sets their number, for the test alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("op", "case"),
    [
        pytest.param(op, Case("cpu", "gaussian", n, n, d), id=f"cpu-{op}-{n}x{n}x{d}")
        for op, n, d in CALLS.get(MODE, CALLS["default"])
    ],
)
def bench_a_second_thread(measure, benchmark, threads, op, case):
    """One and both take turns, so that a drift of the machine hits them alike."""
    measure(op, NATIVE, case)
    call = NATIVE.prepare(op, problem(case))

    def seconds(count: int) -> float:
        threads(count)
        return timed(call, "cpu")[1]

    turns = [(seconds(1), seconds(THREADS)) for _ in range(ROUNDS)]
    alone, together = map(median, zip(*turns, strict=True))
    benchmark.extra_info.update(
        threads=THREADS, one_thread_ms=1e3 * alone, speedup=alone / together
    )


@pytest.mark.parametrize("case", [pytest.param(LARGE, id=str(LARGE))])
def bench_memory(benchmark, case):
    """In a fresh process, one round: what has once been touched would not count again."""
    if reason := NATIVE.why_not("witness_grad", problem(case)):
        pytest.skip(reason)
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (THREADS,)) as fresh:
        fresh.submit(warm, case).result()
        memory = benchmark.pedantic(lambda: fresh.submit(memory_of, case).result(), rounds=1)
        error = fresh.submit(error_of, case).result()
    note = describe("witness_grad", NATIVE.name, case)
    benchmark.extra_info.update(note, threads=THREADS, peak_mb=memory, error=error)


def warm(case: Case) -> None:
    """The points, and a call that loads all code and starts the threads."""
    problem(case)
    few = Case("cpu", case.kernel, 1000, 1000, case.d)
    NATIVE.prepare("witness_grad", Problem(few))()


def memory_of(case: Case) -> float:
    """How far the resident memory rises in one call, its result included, in MB.

    getrusage would begin with the peak of the process that this one was forked from.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = peak_mb()
    gradient(case)
    return peak_mb() - before


@lru_cache(maxsize=1)
def gradient(case: Case) -> Tensor:
    return NATIVE.prepare("witness_grad", problem(case))()


def error_of(case: Case) -> float:
    return relative_error("witness_grad", problem(case), gradient(case))


def peak_mb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "only Linux says what the peak was"
    return int(found[1]) / 1024
