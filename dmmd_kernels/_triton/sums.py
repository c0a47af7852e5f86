"""Triton kernels that sum over all pairs: gradients of kernel parameters, and quadratic forms.

Every program writes the sum over its rows and all columns to a place of its own; torch adds these
partial sums in float64. So results are deterministic and no atomics are needed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels._triton.launch import batch, narrow_tile, programs, run, tile
from dmmd_kernels._triton.mixture import component, theta, value
from dmmd_kernels._triton.tiles import (
    LANES,
    add,
    affinities,
    coefficients,
    columns,
    keep,
    over_warps,
    place,
)
from dmmd_kernels.kernels import Mixture

_SIZES = ["n", "m", "P", "z_step", "x_step", "v_step", "w_step", "params_step"]


@triton.jit
def into_slot(sums, part, index, SLOTS: tl.constexpr):
    """Adds part to slot `index`, a constant, of the first axis."""
    slots = tl.arange(0, SLOTS)[:, None, None, None]
    return sums + tl.where(slots == index, part[None, :, :, :], 0.0)


@triton.jit
def store_slots(ptr, sums, rows, n, SLOTS: tl.constexpr):
    """Writes the sum over the program's rows of every slot."""
    counted = tl.where(rows < n, sums, 0.0)
    total = tl.sum(tl.sum(tl.sum(counted, axis=3), axis=2), axis=1)
    tl.store(ptr + tl.program_id(0).to(tl.int64) * SLOTS + tl.arange(0, SLOTS), total)


@triton.jit(do_not_specialize=_SIZES)
def _params_grad_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, q_ptr,
    n, m, D, P, z_step, x_step, v_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    MASKED: tl.constexpr, SPLIT: tl.constexpr, SLOTS: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    rows, block = place(n, R)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    w_ptr += block * w_step * P
    params_ptr += block * params_step * 3
    if v_ptr is not None:
        v_ptr += block * v_step * P

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    SUMS: tl.constexpr = 1 if SPLIT else WARPS
    total = tl.zeros([SLOTS, R, SUMS, LANES], tl.float32)
    lost = tl.zeros([SLOTS, R, SUMS, LANES], tl.float32)
    for start in range(0, m, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        q = affinities(z_ptr, x_ptr, rows, cols, n, m, D, RADIAL, MASKED, SPLIT, C, J, R, WARPS)
        q = over_warps(q, SPLIT)
        c = coefficients(v_ptr, w_ptr, rows, cols, n, m, P)
        part = tl.zeros([SLOTS, R, SUMS, LANES], tl.float32)
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            k_lam, k_s, k_a = theta(q, lam, s, a, (PROFILES >> (8 * l)) % 256)
            along_lam = tl.sum(keep(c * k_lam, rows, cols, SKIP), axis=0)
            along_s = tl.sum(keep(c * k_s, rows, cols, SKIP), axis=0)
            along_a = tl.sum(keep(c * k_a, rows, cols, SKIP), axis=0)
            part = into_slot(part, along_lam, 3 * l, SLOTS)
            part = into_slot(part, along_s, 3 * l + 1, SLOTS)
            part = into_slot(part, along_a, 3 * l + 2, SLOTS)
        total, lost = add(total, lost, part)
    store_slots(q_ptr, total, rows, n, SLOTS)


@triton.jit(do_not_specialize=_SIZES)
def _quadratic_form_kernel(
    z_ptr, v_ptr, w_ptr, params_ptr, q_ptr,
    n, D, P, z_step, v_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    MASKED: tl.constexpr, SPLIT: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    rows, block = place(n, R)
    z_ptr += block * z_step * D
    v_ptr += block * v_step * P
    w_ptr += block * w_step * P
    params_ptr += block * params_step * 3

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    SUMS: tl.constexpr = 1 if SPLIT else WARPS
    total = tl.zeros([R, SUMS, LANES], tl.float32)
    lost = tl.zeros([R, SUMS, LANES], tl.float32)
    # c and K are symmetric: pairs above the diagonal count twice, those below are left out.
    first = tl.program_id(0) % tl.cdiv(n, R * LANES) * (R * LANES)
    for start in range(first, n, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        q = affinities(z_ptr, z_ptr, rows, cols, n, n, D, RADIAL, MASKED, SPLIT, C, J, R, WARPS)
        q = over_warps(q, SPLIT)
        pairs = value(q, params_ptr, PROFILES, L)
        pairs *= coefficients(v_ptr, w_ptr, rows, cols, n, n, P)
        pairs = tl.where(cols > rows, 2 * pairs, pairs)
        pairs = tl.where(cols < rows, 0.0, keep(pairs, rows, cols, SKIP))
        total, lost = add(total, lost, tl.sum(pairs, axis=0))
    store_slots(q_ptr, total[None, :, :, :], rows, n, 1)


def params_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    block = batch(z, x, v, w, kernel.params)
    count, shape = len(kernel.names), narrow_tile(d)
    slots = triton.next_power_of_2(3 * count)
    partial = partial_sums(z, block, programs(n, shape), slots)
    run(
        _params_grad_kernel, dict(z=z, x=x, v=v, w=w, q=partial), kernel,
        tile=shape, block=block, rows=n,
        n=n, m=m, D=d, P=p, SKIP=skip_diagonal, SLOTS=slots,
    )  # fmt: skip
    return parameter_sums(partial, kernel)


def quadratic_form(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    (n, d), p = u.shape[-2:], w.shape[-1]
    block = batch(u, v, w, kernel.params)
    shape = tile(d)
    partial = partial_sums(u, block, programs(n, shape), 1)
    run(
        _quadratic_form_kernel, dict(z=u, v=v, w=w, q=partial), kernel,
        tile=shape, block=block, rows=n, n=n, D=d, P=p, SKIP=skip_diagonal,
    )  # fmt: skip
    return partial.sum((-2, -1), dtype=torch.float64).to(kernel.params.dtype)


def partial_sums(z: Tensor, block: tuple[int, ...], programs: int, slots: int) -> Tensor:
    return z.new_empty(*block, programs, slots, dtype=torch.float32)


def parameter_sums(partial: Tensor, kernel: Mixture) -> Tensor:
    """(…, programs, slots) to (…, L, 3)"""
    count = len(kernel.names)
    total = partial[..., : 3 * count].sum(-2, dtype=torch.float64)
    return total.unflatten(-1, (count, 3)).to(kernel.params.dtype)
