"""Gradient flow of MMD² over particles (Arbel, Korba, Salim and Gretton, NeurIPS 2019).

    x ← x - step_size · ∇f(x + noise · ξ),    f the witness of the particles x against the data y

All particles see the old positions. With noise the gradient is read at shifted points while the
cloud itself stays where it is; that lets particles leave flat regions of f where the plain flow
stalls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops import mmd2, witness_grad


@dataclass(frozen=True)
class FlowResult:
    """Where the particles went.

    Attributes:
        particles: (…, N, d), after the last step.
        trajectory: (records, …, N, d), or None when nothing was recorded.
        mmd2: unbiased MMD² to the data at each record, (records, …), or None.
    """

    particles: Tensor
    trajectory: Tensor | None = None
    mmd2: Tensor | None = None


def velocity(
    z: Tensor,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """v(z) = -∇f(z), (…, n, d): the velocity at z of the flow of particles x towards data y."""
    return -witness_grad(z, x, y, kernel, backend=backend, precision=precision)


@torch.no_grad()
def flow(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    step_size: float | Sequence[float],
    steps: int,
    noise: float | Sequence[float] = 0.0,
    generator: torch.Generator | None = None,
    record_every: int | None = None,
    backend: str = "auto",
    precision: str = "highest",
) -> FlowResult:
    """Runs the MMD flow of the particles x to the data y.

    Args:
        x: particles, (…, N, d); left as they are.
        y: data, (…, M, d) or (M, d).
        kernel: see dmmd_kernels.kernels.
        step_size: one number, or one per step.
        steps: how many steps.
        noise: standard deviation of the shift at which the gradient is read; a number, or one per
            step (let it shrink).
        generator: the source of the noise.
        record_every: keep particles and unbiased MMD² after every so many steps.
        backend, precision: as in `potential`.

    Returns:
        FlowResult. Nothing here is differentiable.

    Raises:
        ValueError: steps or record_every is not positive, a schedule has another length than steps,
            or an input requires grad.
        FloatingPointError: particles became infinite or NaN; the message names the step.
    """
    step_sizes = _schedule("step_size", step_size, steps)
    noises = _schedule("noise", noise, steps)
    _check(x, y, kernel, record_every)
    records = []
    for number, (size, spread) in enumerate(zip(step_sizes, noises, strict=True), start=1):
        z = x
        if spread > 0:
            xi = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            z = x + spread * xi
        x = x + size * velocity(z, x, y, kernel, backend=backend, precision=precision)
        if record_every and number % record_every == 0:
            _check_finite(x, number)
            records.append((x, mmd2(x, y, kernel, backend=backend, precision=precision)))
    _check_finite(x, steps)
    if not records:
        return FlowResult(x)
    trajectory, curve = (torch.stack(parts) for parts in zip(*records, strict=True))
    return FlowResult(x, trajectory, curve)


def _schedule(name: str, value: float | Sequence[float], steps: int) -> list[float]:
    if steps < 1:
        raise ValueError(f"flow: steps must be at least 1, got {steps}")
    values = [float(value)] * steps if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != steps:
        raise ValueError(
            f"flow: {name} must be one number or {steps}, one per step, got {len(values)}"
        )
    return values


def _check(x: Tensor, y: Tensor, kernel: Kernel, record_every: int | None) -> None:
    if record_every is not None and record_every < 1:
        raise ValueError(f"flow: record_every must be at least 1 or None, got {record_every}")
    if any(t.requires_grad for t in (x, y, *kernel.parameters)):
        raise ValueError(
            "flow: inputs must not require grad, since the flow is not differentiable; "
            "pass .detach(), or write the loop with witness_grad"
        )


def _check_finite(x: Tensor, step: int) -> None:
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"flow: particles are not finite after step {step}; take a smaller step_size"
        )
