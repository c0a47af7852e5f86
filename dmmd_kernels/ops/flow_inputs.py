"""Checks and shapes of what the flows are given."""

from math import prod
from numbers import Real
from operator import index

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dmmd_kernels.autograd.register import resolved
from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops.checks import (
    check_numbers,
    check_points,
    check_tensor,
    check_weights,
    common_batch,
)
from dmmd_kernels.ops.schedules import Schedule
from dmmd_kernels.parameters import is_tracing


def blocks(t: Tensor, batch: torch.Size, inner: int) -> Tensor:
    """(…, *inner) as (B, *inner), or (1, *inner) where all flows share it; as it is in memory."""
    lead, shape = t.shape[: t.ndim - inner], t.shape[t.ndim - inner :]
    if prod(lead) > 1 or prod(batch) == 0:
        t = t.expand(*batch, *shape)
    return resolved(t.reshape(-1, *shape).contiguous())


def seed_of(seed: int | None, generator: torch.Generator | None) -> int:
    if seed is not None:
        return seed % 2**64
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def is_zero(noise: Schedule) -> bool:
    return not isinstance(noise, Tensor) and not (
        noise if isinstance(noise, int | float | Real) else any(noise)
    )


def per_flow(name: str, value: float | Tensor, batch: torch.Size, like: Tensor) -> Tensor:
    """A number, or one per flow, (…,) or (1, …), as (B,), or (1,) where all flows share it."""
    made = resolved(torch.as_tensor(value, dtype=like.dtype, device=like.device))
    if made.ndim == len(batch) + 1 and len(made) == 1:
        made = made[0]
    lead = made.shape
    shared = (1,) * (len(batch) - len(lead)) + tuple(lead)
    if len(shared) != len(batch) or any(
        size not in (1, full) for size, full in zip(shared, batch, strict=True)
    ):
        raise ValueError(
            f"flow_update: {name} must be one number or one per flow, {tuple(batch)}, "
            f"got shape {tuple(lead)}"
        )
    return made.reshape(1) if made.numel() == 1 else made.expand(batch).reshape(-1).contiguous()


def paired(y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Data and weights of one batch shape, where weights (…, M) have more than y (M, d)."""
    if not isinstance(weights, Tensor) or weights.ndim < 2 or weights.shape[-1] != y.shape[-2]:
        return y, weights
    lead = common_batch("flow", y=y, weights=weights[..., None])
    return y.expand(*lead, *y.shape[-2:]), weights.expand(*lead, -1)


def check_flow(
    x: Tensor, y: Tensor, weights: Tensor | None, kernel: Kernel, *schedules: Schedule
) -> None:
    check_points("flow", x=x, y=y)
    check_numbers("flow", x=x, y=y)
    if weights is not None:
        check_tensor("flow", "weights", weights)
    if x.shape[-1] == 0:
        raise ValueError(f"flow: d must be at least 1, got x of shape {tuple(x.shape)}")
    for name, cloud in (("x", x), ("y", y)):
        if cloud.shape[-2] == 0:
            raise ValueError(f"flow: {name} must hold at least one point, got {tuple(cloud.shape)}")
    wide, w = paired(y, weights)
    if w is not None:
        check_weights("flow", "weights", w, "y", wide, columns=False)
    check_no_grad("flow", x, y, weights, *kernel.parameters, *schedules)


def _has_tangent(t: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None


def check_no_grad(op: str, *values: object) -> None:
    if is_tracing():
        raise TypeError(
            f"{op}: cannot run inside torch.func, vmap or torch.jit.trace; flows are batch "
            "dimensions of x"
        )
    if any(isinstance(v, Tensor) and (v.requires_grad or _has_tangent(v)) for v in values):
        raise ValueError(
            f"{op}: inputs must not require grad, since the flow is not differentiable; "
            "pass .detach(), or write the loop with witness_grad"
        )


def check_integers(op: str, **values: object) -> None:
    """Each is None or an integer, and numbers of steps and flows fit the 32 bits of Philox."""
    for name, value in values.items():
        if value is None:
            continue
        try:
            whole = index(value)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(f"{op}: {name} must be an integer, got {value!r}") from None
        if name in ("first_step", "first_flow", "step") and not 0 <= whole < 2**32:
            raise ValueError(f"{op}: {name} must be at least 0 and less than 2**32, got {whole}")


def check_backend(backend: str, precision: str = "highest") -> None:
    if backend not in (names := ("auto", "native", "triton", "reference")):
        raise ValueError(f"backend must be {', '.join(map(repr, names))}, got {backend!r}")
    if precision not in ("highest", "high"):
        raise ValueError(f"precision must be 'highest' or 'high', got {precision!r}")


def check_counts(steps, momentum, max_norm, record_every, callback_every) -> None:
    check_integers("flow", steps=steps, record_every=record_every, callback_every=callback_every)
    if steps is None:
        raise TypeError("flow: steps must be an integer, got None")
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
    check_numbers("flow_update", **named)
    z = named["z"]
    if z.shape[-1] == 0:
        raise ValueError(f"flow_update: d must be at least 1, got z of shape {tuple(z.shape)}")
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
