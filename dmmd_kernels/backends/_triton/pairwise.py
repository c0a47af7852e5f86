"""Triton kernels for the potential of a weighted cloud and its gradient, from differences.

One program owns BLOCK_N rows of z, one per lane, and streams a strip of x past them, BLOCK_M
columns at a time, so no n × m matrix is ever stored; direct.py says how. A second axis of programs
divides x into strips where rows alone would leave the GPU idle; their sums meet in float64.

The gradient of up to 8 coordinates stays in registers. More of them are added up in memory, once
per tile, each lane on its own row: a 16th of the work of a tile."""

import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton import fused, sides
from dmmd_kernels.backends._triton.direct import (
    accumulate,
    add,
    affinities,
    coefficients,
    columns,
    into_slot,
    keep,
    load_columns,
    load_rows,
    of_block,
    place,
    store_slots,
    table_of_block,
)
from dmmd_kernels.backends._triton.launch import Sweep, Tile, batch
from dmmd_kernels.backends._triton.mixture import slope, value
from dmmd_kernels.backends._triton.profile import shortcuts
from dmmd_kernels.kernels import Mixture

_SIZES = [
    "n", "m", "D", "P", "blocks", "strip", "n_pitch", "m_pitch",
    "z_step", "x_step", "v_step", "w_step", "params_step",
]  # fmt: skip
_SIDES = 8  # right-hand sides per program, at most
_NARROW = Tile(columns=8)  # where a row has many sums


@triton.jit(do_not_specialize=_SIZES)
def _potential_kernel(
    z_ptr, x_ptr, w_ptr, params_ptr, f_ptr,
    n, m, D, P, blocks, strip, n_pitch, m_pitch, z_step, x_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    RANK: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr, SIDES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    f_ptr += ((tl.program_id(1).to(tl.int64) * blocks + block) * n + rows) * P
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    x_ptr = of_block(x_ptr, block, x_step, D, GATHER)
    w_ptr = of_block(w_ptr, block, w_step, P, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)

    side = tl.program_id(2) * SIDES
    f = tl.zeros([SIDES, BLOCK_N], tl.float32)
    lost = tl.zeros([SIDES, BLOCK_N], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q = affinities(
            z_ptr, x_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        k = keep(value(q, params_ptr, PROFILES, L), rows, cols, SKIP)
        part = tl.zeros([SIDES, BLOCK_N], tl.float32)
        for s in tl.static_range(SIDES):
            w = load_columns(w_ptr, cols, m, tl.minimum(side + s, P - 1), P, m_pitch, GATHER)
            part = into_slot(part, tl.sum(w * k, axis=0), s, SIDES)
        f, lost = add(f, lost, part)

    sides = side + tl.arange(0, SIDES)[:, None]
    tl.store(f_ptr[None, :] + sides, f, mask=exists[None, :] & (sides < P))


@triton.jit(do_not_specialize=_SIZES)
def _potential_grad_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, f_ptr, g_ptr,
    n, m, D, P, blocks, strip, n_pitch, m_pitch, z_step, x_step, v_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    RANK: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr, SLOTS: tl.constexpr,
    IN_REGISTERS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    place_of = tl.program_id(1).to(tl.int64) * blocks + block
    g_ptr += place_of * D * (n if GATHER else n_pitch * 16)
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    x_ptr = of_block(x_ptr, block, x_step, D, GATHER)
    w_ptr = of_block(w_ptr, block, w_step, P, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)
    if v_ptr is not None:
        v_ptr = of_block(v_ptr, block, v_step, P, GATHER)

    f = tl.zeros([BLOCK_N], tl.float32)
    lost = tl.zeros([BLOCK_N], tl.float32)
    g = tl.zeros([SLOTS, BLOCK_N], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q = affinities(
            z_ptr, x_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        c = coefficients(v_ptr, w_ptr, rows, cols, m, P, n_pitch, m_pitch, RANK, GATHER)
        pull = keep(c * slope(q, params_ptr, PROFILES, L), rows, cols, SKIP)
        if f_ptr is not None:
            k = keep(c * value(q, params_ptr, PROFILES, L), rows, cols, SKIP)
            f, lost = add(f, lost, tl.sum(k, axis=0))
        if RADIAL:
            pull *= 2
        if IN_REGISTERS:
            for c in tl.static_range(UNROLL):
                along = _along(z_ptr, x_ptr, rows, cols, m, c, D, n_pitch, m_pitch, RADIAL, GATHER)
                g = into_slot(g, tl.sum(pull * along, axis=0), c, SLOTS)
        else:
            for c in range(0, D):
                along = _along(z_ptr, x_ptr, rows, cols, m, c, D, n_pitch, m_pitch, RADIAL, GATHER)
                part = tl.sum(pull * along, axis=0)
                accumulate(g_ptr, rows, c, D, n_pitch, part, exists, start > first, GATHER)

    if IN_REGISTERS:
        store_slots(g_ptr, rows, D, n_pitch, g, exists, SLOTS, GATHER)
    if f_ptr is not None:
        tl.store(f_ptr + place_of * n + rows, f, mask=exists)


@triton.jit
def _along(
    z_ptr, x_ptr, rows, cols, m, c, D, n_pitch, m_pitch,
    RADIAL: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    """Coordinate c of ∇_z q/2 = z - x, or of ∇_z q = x."""
    x = load_columns(x_ptr, cols, m, c, D, m_pitch, GATHER)
    if RADIAL:
        x = load_rows(z_ptr, rows, c, D, n_pitch, GATHER) - x
    return x


def potential(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    if many := sides.chosen(z, x, p, kernel):
        return sides.potential_of_sides(z, x, w, kernel, many, skip_diagonal).to(z.dtype)
    row = fused.chosen(z, x, p, kernel, grad=False)
    if row.kind != "direct" and p == 1:
        f, _ = fused.sweep(
            z, x, None, w, kernel, row,
            skip_diagonal=skip_diagonal, precision=precision, wants_f=True,
        )  # fmt: skip
        return f.to(z.dtype)
    at_once = min(triton.next_power_of_2(max(p, 1)), _SIDES)
    tile = Tile(row.columns, row.warps) if p == 1 and row.kind == "direct" else _NARROW
    sweep = Sweep(n, m, d, batch(z, x, w, kernel.params), tile)
    f = sweep.partial(z, n, p)
    sweep.run(
        _potential_kernel, kernel, dict(z=z, x=x, w=w), dict(f=f),
        columns=p, axis=triton.cdiv(p, at_once), SKIP=skip_diagonal, SIDES=at_once,
        PROFILES=shortcuts(kernel),
    )  # fmt: skip
    return sweep.total(f).to(z.dtype)


def potential_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    return gradient(z, x, v, w, kernel, skip_diagonal, precision)[1].to(z.dtype).contiguous()


def potential_and_grad(
    z: Tensor, x: Tensor, w: Tensor, kernel: Mixture, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    f, g = gradient(z, x, None, w, kernel, False, precision, wants_f=True)
    return f.to(z.dtype), g.to(z.dtype).contiguous()


def gradient(z, x, v, w, kernel, skip_diagonal, precision, *, wants_f=False):
    """(f[i] = Σⱼ c_ij K_ij (…, n, 1) or None, g[i] = Σⱼ c_ij ∇_z K_ij (…, n, d)) in float32."""
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    row = fused.chosen(z, x, p, kernel, grad=True, both=wants_f)
    if row.kind != "direct":
        return fused.sweep(
            z, x, v, w, kernel, row,
            skip_diagonal=skip_diagonal, precision=precision, wants_f=wants_f, wants_g=True,
        )  # fmt: skip
    tile = Tile(row.columns, row.warps)
    sweep = Sweep(n, m, d, batch(z, x, v, w, kernel.params), tile)
    f = sweep.partial(z, n, 1) if wants_f else None
    g = sweep.partial_points(z, d)
    sweep.run(
        _potential_grad_kernel, kernel, dict(z=z, x=x, v=v, w=w), dict(f=f, g=g),
        columns=p, SKIP=skip_diagonal, IN_REGISTERS=d == sweep.unroll,
        SLOTS=triton.next_power_of_2(sweep.unroll), PROFILES=shortcuts(kernel),
    )  # fmt: skip
    return None if f is None else sweep.total(f), sweep.total_points(g)
