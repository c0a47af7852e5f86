"""Triton kernels for the potential of a weighted cloud and its gradient, from differences.

One program owns a few rows of z and streams x past them, so no n × m matrix is ever stored;
tiles.py says how. Distances are summed from differences: the expanded form |z|² + |x|² - 2z·x is
wrong by √ε where points coincide, and every MMD contains such pairs.

A second axis of programs divides the right-hand sides of the potential, and the coordinates of a
gradient that one program could not keep in registers; the kernel is then evaluated once per part.
"""

import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels._triton import tensor_cores
from dmmd_kernels._triton.launch import batch, run, tile
from dmmd_kernels._triton.mixture import slope, value
from dmmd_kernels._triton.tiles import (
    LANES,
    add,
    affinities,
    affinity,
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

_SIZES = ["n", "m", "P", "z_step", "x_step", "v_step", "w_step", "params_step"]


@triton.jit(do_not_specialize=_SIZES)
def _potential_kernel(
    z_ptr, x_ptr, w_ptr, params_ptr, f_ptr,
    n, m, D, P, z_step, x_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    WHOLE: tl.constexpr, MASKED: tl.constexpr, SPLIT: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    rows, block = place(n, R)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    w_ptr += block * w_step * P
    params_ptr += block * params_step * 3
    f_ptr += block * n * P

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    SUMS: tl.constexpr = 1 if SPLIT else WARPS
    sides = backwards(tl.program_id(1) * BLOCK_P, BLOCK_P)
    coords = coordinates(0, C, WARPS, SPLIT)
    z = load_points(z_ptr, rows, n, coords, D, WARPS, MASKED)
    f = tl.zeros([BLOCK_P, R, SUMS, LANES], tl.float32)
    lost = tl.zeros([BLOCK_P, R, SUMS, LANES], tl.float32)
    for start in range(0, m, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        if WHOLE:
            q = affinity(z, load_points(x_ptr, cols, m, coords, D, WARPS, MASKED), RADIAL)
        else:
            q = affinities(z_ptr, x_ptr, rows, cols, n, m, D, RADIAL, MASKED, SPLIT, C, J, R, WARPS)
        k = value(over_warps(q, SPLIT), params_ptr, PROFILES, L)
        k = keep(k, rows, cols, SKIP)
        w = load_sides(w_ptr, cols, m, sides, P, SUMS)
        f, lost = add(f, lost, tl.sum(w * k[None, :, :, :, :], axis=1))

    store_sides(f_ptr, f, rows, n, sides, P, BLOCK_P)


@triton.jit(do_not_specialize=_SIZES)
def _potential_grad_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, f_ptr, g_ptr,
    n, m, D, P, z_step, x_step, v_step, w_step, params_step,
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

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    SUMS: tl.constexpr = 1 if SPLIT else WARPS
    coords = coordinates(tl.program_id(1), C, WARPS, SPLIT)
    z = load_points(z_ptr, rows, n, coords, D, WARPS, MASKED)
    f = tl.zeros([R, SUMS, LANES], tl.float32)
    lost = tl.zeros([R, SUMS, LANES], tl.float32)
    g = tl.zeros([C, R, WARPS, LANES], tl.float32)
    for start in range(0, m, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        x = load_points(x_ptr, cols, m, coords, D, WARPS, MASKED)
        if WHOLE:
            q = affinity(z, x, RADIAL)
        else:
            q = affinities(z_ptr, x_ptr, rows, cols, n, m, D, RADIAL, MASKED, SPLIT, C, J, R, WARPS)
        q = over_warps(q, SPLIT)
        c = coefficients(v_ptr, w_ptr, rows, cols, n, m, P)
        pull = keep(c * slope(q, params_ptr, PROFILES, L), rows, cols, SKIP)
        if RADIAL:
            g += tl.sum((2 * pull)[None, :, :, :, :] * (z - x), axis=1)
        else:
            g += tl.sum(pull[None, :, :, :, :] * x, axis=1)
        if f_ptr is not None:
            f, lost = add(f, lost, tl.sum(c * value(q, params_ptr, PROFILES, L), axis=0))

    store_points(g_ptr, g, rows, n, tl.program_id(1), D, C, WARPS, SPLIT)
    if f_ptr is not None:
        if tl.program_id(1) == 0:
            total = tl.sum(f, axis=1)[None, :, None, :]
            tl.store(f_ptr + block * n + rows, total, mask=rows < n)


def potential(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    block = batch(z, x, w, kernel.params)
    f = z.new_empty(*block, n, p)
    if tensor_cores.suits(z, w, kernel, precision):
        tensor_cores.sweep(z, x, None, w, kernel, skip_diagonal, f, None)
        return f
    sides = 1 if p == 1 else 8
    run(
        _potential_kernel, dict(z=z, x=x, w=w, f=f), kernel,
        tile=tile(d), block=block, rows=n, parts=triton.cdiv(p, sides),
        n=n, m=m, D=d, P=p,
        SKIP=skip_diagonal, BLOCK_P=sides,
    )  # fmt: skip
    return f


def potential_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    g = z.new_empty(*batch(z, x, v, w, kernel.params), *z.shape[-2:])
    _run_grad(z, x, v, w, kernel, skip_diagonal, precision, None, g)
    return g


def potential_and_grad(
    z: Tensor, x: Tensor, w: Tensor, kernel: Mixture, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    g = z.new_empty(*batch(z, x, w, kernel.params), *z.shape[-2:])
    f = g.new_empty(*g.shape[:-1], 1)
    _run_grad(z, x, None, w, kernel, False, precision, f, g)
    return f, g


def _run_grad(z, x, v, w, kernel: Mixture, skip_diagonal: bool, precision: str, f, g) -> None:
    if tensor_cores.suits(z, w, kernel, precision):
        tensor_cores.sweep(z, x, v, w, kernel, skip_diagonal, f, g)
        return
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    shape = tile(d)
    run(
        _potential_grad_kernel, dict(z=z, x=x, v=v, w=w, f=f, g=g), kernel,
        tile=shape, block=batch(g), rows=n, parts=shape.parts(d),
        n=n, m=m, D=d, P=p,
        SKIP=skip_diagonal,
    )  # fmt: skip
