"""The approximate flow a-DMMD: particles that do not feel each other (DMMD, eq. 13).

    f̂(z) = ⟨φ(z, t), φ̄(X_t, t) - φ̄(X_0, t)⟩        Z ← Z - η ∇f̂(Z)

The witness of the particles is replaced by that of the noised data, so two mean features per level
stand for all data and for the cloud. On its own it draws samples one by one. After the exact flow
it sharpens them: the exact flow rests as soon as *mean* features agree, though single particles
may still be blurred; f̂ does not rest, so few and short steps are the right dose.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from dmmd_kernels.diffusion import Schedule
from dmmd_kernels.losses import NoiseConditional
from dmmd_kernels.sample import data_features, is_linear


def mean_witness(
    deep: NoiseConditional,
    x_0: Tensor,
    level: float,
    schedule: Schedule,
    generator: Generator | None = None,
) -> Tensor:
    """φ̄(X_t, t) - φ̄(X_0, t), (1, K), X_t one noised version of each clean sample x_0 (N, *shape).

    Raises:
        ValueError: the kernel is not linear; other witnesses are more than a vector.
    """
    t = torch.tensor([level], dtype=x_0.dtype, device=x_0.device)
    if not is_linear(deep.kernel(t)):
        raise ValueError("mean_witness: the kernel must be linear, got another")
    noise = torch.randn(x_0.shape, generator=generator).to(x_0)
    x_t = schedule.noised(x_0, t[0], noise)
    return data_features(deep, x_t, t) - data_features(deep, x_0, t)


def approximate_flow(
    deep: NoiseConditional,
    z: Tensor,
    x_0: Tensor,
    ts: Sequence[float],
    schedule: Schedule,
    *,
    step_size: float,
    steps: int,
    generator: Generator | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """At each level t, `steps` times Z_i ← Z_i - η ∇f̂(Z_i), all i at once.

    Args:
        deep: the noise-conditional kernel, with a linear base.
        z: particles, (n, *shape).
        x_0: clean samples, (N, *shape).
        ts: noise levels, in the order of the flow.
        schedule: the forward process that f̂ was trained on.
        step_size: η.
        steps: per level.
        generator: of the noise in X_t.

    Yields:
        (t, z) after the steps of each level.
    """
    with torch.no_grad():
        for level in ts:
            w = mean_witness(deep, x_0, level, schedule, generator)
            for _ in range(steps):
                z = z - step_size * _slope(deep, z, level, w)
            yield level, z


def _slope(deep: NoiseConditional, z: Tensor, level: float, w: Tensor) -> Tensor:
    """∇f̂ = Jᵀ w at each particle: one vector-Jacobian product."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        a = deep(z[None], torch.tensor([level], dtype=z.dtype, device=z.device))
        (slope,) = torch.autograd.grad(a, z, grad_outputs=w.expand_as(a))
    return slope
