"""potential, potential_grad, potential_and_grad, kernel_matrix: what must hold on any backend."""

import math

import pytest
import torch

import dmmd_kernels as dk
from tests.cases import DEVICE, KERNELS, converged_clouds, each_backend, each_kernel, problem


def double_problem(n, m, d):
    z, x, _, w = problem(n, m, d, dtype=torch.float64)
    return z + 0.1, x, w[:, 0]  # away from the kinks of laplace and energy


def differentiable(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


@each_kernel
def test_the_ops_agree_with_the_kernel_matrix(kernel):
    z, x, w = double_problem(5, 7, 3)
    (z,) = differentiable(z)
    f = dk.kernel_matrix(z, x, kernel) @ w
    (g,) = torch.autograd.grad(f.sum(), z)
    torch.testing.assert_close(dk.potential(z, x, w, kernel), f)
    torch.testing.assert_close(dk.potential_grad(z, x, w, kernel), g)
    both = dk.potential_and_grad(z, x, w, kernel)
    torch.testing.assert_close(both, (f, g))


@each_kernel
def test_gradients_of_potential(kernel):
    inputs = differentiable(*double_problem(4, 6, 3))
    assert torch.autograd.gradcheck(lambda *t: dk.potential(*t, kernel), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: dk.potential(*t, kernel), inputs)


@each_kernel
def test_gradients_of_potential_grad(kernel):
    inputs = differentiable(*double_problem(4, 6, 3))
    assert torch.autograd.gradcheck(lambda *t: dk.potential_grad(*t, kernel), inputs)
    assert torch.autograd.gradcheck(lambda *t: dk.potential_and_grad(*t, kernel), inputs)


@each_kernel
def test_gradients_of_the_kernel_matrix(kernel):
    z, x, _ = double_problem(4, 6, 3)
    inputs = differentiable(z, x)
    assert torch.autograd.gradcheck(lambda *t: dk.kernel_matrix(*t, kernel), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: dk.kernel_matrix(*t, kernel), inputs)


def parametric(*parameters):
    """A kernel in which every kind of parameter is a tensor."""
    sigma, alpha, c, beta, gamma, weight = parameters
    return (
        dk.gaussian(sigma)
        + weight * dk.rational_quadratic(alpha, sigma)
        + dk.imq(c)
        + dk.laplace(sigma)
        + dk.energy(beta)
        + dk.polynomial(2, gamma, c)
        + weight * dk.linear()
    )


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("op", ["potential", "potential_grad", "kernel_matrix", "mmd2"])
def test_gradients_of_every_parameter(op, batch):
    z, x, w = double_problem(4, 5, 2)
    values = [0.7, 0.4, 0.9, 1.3, 0.5, 0.6]
    parameters = differentiable(
        *(v + 0.1 * torch.rand(batch, dtype=z.dtype, device=DEVICE) for v in values)
    )
    others = (w,) if op.startswith("potential") else ()

    def call(*parameters):
        return getattr(dk, op)(z, x, *others, parametric(*parameters))

    assert torch.autograd.gradcheck(call, parameters)
    if op != "potential_grad":  # its second derivatives would be third ones of the kernel
        assert torch.autograd.gradgradcheck(call, parameters)


def test_a_third_derivative_is_refused():
    z, x, w = double_problem(4, 6, 3)
    (z,) = differentiable(z)
    g = dk.potential_grad(z, x, w, dk.gaussian(1.0))
    (h,) = torch.autograd.grad(g.sum(), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="first and second derivatives"):
        h.sum().backward()


@each_backend
@each_kernel
def test_batches_are_the_blocks_one_by_one(name, kernel):
    z, x, w = (
        torch.stack([t, 2 * t]).expand(3, 2, *t.shape).float() for t in double_problem(5, 8, 3)
    )
    for op in (dk.potential, dk.potential_grad):
        together = op(z, x, w, kernel, backend=name)
        alone = [
            op(z[i, j], x[i, j], w[i, j], kernel, backend=name) for i in range(3) for j in (0, 1)
        ]
        torch.testing.assert_close(together.flatten(0, 1), torch.stack(alone))
    shared = dk.potential(z, x[0, 0], w[0, 0], kernel, backend=name)
    torch.testing.assert_close(shared[1, 1], dk.potential(z[1, 1], x[0, 0], w[0, 0], kernel))


def test_a_batch_made_by_expanding_is_a_batch():
    z, x, w = double_problem(4, 6, 3)
    alone = dk.potential(z, x, w, dk.imq(1.0))
    for clouds in [(z.expand(5, -1, -1), x), (z, x.expand(5, -1, -1))]:
        f = dk.potential(*clouds, w, dk.imq(1.0))
        torch.testing.assert_close(f, alone.expand(5, -1))


@each_backend
def test_right_hand_sides_are_columns(name):
    z, x, _, w = problem(20, 30, 3, p=4)
    for kernel in KERNELS.values():
        f = dk.potential(z, x, w, kernel, backend=name)
        columns = [dk.potential(z, x, c, kernel, backend=name) for c in w.unbind(1)]
        torch.testing.assert_close(f, torch.stack(columns, 1))


@each_backend
def test_any_strides(name):
    z, x, _, w = problem(40, 60, 6)
    kernel = dk.gaussian(1.0)
    expected = dk.potential(z[::2, 1:4].contiguous(), x[:, 1:4].contiguous(), w[:, 0], kernel)
    got = dk.potential(z[::2, 1:4], x.mT.contiguous().mT[:, 1:4], w[:, 0], kernel, backend=name)
    torch.testing.assert_close(got, expected)


@each_kernel
def test_a_per_block_width_is_the_block_with_that_width(kernel):
    z, x, w = double_problem(4, 6, 3)
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=z.dtype, device=DEVICE)
    f = dk.potential(z, x, w, dk.gaussian(sigma) + kernel)
    one = dk.potential(z, x, w, dk.gaussian(1.0) + kernel)
    assert f.shape == (3, 4)
    torch.testing.assert_close(f[1], one)


def test_the_constructors_say_what_they_promise():
    x, y = torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double()  # |x - y| = 5
    for kernel, value in [
        (dk.gaussian(2.0), math.exp(-25 / 8)),
        (dk.rational_quadratic(0.5, 2.0), (1 + 25 / 4) ** -0.5),
        (dk.laplace(2.0), math.exp(-2.5)),
        (dk.imq(2.0), (1 + 25 / 4) ** -0.5),
        (dk.energy(), -5.0),
        (dk.energy(1.5), -(5**1.5)),
        (2 * dk.laplace(5.0) + dk.energy(), 2 * math.exp(-1) - 5),
        (dk.mixture([dk.imq(1.0), dk.energy()], [26**0.5, 0.2]), 1 - 1),
    ]:
        assert dk.kernel_matrix(x, y, kernel).item() == pytest.approx(value, abs=1e-12)
    assert dk.kernel_matrix(y, y, dk.polynomial()).item() == pytest.approx((25 / 2 + 1) ** 3)
    assert dk.kernel_matrix(y, y, dk.linear()).item() == pytest.approx(25)


def test_a_kernel_is_a_value():
    assert dk.gaussian(1.0) == dk.gaussian(1)
    assert dk.gaussian(1.0) != dk.gaussian(2.0)
    kernel = 0.5 * dk.gaussian(1.0) + dk.rational_quadratic(0.2)
    assert str(kernel) == "0.5 * gaussian(1.0) + rational_quadratic(0.2, 1.0)"
    with pytest.raises(AttributeError):
        kernel.terms = ()


def test_errors_say_what_must_hold_and_what_came():
    z, x, w = torch.zeros(4, 3), torch.zeros(6, 3), torch.zeros(6)
    k = dk.energy()
    for call, error, message in [
        (
            lambda: dk.potential(z, x, w[:4], k),
            ValueError,
            r"w must have one .* \(…, 6\).* got \(4,\)",
        ),
        (
            lambda: dk.potential(z[0], x, w, k),
            ValueError,
            r"z must be \(…, points, d\), got \(3,\)",
        ),
        (lambda: dk.potential(z[:, :2], x, w, k), ValueError, "one dimension d"),
        (lambda: dk.potential(z, x, w.long(), k), TypeError, "w must be floating point, got"),
        (
            lambda: dk.potential(z.int(), x, w, k),
            TypeError,
            "must be floating point, got torch.int32",
        ),
        (lambda: dk.potential([[1.0]], x, w, k), TypeError, "z must be a torch.Tensor, got list"),
        (lambda: dk.potential_grad(z, x, w[:, None], k), ValueError, "one weight per point of x"),
        (lambda: dk.potential(z.expand(2, 4, 3), x.expand(3, 6, 3), w, k), ValueError, "broadcast"),
        (lambda: dk.gaussian(0.0), ValueError, "sigma must be a positive finite number, got 0.0"),
        (lambda: dk.gaussian(math.nan), ValueError, "got nan"),
        (lambda: dk.gaussian(torch.tensor(1)), TypeError, "floating-point tensor"),
        (lambda: dk.rational_quadratic(-1.0), ValueError, "alpha must be a positive"),
        (lambda: dk.energy(2.0), ValueError, "strictly between 0 and 2, got 2.0"),
        (lambda: dk.polynomial(0), ValueError, "degree must be a whole number"),
        (lambda: dk.mixture([]), ValueError, "at least one kernel"),
        (lambda: dk.mixture([k], [1.0, 2.0]), ValueError, "one entry per kernel, 1, got 2"),
        (
            lambda: dk.potential(z, x, w, dk.gaussian(1e-30)),
            ValueError,
            "must fit in torch.float32",
        ),
        (lambda: -1.0 * k, ValueError, "the factor must be a positive"),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [dk.laplace(1.3), dk.energy(), dk.gaussian(0.1)])
def test_gradients_of_a_matrix_of_converged_clouds_are_those_of_differences(kernel, dtype):
    z, x = converged_clouds(40, 30, 6)
    points = [t.to(DEVICE, dtype).requires_grad_() for t in (z, x)]
    double = [t.detach().double().requires_grad_() for t in points]
    upstream = torch.randn(40, 30, device=DEVICE)

    def gradients(z, x, backend):
        k = dk.kernel_matrix(z, x, kernel, backend=backend)
        return torch.autograd.grad((upstream * k).sum(), (z, x))

    exact = gradients(*double, "reference")
    for got, truth in zip(gradients(*points, "auto"), exact, strict=True):
        assert (got - truth).abs().max() <= 32 * torch.finfo(dtype).eps * truth.abs().max()


def test_the_gradient_of_a_matrix_without_columns_is_zero():
    z = torch.randn(3, 4, device=DEVICE, requires_grad=True)
    dk.kernel_matrix(z, z.detach()[:0], dk.gaussian(1.0)).sum().backward()
    assert (z.grad == 0).all()


def test_what_inference_mode_keeps_serves_training_too():
    x, y = (torch.randn(7, 2, device=DEVICE) for _ in range(2))
    kernel = dk.gaussian(0.77)
    with torch.inference_mode():
        expected = dk.mmd2(x, y, kernel)
    value = dk.mmd2(x.requires_grad_(), y, kernel)
    value.backward()
    assert value == expected
