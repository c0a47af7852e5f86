"""Checks and shapes of what the flows are given."""

from math import prod

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel, is_tracing
from dmmd_kernels.ops.checks import check_points, check_weights
from dmmd_kernels.ops.schedules import Schedule


def blocks(t: Tensor, batch: torch.Size, inner: int) -> Tensor:
    """(…, *inner) as (B, *inner), or (1, *inner) where all flows share it; contiguous."""
    lead, shape = t.shape[: t.ndim - inner], t.shape[t.ndim - inner :]
    if prod(lead) > 1 or prod(batch) == 0:
        t = t.expand(*batch, *shape)
    return t.reshape(-1, *shape).contiguous()


def seed_of(seed: int | None, generator: torch.Generator | None) -> int:
    if seed is not None:
        return seed % 2**64
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def is_zero(noise: Schedule) -> bool:
    return not isinstance(noise, Tensor) and not (
        noise if isinstance(noise, int | float) else any(noise)
    )


def check_flow(
    x: Tensor, y: Tensor, weights: Tensor | None, kernel: Kernel, *schedules: Schedule
) -> None:
    check_points("flow", x=x, y=y)
    for name, cloud in (("x", x), ("y", y)):
        if cloud.shape[-2] == 0:
            raise ValueError(f"flow: {name} must hold at least one point, got {tuple(cloud.shape)}")
    if weights is not None:
        check_weights("flow", "weights", weights, "y", y, columns=False)
    check_no_grad("flow", x, y, weights, *kernel.parameters, *schedules)


def check_no_grad(op: str, *values: object) -> None:
    if is_tracing():
        raise TypeError(
            f"{op}: cannot run inside torch.func or vmap; flows are batch dimensions of x"
        )
    if any(isinstance(v, Tensor) and v.requires_grad for v in values):
        raise ValueError(
            f"{op}: inputs must not require grad, since the flow is not differentiable; "
            "pass .detach(), or write the loop with witness_grad"
        )


def check_counts(steps, momentum, max_norm, record_every, callback_every) -> None:
    for name, value in (("record_every", record_every), ("callback_every", callback_every)):
        if value is not None and value < 1:
            raise ValueError(f"flow: {name} must be at least 1 or None, got {value}")
    if steps < 1:
        raise ValueError(f"flow: steps must be at least 1, got {steps}")
    check_motion("flow", momentum, max_norm)


def check_motion(op: str, momentum: float, max_norm: float | None) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"{op}: momentum must be at least 0 and less than 1, got {momentum}")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"{op}: max_norm must be a positive number or None, got {max_norm}")


def check_update(named: dict[str, Tensor], momentum: float, max_norm: float | None) -> None:
    check_points("flow_update", **named)
    z = named["z"]
    for name, t in named.items():
        if t.shape != z.shape:
            raise ValueError(
                f"flow_update: {name} must have the shape of z, {tuple(z.shape)}, "
                f"got {tuple(t.shape)}"
            )
        if name != "g" and not t.is_contiguous():
            raise ValueError(f"flow_update: {name} must be contiguous; pass .contiguous()")
    if momentum and "velocity" not in named:
        raise ValueError("flow_update: momentum needs velocity; pass torch.zeros_like(z) at first")
    check_motion("flow_update", momentum, max_norm)
