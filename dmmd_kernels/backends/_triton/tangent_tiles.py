"""Second order through tensor cores: along a at z, or b at x; along both in two sweeps.

    f, Σ c ∂K̇/∂θ   sums over the tile (sums_kernel); the parameters' are added up in memory
    g     = Σⱼ Pⱼ (z - xⱼ) + Σⱼ Tⱼ (a - bⱼ), P = c ∂K̇/∂q and T = c K_q: products of their own, split
            as in tensor_cores.py (grad_kernel)

One program owns BLOCK_N rows of z; of grad_kernel also CHUNK coordinates of g. q and q̇ of a tile
are those of tangent_pairs.py. What near pairs add to the first sum of g, and where both clouds move
to the second, comes from differences.
"""

import triton
import triton.language as tl

from dmmd_kernels.backends._triton.mixture import (
    component,
    slope,
    tangent_slope,
    tangent_value,
    theta_dot,
)
from dmmd_kernels.backends._triton.near_tiles import (
    add_to,
    offsets_from,
    program,
    split_rows,
    sum_of_products,
    tile_of,
)
from dmmd_kernels.backends._triton.tangent_pairs import difference, pairs_along, products_along
from dmmd_kernels.backends._triton.tensor_cores import anew

_SIZES = ["n", "m", "D", "n_rows", "m_rows", "strip", "blocks", "z_step", "x_step",
          "a_step", "b_step", "c_step", "params_step"]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def tangent_sums_kernel(
    z_ptr, x_ptr, a_ptr, b_ptr, z_hi_ptr, z_lo_ptr, z_half_ptr, x_hi_ptr, x_lo_ptr, x_half_ptr,
    t_hi_ptr, t_lo_ptr, along_ptr, unit_ptr, rate_ptr, floor_ptr, v_ptr, w_ptr, params_ptr, c_ptr,
    f_ptr, q_ptr,
    n, m, D, n_rows, m_rows, strip, blocks, z_step, x_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, SKIP: tl.constexpr, NEAR: tl.constexpr,
    AT_Z: tl.constexpr, VIA_HISTOGRAM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    LEAVES_NEAR: tl.constexpr = a_ptr is not None and b_ptr is not None and not AT_Z
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
    if not AT_Z:
        t_hi_ptr += block * m_rows * WIDTH
        t_lo_ptr += block * m_rows * WIDTH
        along_ptr += block * m_rows
    half = tl.load(z_half_ptr + lines)
    coords = tl.arange(0, CHUNK)
    z_hi, z_lo = tile_of(z_hi_ptr, z_lo_ptr, lines, coords, WIDTH)
    t_hi, t_lo = z_hi, z_lo
    if AT_Z:
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
        if not AT_Z:
            y_hi, y_lo = tile_of(t_hi_ptr, t_lo_ptr, theirs, coords, WIDTH)
        s, s_dot = products_along(
            z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
            z_hi, z_lo, y_hi, y_lo, x_hi, x_lo, AT_Z, WIDTH, CHUNK, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        q, q_dot, is_near = pairs_along(
            s, s_dot, half, z_ptr, x_ptr, a_ptr, b_ptr, x_half_ptr, along_ptr,
            unit, rate, floor, lines, theirs, row, col, base, D, AT_Z, False,
            NEAR, VIA_HISTOGRAM, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        w = tl.load(w_ptr + cols)[None, :]
        if LEAVES_NEAR:
            w = tl.where(is_near, 0.0, w)
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
    AT_Z: tl.constexpr, VIA_HISTOGRAM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    LEAVES_NEAR: tl.constexpr = a_ptr is not None and b_ptr is not None and not AT_Z
    TAKES_NEAR: tl.constexpr = a_ptr is not None and b_ptr is not None and AT_Z
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
    if not AT_Z:
        t_hi_ptr += block * m_rows * WIDTH
        t_lo_ptr += block * m_rows * WIDTH
        along_ptr += block * m_rows
    chunk = tl.program_id(2) * CHUNK
    coords = chunk + tl.arange(0, CHUNK)
    half = tl.load(z_half_ptr + lines)
    z_hi, z_lo = tile_of(z_hi_ptr, z_lo_ptr, lines, coords, WIDTH)
    t_hi, t_lo = z_hi, z_lo
    if AT_Z:
        t_hi, t_lo = tile_of(t_hi_ptr, t_lo_ptr, lines, coords, WIDTH)
    near_tiles = 0
    pull_sum = tl.zeros([BLOCK_N], tl.float32)
    twist_sum = tl.zeros([BLOCK_N], tl.float32)
    pulled = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    if not AT_Z:
        twisted = tl.zeros([BLOCK_N, CHUNK], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        if not AT_Z or WIDTH > CHUNK:  # here registers are short
            again = anew(top, near_tiles)
            row = offsets_from(again, n, D, BLOCK_N)
            lines = block * n_rows + again + tl.arange(0, BLOCK_N)
        col = offsets_from(start, m, D, BLOCK_M)
        base = start * D.to(tl.int64)
        theirs = cols.to(tl.int64)
        x_hi, x_lo = tile_of(x_hi_ptr, x_lo_ptr, theirs, coords, WIDTH)
        y_hi, y_lo = t_hi, t_lo
        if not AT_Z:
            y_hi, y_lo = tile_of(t_hi_ptr, t_lo_ptr, theirs, coords, WIDTH)
        s, s_dot = products_along(
            z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
            z_hi, z_lo, y_hi, y_lo, x_hi, x_lo, AT_Z, WIDTH, CHUNK, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        q, q_dot, is_near = pairs_along(
            s, s_dot, half, z_ptr, x_ptr, a_ptr, b_ptr, x_half_ptr, along_ptr,
            unit, rate, floor, lines, theirs, row, col, base, D, AT_Z, AT_Z,
            NEAR, VIA_HISTOGRAM, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        w = tl.load(w_ptr + cols)[None, :]
        if LEAVES_NEAR:
            w = tl.where(is_near, 0.0, w)
        if SKIP:
            w = tl.where(rows[:, None] == cols[None, :], 0.0, w)
        pull = w * tangent_slope(q, q_dot, params_ptr, c_ptr, PROFILES, L)
        twist = w * slope(q, params_ptr, PROFILES, L)
        near_tiles += is_near.to(tl.int32)
        if is_near and not LEAVES_NEAR:
            tl.debug_barrier()  # what an earlier round added may be read by other threads
            to = (part * n_rows + anew(top, near_tiles) + tl.arange(0, BLOCK_N)) * WIDTH
            for c in range(chunk, tl.minimum(chunk + CHUNK, D)):
                pulled_near = pull * difference(z_ptr, x_ptr + base, c + row, c + col)
                if TAKES_NEAR:
                    turn = difference(a_ptr, b_ptr + base, c + row, c + col)
                    pulled_near += twist * turn
                add_to(g_ptr + to + c, tl.sum(pulled_near, axis=1) * unit, True)
            pull = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            if TAKES_NEAR:
                twist = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        pull_sum += tl.sum(pull, axis=1)
        hi, lo, down = split_rows(pull)
        piece = sum_of_products(hi, lo, x_hi, x_lo)
        pulled += piece * down[:, None]
        if not AT_Z:
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
    if not AT_Z:
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
