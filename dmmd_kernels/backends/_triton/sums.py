"""Triton kernels that sum over all pairs: gradients of kernel parameters, and quadratic forms.

Every program writes what each of its lanes has to a place of its own; torch adds these partial sums
in float64. So results are deterministic and no atomics are needed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton import fused, parameter_tiles
from dmmd_kernels.backends._triton.direct import (
    add,
    affinities,
    coefficients,
    columns,
    into_slot,
    keep,
    of_block,
    on_diagonal,
    place,
    table_of_block,
)
from dmmd_kernels.backends._triton.launch import Sweep, Tile, batch
from dmmd_kernels.backends._triton.mixture import component, theta, value
from dmmd_kernels.backends._triton.pairwise import gradient, potential_grad
from dmmd_kernels.backends._triton.profile import shortcuts
from dmmd_kernels.backends.clouds import joined
from dmmd_kernels.kernels import Mixture

_NARROW = Tile(columns=8)  # where a pair has many values
_SIZES = [
    "n", "m", "D", "P", "blocks", "strip", "n_pitch", "m_pitch",
    "z_step", "x_step", "v_step", "w_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def _params_grad_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, q_ptr,
    n, m, D, P, blocks, strip, n_pitch, m_pitch, z_step, x_step, v_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    RANK: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    q_ptr += ((tl.program_id(1).to(tl.int64) * blocks + block) * n + rows) * (3 * L)
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    x_ptr = of_block(x_ptr, block, x_step, D, GATHER)
    w_ptr = of_block(w_ptr, block, w_step, P, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)
    if v_ptr is not None:
        v_ptr = of_block(v_ptr, block, v_step, P, GATHER)

    total = tl.zeros([SLOTS, BLOCK_N], tl.float32)
    lost = tl.zeros([SLOTS, BLOCK_N], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q = affinities(
            z_ptr, x_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        c = coefficients(v_ptr, w_ptr, rows, cols, m, P, n_pitch, m_pitch, RANK, GATHER)
        part = tl.zeros([SLOTS, BLOCK_N], tl.float32)
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            k_lam, k_s, k_a = theta(q, lam, s, a, (PROFILES >> (8 * l)) % 256)
            part = into_slot(part, tl.sum(keep(c * k_lam, rows, cols, SKIP), axis=0), 3 * l, SLOTS)
            part = into_slot(
                part, tl.sum(keep(c * k_s, rows, cols, SKIP), axis=0), 3 * l + 1, SLOTS
            )
            part = into_slot(
                part, tl.sum(keep(c * k_a, rows, cols, SKIP), axis=0), 3 * l + 2, SLOTS
            )
        total, lost = add(total, lost, part)

    slots = tl.arange(0, SLOTS)[:, None]
    tl.store(q_ptr[None, :] + slots, total, mask=exists[None, :] & (slots < 3 * L))


@triton.jit(do_not_specialize=_SIZES)
def _quadratic_form_kernel(
    z_ptr, v_ptr, w_ptr, params_ptr, q_ptr,
    n, m, D, P, blocks, strip, n_pitch, m_pitch, z_step, v_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    RANK: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    q_ptr += (tl.program_id(1).to(tl.int64) * blocks + block) * n + rows
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    if v_ptr is not None:
        v_ptr = of_block(v_ptr, block, v_step, P, GATHER)
    w_ptr = of_block(w_ptr, block, w_step, P, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)

    # c and K are symmetric: pairs above the diagonal count twice, tiles below it are left out.
    first_row = 0
    if not GATHER:
        first_row = tl.program_id(0) % tl.cdiv(n, BLOCK_N) * BLOCK_N
        first = tl.maximum(first, first_row)
    total = tl.zeros([BLOCK_N], tl.float32)
    lost = tl.zeros([BLOCK_N], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q = affinities(
            z_ptr, z_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        pairs = value(q, params_ptr, PROFILES, L)
        pairs *= coefficients(v_ptr, w_ptr, rows, cols, m, P, n_pitch, m_pitch, RANK, GATHER)
        if GATHER or start < first_row + BLOCK_N:
            pairs = on_diagonal(pairs, rows[None, :], cols[:, None], SKIP, True)
        total, lost = add(total, lost, tl.sum(pairs, axis=0))
    tl.store(q_ptr, 2 * total, mask=exists)


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
    if row := parameter_tiles.chosen(z, x, p, kernel):
        q = parameter_tiles.params_grad_of_tiles(z, x, v, w, kernel, row, skip_diagonal)
        return q.to(kernel.params.dtype)
    count = 3 * len(kernel.names)
    sweep = Sweep(n, m, d, batch(z, x, v, w, kernel.params), _NARROW)
    partial = sweep.partial(z, n, count)
    sweep.run(
        _params_grad_kernel, kernel, dict(z=z, x=x, v=v, w=w), dict(q=partial),
        columns=p, SKIP=skip_diagonal, SLOTS=triton.next_power_of_2(count),
    )  # fmt: skip
    return parameter_sums(partial, kernel)


def parameter_sums(partial: Tensor, kernel: Mixture) -> Tensor:
    """(strips, …, n, 3 L) to (…, L, 3)"""
    total = partial.sum((0, -2), dtype=torch.float64)
    return total.unflatten(-1, (len(kernel.names), 3)).to(kernel.params.dtype)


def quadratic_form(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    (n, d), p = u.shape[-2:], w.shape[-1]
    row = fused.chosen(u, u, p, kernel, grad=False)
    if row.kind != "direct":
        f, _ = fused.sweep(
            u, u, v, w, kernel, row, skip_diagonal=skip_diagonal,
            precision=precision, wants_f=True, is_symmetric=True,
        )  # fmt: skip
        return f.sum((-2, -1), dtype=torch.float64).to(kernel.params.dtype)
    tile = Tile(row.columns, row.warps)
    sweep = Sweep(n, n, d, batch(u, v, w, kernel.params), tile)
    partial = sweep.partial(u, n)
    sweep.run(
        _quadratic_form_kernel, kernel, dict(z=u, v=v, w=w), dict(q=partial),
        columns=p, SKIP=skip_diagonal, PROFILES=shortcuts(kernel),
    )  # fmt: skip
    return partial.sum((0, -1), dtype=torch.float64).to(kernel.params.dtype)


def quadratic_form_and_grad(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None = None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor]:
    """Both from one sweep over all pairs: a gradient by symmetric tiles would need atomics.

    Where points are held, rows of the others have one of their own, beside that of the value.
    """
    if held is not None:
        points, moving = joined(u, held), v[..., : u.shape[-2], :].contiguous()
        s = quadratic_form(points, v, w, kernel, skip_diagonal, precision)
        return s, 2 * potential_grad(u, points, moving, w, kernel, skip_diagonal, precision)
    f, g = gradient(u, u, v, w, kernel, skip_diagonal, precision, wants_f=True)
    s = f.sum((-2, -1), dtype=torch.float64).to(kernel.params.dtype)
    return s, 2 * g.to(u.dtype).contiguous()


def quadratic_form_and_grads(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None = None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    s, g = quadratic_form_and_grad(u, v, w, kernel, held, skip_diagonal, precision)
    points = joined(u, held)
    return s, g, params_grad(points, points, v, w, kernel, skip_diagonal, precision)
