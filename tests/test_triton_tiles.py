"""Many right-hand sides, and second order, in tiles on tensor cores: as accurate as differences."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import _triton, reference
from tests.cases import CLOUDS, DEVICE, assert_as_accurate, compiled_form, each_cloud, problem

triton = pytest.importorskip("triton", reason="Triton is not installed")

from dmmd_kernels.backends._triton import fused, parameter_tiles, scaling, second_order, sides  # noqa: E402


@pytest.fixture(autouse=True)
def calls(monkeypatch) -> list:
    """Small problems take this way too; returns the rows of the tables that were used."""
    monkeypatch.setattr(fused, "LEAST_WORK", 0)
    used: list = []
    for module, name, at in (
        (sides, "potential_of_sides", 4),
        (second_order, "_in_tiles", 0),
        (parameter_tiles, "params_grad_of_tiles", 5),
    ):
        run = getattr(module, name)
        spy = lambda *args, _run=run, _at=at, **rest: used.append(args[_at]) or _run(*args, **rest)
        monkeypatch.setattr(module, name, spy)
    return used


@each_cloud
@pytest.mark.parametrize(
    ("d", "p", "kernel"), [(3, 17, "gaussian"), (12, 5, "laplace"), (70, 20, "gaussians")]
)
def test_many_right_hand_sides_are_accurate(clouds, d, p, kernel, calls):
    z, x, _, w = problem(40, 70, d, p, clouds=clouds)
    assert_as_accurate("potential", "triton", (z, x, w), compiled_form(kernel, z))
    assert [row.kind for row in calls] == ["direct" if d == 3 else "sides"]


def test_more_sides_than_a_program_takes_and_several_strips_add_up(monkeypatch):
    monkeypatch.setattr(scaling, "_LEAST_STRIP", 128)
    z, _, w, _ = problem(150, 1, 9, 70)
    mixture = compiled_form("gaussian", z)
    assert_as_accurate("potential", "triton", (z, z.clone(), w), mixture, True)


def test_columns_of_any_size_keep_their_digits():
    z, x, _, w = problem(20, 30, 9, 3)
    w *= torch.tensor([1e-20, 1.0, 1e20], device=DEVICE)
    mixture = compiled_form("gaussian", z)
    for column in range(3):
        alone = torch.zeros_like(w)
        alone[:, column] = w[:, column]
        assert_as_accurate("potential", "triton", (z, x, alone), mixture)


def test_a_permutation_test_is_one_sweep_and_decides_as_in_plain_torch(calls):
    x, y = (t.to(DEVICE) for t in CLOUDS["random"](30, 25, 9))
    draw = lambda: torch.Generator().manual_seed(0)
    test = lambda backend: dk.permutation_test(
        x, y, dk.gaussian(1.0), permutations=39, generator=draw(), backend=backend
    )
    ours, plain = test("triton"), test("reference")
    assert len(calls) == 1
    assert ours.p_value == plain.p_value
    torch.testing.assert_close(ours.null, plain.null, rtol=1e-4, atol=1e-6)


def directions(z, x, mixture, moves: str) -> tuple:
    a = torch.randn_like(z) if moves == "z" else None
    b = torch.randn_like(x) if moves == "x" else None
    return a, b, torch.randn_like(mixture.params) if moves == "x" else None


@each_cloud
@pytest.mark.parametrize("moves", ["z", "x"])
@pytest.mark.parametrize(("d", "kernel"), [(12, "gaussians"), (20, "laplace")])
def test_second_order_is_accurate(clouds, moves, d, kernel, calls):
    z, x, v, w = problem(20, 40, d, clouds=clouds)
    mixture = compiled_form(kernel, z)
    v = v if moves == "z" else None
    tensors = (z, x, v, w, *directions(z, x, mixture, moves))
    assert_as_accurate("tangents", "triton", tensors, mixture)
    assert [row.kind for row in calls] == ["tiles"]


@pytest.mark.parametrize("moves", ["z", "x"])
def test_a_gradient_without_the_sums_is_the_same(moves):
    z, x, v, w = problem(20, 40, 20, clouds=CLOUDS["converged"])
    mixture = compiled_form("gaussians", z)
    rest = directions(z, x, mixture, moves)
    _, g, _ = _triton.tangents(z, x, v, w, mixture, *rest)
    assert torch.equal(_triton.tangent_grad(z, x, v, w, mixture, *rest), g)


@each_cloud
@pytest.mark.parametrize(("p", "kernel"), [(1, "laplace"), (2, "gaussians")])
def test_gradients_of_parameters_are_accurate(clouds, p, kernel, calls):
    z, x, v, w = problem(20, 40, 12, p, clouds=clouds)
    assert_as_accurate("params_grad", "triton", (z, x, v, w), compiled_form(kernel, z))
    assert [row.kind for row in calls] == ["tiles"]


def test_gradients_of_parameters_leave_the_diagonal_out():
    u, _, v, _ = problem(70, 1, 12, 2)
    mixture = compiled_form("gaussian", u)
    assert_as_accurate("params_grad", "triton", (u, u, v, v), mixture, True)


@pytest.mark.parametrize("moves", ["z", "x"])
def test_points_too_wide_to_be_held_are_streamed(moves):
    z, x, v, w = problem(20, 40, 70, clouds=CLOUDS["converged"])
    mixture = compiled_form("rational_quadratic", z)
    tensors = (z, x, v, w, *directions(z, x, mixture, moves))
    assert_as_accurate("tangents", "triton", tensors, mixture)


@pytest.mark.parametrize("moves", ["z", "x"])
def test_second_order_leaves_the_diagonal_out_and_adds_strips(moves, monkeypatch):
    monkeypatch.setattr(scaling, "_LEAST_STRIP", 128)
    z, _, v, _ = problem(140, 1, 9)
    mixture = compiled_form("gaussian", z)
    tensors = (z, z.clone(), v, v.clone(), *directions(z, z, mixture, moves))
    assert_as_accurate("tangents", "triton", tensors, mixture, True)


@each_cloud
def test_both_clouds_may_move(clouds, calls):
    """Along directions of their own, and along one that is smooth and far from zero."""
    z, x, v, w = problem(20, 40, 12, clouds=clouds)
    mixture = compiled_form("gaussian", z)
    c = torch.randn_like(mixture.params)
    wave = lambda t: 1e3 + torch.sin(t - x.mean(0))
    for a, b in ((torch.randn_like(z), torch.randn_like(x)), (wave(z), wave(x))):
        assert_as_accurate("tangents", "triton", (z, x, v, w, a, b, c), mixture)
    assert [row.kind for row in calls] == 4 * ["tiles"]


def test_moving_along_changes_nothing():
    z, x, v, w = problem(20, 40, 20, clouds=CLOUDS["converged"])
    a, b = torch.full_like(z, 3.0), torch.full_like(x, 3.0)
    results = _triton.tangents(z, x, v, w, compiled_form("gaussian", z), a, b, None)
    assert all((t == 0).all() for t in results)


def test_blocks_of_a_batch_are_computed_as_if_alone():
    z, x, v, w = (torch.stack([t, t + 0.5]) for t in problem(20, 30, 12))
    many = w.expand(-1, -1, 5).contiguous()
    mixture = compiled_form("gaussians", z)
    tables = torch.stack([mixture.params, 2 * mixture.params])
    of = lambda i: mixture._replace(params=tables[i])
    batched = mixture._replace(params=tables)
    f = _triton.potential(z[0], x, many, batched)
    second = _triton.tangents(z, x[1], v, w[0], batched, z, None, tables)
    for i in range(2):
        torch.testing.assert_close(f[i], _triton.potential(z[0], x[i], many[i], of(i)))
        alone = _triton.tangents(z[i], x[1], v[i], w[0], of(i), z[i], None, tables[i])
        for whole, part in zip(second, alone, strict=True):
            torch.testing.assert_close(whole[i], part, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_finite_means_what_it_means_in_differences(value):
    z, x, v, w = problem(12, 20, 12)
    z[2, 1] = float(value)
    mixture, many = compiled_form("gaussian", z), w.expand(-1, 4).contiguous()
    f = _triton.potential(z, x, many, mixture)
    torch.testing.assert_close(f, reference.potential(z, x, many, mixture), equal_nan=True)
    a = torch.ones_like(z)
    f, g, _ = _triton.tangents(z, x, v, w, mixture, a, None, None)
    broken = torch.arange(12, device=DEVICE) == 2
    assert torch.equal(g.isnan().any(-1), broken)
    assert torch.equal(f.isnan().any(-1), broken)


def test_results_do_not_depend_on_chance():
    z, x, v, w = problem(20, 70, 12)
    mixture, many = compiled_form("gaussian", z), w.expand(-1, 4).contiguous()
    run = lambda: (_triton.potential(z, x, many, mixture), *second())
    second = lambda: _triton.tangents(z, x, v, w, mixture, z, None, None)
    assert all(map(torch.equal, run(), run()))


@pytest.mark.parametrize(
    ("d", "p", "kernel"), [(9, 2, "gaussian"), (3, 15, "gaussian"), (9, 20, "polynomial")]
)
def test_few_sides_and_other_kernels_take_lanes(d, p, kernel):
    points = torch.zeros(3, d, device=DEVICE)
    assert sides.chosen(points, points, p, compiled_form(kernel, points)) is None
