"""Triton kernels for the derivative of potential, potential_grad and params_grad along a direction.

With q̇ and K̇ as in mixture.py, f[i] = Σⱼ w[j] K̇_ij and q[l] = Σᵢⱼ c_ij ∂K̇_ij/∂θ_l come from one
sweep over the pairs, and g[i] = Σⱼ c_ij ∇_z K̇_ij from a second one: together they would need more
registers than a thread has. The directions a of z, b of x and c of the parameters may be absent.
"""

import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels._triton.launch import batch, narrow_tile, programs, run
from dmmd_kernels._triton.mixture import component, slope, tangent_slope, tangent_value, theta_dot
from dmmd_kernels._triton.sums import into_slot, parameter_sums, partial_sums, store_slots
from dmmd_kernels._triton.tiles import (
    LANES,
    add,
    affinity,
    affinity_dot,
    affinity_dots,
    backwards,
    coefficients,
    columns,
    coordinates,
    keep,
    load_points,
    load_sides,
    over_warps,
    place,
    store_points,
    store_sides,
)
from dmmd_kernels.kernels import Mixture

_SIZES = [
    "n", "m", "P",
    "z_step", "x_step", "v_step", "w_step", "a_step", "b_step", "c_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def _tangent_sums_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, a_ptr, b_ptr, c_ptr, f_ptr, q_ptr,
    n, m, D, P, z_step, x_step, v_step, w_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    MASKED: tl.constexpr, SPLIT: tl.constexpr, SLOTS: tl.constexpr, BLOCK_P: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    rows, block = place(n, R)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    w_ptr += block * w_step * P
    params_ptr += block * params_step * 3
    f_ptr += block * n * P
    if v_ptr is not None:
        v_ptr += block * v_step * P
    if a_ptr is not None:
        a_ptr += block * a_step * D
    if b_ptr is not None:
        b_ptr += block * b_step * D
    if c_ptr is not None:
        c_ptr += block * c_step * 3

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    SUMS: tl.constexpr = 1 if SPLIT else WARPS
    sides = backwards(tl.program_id(1) * BLOCK_P, BLOCK_P)
    f = tl.zeros([BLOCK_P, R, SUMS, LANES], tl.float32)
    f_lost = tl.zeros([BLOCK_P, R, SUMS, LANES], tl.float32)
    total = tl.zeros([SLOTS, R, SUMS, LANES], tl.float32)
    lost = tl.zeros([SLOTS, R, SUMS, LANES], tl.float32)
    for start in range(0, m, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        q, q_dot = affinity_dots(
            z_ptr, x_ptr, a_ptr, b_ptr, rows, cols, n, m, D,
            RADIAL, MASKED, SPLIT, C, J, R, WARPS,
        )  # fmt: skip
        q, q_dot = over_warps(q, SPLIT), over_warps(q_dot, SPLIT)
        k_dot = keep(tangent_value(q, q_dot, params_ptr, c_ptr, PROFILES, L), rows, cols, SKIP)
        w = load_sides(w_ptr, cols, m, sides, P, SUMS)
        f, f_lost = add(f, f_lost, tl.sum(w * k_dot[None, :, :, :, :], axis=1))

        pair = coefficients(v_ptr, w_ptr, rows, cols, n, m, P)
        part = tl.zeros([SLOTS, R, SUMS, LANES], tl.float32)
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            lam_dot, s_dot, a_dot = component(c_ptr, l)
            by_lam, by_s, by_a = theta_dot(
                q, q_dot, lam, s, a, lam_dot, s_dot, a_dot, (PROFILES >> (8 * l)) % 256
            )
            along_lam = tl.sum(keep(pair * by_lam, rows, cols, SKIP), axis=0)
            along_s = tl.sum(keep(pair * by_s, rows, cols, SKIP), axis=0)
            along_a = tl.sum(keep(pair * by_a, rows, cols, SKIP), axis=0)
            part = into_slot(part, along_lam, 3 * l, SLOTS)
            part = into_slot(part, along_s, 3 * l + 1, SLOTS)
            part = into_slot(part, along_a, 3 * l + 2, SLOTS)
        total, lost = add(total, lost, part)

    store_sides(f_ptr, f, rows, n, sides, P, BLOCK_P)
    if tl.program_id(1) == 0:
        store_slots(q_ptr, total, rows, n, SLOTS)


@triton.jit(do_not_specialize=_SIZES)
def _tangent_grad_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, a_ptr, b_ptr, c_ptr, g_ptr,
    n, m, D, P, z_step, x_step, v_step, w_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    WHOLE: tl.constexpr, MASKED: tl.constexpr, SPLIT: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    rows, block = place(n, R)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    w_ptr += block * w_step * P
    params_ptr += block * params_step * 3
    g_ptr += block * n * D
    if v_ptr is not None:
        v_ptr += block * v_step * P
    if a_ptr is not None:
        a_ptr += block * a_step * D
    if b_ptr is not None:
        b_ptr += block * b_step * D
    if c_ptr is not None:
        c_ptr += block * c_step * 3

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    coords = coordinates(tl.program_id(1), C, WARPS, SPLIT)
    z = load_points(z_ptr, rows, n, coords, D, WARPS, MASKED)
    a = load_points(a_ptr, rows, n, coords, D, WARPS, MASKED)
    g = tl.zeros([C, R, WARPS, LANES], tl.float32)
    for start in range(0, m, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        x = load_points(x_ptr, cols, m, coords, D, WARPS, MASKED)
        b = load_points(b_ptr, cols, m, coords, D, WARPS, MASKED)
        if WHOLE:
            q, q_dot = affinity(z, x, RADIAL), affinity_dot(z, x, a, b, RADIAL)
        else:
            q, q_dot = affinity_dots(
                z_ptr, x_ptr, a_ptr, b_ptr, rows, cols, n, m, D,
                RADIAL, MASKED, SPLIT, C, J, R, WARPS,
            )  # fmt: skip
        q, q_dot = over_warps(q, SPLIT), over_warps(q_dot, SPLIT)
        pair = keep(coefficients(v_ptr, w_ptr, rows, cols, n, m, P), rows, cols, SKIP)
        pull = pair * tangent_slope(q, q_dot, params_ptr, c_ptr, PROFILES, L)
        twist = pair * slope(q, params_ptr, PROFILES, L)
        if RADIAL:
            g += tl.sum((2 * pull)[None, :, :, :, :] * (z - x), axis=1)
            g += tl.sum((2 * twist)[None, :, :, :, :] * (a - b), axis=1)
        else:
            g += tl.sum(pull[None, :, :, :, :] * x, axis=1)
            g += tl.sum(twist[None, :, :, :, :] * b, axis=1)
    store_points(g_ptr, g, rows, n, tl.program_id(1), D, C, WARPS, SPLIT)


def tangents(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    block = batch(z, x, v, w, kernel.params, a, b, c)
    slots = triton.next_power_of_2(3 * len(kernel.names))
    sides = 1 if p == 1 else 8
    shape = narrow_tile(d)
    f, g = z.new_empty(*block, n, p), z.new_empty(*block, n, d)
    partial = partial_sums(z, block, programs(n, shape), slots)
    pointers = dict(z=z, x=x, v=v, w=w, a=a, b=b, c=c)
    sizes = dict(block=block, rows=n, n=n, m=m, D=d, P=p, SKIP=skip_diagonal)
    run(
        _tangent_sums_kernel, dict(**pointers, f=f, q=partial), kernel, tile=shape,
        parts=max(1, triton.cdiv(p, sides)), SLOTS=slots, BLOCK_P=sides, **sizes,
    )  # fmt: skip
    run(
        _tangent_grad_kernel, dict(**pointers, g=g), kernel, tile=shape,
        parts=shape.parts(d), **sizes,
    )  # fmt: skip
    return f, g, parameter_sums(partial, kernel)
