"""Second order through tensor cores, where one of the two clouds moves: along a at z, or b at x.

    q/2   as in near_tiles.py
    q̇/2   = ⟨z - x, a⟩ or -⟨z - x, b⟩, as ⟨z, a⟩ - ⟨x, a⟩ or ⟨x, b⟩ - ⟨z, b⟩: a second product
    f, Σ c ∂K̇/∂θ   sums over the tile (sums_kernel); the parameters' are added up in memory
    g     = Σⱼ Pⱼ (z - xⱼ) + Σⱼ Tⱼ (a - bⱼ), P = c ∂K̇/∂q and T = c K_q: products of their own, split
            as in tensor_cores.py (grad_kernel)

One program owns BLOCK_N rows of z; of grad_kernel also CHUNK coordinates of g. Near pairs have q, q̇
and what they add to the first sum of g from differences. Points are scaled by r and directions by
a power of two of their own, of which only the ratio is left in q̇: `rate`.
"""

import triton
import triton.language as tl

from dmmd_kernels._triton.mixture import component, slope, tangent_slope, tangent_value, theta_dot
from dmmd_kernels._triton.near_tiles import (
    add_to,
    has_near,
    offsets_from,
    products,
    program,
    split_rows,
    streamed_products,
    sum_of_products,
    tile_of,
)
from dmmd_kernels._triton.tensor_cores import anew

_SIZES = ["n", "m", "D", "n_rows", "m_rows", "strip", "blocks", "z_step", "x_step",
          "a_step", "b_step", "c_step", "params_step"]  # fmt: skip


@triton.jit
def _differences(
    z_ptr, x_ptr, a_ptr, b_ptr, row, col, D, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):
    """|z - x|² and ⟨z - x, a - b⟩ of the tile; the pointers are to it, row and col are offsets."""
    q = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    q_dot = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for c in range(0, D):
        diff = tl.load(z_ptr + c + row).to(tl.float32)[:, None]
        diff = diff - tl.load(x_ptr + c + col).to(tl.float32)[None, :]
        q += diff * diff
        if a_ptr is not None:
            q_dot += diff * tl.load(a_ptr + c + row).to(tl.float32)[:, None]
        else:
            q_dot -= diff * tl.load(b_ptr + c + col).to(tl.float32)[None, :]
    return q, q_dot


@triton.jit
def _products(
    z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
    z_hi, z_lo, t_hi, t_lo, x_hi, x_lo, MOVES_Z: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """⟨z, x⟩, and ⟨a, x⟩ or ⟨z, b⟩: of the tiles, or of rows that are wider."""
    if WIDTH == CHUNK:
        s = products(z_hi, z_lo, x_hi, x_lo)
        if MOVES_Z:
            return s, products(t_hi, t_lo, x_hi, x_lo)
        else:
            return s, products(z_hi, z_lo, t_hi, t_lo)
    else:
        s = streamed_products(
            z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, lines, theirs,
            WIDTH, CHUNK, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        if MOVES_Z:
            along = streamed_products(
                t_hi_ptr, t_lo_ptr, x_hi_ptr, x_lo_ptr, lines, theirs,
                WIDTH, CHUNK, BLOCK_N, BLOCK_M,
            )  # fmt: skip
        else:
            along = streamed_products(
                z_hi_ptr, z_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
                WIDTH, CHUNK, BLOCK_N, BLOCK_M,
            )  # fmt: skip
        return s, along


@triton.jit
def _pairs(
    s, s_dot, half, z_ptr, x_ptr, a_ptr, b_ptr, x_half_ptr, along_ptr,
    unit, rate, floor, lines, theirs, row, col, base, D,
    NEAR: tl.constexpr, VIA_HISTOGRAM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """q/2 and q̇/2 of the tile, and whether they are from differences."""
    both = half[:, None] + tl.load(x_half_ptr + theirs)[None, :]
    q = both - s
    if a_ptr is not None:
        q_dot = (tl.load(along_ptr + lines)[:, None] - s_dot) * rate
    else:
        q_dot = (tl.load(along_ptr + theirs)[None, :] - s_dot) * rate
    is_near = has_near(q, both, floor, NEAR, VIA_HISTOGRAM)
    if is_near:
        if b_ptr is not None:
            b_ptr += base
        q, q_dot = _differences(z_ptr, x_ptr + base, a_ptr, b_ptr, row, col, D, BLOCK_N, BLOCK_M)
        q, q_dot = q * (0.5 * unit * unit), q_dot * (unit * unit)
    return q, q_dot, is_near


@triton.jit(do_not_specialize=_SIZES)
def tangent_sums_kernel(
    z_ptr, x_ptr, a_ptr, b_ptr, z_hi_ptr, z_lo_ptr, z_half_ptr, x_hi_ptr, x_lo_ptr, x_half_ptr,
    t_hi_ptr, t_lo_ptr, along_ptr, unit_ptr, rate_ptr, floor_ptr, v_ptr, w_ptr, params_ptr, c_ptr,
    f_ptr, q_ptr,
    n, m, D, n_rows, m_rows, strip, blocks, z_step, x_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, SKIP: tl.constexpr, NEAR: tl.constexpr,
    VIA_HISTOGRAM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    block, top, first, stop, part = program(n_rows, m, strip, blocks, BLOCK_N)
    rows = top + tl.arange(0, BLOCK_N)
    row = offsets_from(top, n, D, BLOCK_N)
    z_ptr += (block * z_step + top) * D
    x_ptr += block * x_step * D
    params_ptr += block * params_step * 3
    if a_ptr is not None:
        a_ptr += (block * a_step + top) * D
    if b_ptr is not None:
        b_ptr += block * b_step * D
    if c_ptr is not None:
        c_ptr += block * c_step * 3
    unit, rate = tl.load(unit_ptr + block), tl.load(rate_ptr + block)
    floor = tl.load(floor_ptr + block)
    lines = block * n_rows + rows
    x_hi_ptr += block * m_rows * WIDTH
    x_lo_ptr += block * m_rows * WIDTH
    x_half_ptr += block * m_rows
    w_ptr += block * m_rows
    if b_ptr is not None:
        t_hi_ptr += block * m_rows * WIDTH
        t_lo_ptr += block * m_rows * WIDTH
        along_ptr += block * m_rows
    half = tl.load(z_half_ptr + lines)
    coords = tl.arange(0, CHUNK)
    z_hi, z_lo = tile_of(z_hi_ptr, z_lo_ptr, lines, coords, WIDTH)
    t_hi, t_lo = z_hi, z_lo
    if a_ptr is not None:
        t_hi, t_lo = tile_of(t_hi_ptr, t_lo_ptr, lines, coords, WIDTH)
    v = tl.full([BLOCK_N], 1.0, tl.float32)
    if v_ptr is not None:
        v = tl.load(v_ptr + lines)
    q_ptr += part * 3 * L * n_rows + rows
    f = tl.zeros([BLOCK_N], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        col = offsets_from(start, m, D, BLOCK_M)
        base = start * D.to(tl.int64)
        theirs = cols.to(tl.int64)
        x_hi, x_lo = tile_of(x_hi_ptr, x_lo_ptr, theirs, coords, WIDTH)
        y_hi, y_lo = t_hi, t_lo
        if b_ptr is not None:
            y_hi, y_lo = tile_of(t_hi_ptr, t_lo_ptr, theirs, coords, WIDTH)
        s, s_dot = _products(
            z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
            z_hi, z_lo, y_hi, y_lo, x_hi, x_lo, a_ptr is not None, WIDTH, CHUNK, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        q, q_dot, _ = _pairs(
            s, s_dot, half, z_ptr, x_ptr, a_ptr, b_ptr, x_half_ptr, along_ptr,
            unit, rate, floor, lines, theirs, row, col, base, D,
            NEAR, VIA_HISTOGRAM, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        w = tl.load(w_ptr + cols)[None, :]
        if SKIP:
            w = tl.where(rows[:, None] == cols[None, :], 0.0, w)
        f += tl.sum(w * tangent_value(q, q_dot, params_ptr, c_ptr, PROFILES, L), axis=1)
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            lam_dot, s_dot, a_dot = component(c_ptr, l)
            by_lam, by_s, by_a = theta_dot(
                q, q_dot, lam, s, a, lam_dot, s_dot, a_dot, (PROFILES >> (8 * l)) % 256
            )
            again = start > first
            add_to(q_ptr + 3 * l * n_rows, v * tl.sum(w * by_lam, axis=1), again)
            add_to(q_ptr + (3 * l + 1) * n_rows, v * tl.sum(w * by_s, axis=1), again)
            add_to(q_ptr + (3 * l + 2) * n_rows, v * tl.sum(w * by_a, axis=1), again)
        tl.debug_barrier()  # the next round may read with other threads what these wrote
    tl.store(f_ptr + part * n + rows, f, mask=rows < n)


@triton.jit(do_not_specialize=_SIZES)
def tangent_grad_kernel(
    z_ptr, x_ptr, a_ptr, b_ptr, z_hi_ptr, z_lo_ptr, z_half_ptr, x_hi_ptr, x_lo_ptr, x_half_ptr,
    t_hi_ptr, t_lo_ptr, along_ptr, unit_ptr, rate_ptr, floor_ptr, v_ptr, w_ptr, params_ptr, c_ptr,
    g_ptr,
    n, m, D, n_rows, m_rows, strip, blocks, z_step, x_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, SKIP: tl.constexpr, NEAR: tl.constexpr,
    VIA_HISTOGRAM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    block, top, first, stop, part = program(n_rows, m, strip, blocks, BLOCK_N)
    rows = top + tl.arange(0, BLOCK_N)
    row = offsets_from(top, n, D, BLOCK_N)
    z_ptr += (block * z_step + top) * D
    x_ptr += block * x_step * D
    params_ptr += block * params_step * 3
    if a_ptr is not None:
        a_ptr += (block * a_step + top) * D
    if b_ptr is not None:
        b_ptr += block * b_step * D
    if c_ptr is not None:
        c_ptr += block * c_step * 3
    unit, rate = tl.load(unit_ptr + block), tl.load(rate_ptr + block)
    floor = tl.load(floor_ptr + block)
    lines = block * n_rows + rows
    x_hi_ptr += block * m_rows * WIDTH
    x_lo_ptr += block * m_rows * WIDTH
    x_half_ptr += block * m_rows
    w_ptr += block * m_rows
    if b_ptr is not None:
        t_hi_ptr += block * m_rows * WIDTH
        t_lo_ptr += block * m_rows * WIDTH
        along_ptr += block * m_rows
    chunk = tl.program_id(2) * CHUNK
    coords = chunk + tl.arange(0, CHUNK)
    half = tl.load(z_half_ptr + lines)
    z_hi, z_lo = tile_of(z_hi_ptr, z_lo_ptr, lines, coords, WIDTH)
    t_hi, t_lo = z_hi, z_lo
    if a_ptr is not None:
        t_hi, t_lo = tile_of(t_hi_ptr, t_lo_ptr, lines, coords, WIDTH)
    near_tiles = 0
    pull_sum = tl.zeros([BLOCK_N], tl.float32)
    twist_sum = tl.zeros([BLOCK_N], tl.float32)
    pulled = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    if b_ptr is not None:
        twisted = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        if b_ptr is not None or WIDTH > CHUNK:  # here registers are short
            again = anew(top, near_tiles)
            row = offsets_from(again, n, D, BLOCK_N)
            lines = block * n_rows + again + tl.arange(0, BLOCK_N)
        col = offsets_from(start, m, D, BLOCK_M)
        base = start * D.to(tl.int64)
        theirs = cols.to(tl.int64)
        x_hi, x_lo = tile_of(x_hi_ptr, x_lo_ptr, theirs, coords, WIDTH)
        y_hi, y_lo = t_hi, t_lo
        if b_ptr is not None:
            y_hi, y_lo = tile_of(t_hi_ptr, t_lo_ptr, theirs, coords, WIDTH)
        s, s_dot = _products(
            z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
            z_hi, z_lo, y_hi, y_lo, x_hi, x_lo, a_ptr is not None, WIDTH, CHUNK, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        q, q_dot, is_near = _pairs(
            s, s_dot, half, z_ptr, x_ptr, a_ptr, b_ptr, x_half_ptr, along_ptr,
            unit, rate, floor, lines, theirs, row, col, base, D,
            NEAR, VIA_HISTOGRAM, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        w = tl.load(w_ptr + cols)[None, :]
        if SKIP:
            w = tl.where(rows[:, None] == cols[None, :], 0.0, w)
        pull = w * tangent_slope(q, q_dot, params_ptr, c_ptr, PROFILES, L)
        twist = w * slope(q, params_ptr, PROFILES, L)
        near_tiles += is_near.to(tl.int32)
        if is_near:
            tl.debug_barrier()  # what an earlier round added may be read by other threads
            to = (part * n_rows + anew(top, near_tiles) + tl.arange(0, BLOCK_N)) * WIDTH
            for c in range(chunk, tl.minimum(chunk + CHUNK, D)):
                diff = tl.load(z_ptr + c + row).to(tl.float32)[:, None]
                diff = diff - tl.load(x_ptr + base + c + col).to(tl.float32)[None, :]
                add_to(g_ptr + to + c, tl.sum(pull * diff, axis=1) * unit, True)
            pull = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        pull_sum += tl.sum(pull, axis=1)
        hi, lo, down = split_rows(pull)
        piece = sum_of_products(hi, lo, x_hi, x_lo)
        pulled += piece * down[:, None]
        if b_ptr is not None:
            hi, lo, down = split_rows(twist)
            piece = sum_of_products(hi, lo, y_hi, y_lo)
            twisted += piece * down[:, None]
        else:
            twist_sum += tl.sum(twist, axis=1)
    rows = anew(top, near_tiles) + tl.arange(0, BLOCK_N)
    lines = block * n_rows + rows
    to = (part * n_rows + rows) * WIDTH
    mine = lines[:, None] * WIDTH + coords[None, :]
    z = tl.load(z_hi_ptr + mine).to(tl.float32) + tl.load(z_lo_ptr + mine).to(tl.float32)
    g = pull_sum[:, None] * z - pulled
    if b_ptr is not None:
        g -= twisted * rate
    else:
        a = tl.load(t_hi_ptr + mine).to(tl.float32) + tl.load(t_lo_ptr + mine).to(tl.float32)
        g += twist_sum[:, None] * a * rate
    factor = tl.zeros([BLOCK_N], tl.float32) + unit
    if v_ptr is not None:
        factor *= tl.load(v_ptr + lines)
    tl.debug_barrier()  # what near pairs added has been written by other threads
    at = g_ptr + to[:, None] + coords[None, :]
    tl.store(at, (g + tl.load(at)) * factor[:, None])
