"""mmd2 and witness: their definitions, their axioms, and the cases that are solved by hand."""

import math

import numpy as np
import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.ops import shortcuts
from tests.cases import (
    CLOUDS,
    DEVICE,
    KERNELS,
    allowed_error,
    assert_within,
    each_backend,
    each_kernel,
    problem,
)

ESTIMATORS = ["unbiased", "biased"]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@pytest.fixture(params=["by pairs", "by row sums"])
def linear_way(request, monkeypatch):
    """A linear kernel meets few points in pairs; sums over rows, which many take, are right too."""
    if request.param == "by row sums":
        monkeypatch.setattr(shortcuts, "_SMALL", -1)


def samples(n=20, m=31, d=3, dtype=torch.float64):
    x, y, a, b = problem(n, m, d, dtype=dtype)
    return x, 0.8 * y + 0.3, a[:, 0].abs(), b[:, 0].abs()


def by_definition(x, y, kernel, estimator):
    xx, yy, xy = (dk.kernel_matrix(s, t, kernel) for s, t in [(x, x), (y, y), (x, y)])
    if estimator == "biased":
        return xx.mean() + yy.mean() - 2 * xy.mean()
    off = lambda k: (k.sum() - k.trace()) / (len(k) * (len(k) - 1))
    return off(xx) + off(yy) - 2 * xy.mean()


@each_backend
@each_estimator
@each_kernel
def test_is_its_definition(name, estimator, kernel):
    x, y, _, _ = samples()
    expected = by_definition(x, y, kernel, estimator)
    if name == "triton":
        got = dk.mmd2(x.float(), y.float(), kernel, estimator=estimator, backend=name).double()
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    else:
        got = dk.mmd2(x, y, kernel, estimator=estimator, backend=name)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@each_estimator
@each_kernel
def test_gradients(estimator, kernel):
    x, y, a, b = (t.requires_grad_() for t in samples(4, 5, 2))

    def call(x, y, a, b):
        return dk.mmd2(x, y, kernel, estimator=estimator, weights_x=a, weights_y=b)

    assert torch.autograd.gradcheck(call, (x, y, a, b))
    assert torch.autograd.gradgradcheck(call, (x, y, a, b))


@each_estimator
@pytest.mark.parametrize("moving", [0, 1])
@pytest.mark.parametrize("kernel", ["gaussian", "everything"])
def test_gradients_where_one_sample_moves(estimator, moving, kernel):
    """As where both do; the other sample's weights and a width may still have gradients."""
    leaves = [t.requires_grad_() for t in (*samples(4, 5, 2), torch.tensor(0.9).double())]
    leaves[1 - moving] = leaves[1 - moving].detach()

    def call(moved, a, b, sigma):
        x, y = (moved, leaves[1]) if moving == 0 else (leaves[0], moved)
        k = KERNELS[kernel] + sigma * dk.imq(sigma)
        return dk.mmd2(x, y, k, estimator=estimator, weights_x=a, weights_y=b)

    inputs = (leaves[moving], *leaves[2:])
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


@each_backend
@each_estimator
def test_a_sample_that_is_held_changes_no_gradient(name, estimator):
    both = [t.float().requires_grad_() for t in samples(12, 14, 3)[:2]]
    x, y = (t.detach() for t in both)
    kernel = dk.gaussian(torch.tensor(2.0, device=DEVICE))  # by a tensor, so nothing is prepared

    def gradients(x, y):
        value = dk.mmd2(x, y, kernel, estimator=estimator, backend=name)
        return torch.autograd.grad(value, [t for t in (x, y) if t.requires_grad])

    expected = gradients(*both)
    alone = (*gradients(both[0], y), *gradients(x, both[1]))
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-7)


@each_estimator
def test_uniform_weights_are_no_weights(estimator):
    x, y, _, _ = samples()
    a, b = x.new_full((20,), 1 / 20), y.new_full((31,), 1 / 31)
    for kernel in KERNELS.values():
        weighted = dk.mmd2(x, y, kernel, estimator=estimator, weights_x=a, weights_y=b)
        torch.testing.assert_close(weighted, dk.mmd2(x, y, kernel, estimator=estimator))


def test_a_weight_is_a_repetition():
    """A point of weight 2/n is two points, for the biased estimate, which counts their own pair."""
    x, y, _, _ = samples(6, 9)
    a = x.new_tensor([2, 1, 1, 1, 1, 1]) / 7
    twice = torch.cat([x[:1], x])
    got = dk.mmd2(x, y, dk.imq(1.0), estimator="biased", weights_x=a)
    torch.testing.assert_close(got, dk.mmd2(twice, y, dk.imq(1.0), estimator="biased"))


@each_kernel
def test_a_sample_is_at_distance_zero_from_itself(kernel):
    x, _, _, _ = samples()
    assert abs(dk.mmd2(x, x, kernel, estimator="biased")) < 1e-9


@each_kernel
def test_symmetric_and_positive(kernel):
    x, y, _, _ = samples()
    forth, back = (dk.mmd2(*s, kernel, estimator="biased") for s in [(x, y), (y, x)])
    torch.testing.assert_close(forth, back)
    assert forth > 0


@each_kernel
def test_the_velocity_is_minus_the_gradient_of_mmd2(kernel):
    """∂MMD²_b/∂xᵢ = (2/N) ∇f(xᵢ), so descending MMD² in x is following the velocity."""
    x, y, _, _ = samples()
    x = (x + 0.05).requires_grad_()
    (grad,) = torch.autograd.grad(dk.mmd2(x, y, kernel, estimator="biased"), x)
    torch.testing.assert_close(2 / len(x) * dk.witness_grad(x, x, y, kernel), grad)
    torch.testing.assert_close(dk.velocity(x, x, y, kernel), -dk.witness_grad(x, x, y, kernel))


@each_kernel
def test_witness_is_the_difference_of_mean_potentials(kernel):
    x, y, _, _ = samples()
    z = x[:7] + 0.1
    f = dk.kernel_matrix(z, x, kernel).mean(1) - dk.kernel_matrix(z, y, kernel).mean(1)
    torch.testing.assert_close(dk.witness(z, x, y, kernel), f)


def standard_normal(d: int, nodes: int = 40):
    """Gauss-Hermite points and weights: a cloud that integrates like N(0, I), with no noise."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[points] * d), -1).reshape(-1, d)
    mass = np.prod(np.meshgrid(*[weights / weights.sum()] * d), 0).reshape(-1)
    return torch.from_numpy(grid).to(DEVICE), torch.from_numpy(mass).to(DEVICE)


def test_two_normals_in_closed_form():
    """MMD² of N(0, I) and N(a, I) is 2c(1 - exp(-|a|² / 2(σ² + 2))), c = (σ² / (σ² + 2))^(d/2)."""
    d, sigma = 2, 1.5
    a = torch.tensor([1.0, -0.5], dtype=torch.float64, device=DEVICE)
    x, w = standard_normal(d)
    c = (sigma**2 / (sigma**2 + 2)) ** (d / 2)
    expected = 2 * c * (1 - math.exp(-float(a @ a) / (2 * (sigma**2 + 2))))
    got = dk.mmd2(x, x + a, dk.gaussian(sigma), estimator="biased", weights_x=w, weights_y=w)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_the_width_of_largest_slope_in_closed_form():
    """DMMD, proposition 3.1: for k_α = α^-d exp(-s/2α²) and N(0, σ²I) against N(μ, σ²I), the slope
    of MMD² in μ is largest at α² = |μ|²/(d + 2) - 2σ²."""
    d, sigma = 1, 0.3
    x, w = standard_normal(d)
    x = sigma * x
    best = math.sqrt(1.5**2 / (d + 2) - 2 * sigma**2)

    def slope(alpha):
        mu = torch.full((d,), 1.5, dtype=torch.float64, device=DEVICE, requires_grad=True)
        kernel = alpha**-d * dk.gaussian(alpha)
        value = dk.mmd2(x, x + mu, kernel, estimator="biased", weights_x=w, weights_y=w)
        return torch.autograd.grad(value, mu)[0].norm().item()

    assert slope(best) > max(slope(0.98 * best), slope(1.02 * best))
    s = best**2 + 2 * sigma**2
    exact = 2 * 1.5 * s ** (-d / 2 - 1) * math.exp(-(1.5**2) / (2 * s))
    assert slope(best) == pytest.approx(exact, rel=1e-9)


def test_the_energy_flow_in_one_dimension_counts_neighbours():
    """On a line ∇f(xᵢ) counts points on either side: (2#{y < x} - M)/M - (2 rank - N + 1)/N."""
    x, y, _, _ = samples(11, 17, 1)
    x = x + 0.01 * torch.arange(11, device=DEVICE, dtype=x.dtype)[:, None]
    below = (x > y.T).sum(1)
    rank = (x > x.T).sum(1)
    expected = (2 * below - 17) / 17 - (2 * rank - 11 + 1) / 11
    got = dk.witness_grad(x, x, y, dk.energy())[:, 0]
    torch.testing.assert_close(got, expected.to(got.dtype))


def test_the_linear_kernel_keeps_its_accuracy_far_from_the_origin():
    x, y = (t.to(DEVICE) for t in CLOUDS["distant"](500, 400, 16))
    exact = dk.mmd2(x.double(), y.double(), dk.linear())
    about_the_mean = (x.double() - y.double().mean(0)).square().sum(1).mean()
    allowed = allowed_error(exact, 0.0, x.dtype, terms=about_the_mean.item())
    assert (dk.mmd2(x, y, dk.linear()) - exact).abs() <= allowed


def test_the_linear_kernel_of_huge_points_is_finite():
    """Their sums' squares would not be."""
    x, y = torch.randn(4096, 3) + 1e17, torch.randn(4096, 3)
    got, exact = (dk.mmd2(x.to(t), y.to(t), dk.linear()) for t in (torch.float32, torch.float64))
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=0)


@each_estimator
def test_the_linear_kernel_is_its_definition_either_way(estimator, linear_way):
    x, y, _, _ = samples()
    expected = by_definition(x, y, dk.linear(), estimator)
    torch.testing.assert_close(dk.mmd2(x, y, dk.linear(), estimator=estimator), expected)


@pytest.mark.parametrize("clouds", ["random", "distant", "clustered", "digits"])
def test_gradients_of_the_linear_kernel_are_accurate(clouds, linear_way):
    """16 ulps of the largest entry, against float64 and without help from a plain one's error."""
    x, y = (t.to(DEVICE) for t in CLOUDS[clouds](120, 90, 8))
    take = lambda *samples: torch.autograd.grad(dk.mmd2(*samples, dk.linear()), samples)
    got = take(*(t.requires_grad_() for t in (x, y)))
    exact = take(*(t.detach().double().requires_grad_() for t in (x, y)))
    for ours, truth in zip(got, exact, strict=True):
        assert (ours - truth).abs().max() <= allowed_error(truth, 0.0, torch.float32)


def test_upstream_gradients_of_the_linear_kernel_may_be_mapped(linear_way):
    x, y = (t.requires_grad_() for t in samples()[:2])
    value = dk.mmd2(x, y, dk.linear())
    pull = lambda v, **how: torch.autograd.grad(value, (x, y), v, retain_graph=True, **how)
    upstream = torch.tensor([1.0, -2.0], dtype=x.dtype, device=DEVICE)
    expected = tuple(torch.stack(g) for g in zip(*map(pull, upstream), strict=True))
    torch.testing.assert_close(torch.func.vmap(pull)(upstream), expected)
    torch.testing.assert_close(pull(upstream, is_grads_batched=True), expected)


@pytest.mark.parametrize("batched", ["x", "y", "both"])
def test_blocks_of_the_linear_kernel(batched, linear_way):
    """A cloud without a batch dimension is shared."""
    x, y, _, _ = samples(20, 31)
    x = torch.stack([x, 2 * x]) if batched != "y" else x
    y = torch.stack([y, 3 * y]) if batched != "x" else y
    x, y = x.requires_grad_(), y.requires_grad_()
    of = lambda t, i: t[i] if t.ndim == 3 else t
    alone = torch.stack([dk.mmd2(of(x, i), of(y, i), dk.linear()) for i in range(2)])
    expected = torch.autograd.grad(alone.sum(), (x, y))
    value = dk.mmd2(x, y, dk.linear())
    torch.testing.assert_close(value, alone)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), (x, y)), expected)


@each_backend
@each_estimator
def test_weights_of_the_linear_kernel_keep_their_accuracy_far_from_the_origin(name, estimator):
    """A hundred times nearer to float64 than sums of ⟨x, y⟩, of order 10⁶, could be."""
    x, y = (t.to(DEVICE) for t in CLOUDS["distant"](500, 400, 16))
    a, b = (torch.linspace(0.5, 1.5, n, device=DEVICE) / n for n in (500, 400))
    how = dict(estimator=estimator, weights_x=a, weights_y=b)
    double = {key: t.double() if isinstance(t, torch.Tensor) else t for key, t in how.items()}
    exact = dk.mmd2(x.double(), y.double(), dk.linear(), backend="reference", **double)
    got = dk.mmd2(x, y, dk.linear(), backend=name, **how)
    assert abs(got.item() - exact.item()) < 1e-2 * 16e6 * torch.finfo(torch.float32).eps


@each_backend
@pytest.mark.parametrize("clouds", ["random", "distant", "digits"])
def test_small_values_near_the_null_are_accurate(name, clouds):
    """Two samples of one distribution: MMD²_u is a small difference of large sums."""
    x, y = (t.to(DEVICE) for t in CLOUDS[clouds](200, 190, 8))
    kernel = dk.mixture([dk.gaussian(s) for s in (1.0, 2.0, 4.0)])
    exact = dk.mmd2(x.double(), y.double(), kernel, backend="reference")
    plain = dk.mmd2(x, y, kernel, backend="reference")
    got = dk.mmd2(x, y, kernel, backend=name)
    allowed = allowed_error(exact, (plain - exact).abs(), x.dtype, terms=3.0)  # k ≤ 3
    assert_within((got - exact).abs(), allowed, op="mmd2", backend=name)


def test_a_narrow_width_leaves_no_rounding_in_the_second_derivative():
    """A pair i = i has slope 1/σ² but pulls nowhere, so what it adds must be exactly nothing."""
    x, y, _, _ = problem(40, 50, 3)
    kernel, found = dk.gaussian(1.0) + dk.gaussian(1e-3), []
    for dtype in (torch.float32, torch.float64):
        u = (3 * x).to(dtype).requires_grad_()
        value = dk.mmd2(u, y.to(dtype) + 0.5, kernel, estimator="biased")
        (g,) = torch.autograd.grad(value, u, create_graph=True)
        found.append(torch.autograd.grad((g * x.to(dtype)).sum(), u)[0].double())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


@each_estimator
def test_half_precision_is_the_float32_value_rounded(estimator):
    x, y, _, _ = samples(dtype=torch.bfloat16)
    got = dk.mmd2(x, y, dk.gaussian(1.0), estimator=estimator)
    expected = dk.mmd2(x.float(), y.float(), dk.gaussian(1.0), estimator=estimator)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected.bfloat16())


@each_backend
def test_batches_with_a_width_per_block(name):
    x, y, _, _ = (t.float() for t in samples(5 * 12, 5 * 9))
    x, y = x.reshape(5, 12, 3), y.reshape(5, 9, 3)
    sigma = torch.linspace(0.3, 2, 5, device=DEVICE)
    got = dk.mmd2(x, y, dk.gaussian(sigma), backend=name)
    alone = [dk.mmd2(x[i], y[i], dk.gaussian(float(sigma[i]))) for i in range(5)]
    torch.testing.assert_close(got, torch.stack(alone), rtol=1e-4, atol=1e-6)
    shared = dk.mmd2(x, y[0], dk.gaussian(sigma), backend=name)
    torch.testing.assert_close(shared[0], got[0], rtol=1e-4, atol=1e-6)


def test_the_mean_over_shards_is_not_the_global_value():
    """Why a distributed MMD must gather its particles."""
    x, y, _, _ = samples(40, 40)
    whole = dk.mmd2(x, y, dk.gaussian(1.0), estimator="biased")
    shards = dk.mmd2(x.reshape(4, 10, 3), y.reshape(4, 10, 3), dk.gaussian(1.0), estimator="biased")
    assert abs(shards.mean() - whole) > 0.01


def test_errors_say_what_must_hold_and_what_came():
    x, k = torch.zeros(4, 2), dk.energy()
    for call, message in [
        (lambda: dk.mmd2(x, x, k, estimator="u"), "'unbiased' or 'biased', got 'u'"),
        (lambda: dk.mmd2(x[:1], x, k), "needs at least 2 points in x, got 1"),
        (lambda: dk.mmd2(x, x[:0], k, estimator="biased"), "at least 1 points in y, got 0"),
        (lambda: dk.mmd2(x, x, k, weights_x=x[:3, 0]), r"weights_x must have .* got \(3,\)"),
        (lambda: dk.witness(x, x[:0], x, k), "x must hold at least one point"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@each_estimator
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_one_weight_that_is_not_zero_makes_no_pair(estimator, kernel):
    x, y, _, _ = samples()
    one = torch.zeros_like(x[:, 0])
    one[2] = 1.0
    how = {"estimator": estimator, "weights_x": one}
    if estimator == "unbiased":
        with pytest.raises(ValueError, match="two that are not zero in each; estimator='biased'"):
            dk.mmd2(x, y, KERNELS[kernel], **how)
    else:
        alone = dk.mmd2(x[2:3], y, KERNELS[kernel], estimator=estimator)
        torch.testing.assert_close(dk.mmd2(x, y, KERNELS[kernel], **how), alone)


@pytest.mark.parametrize("d", [511, 512, 513, 2048])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_of_the_linear_kernel_in_many_dimensions(d, estimator):
    x, y, _, _ = problem(20, 30, d)
    a = torch.linspace(0.5, 1.5, 20, device=DEVICE) / 20
    how = {"estimator": estimator, "backend": "reference"}
    exact = dk.mmd2(x.double(), y.double(), dk.linear(), weights_x=a.double(), **how)
    got = dk.mmd2(x, y, dk.linear(), estimator=estimator, weights_x=a)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


def test_images_are_pointed_out():
    """A warning: any number of batch dimensions is in the contract."""
    x = torch.randn(4, 3, 8, 8, device=DEVICE)
    with pytest.warns(UserWarning, match=r"4 × 3 problems of 8 points; .* pass x\.flatten\(1\)"):
        value = dk.mmd2(x, x + 1, dk.gaussian(1.0))
    assert value.shape == (4, 3)
    several = pytest.raises(ValueError, match=r"must broadcast, .* for images pass x\.flatten")
    with pytest.warns(UserWarning, match="problems"), several:
        dk.mmd2(x, x[:, 0], dk.gaussian(1.0))
    dk.mmd2(x[:, :2], x[:, :2] + 1, dk.gaussian(1.0))


def test_a_width_per_dimension_is_pointed_out():
    x = torch.randn(4, 6, 3, device=DEVICE)
    with pytest.raises(ValueError, match="for a width per dimension divide the points"):
        dk.mmd2(x, x + 1, dk.gaussian(torch.ones(3, device=DEVICE)))
