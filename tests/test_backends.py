"""Every backend function against its definition, and the rules of choosing a backend."""

import inspect
from functools import partial
from itertools import product

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, native, reference
from dmmd_kernels.kernels import Mixture
from tests.cases import (
    CLOUDS,
    DEVICE,
    OF_PROFILE,
    assert_as_accurate,
    compiled_form,
    each_backend,
    each_backend_and_shape,
    each_cloud,
    every_function,
    problem,
)

FUNCTIONS = [
    "kernel_matrix",
    "params_grad",
    "potential",
    "potential_and_grad",
    "potential_grad",
    "quadratic_form",
    "quadratic_form_and_grad",
    "quadratic_form_and_grads",
    "row_sums",
    "row_sums_grad",
    "tangent",
    "tangent_grad",
    "tangents",
    "why_not",
]


@each_backend_and_shape
@pytest.mark.parametrize("kernel", ["gaussian", "energy", "polynomial", "gaussians"])
@pytest.mark.parametrize("p", [1, 3])
def test_potential(name, shape, kernel, p):
    z, x, _, w = problem(*shape, p)
    assert_as_accurate("potential", name, (z, x, w), compiled_form(kernel, z))


@each_backend_and_shape
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "polynomial", "gaussians"])
@pytest.mark.parametrize("p", [1, 3])
def test_potential_grad(name, shape, kernel, p):
    z, x, v, w = problem(*shape, p)
    assert_as_accurate("potential_grad", name, (z, x, v, w), compiled_form(kernel, z))


@each_backend_and_shape
def test_potential_and_grad(name, shape):
    z, x, _, w = problem(*shape)
    assert_as_accurate("potential_and_grad", name, (z, x, w), compiled_form("imq", z))


@each_backend_and_shape
def test_kernel_matrix(name, shape):
    z, x, _, _ = problem(*shape)
    assert_as_accurate("kernel_matrix", name, (z, x), compiled_form("rational_quadratic", z))


@each_backend_and_shape
@pytest.mark.parametrize("p", [1, 2])
def test_params_grad(name, shape, p):
    z, x, v, w = problem(*shape, p)
    assert_as_accurate("params_grad", name, (z, x, v, w), compiled_form("rational_quadratic", z))


@each_backend_and_shape
@pytest.mark.parametrize("kernel", ["gaussian", "polynomial"])
@pytest.mark.parametrize("p", [1, 2])
def test_tangents(name, shape, kernel, p):
    z, x, v, w = problem(*shape, p)
    mixture = compiled_form(kernel, z)
    directions = (torch.randn_like(z), torch.randn_like(x), torch.randn_like(mixture.params))
    assert_as_accurate("tangents", name, (z, x, v, w, *directions), mixture)


@each_backend_and_shape
@pytest.mark.parametrize("clouds", ["random", "distant", "converged"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums(name, shape, clouds, weighted):
    """No more than 16 ulps of the largest addend's sum away, from an origin among the points."""
    x, _, v, _ = problem(max(shape[0], 3), 1, shape[2], clouds=CLOUDS[clouds])
    w, o = v if weighted else None, x[:3].mean(0, keepdim=True)
    double = [None if t is None else t.double() for t in (x, w, o)]
    a, b = torch.randn_like(o), torch.randn_like(o[:, :1])
    module, eps = choice.load(name), torch.finfo(torch.float32).eps
    got = (*module.row_sums(x, w, o), module.row_sums_grad(x, w, o, a, b))
    exact = (*reference.row_sums(*double), reference.row_sums_grad(*double, a.double(), b.double()))
    absolute = 1 if w is None else w.double().abs()
    size = (absolute * (x.double() - o.double()).abs()).sum(-2).max(), exact[1].abs().max()
    for ours, truth, largest in zip(got, exact, (*size, exact[2].abs().max()), strict=True):
        assert ours.shape == truth.shape
        assert ours.dtype == x.dtype
        assert (ours - truth).abs().max() <= 16 * eps * max(largest, 1)


@each_backend
@pytest.mark.parametrize("kernel", [*OF_PROFILE.values(), "energy1.5"])
def test_every_function_of_every_kernel(name, kernel):
    z, x, v, w = problem(33, 22, 5)
    every_function(name, z, x, v, w, compiled_form(kernel, z))


@each_backend
@each_cloud
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "rational_quadratic"])
def test_hard_clouds(name, clouds, kernel):
    z, x, v, w = problem(40, 30, 12, clouds=clouds)
    every_function(name, z, x, v, w, compiled_form(kernel, z))


@each_backend
@each_cloud
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "gaussians"])
@pytest.mark.parametrize("d", [2, 6, 12])
def test_quadratic_forms_of_hard_clouds(name, clouds, kernel, d):
    z, x, v, w = problem(37, 28, d, clouds=clouds, p=2)
    u, c = torch.cat([z, x]), torch.cat([v, w])
    mixture = compiled_form(kernel, u)
    assert_as_accurate("quadratic_form", name, (u, c, c), mixture, True)
    assert_as_accurate("quadratic_form_and_grads", name, (u, c, c, None), mixture, True)


@each_backend
@pytest.mark.parametrize("d", [2, 6, 12])
def test_quadratic_forms_with_points_held(name, d):
    z, x, v, w = problem(37, 28, d, clouds=CLOUDS["converged"], p=2)
    c, mixture = torch.cat([v, w]), compiled_form("gaussian", z)
    assert_as_accurate("quadratic_form_and_grads", name, (z, c, c, x), mixture, True)


@each_backend
def test_a_scale_of_zero_has_a_derivative(name):
    z, _, v, _ = problem(9, 9, 2)
    flat = Mixture("gaussian", torch.tensor([[1.0, 0.0, 0.0]], device=DEVICE))
    assert_as_accurate("quadratic_form_and_grads", name, (z, v, v, None), flat)


@each_backend
@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_tiny_and_huge_scales(name, scale):
    z, x, v, w = problem(20, 30, 3)
    every_function(name, z * scale, x * scale, v, w, compiled_form("gaussian", z))


@each_backend
@pytest.mark.parametrize("kernel", ["gaussian", "energy", "polynomial"])
def test_the_diagonal_counts_for_nothing(name, kernel):
    z, _, v, w = problem(37, 37, 4, p=2)
    every_function(name, z, z.clone(), v, w, compiled_form(kernel, z), skip=True)
    for skip in (True, False):
        assert_as_accurate("quadratic_form", name, (z, v, v), compiled_form(kernel, z), skip)


@each_backend
@pytest.mark.parametrize("which", ["all", "z", "x", "w", "params"])
def test_blocks_and_shared_tensors(name, which):
    """A tensor with a batch dimension differs from block to block, one without is shared."""
    z, x, v, w = problem(9, 21, 3, p=2)
    mixture = compiled_form("gaussians", z)
    spread = lambda t: torch.stack([t, 0.5 * t, 1.1 * t])
    z, x, v, w, params = (
        spread(t) if which in ("all", key) else t
        for key, t in [("z", z), ("x", x), ("v", v), ("w", w), ("params", mixture.params)]
    )
    every_function(name, z, x, v, w, mixture._replace(params=params))


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(name, dtype):
    z, x, v, w = problem(20, 33, 6, dtype=dtype)
    mixture = compiled_form("gaussian", z)
    if reason := choice.load(name).why_not(z, mixture):
        pytest.skip(f"{name}: {reason}")
    assert_as_accurate("potential", name, (z, x, w), mixture)
    assert_as_accurate("potential_grad", name, (z, x, v, w), mixture)
    assert_as_accurate("potential_and_grad", name, (z, x, w), mixture)


@each_backend
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kernel", ["gaussian", "energy", "imq"])
def test_not_a_number_poisons_its_row_and_no_other(name, bad, kernel):
    z, x, _, w = problem(40, 70, 3)
    mixture = compiled_form(kernel, z)
    z[17, 1] = bad
    for op, tensors in [("potential", (z, x, w)), ("potential_grad", (z, x, None, w))]:
        got = getattr(choice.load(name), op)(*tensors, mixture)
        expected = getattr(reference, op)(*tensors, mixture)
        assert torch.equal(got.isnan(), expected.isnan())
        assert not got[torch.arange(40, device=DEVICE) != 17].isnan().any()


@each_backend
@pytest.mark.parametrize("d", [2, 5, 12])
def test_a_last_point_so_far_that_its_distance_overflows_counts_once(name, d):
    z, x, _, _ = problem(9, 21, d)
    x[-1] = 1e25
    mixture, w = compiled_form("energy", z), x.new_ones(21, 1)
    assert (choice.load(name).potential(z, x, w, mixture) == -torch.inf).all()


@each_backend
def test_a_nan_in_the_cloud_poisons_every_row(name):
    z, x, _, w = problem(40, 70, 3)
    x[33, 2] = float("nan")
    mixture = compiled_form("gaussian", z)
    assert choice.load(name).potential(z, x, w, mixture).isnan().all()
    assert choice.load(name).potential_grad(z, x, None, w, mixture).isnan().all()


@each_backend
def test_inputs_stay_as_they_are_and_runs_repeat_bit_for_bit(name):
    z, x, v, w = problem(70, 90, 7)
    kept = [t.clone() for t in (z, x, v, w)]
    mixture = compiled_form("gaussians", z)
    runs = [choice.load(name).potential_grad(z, x, v, w, mixture) for _ in range(3)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    for before, after in zip(kept, (z, x, v, w), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_backends_share_one_signature(function):
    signatures = {
        name: inspect.signature(getattr(choice.load(name), function)) for name in choice._MODULES
    }
    assert len(set(signatures.values())) == 1, signatures


def test_a_named_backend_runs_or_raises():
    z, x, _, w = problem(4, 6, 3, dtype=torch.float64)
    with pytest.raises(dk.BackendError, match=r"'triton' cannot run this call: .*float64"):
        dk.potential(z, x, w[:, 0], dk.energy(), backend="triton")
    with pytest.raises(ValueError, match="backend must be 'auto', 'triton', 'native'"):
        dk.potential(z, x, w[:, 0], dk.energy(), backend="cuda")
    with pytest.raises(ValueError, match="precision must be 'highest' or 'high', got 'low'"):
        dk.potential(z, x, w[:, 0], dk.energy(), precision="low")


def test_falling_back_warns_once_and_is_an_error_when_strict(monkeypatch):
    z, x, _, w = problem(4, 6, 3)
    preferred = choice._PREFERENCE[DEVICE][0]
    monkeypatch.setattr(choice, "_warned", set())
    monkeypatch.setattr(choice.load(preferred), "why_not", lambda *_: "it is switched off")
    with pytest.warns(RuntimeWarning, match=f"'{preferred}' is not used: it is switched off"):
        dk.potential(z, x, w[:, 0], dk.energy())
    dk.potential(z, x, w[:, 0], dk.energy())  # a second warning would be an error here
    monkeypatch.setenv("DMMD_STRICT", "1")
    with pytest.raises(dk.BackendError, match="it is switched off"):
        dk.potential(z, x, w[:, 0], dk.energy())


def test_what_auto_takes_can_be_asked():
    z = torch.zeros(3, 2, device=DEVICE)
    able = [n for n in choice._PREFERENCE[DEVICE] if choice.report(z.device)[n] is None]
    assert choice.chosen(z, dk.gaussian(1.0)) == able[0]
    rows = "native" if DEVICE == "cpu" else "reference"  # a linear kernel has no pairs
    assert choice.chosen(z, dk.linear()) == rows
    assert choice.chosen(z, dk.linear(), op="potential") == "reference"


needs_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="it is CPUs that have a table of crossovers")


@needs_cpu
@pytest.mark.parametrize(
    ("m", "d", "kernel", "expected"),
    [
        (4, 3, dk.energy(), "reference"), (5, 7, dk.energy(), "reference"),
        (3, 3, dk.energy(), "native"), (6, 3, dk.energy(), "native"),
        (4, 2, dk.energy(), "native"), (4, 8, dk.energy(), "native"),
        (4, 3, dk.polynomial(2), "native"),
    ],
)  # fmt: skip
def test_auto_takes_plain_torch_where_the_table_says_it_is_faster(
    m, d, kernel, expected, monkeypatch
):
    rows = [[3, 12, 15], [8, 1, 0]]  # 12 to 15 pairs, for d from 3 to 7
    table = choice.Crossover.read({"radial": {"potential": rows}, "polynomial": {}})
    monkeypatch.setattr(choice, "_crossover", table)
    calls = []
    for module in (native, reference):
        own = partial(lambda module, *_: calls.append(module) or torch.ones(3, 1), module)
        monkeypatch.setattr(module, "potential", own)
    z, x = torch.ones(3, d), torch.ones(m, d)
    dk.potential(z, x, torch.ones(m, 1), kernel)
    dk.potential(z, x, torch.ones(m, 1), kernel, backend="native")
    assert calls == [choice.load(expected), native]
    assert choice.chosen(z, kernel, x, op="potential") == expected


@needs_cpu
@pytest.mark.parametrize("op", ["potential", "potential_grad", "params_grad", "quadratic_form"])
def test_plain_torch_repeats_bit_for_bit_where_auto_may_take_it(op):
    """Its own sums over a whole matrix depend on the number of threads; sums of rows do not."""
    z, _, v, _ = problem(256, 256, 512)
    tensors = {"potential": (z, z, v), "quadratic_form": (z, v, v)}.get(op, (z, z, v, v))
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(getattr(reference, op)(*tensors, compiled_form("polynomial", z)))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


@needs_cpu
def test_the_table_is_what_the_benchmark_writes():
    assert set(choice._crossover.rows) <= set(product(FUNCTIONS, (True, False)))
    for rows in choice._crossover.rows.values():
        assert all(d >= 1 and least >= 1 for d, least, _ in rows)
        assert any(least <= most for _, least, most in rows), "a row that changes nothing"
        assert rows[-1][0] >= choice._crossover.least_d


def test_the_clouds_are_hard():
    """The test data hold what they claim, else the accuracy tests check less than they say."""
    z, x = CLOUDS["random"](50, 90, 12)
    assert (z[:, None] == x).all(-1).sum() == 25
    z, x = CLOUDS["distant"](40, 30, 12)
    assert x.mean() > 900
    z, x = CLOUDS["converged"](40, 30, 12)
    assert (z[:, None] - x).norm(dim=-1).amin(1).max() < 0.3
