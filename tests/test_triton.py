"""What is particular to the Triton backend: masks, offsets, NaN, precision, batches, excuses."""

import mmap
import signal
import subprocess
import sys

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import _triton, reference
from dmmd_kernels.kernels import Mixture
from tests.cases import (
    CLOUDS,
    DEVICE,
    OF_PROFILE,
    assert_as_accurate,
    compiled_form,
    every_function,
    problem,
)

triton = pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl  # noqa: E402

from dmmd_kernels.backends._triton import launch, profile  # noqa: E402
from dmmd_kernels.backends._triton.direct import load_columns, load_rows  # noqa: E402
from dmmd_kernels.backends._triton.launch import Sweep  # noqa: E402
from dmmd_kernels.backends._triton.profile import ROOTS, SQUARED, code, shortcuts  # noqa: E402

on_cpu = pytest.mark.skipif(DEVICE == "cuda", reason="needs Triton's interpreter")

# Every input ends where readable memory ends, so that reading one element too many is fatal.
GUARDED = """
import ctypes, mmap, sys
import torch
from dmmd_kernels.backends import _triton
from dmmd_kernels.backends._triton import fused, launch
from tests.cases import compiled_form, problem
from tests.interpreter import quicken

quicken()
libc = ctypes.CDLL(None, use_errno=True)
kept = []

def guarded(t, rows_beyond=0):
    size = t.numel() * t.element_size()
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    kept.append(memory)
    offset = pages * mmap.PAGESIZE - size
    count = t.numel() + rows_beyond * t.shape[-1]
    new = torch.frombuffer(memory, dtype=t.dtype, count=count, offset=offset)
    new[: t.numel()] = t.flatten()
    end = ctypes.c_void_p(new.data_ptr() + size)
    assert libc.mprotect(end, mmap.PAGESIZE, 0) == 0
    return new.view(-1, t.shape[-1])

def run_all(z, x, v, w, mixture):
    _triton.potential(z, x, w, mixture)
    _triton.potential_grad(z, x, v, w, mixture)
    _triton.tangents(z, x, v, w, mixture, z, x, None)
    _triton.params_grad(z, x, v, w, mixture)
    _triton.quadratic_form(z, v, v, mixture)
    _triton.kernel_matrix(z, x, mixture)

def on_tensor_cores(z, x, v, w, mixture):
    _triton.potential_grad(z, x, v, w, mixture)
    _triton.quadratic_form(z, v, v, mixture)
    _triton.potential(z, x, guarded(w.repeat(1, 16)), mixture)
    _triton.tangents(z, x, v, w, mixture, z, None, None)
    _triton.tangents(z, x, v, w, mixture, None, x, None)

problems = []
for sizes in sys.argv[1:]:
    n, m, d, p, rows_beyond = map(int, sizes.split(","))
    z, x, v, w = problem(n, m, d, p)
    z, v, x, w = guarded(z), guarded(v), guarded(x, rows_beyond), guarded(w, rows_beyond)
    mixture = compiled_form("gaussians", z)
    problems.append((z, x, v, w, mixture._replace(params=guarded(mixture.params))))
    run_all(*problems[-1])
move = launch.by_coordinate
launch.by_coordinate = lambda points: guarded(move(points))
launch.Sweep.is_by_point = False
for case in problems:
    run_all(*case)
fused.LEAST_WORK = 0
for case in problems:
    on_tensor_cores(*case)
"""


def run_guarded(*sizes: str) -> int:
    command = [sys.executable, "-c", GUARDED, *sizes]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


@on_cpu
def test_reads_stay_inside_the_tensors():
    assert run_guarded("1,1,1,1,0", "33,17,3,2,0", "5,9,35,1,0") == 0


@on_cpu
def test_reads_outside_would_be_noticed():
    assert run_guarded("3,4,2,1,1") == -signal.SIGSEGV


@triton.jit(do_not_specialize=["D", "pitch"])
def _read_kernel(ptr, to_ptr, first, last, D, pitch, GATHER: tl.constexpr):
    rows = first + tl.arange(0, 32).to(tl.int64)
    z = load_rows(ptr, rows, last, D, pitch, GATHER)
    if GATHER:
        x_ptr = ptr + tl.zeros([32], tl.int32)
        x = load_columns(x_ptr, rows.to(tl.int32), 2**30, last, D, pitch, GATHER)
    else:
        x = load_columns(ptr, rows.to(tl.int32), 2**30, last, D, pitch, GATHER)
    tl.store(to_ptr + tl.arange(0, 32)[None, :], z)
    tl.store(to_ptr + 32 + tl.arange(0, 32), tl.max(x, axis=1))


@on_cpu
@pytest.mark.parametrize("is_by_point", [False, True])
def test_offsets_do_not_overflow(is_by_point):
    """The last of 2²¹ + 32 coordinates of 1024, or of 1024 points, lies beyond element 2³¹."""
    few, many = 1024, 2**21 + 32
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, 4 * few * many, flags=flags)
    numbers = torch.frombuffer(memory, dtype=torch.float32)
    read = torch.zeros(64)
    if is_by_point:
        numbers.view(many, few)[-32:, -1] = 7.0
        _read_kernel[(1,)](numbers, read, many - 32, few - 1, few, 0, GATHER=True)
    else:
        numbers.view(few, many)[-1, -32:] = 7.0
        _read_kernel[(1,)](numbers, read, many - 32, few - 1, few, many // 16, GATHER=False)
    assert (read == 7.0).all()


@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "energy1.5", "polynomial"])
def test_nan_in_a_row_of_z_poisons_that_row_alone(kernel):
    z, x, _, w = problem(6, 9, 3)
    z[2, 1] = float("nan")
    mixture = compiled_form(kernel, z)
    f, g = _triton.potential_and_grad(z, x, w, mixture)
    poisoned = torch.arange(6, device=z.device) == 2
    assert torch.equal(f.isnan().all(-1), poisoned)
    assert torch.equal(f.isnan().any(-1), poisoned)
    assert torch.equal(g.isnan().any(-1), poisoned)
    if mixture.is_radial:
        assert torch.equal(g.isnan().all(-1), poisoned)


@pytest.mark.parametrize("kernel", OF_PROFILE.values())
def test_every_function_of_every_profile(kernel):
    z, x, v, w = problem(9, 7, 3)
    every_function("triton", z, x, v, w, compiled_form(kernel, z))


@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "energy1.5"])
def test_nan_in_x_poisons_everything(kernel):
    z, x, _, w = problem(6, 9, 3)
    x[4, 0] = float("nan")
    f, g = _triton.potential_and_grad(z, x, w, compiled_form(kernel, z))
    assert f.isnan().all()
    assert g.isnan().all()


on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter cuts bfloat16 off")


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=on_gpu)], ids=str
)
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    z, x, v, w = problem(9, 20, 5, 2, dtype=dtype)
    mixture = compiled_form("gaussians", z)
    g = _triton.potential_grad(z, x, v, w, mixture)
    full = _triton.potential_grad(z.float(), x.float(), v.float(), w.float(), mixture)
    assert g.dtype == dtype
    assert torch.equal(g, full.to(dtype))


@pytest.fixture(params=["by point", "by coordinate"])
def layout(request, monkeypatch):
    """Small problems leave the points where they are; this copies them, as for large ones."""
    if request.param == "by coordinate":
        monkeypatch.setattr(Sweep, "is_by_point", False)


@pytest.mark.parametrize("op", ["potential", "potential_grad", "tangents", "params_grad"])
@pytest.mark.parametrize("kernel", ["gaussians", "energy1.5", "polynomial"])
@pytest.mark.usefixtures("layout")
def test_both_layouts_are_accurate(op, kernel):
    z, x, v, w = problem(35, 20, 5, 2)
    tensors = {"potential": (z, x, w), "tangents": (z, x, v, w, z, x, None)}
    mixture = compiled_form(kernel, z)
    assert_as_accurate(op, "triton", tensors.get(op, (z, x, v, w)), mixture)


@pytest.mark.usefixtures("layout")
def test_both_layouts_add_up_strips_of_columns(monkeypatch):
    monkeypatch.setattr(launch, "LEAST_STRIP", 16)
    z, x, _, w = problem(5, 40, 3)
    mixture = compiled_form("gaussian", z)
    assert_as_accurate("potential_and_grad", "triton", (z, x, w), mixture)
    assert_as_accurate("quadratic_form", "triton", (x, w, w), mixture, True)
    assert_as_accurate("kernel_matrix", "triton", (z, x), mixture)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("d", [3, 40])
def test_blocks_of_a_batch_are_computed_as_if_alone(d):
    z, x, v, w = (torch.stack([t, t + 0.5, 2 * t]) for t in problem(7, 5, d, 2))
    mixture = compiled_form("gaussians", z)
    tables = torch.stack([s * mixture.params for s in (1, 2, 3)])
    batched = mixture._replace(params=tables)
    g = _triton.potential_grad(z, x[0], v, w[1], batched)
    f, _, q = _triton.tangents(z[0], x, None, w[..., :1].contiguous(), batched, None, x, tables)
    for i in range(3):
        alone = mixture._replace(params=tables[i])
        column = w[i, :, :1].contiguous()
        assert torch.equal(g[i], _triton.potential_grad(z[i], x[0], v[i], w[1], alone))
        f_i, _, q_i = _triton.tangents(z[0], x[i], None, column, alone, None, x[i], tables[i])
        assert torch.equal(f[i], f_i)
        assert torch.equal(q[i], q_i)


def test_the_diagonal_is_left_out_and_not_subtracted():
    """Subtracting 10⁶ afterwards would leave rounding errors of 0.06."""
    z, _, _, w = problem(40, 40, 2)
    mixture = compiled_form("gaussian", z)
    loud = w.clone()
    loud[7] = 1e6
    quiet = _triton.potential(z, z.clone(), w, mixture, skip_diagonal=True)
    f = _triton.potential(z, z.clone(), loud, mixture, skip_diagonal=True)
    assert f[7] == quiet[7]


@pytest.mark.parametrize("kernel", ["laplace", "energy", "energy1.5"])
def test_coinciding_points_do_not_push_each_other(kernel):
    z = torch.ones(3, 2, device=DEVICE)
    w = torch.ones(3, 1, device=DEVICE)
    assert (_triton.potential_grad(z, z, None, w, compiled_form(kernel, z)) == 0).all()


@on_cpu
def test_results_do_not_depend_on_chance():
    z, x, v, w = problem(50, 70, 3)
    mixture = compiled_form("gaussians", z)
    first, again = (_triton.params_grad(z, x, v, w, mixture) for _ in range(2))
    assert torch.equal(first, again)


def test_long_sums_stay_accurate(monkeypatch):
    """4000 equal columns: added up without compensation they would err by several 1e-6."""
    monkeypatch.setattr(launch, "LEAST_STRIP", 4096)
    monkeypatch.setattr(Sweep, "is_by_point", False)
    z, x = torch.zeros(1, 1, device=DEVICE), torch.full((4000, 1), 0.3, device=DEVICE)
    w = torch.full((4000, 1), 0.1, device=DEVICE)
    mixture = compiled_form("gaussian", z)
    f = _triton.potential(z, x, w, mixture)
    double = mixture._replace(params=mixture.params.double())
    exact = reference.potential(z.double(), x.double(), w.double(), double)
    torch.testing.assert_close(f.double(), exact, rtol=1e-6, atol=0)


def test_it_says_why_it_does_not_run(monkeypatch):
    z = torch.zeros(2, 3)
    mixture = compiled_form("gaussian", z)
    assert "float64" in _triton.why_not(z.double(), mixture)
    unknown = Mixture("polynomial300", mixture.params)
    assert "polynomial300" in _triton.why_not(z, unknown)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reason = "inputs are on the CPU and TRITON_INTERPRET=1 is not set"
    assert _triton.why_not(z, mixture) == reason


@pytest.mark.parametrize("version", ["2.3.1", "3.3.1", "3.3.0+git1"])
def test_an_older_triton_is_refused_in_one_sentence(version, monkeypatch):
    z = torch.zeros(2, 3, device=DEVICE)
    monkeypatch.setattr(triton, "__version__", version)
    remedy = "take torch 2.8 or later, which brings it"
    reason = f"Triton must be 3.4 or later, got {version}; {remedy}"
    assert _triton.why_not(z, compiled_form("gaussian", z)) == reason
    with pytest.raises(dk.BackendError, match="Triton must be"):
        dk.potential(z, z, z[:, 0], dk.gaussian(1.0), backend="triton")


@pytest.mark.parametrize("version", ["3.4.0", "3.9.1+git1", "3.10.0", "4.0"])
def test_a_newer_triton_is_taken(version, monkeypatch):
    z = torch.zeros(2, 3, device=DEVICE)
    monkeypatch.setattr(triton, "__version__", version)
    assert _triton.why_not(z, compiled_form("gaussian", z)) is None


def test_a_mixture_travels_as_one_number():
    assert code(["gaussian"]) == 1
    assert code(["imq", "polynomial3"]) == 3 + 256 * (96 + 3)
    assert code(["no such profile"]) is None


def test_widths_a_power_of_two_apart_share_an_exponential():
    """Up to its 16th power: then another begins. Order and weights do not matter."""
    widths = [4.0, 0.5, 1.0, 3.0, 2.0, torch.tensor(2.0)]
    kernel = dk.mixture([dk.gaussian(s) for s in widths], weights=[1, 2, 3, 4, 5, 6])
    (mixture,) = kernel.lower(torch.zeros(1, 2)).mixtures
    assert mixture.profiles == "gaussian+gaussian+gaussian+gaussian:2+gaussian:2+gaussian"
    kernel = dk.mixture([dk.gaussian(2.0**-l) for l in range(5)])
    (mixture,) = kernel.lower(torch.zeros(1, 2)).mixtures
    squared = SQUARED.value + 2
    assert list(shortcuts(mixture).to_bytes(6, "little")) == [1, squared, squared, 1, squared, 1]


def test_equal_weights_are_known_from_numbers_alone():
    known = lambda kernel: profile.has_one_weight(kernel.lower(torch.zeros(1, 2)).mixtures[0])
    imq, narrow = 0.5 * dk.imq(1.0), 0.5 * dk.gaussian(0.3)
    assert known(imq)
    assert known(imq + narrow)
    assert not known(imq + dk.gaussian(1.0))
    assert not known(imq + torch.tensor(0.5) * dk.gaussian(1.0))


def test_rational_quadratics_of_whole_exponents_take_roots():
    alphas = (0.2, 0.5, 1, 2.5, 40)
    kernel = dk.mixture([dk.rational_quadratic(a) for a in alphas])
    (mixture,) = kernel.lower(torch.zeros(1, 2)).mixtures
    root = ROOTS.value
    assert list(shortcuts(mixture).to_bytes(6, "little")) == [2, root + 1, root + 2, root + 5, 2, 1]


MIXTURES = {
    "octaves": dk.mixture([dk.gaussian(2.0**l) for l in range(-1, 4)]),
    "half octaves": dk.mixture([dk.gaussian(2 ** (l / 2)) for l in range(5)]),
    "tails": dk.mixture([dk.rational_quadratic(a, 2.0) for a in (0.2, 0.5, 1, 2, 5, 16)]),
}


@pytest.mark.parametrize("clouds", ["converged", "distant", "digits"])
@pytest.mark.parametrize("kernel", MIXTURES.values(), ids=MIXTURES.keys())
def test_shared_exponentials_and_roots_are_accurate(kernel, clouds):
    z, x, _, w = problem(30, 10, 5, clouds=CLOUDS[clouds])
    (mixture,) = kernel.lower(z).mixtures
    assert_as_accurate("potential_and_grad", "triton", (z, x, w), mixture)
    assert_as_accurate("kernel_matrix", "triton", (z, x), mixture)


def test_every_kernel_of_the_library_has_a_code():
    for kernel in (dk.gaussian(1), dk.laplace(1), dk.imq(1), dk.energy(), dk.polynomial(4)):
        (mixture,) = kernel.lower(torch.zeros(1, 2)).mixtures
        assert code(mixture.names)
