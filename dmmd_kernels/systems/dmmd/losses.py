"""The noise-conditional training loss of a deep kernel (DMMD, eqs 7 and 8).

    L = mean over levels t of  -MMD²_u(X_t, X_0; t, θ) + λ_l2 L_l2(θ, t) + λ_grad L_grad(θ, t)

All T levels go through one batched op.
"""

from typing import NamedTuple

import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.systems.dmmd.deep_kernel import NoiseConditional, pulled_back


class Loss(NamedTuple):
    """The loss (scalar), its three parts, one value per level (T,), and the levels t (T,)."""

    total: Tensor
    mmd2: Tensor
    feature_norm: Tensor
    gradient_penalty: Tensor
    t: Tensor


def noise_conditional_loss(
    deep: NoiseConditional,
    x_t: Tensor,
    x_0: Tensor,
    t: Tensor,
    *,
    feature_weight: float = 0.0,
    gradient_weight: float = 0.0,
    mix: Tensor | None = None,
    backend: str = "auto",
) -> Loss:
    """mean_t [-MMD²_u(X_t, X_0; t) + λ_l2 L_l2 + λ_grad L_grad] (DMMD, eqs 7 and 8).

    A part whose weight is 0 is not computed and reported as 0.

    Args:
        deep: the noise-conditional kernel.
        x_t: noised samples, (T, B, *shape), of other clean samples than x_0: noising x_0 itself
            would pair the two and bias the cross term.
        x_0: clean samples, (T, B, *shape).
        t: noise levels, (T,).
        feature_weight: λ_l2.
        gradient_weight: λ_grad.
        mix: (T, P) in [0, 1], P ≤ B: where between the first P of x_0 and x_t the gradient is
            read; needed if gradient_weight > 0. Second derivatives are half of a step's time.
        backend: as in `dk.mmd2`.

    Returns:
        Loss.

    Raises:
        ValueError: x_t and x_0 differ in shape, t does not match them, or mix is missing.
    """
    if x_t.shape != x_0.shape or x_t.ndim < 3 or t.shape != x_t.shape[:1]:
        raise ValueError(
            "noise_conditional_loss: x_t and x_0 must be (T, B, *shape) and t (T,), got "
            f"{tuple(x_t.shape)}, {tuple(x_0.shape)} and {tuple(t.shape)}"
        )
    a_t, a_0, kernel = deep(x_t, t), deep(x_0, t), deep.kernel(t)
    gap = dk.mmd2(a_t, a_0, kernel, backend=backend)
    norm = penalty = torch.zeros_like(gap)
    if feature_weight > 0:
        norm = feature_norm(a_t, a_0)
    if gradient_weight > 0:
        if mix is None:
            raise ValueError("noise_conditional_loss: gradient_weight > 0 needs mix, got None")
        pairs = mix.shape[1]
        x_hat = between(x_0[:, :pairs], x_t[:, :pairs], mix)
        penalty = gradient_penalty(deep, x_hat, a_t, a_0, t, kernel, backend=backend)
    total = (-gap + feature_weight * norm + gradient_weight * penalty).mean()
    return Loss(total, gap.detach(), norm.detach(), penalty.detach(), t)


def feature_norm(a_t: Tensor, a_0: Tensor) -> Tensor:
    """L_l2 = mean_i |φ(X_t^i, t)|² + mean_i |φ(X_0^i, t)|²; features (T, B, K) → (T,)

    Bińkowski et al. (MMD-GAN, 2018), there over all layers of the critic; here over its output.
    """
    return a_t.square().sum(-1).mean(-1) + a_0.square().sum(-1).mean(-1)


def between(x_0: Tensor, x_t: Tensor, mix: Tensor) -> Tensor:
    """x̂_i = (1 - u_i) X_0^i + u_i X_t^i (Gulrajani et al., 2017); mix u (T, B) → (T, B, *shape)"""
    u = mix.reshape(*mix.shape, *[1] * (x_0.ndim - 2))
    return (1 - u) * x_0 + u * x_t


def gradient_penalty(
    deep: NoiseConditional,
    x_hat: Tensor,
    a_t: Tensor,
    a_0: Tensor,
    t: Tensor,
    kernel: dk.Kernel,
    *,
    backend: str = "auto",
) -> Tensor:
    """L_grad = mean_i (|∇f(x̂_i)| - 1)², f the witness of X_t against X_0 at level t; (T,)

    Gulrajani et al. (2017) as used by Bińkowski et al. (2018). Differentiable in θ through the
    features at x̂, the features of both samples (the witness's own cloud), and the kernel.

    Args:
        deep: the noise-conditional kernel.
        x_hat: where the gradient is read, (T, B, *shape).
        a_t, a_0: features of X_t and X_0, (T, B, K).
        t: (T,).
        kernel: deep.kernel(t).
        backend: as in `dk.witness_grad`.
    """
    gradient = lambda a: dk.witness_grad(a, a_t, a_0, kernel, backend=backend)
    slope = pulled_back(deep, x_hat, t, gradient, create_graph=True)
    length = torch.linalg.vector_norm(slope.flatten(2), dim=-1)
    return (length - 1).square().mean(-1)
