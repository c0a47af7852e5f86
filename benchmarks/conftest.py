"""How everything here is timed: first the error, then the clock.

The first call is checked against float64 and is the warm-up. A provider that is wrong fails and
has no time. Times are wall-clock medians; on a GPU from a synchronised start with the L2 cache
swept, to a synchronised end. DMMD_BENCH=small | default | large sets sizes and patience;
DMMD_BENCH_SECONDS=100 skips what has not begun by then, so that a short lease still has its JSON.
"""

import os
import platform
import warnings
from contextlib import contextmanager
from time import perf_counter

import pytest
import torch

import dmmd_kernels as dk
from benchmarks.clock import sweeper, timed
from benchmarks.notes import describe, versions
from benchmarks.probes import cpu, cpu_name, torch_exp_rate
from benchmarks.problems import Case, problem, relative_error
from benchmarks.providers import MODE

ABSURD = 1e-2
UNABLE = (dk.BackendError, torch.OutOfMemoryError)  # what we may say no with; a peer, with anything
SECONDS = {"small": 0.05, "default": 0.3, "large": 3.0}[MODE]
DEADLINE = perf_counter() + float(os.environ.get("DMMD_BENCH_SECONDS", "inf"))
LEAST_ROUNDS, MOST_ROUNDS = 3, 200
SLOW = 2.0  # seconds of a call that is timed once more, and no oftener


@pytest.fixture(autouse=True)
def in_time():
    if perf_counter() > DEADLINE:
        pytest.skip("DMMD_BENCH_SECONDS are over")


@pytest.fixture
def measure(benchmark):
    """measure(op, provider, case): checks the provider, times it, and notes what is known."""
    warnings.simplefilter("ignore")  # of the peers; ours are tested in tests/

    def run(op: str, provider, case: Case) -> None:
        p = problem(case)
        if reason := provider.why_not(op, p):
            pytest.skip(f"{provider.name}: {reason}")
        note = describe(op, provider.name, case)
        try:
            call = provider.prepare(op, p)
            with peak_memory(note, case.device):
                outputs, first = timed(call, case.device)
        except Exception as error:
            if provider.name.startswith("dmmd-") and not isinstance(error, UNABLE):
                raise
            pytest.skip(f"{provider.name}: {type(error).__name__}: {str(error)[:200]}")
        note["first_call_ms"] = 1e3 * first
        note["error"] = relative_error(op, p, outputs)
        benchmark.group = f"{op} {case}"
        benchmark.extra_info.update(note)
        if not note["error"] <= ABSURD:
            pytest.fail(f"{provider.name}: {op} is wrong by {note['error']:.1e}, so it has no time")
        del outputs
        # What a first call loads and compiles makes it no slow one.
        once = first if first > 5 * SLOW else timed(call, case.device)[1]
        clock(benchmark, call, case.device, once)
        if benchmark.stats is not None:
            benchmark.extra_info.update(rates(note, benchmark.stats.stats.median))

    return run


def clock(benchmark, call, device: str, once: float) -> None:
    if device == "cuda":
        before = sweeper(device)

        def target():
            call()
            torch.cuda.synchronize()

        benchmark.pedantic(target, setup=before, rounds=rounds(once), iterations=1)
        return
    iterations = max(1, min(100, int(2e-4 / once)))  # a round is long against the clock's own cost
    benchmark.pedantic(call, rounds=rounds(once * iterations), iterations=iterations)


def rounds(seconds: float) -> int:
    return 1 if seconds > SLOW else max(LEAST_ROUNDS, min(MOST_ROUNDS, int(SECONDS / seconds)))


def rates(note: dict, seconds: float) -> dict:
    found = {"evaluations_per_s": note["evaluations"] / seconds}
    if "floor_ms" in note:
        found["percent_of_floor"] = 0.1 * note["floor_ms"] / seconds
    return found


@contextmanager
def peak_memory(note: dict, device: str):
    """Notes what was allocated beyond the tensors of the problem; only a GPU can say."""
    if device != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    note["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20


# -- What the saved JSON says about the machine ---------------------------------------------------


@pytest.hookimpl(optionalhook=True)  # without pytest-benchmark there is nothing to update
def pytest_benchmark_update_machine_info(config, machine_info):
    rates = cpu()
    machine_info.pop("node", None)  # whose machine it was is nobody's business
    machine_info["dmmd"] = {
        "mode": MODE,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "sgemm_gflops": 2e-9 * rates.slots,
        "copy_gb_per_s": 1e-9 * rates.bandwidth,
        "torch_exp_per_s": torch_exp_rate(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version()} | versions(),
    }
