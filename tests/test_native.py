"""What is particular to the C++ backend: threads, forks, memory, instruction sets."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, native, reference
from tests.cases import compiled_form, problem

pytestmark = pytest.mark.skipif(
    choice.report(torch.device("cpu"))["native"] is not None,
    reason=f"native: {choice.report(torch.device('cpu'))['native']}",
)


def every_result(z, x, v, w, mixture):
    one_column = w if w.ndim == 1 else w[:, :1].contiguous()
    f, g = native.potential_and_grad(z, x, one_column, mixture)
    return (
        native.potential(z, x, w, mixture),
        native.potential_grad(z, x, v, w, mixture),
        f,
        g,
        native.params_grad(z, x, v, w, mixture),
        *native.tangents(z, x, v, w, mixture, z, x, mixture.params),
        native.quadratic_form(z, v, v, mixture, skip_diagonal=True),
        native.kernel_matrix(z, x, mixture),
        *native.row_sums(x, w if w.ndim == 1 else w[:, 0].contiguous(), z[:1]),
        native.row_sums_grad(x, None, z[:1], z[1:2], w.reshape(-1, 1)[:1]),
    )


def test_a_vector_of_weights_is_a_column():
    z, x, v, w = (t.cpu() for t in problem(33, 70, 5))
    mixture = compiled_form("gaussians", z)
    columns = every_result(z, x, v, w, mixture)
    vectors = every_result(z, x, v[:, 0], w[:, 0], mixture)
    for got, expected in zip(vectors, columns, strict=True):
        assert torch.equal(got, expected if got.ndim == expected.ndim else expected[:, 0])
    assert sum(got.ndim == 1 for got in vectors) == 3  # potential, once with its gradient, tangents


def test_a_vector_of_weights_in_a_batch_is_an_error():
    """Its sums would have nowhere to go."""
    z, x, _, w = (t.cpu() for t in problem(3, 7, 2))
    how = (compiled_form("gaussian", z).params, "gaussian", False, "highest", "native")
    with pytest.raises(ValueError, match="weights of a batch must be columns"):
        torch.ops.dmmd.potential(z[None], x, w[:, 0].contiguous(), *how)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 19])
def test_results_are_the_same_bits_for_any_number_of_threads(threads, dtype, d):
    z, x, v, w = (t.cpu() for t in problem(531, 1030, d, p=2, dtype=dtype))
    mixture = compiled_form("gaussians", z)
    threads(1)
    expected = every_result(z, x, v, w, mixture)
    for count in (2, 3, 8):
        threads(count)
        for got, alone in zip(every_result(z, x, v, w, mixture), expected, strict=True):
            assert torch.equal(got, alone)


@pytest.mark.parametrize("d", [2, 19])
def test_gradients_of_a_form_in_some_points_are_those_in_all(threads, d):
    u, _, v, _ = problem(431, 1, d, p=2)
    mixture = compiled_form("gaussian", u)
    s, whole, q = native.quadratic_form_and_grads(u, v, v, mixture)
    threads(3)
    for count in (50, 200, 431):
        got = native.quadratic_form_and_grads(u[:count], v, v, mixture, u[count:])
        torch.testing.assert_close(got, (s, whole[:count], q), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [2, 33, 100, 512])
def test_sums_of_large_clouds_are_the_same_bits_for_any_number_of_threads(threads, d):
    """Large enough for many spans of rows, and for gradients that go past the caches."""
    x = torch.randn(2**22 // d, d)
    o, w = x[:1], x[:, 0].contiguous()
    work = lambda w: (*native.row_sums(x, w, o), native.row_sums_grad(x, w, o, x[1:2], x[2:3, :1]))
    threads(1)
    alone = [work(w), work(None)]
    threads(3)
    for got, expected in zip([work(w), work(None)], alone, strict=True):
        assert all(map(torch.equal, got, expected))
    torch.testing.assert_close(alone[1][2], reference.row_sums_grad(x, None, o, x[1:2], x[2:3, :1]))


def test_many_python_threads_at_once():
    z, x, v, w = (t.cpu() for t in problem(200, 300, 5, p=2))
    mixture = compiled_form("rational_quadratic", z)
    expected = every_result(z, x, v, w, mixture)
    mismatches = []

    def work():
        for _ in range(20):
            results = every_result(z, x, v, w, mixture)
            if not all(map(torch.equal, results, expected)):
                mismatches.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not mismatches


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_child_can_compute():
    """After a parallel region in the parent, an OpenMP region in a child would hang."""
    run("""
import os, signal, torch
import dmmd_kernels as dk
torch.set_num_threads(2)
x = torch.randn(2000, 3)
call = lambda: dk.potential(x, x, x[:, 0].contiguous(), dk.gaussian(1.0), backend="native")
expected = call()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if torch.equal(call(), expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(call(), expected)
""")


def test_no_matrix_is_stored():
    """n = m = 50 000 would be a matrix of 10 GB; a call may take 200 MB."""
    peak = run("""
import re, torch
from pathlib import Path
import dmmd_kernels as dk
def resident():  # getrusage begins with the peak of the process that forked this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
x = torch.randn(50_000, 2)
dk.mmd2(x[:100], x[100:200], dk.gaussian(1.0), backend="native")
before = resident()
dk.witness_grad(x, x, x[:10], dk.gaussian(1.0), backend="native")
print(resident() - before)
""")
    assert float(peak) < 200


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_obeys_the_accuracy_rule(isa):
    """DMMD_ISA lowers what is used, so one machine checks what others will run."""
    script = """
import torch
from tests.cases import assert_as_accurate, compiled_form, problem
for d in (2, 21):
    z, x, v, w = problem(45, 200, d, p=2)
    for name in ("gaussian", "laplace", "polynomial"):
        mixture = compiled_form(name, z)
        assert_as_accurate("potential", "native", (z, x, w), mixture)
        assert_as_accurate("potential_grad", "native", (z, x, v, w), mixture)
        assert_as_accurate("params_grad", "native", (z, x, v, w), mixture)
"""
    order = ["portable", "avx2", "avx512"]
    available = native.describe()["instruction set"]
    if available not in order or order.index(isa) > order.index(available):
        pytest.skip(f"this processor runs {available} at most")
    run(script, DMMD_ISA=isa)


def test_an_unknown_instruction_set_is_an_error():
    script = "import dmmd_kernels.backends.native as n; n.describe()"
    with pytest.raises(AssertionError, match="DMMD_ISA must be one of"):
        run(script, DMMD_ISA="mmx")


@pytest.mark.parametrize("d", [15, 16, 100])
def test_high_precision_is_full_precision_without_tiles_for_it(d):
    z, x, v, w = problem(33, 77, d)
    mixture = compiled_form("gaussian", z)
    has_tiles = native.library().tile_unit() and d >= 16 and z.dtype == torch.float32
    share = v.abs()
    calls = {
        "potential_grad": (z, x, v, w),
        "quadratic_form": (z, share, share),
        "kernel_matrix": (z, x),
    }
    for op, points in calls.items():
        full = getattr(native, op)(*points, mixture)
        high = getattr(native, op)(*points, mixture, precision="high")
        assert (high - full).norm() <= (1e-4 * full.norm() if has_tiles else 0)


def test_misaligned_memory():
    """A float32 tensor may begin at any multiple of four bytes."""
    z, x, v, w = problem(33, 77, 5)
    shifted = torch.empty(x.numel() + 1)[1:].view_as(x).copy_(x)
    assert shifted.data_ptr() % 16 != 0
    mixture = compiled_form("imq", z)
    assert torch.equal(
        native.potential_grad(z, shifted, v, w, mixture),
        native.potential_grad(z, x, v, w, mixture),
    )


def test_a_missing_extension_is_a_reason_and_not_a_crash(monkeypatch):
    monkeypatch.setattr(native, "_loaded", lambda: (None, "it was not built"))
    z, x, _, w = problem(4, 6, 3)
    with pytest.raises(dk.BackendError, match="'native' cannot run this call: it was not built"):
        dk.potential(z, x, w[:, 0], dk.energy(), backend="native")


def test_tensors_of_two_dtypes_are_refused():
    library = pytest.importorskip("dmmd_kernels._C", reason="the C++ extension was not built")
    z, x, w = torch.randn(4, 2), torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 1)
    kernel = library.Kernel("gaussian")
    params, f = torch.ones(1, 3), torch.empty(4, 1)
    with pytest.raises(ValueError, match="one dtype"):
        library.potential(z, x, w, params, kernel, False, 1, f)
