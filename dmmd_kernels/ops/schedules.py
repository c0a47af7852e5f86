"""Values that change from step to step of a flow, and from flow to flow of a batch.

Inside, a schedule is (S, B): S = 1 where it is constant, B = 1 where all flows share it. Kernel
tables are the same with (L, 3) behind.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from dmmd_kernels.autograd.register import resolved
from dmmd_kernels.kernels import Kernel, Lowered

Schedule = float | Sequence[float] | Tensor


def schedule(name: str, value: Schedule, steps: int, batch: torch.Size, like: Tensor) -> Tensor:
    """A number, (steps,), or what broadcasts to (steps, *batch), as (S, B).

    Raises:
        ValueError: another shape.
    """
    made = resolved(torch.as_tensor(value, dtype=like.dtype, device=like.device))
    if (made.ndim == 1 and len(made) != steps) or made.ndim not in (0, 1, 1 + len(batch)):
        got = len(made) if made.ndim == 1 else f"shape {tuple(made.shape)}"
        raise ValueError(
            f"flow: {name} must be one number or {steps}, one per step, got {got}"
            + (f"; one per step and flow is {(steps, *batch)}" if batch else "")
        )
    if made.ndim < 2:
        return made.reshape(-1, 1)
    return _fold(name, made, 0, steps, batch)


def tables(kernel: Lowered, steps: int, batch: torch.Size) -> Lowered:
    """The kernel's parameters as tables (S, B, L, 3), its linear weight as (S, B).

    Raises:
        ValueError: a parameter is neither of the batch shape nor one dimension more, (steps, …).
    """
    mixtures = tuple(
        m._replace(params=_fold("the kernel's parameters", m.params, 2, steps, batch))
        for m in kernel.mixtures
    )
    linear = kernel.linear
    if linear is not None:
        linear = _fold("the kernel's parameters", linear, 0, steps, batch)
    return Lowered(mixtures, linear)


def rows(table: Tensor, start: int, end: int) -> Tensor:
    """The steps [start, end) of a schedule."""
    return table if len(table) == 1 else table[start:end]


def kernel_rows(kernel: Lowered, start: int, end: int) -> Lowered:
    mixtures = tuple(m._replace(params=rows(m.params, start, end)) for m in kernel.mixtures)
    return Lowered(mixtures, None if kernel.linear is None else rows(kernel.linear, start, end))


def kernel_at(kernel: Kernel, step: int, batch: torch.Size) -> Kernel:
    """The kernel of one step: parameters that are schedules give way to their row."""

    def at(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim <= len(batch):
            return value
        return value[step if len(value) > 1 else 0]

    return kernel.changed(at)


def _fold(name: str, t: Tensor, inner: int, steps: int, batch: torch.Size) -> Tensor:
    """(…, *inner) as (S, B, *inner), … broadcasting to the batch or to (steps, *batch)."""
    lead = tuple(t.shape[: t.ndim - inner])
    if len(lead) <= len(batch):
        lead = (1,) * (1 + len(batch) - len(lead)) + lead
    fits = len(lead) == 1 + len(batch) and all(
        size in (1, full) for size, full in zip(lead, (steps, *batch), strict=True)
    )
    if not fits:
        raise ValueError(
            f"flow: {name} must broadcast to the batch {tuple(batch)} or, one per step, to "
            f"{(steps, *batch)}, got {tuple(t.shape[: t.ndim - inner])}"
        )
    t = t.reshape(*lead, *t.shape[t.ndim - inner :])
    if prod(lead[1:]) > 1:
        t = t.expand(lead[0], *batch, *t.shape[t.ndim - inner :])
    return t.reshape(lead[0], -1, *t.shape[t.ndim - inner :]).contiguous()
