"""The training loss against its definition, written out with loops over pairs and levels."""

import math

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.networks.features import IdentityFeatures, MLPFeatures, Width
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel
from dmmd_kernels.systems.dmmd.losses import (
    between,
    feature_norm,
    gradient_penalty,
    noise_conditional_loss,
)

T, B, BACKEND = 3, 5, "reference"


def deep_kernel(base, features="mlp"):
    torch.manual_seed(0)
    network = MLPFeatures(2, 4, hidden=8) if features == "mlp" else IdentityFeatures()
    deep = DeepKernel(network, base, None if base == "linear" else Width(8, start=1.0))
    for parameter in deep.parameters():  # a width that begins at zero slope hides its gradient
        torch.nn.init.normal_(parameter, std=0.4)
    return deep.double()


def batch():
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
    return 2 * draw(T, B, 2), draw(T, B, 2), draw(T), draw(T, B)


def k(base, sigma, a, b):
    if base == "linear":
        return a @ b
    t = (a - b).square().sum() / (2 * sigma**2)
    return torch.exp(-t) if base == "gaussian" else 1 / (1 + t)


def level_by_hand(deep, x_t, x_0, t, mix):
    """-MMD²_u + 0.1 L_l2 + 0.7 L_grad at one level, from its definition."""
    phi = lambda x: deep(x[None], t[None])[0]
    sigma = None if deep.width is None else deep.width(t)
    a, b = phi(x_t), phi(x_0)
    pairs = [(i, j) for i in range(B) for j in range(B)]
    within = sum(
        k(deep.base, sigma, c[i], c[j]) / (B * (B - 1)) for c in (a, b) for i, j in pairs if i != j
    )
    mmd2 = within - 2 * sum(k(deep.base, sigma, a[i], b[j]) for i, j in pairs) / B**2
    penalty = 0
    for i in range(B):
        z = ((1 - mix[i]) * x_0[i] + mix[i] * x_t[i]).requires_grad_()
        at = phi(z[None])[0]
        f = sum(k(deep.base, sigma, at, a[j]) - k(deep.base, sigma, at, b[j]) for j in range(B)) / B
        (slope,) = torch.autograd.grad(f, z, create_graph=True)
        penalty = penalty + (slope.norm() - 1) ** 2 / B
    return -mmd2 + 0.1 * (a.square().sum() + b.square().sum()) / B + 0.7 * penalty


@pytest.mark.parametrize("base", DeepKernel.BASES)
def test_loss_and_its_gradient_are_their_definition(base):
    deep, (x_t, x_0, t, mix) = deep_kernel(base), batch()
    got = noise_conditional_loss(
        deep, x_t, x_0, t, feature_weight=0.1, gradient_weight=0.7, mix=mix, backend=BACKEND
    ).total
    want = sum(level_by_hand(deep, x_t[i], x_0[i], t[i], mix[i]) for i in range(T)) / T
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    weights = list(deep.parameters())
    for one, other in zip(
        torch.autograd.grad(got, weights), torch.autograd.grad(want, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("features", ["identity", "mlp"])
@pytest.mark.parametrize("base", ["gaussian", "rational_quadratic"])
def test_the_gradient_of_the_penalty_is_its_finite_difference(base, features):
    deep, (x_t, x_0, t, mix) = deep_kernel(base, features), batch()
    weights = list(deep.parameters())
    directions = [torch.randn_like(weight) for weight in weights]

    def penalty(step):
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(direction, alpha=step)
        x_hat, kernel = between(x_0, x_t, mix), deep.kernel(t)
        return gradient_penalty(
            deep, x_hat, deep(x_t, t), deep(x_0, t), t, kernel, backend=BACKEND
        ).sum()

    grads = torch.autograd.grad(penalty(0.0), weights)
    along = sum((g * d).sum() for g, d in zip(grads, directions, strict=True)).item()
    h = 1e-5
    ahead, behind = penalty(h).item(), penalty(-2 * h).item()
    assert along == pytest.approx((ahead - behind) / (2 * h), rel=1e-6)
    assert abs(along) > 1e-4


def test_the_penalty_of_a_linear_kernel_on_points_is_the_distance_of_the_means():
    """f(z) = ⟨z, x̄_t - x̄_0⟩, so |∇f| is the same everywhere."""
    x_t, x_0, t, mix = batch()
    deep = deep_kernel("linear", "identity")
    got = noise_conditional_loss(
        deep, x_t, x_0, t, gradient_weight=1.0, mix=mix, backend=BACKEND
    ).gradient_penalty
    distance = (x_t.mean(1) - x_0.mean(1)).norm(dim=-1)
    torch.testing.assert_close(got, (distance - 1) ** 2)


def test_parts_without_weight_are_left_out():
    deep, (x_t, x_0, t, _) = deep_kernel("gaussian", "identity"), batch()
    loss = noise_conditional_loss(deep, x_t, x_0, t, backend=BACKEND)
    assert loss.total.item() == pytest.approx(-loss.mmd2.mean().item(), rel=1e-12)
    assert not loss.feature_norm.any()
    assert not loss.gradient_penalty.any()
    torch.testing.assert_close(
        feature_norm(x_t, x_0), (x_t.square().sum(-1) + x_0.square().sum(-1)).mean(-1)
    )


def test_wrong_shapes_are_named():
    deep, (x_t, x_0, t, _) = deep_kernel("gaussian", "identity"), batch()
    with pytest.raises(ValueError, match=r"x_t and x_0 must be \(T, B, \*shape\) and t \(T,\)"):
        noise_conditional_loss(deep, x_t, x_0[:, 1:], t)
    with pytest.raises(ValueError, match="gradient_weight > 0 needs mix"):
        noise_conditional_loss(deep, x_t, x_0, t, gradient_weight=1.0, backend=BACKEND)


def normal_nodes(d, deviation, nodes=14):
    """Gauss-Hermite nodes of N(0, deviation² I) as a weighted cloud: no sampling noise."""
    import numpy as np

    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    grids = torch.meshgrid(*[torch.tensor(deviation * x)] * d, indexing="ij")
    weights = torch.meshgrid(*[torch.tensor(w / w.sum())] * d, indexing="ij")
    return torch.stack([g.flatten() for g in grids], 1), torch.stack(weights).prod(0).flatten()


def test_the_best_width_for_two_normals_is_proposition_3_1():
    """k_α = α^(-d) exp(-s/2α²), N(0, σ²I) against N(μ, σ²I): α*² = |μ|²/(d + 2) - 2σ²."""
    d, sigma, shift = 2, 0.3, 2.0
    x, w = normal_nodes(d, sigma)
    y = x + shift / math.sqrt(d)
    alpha = torch.tensor(math.sqrt(shift**2 / (d + 2) - 2 * sigma**2), dtype=torch.float64)
    alpha.requires_grad_()

    def slope_of_length(width):
        s = width**2 + 2 * sigma**2
        return 2 * shift * s ** (-d / 2 - 1) * torch.exp(-(shift**2) / (2 * s))

    kernel = alpha ** (-d) * dk.gaussian(alpha)
    value = dk.mmd2(x, y, kernel, estimator="biased", weights_x=w, weights_y=w, backend=BACKEND)
    s = alpha**2 + 2 * sigma**2
    closed = 2 * s ** (-d / 2) * (1 - torch.exp(-(shift**2) / (2 * s)))
    torch.testing.assert_close(value, closed, rtol=1e-8, atol=0)
    (at_best,) = torch.autograd.grad(slope_of_length(alpha), alpha)
    assert abs(at_best.item()) < 1e-12
