"""The steps of a flow in plain torch, on the gradient of any backend: the definition that flows in
C++ and CUDA are tested against."""

from collections.abc import Callable

import torch
from torch import Tensor

from dmmd_kernels.backends.philox import normals
from dmmd_kernels.kernels import Lowered, Mixture


def flow(
    x: Tensor,
    velocity: Tensor | None,
    y: Tensor,
    w: Tensor,
    kernel: Lowered,
    step_size: Tensor,
    noise: Tensor | None,
    failed: Tensor,
    *,
    potential_grad: Callable,
    momentum: float = 0.0,
    max_norm: float | None = None,
    seed: int = 0,
    first_step: int = 0,
    first_flow: int = 0,
) -> None:
    """Moves x (B, N, d) down its witness against y (B, M, d) of weights w (B, M), in place.

    One step for each row of step_size (S, B); rows of noise (S, B) and of the kernel's tables
    (S, B, L, 3) likewise; sizes S and B may be 1, for all. A flow whose particles become infinite
    or NaN stays where it was, and failed (B,), -1 before, holds the number of that step.
    """
    uniform = x.new_full(x.shape[:2], 1 / x.shape[1])
    share = torch.cat([uniform, -w.expand(len(x), -1)], 1)[..., None]
    for s, eta in enumerate(step_size):
        z = x
        if noise is not None:
            xi = normals(x, seed=seed, step=first_step + s, first_flow=first_flow)
            z = x + noise[s % len(noise), :, None, None] * xi
        u = torch.cat([x, y.expand(len(x), -1, -1)], 1)
        g = torch.zeros_like(x)
        for names, table in kernel.mixtures:
            mixture = Mixture(names, _at(table, s).contiguous())
            g += potential_grad(z, u, None, share, mixture)
        if kernel.linear is not None:
            g += _at(kernel.linear, s)[..., None, None] * (share.mT @ u)
        moved = x.clone()
        flow_update(moved, velocity, g, eta, None, momentum=momentum, max_norm=max_norm)
        ended = failed >= 0
        broken = ~torch.isfinite(moved).all(-1).all(-1) & ~ended
        failed.masked_fill_(broken, first_step + s + 1)
        x.copy_(torch.where((broken | ended)[:, None, None], x, moved))


def flow_update(
    z: Tensor,
    velocity: Tensor | None,
    g: Tensor,
    step_size: Tensor,
    noise: Tensor | None,
    *,
    momentum: float = 0.0,
    max_norm: float | None = None,
    seed: int = 0,
    step: int = 0,
    first_flow: int = 0,
) -> None:
    """v ← momentum v + g, z ← z - step_size v + noise ξ, in place, (B, N, d); |g_i| ≤ max_norm."""
    if max_norm is not None:
        # In units of the largest coordinate, since |g|² overflows long before g does.
        largest = g.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
        norm = torch.linalg.vector_norm(g / largest, dim=-1, keepdim=True)
        g = g * (max_norm / largest / norm).clamp(max=1)
    if velocity is not None:
        g = velocity.mul_(momentum).add_(g)
    z -= step_size[:, None, None] * g
    if noise is not None:
        z += noise[:, None, None] * normals(z, seed=seed, step=step, first_flow=first_flow)


def _at(table: Tensor, step: int) -> Tensor:
    """The row of a step, (B, …), or (…) where all blocks share it."""
    row = table[step % len(table)]
    return row[0] if len(row) == 1 else row
