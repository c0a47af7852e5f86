"""The potential of many right-hand sides: F = K W, with a product of its own on tensor cores.

One program owns BLOCK_N rows of z and SIDES columns of W, and streams a strip of x past them:

    q    from differences up to 8 dimensions, else as in near_tiles.py
    K    its tile as hi + lo in float16, scaled row by row
    F   += K W, W as hi + lo too: lo·hi + hi·lo + hi·hi, each tile's sum added in float32

A value of the kernel is computed once for SIDES columns. All permutations of a two-sample test are
right-hand sides of one sweep.
"""

from dataclasses import replace
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton import fused, regimes
from dmmd_kernels.backends._triton.float16 import ROWS, towards_2_14
from dmmd_kernels.backends._triton.launch import batch, quiet
from dmmd_kernels.backends._triton.mixture import value
from dmmd_kernels.backends._triton.near_tiles import (
    frame,
    has_near,
    offsets_from,
    products,
    program,
    split_rows,
    square_distances,
    streamed_products,
    sum_of_products,
    tile_of,
)
from dmmd_kernels.backends._triton.profile import shortcuts
from dmmd_kernels.backends._triton.regimes import SIDES, Regime, architecture, via_histogram
from dmmd_kernels.backends._triton.scaling import LONGEST_STRIP, over_strips, step, strip_of
from dmmd_kernels.backends._triton.tuning import faster
from dmmd_kernels.kernels import Mixture

MOST_SIDES = 64  # columns of W per program
_FEW_SIDES = 2  # so many take sweeps of their own
_LEAST_SIDES = 16  # where distances cost next to nothing
_SPLIT = ("z_hi_ptr", "z_lo_ptr", "z_half_ptr", "x_hi_ptr", "x_lo_ptr", "x_half_ptr", "unit_ptr")
_SIZES = [
    "n", "m", "D", "P", "n_rows", "m_rows", "strip", "blocks", "z_step", "x_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def sides_kernel(
    z_ptr, x_ptr, z_hi_ptr, z_lo_ptr, z_half_ptr, x_hi_ptr, x_lo_ptr, x_half_ptr,
    w_hi_ptr, w_lo_ptr, unit_ptr, params_ptr, floor_ptr, f_ptr,
    n, m, D, P, n_rows, m_rows, strip, blocks, z_step, x_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, SKIP: tl.constexpr, NEAR: tl.constexpr,
    VIA_HISTOGRAM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, SIDES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    block, top, first, stop, part = program(n_rows, m, strip, blocks, BLOCK_N)
    rows = top + tl.arange(0, BLOCK_N)
    side = tl.program_id(2) * SIDES + tl.arange(0, SIDES)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    params_ptr += block * params_step * 3
    P = P * 16  # counted in sixteens, so that rows of W are known to be aligned
    w_hi_ptr += block * m_rows * P
    w_lo_ptr += block * m_rows * P
    row = offsets_from(top, n, D, BLOCK_N)
    z_ptr += top.to(tl.int64) * D
    if WIDTH > 0:
        x_hi_ptr += block * m_rows * WIDTH
        x_lo_ptr += block * m_rows * WIDTH
        x_half_ptr += block * m_rows
        lines = block * n_rows + rows
        half = tl.load(z_half_ptr + lines)
        floor = tl.load(floor_ptr + block)
        unit = tl.load(unit_ptr + block)
        if WIDTH == CHUNK:
            coords = tl.arange(0, WIDTH)
            z_hi, z_lo = tile_of(z_hi_ptr, z_lo_ptr, lines, coords, WIDTH)
    f = tl.zeros([BLOCK_N, SIDES], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        col = offsets_from(start, m, D, BLOCK_M)
        x_tile_ptr = x_ptr + start * D.to(tl.int64)
        if WIDTH > 0:
            theirs = cols.to(tl.int64)
            if WIDTH == CHUNK:
                x_hi, x_lo = tile_of(x_hi_ptr, x_lo_ptr, theirs, coords, WIDTH)
                s = products(z_hi, z_lo, x_hi, x_lo)
            else:
                s = streamed_products(
                    z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, lines, theirs,
                    WIDTH, CHUNK, BLOCK_N, BLOCK_M,
                )  # fmt: skip
            both = half[:, None] + tl.load(x_half_ptr + cols)[None, :]
            q = both - s
            if has_near(q, both, floor, NEAR, VIA_HISTOGRAM):
                q = square_distances(z_ptr, x_tile_ptr, row, col, D, BLOCK_N, BLOCK_M)
                q *= 0.5 * unit * unit
        else:
            q = square_distances(z_ptr, x_tile_ptr, row, col, D, BLOCK_N, BLOCK_M)
        k = value(q, params_ptr, PROFILES, L)
        if SKIP:
            k = tl.where(rows[:, None] == cols[None, :], 0.0, k)
        k_hi, k_lo, down = split_rows(k)
        at = cols.to(tl.int64)[:, None] * P + side[None, :]
        piece = sum_of_products(k_hi, k_lo, tl.load(w_hi_ptr + at), tl.load(w_lo_ptr + at))
        f += piece * down[:, None]
    to = (part * n + rows)[:, None] * P + side[None, :]
    tl.store(f_ptr + to, f, mask=(rows < n)[:, None])


def chosen(z: Tensor, x: Tensor, p: int, kernel: Mixture) -> Regime | None:
    """The row of the table for p right-hand sides; None if lanes of their own are faster."""
    (n, d), m = z.shape[-2:], x.shape[-2]
    work = n * m * prod(batch(z, x, kernel.params)) * (d + p)
    least = _LEAST_SIDES if d <= SIDES[0].d else _FEW_SIDES + 1
    if not kernel.is_radial or p < least or work < max(fused.LEAST_WORK, 1):
        return None
    row = regimes.device_regime(d, False, z.device, SIDES)
    is_crowded = fused.independent(kernel) > fused.FEW_COMPONENTS
    row = replace(row, columns=32) if is_crowded else row
    return faster("sides", row, shortcuts(kernel), z.device)


def potential_of_sides(
    z: Tensor, x: Tensor, w: Tensor, kernel: Mixture, row: Regime, skip_diagonal: bool
) -> Tensor:
    """(…, n, p) in float32."""
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    block = batch(z, x, w, kernel.params)
    blocks = block[0] if block else 1
    sides = min(MOST_SIDES, max(16, triton.next_power_of_2(p)))
    w_hi, w_lo, down = _split_columns(w.expand(*block, m, p), sides)
    (m_rows, columns), n_rows = w_hi.shape[-2:], triton.cdiv(n, ROWS) * ROWS
    points = dict.fromkeys(_SPLIT) | dict(n_rows=n_rows, m_rows=m_rows, WIDTH=0, CHUNK=0)
    params, floor = kernel.params, None
    if row.kind != "direct":
        both = frame(z, x, block)
        points = both.arguments()
        params, floor = both.table(kernel, row.near, grad=False)
    programs, axis = n_rows // row.rows * blocks, columns // sides
    strip = min(strip_of(m, programs * axis), LONGEST_STRIP)
    f = z.new_empty(triton.cdiv(m, strip), *block, n, columns, dtype=torch.float32)
    with quiet(sides_kernel):
        sides_kernel[(programs, len(f), axis)](
            z_ptr=z, x_ptr=x, w_hi_ptr=w_hi, w_lo_ptr=w_lo, params_ptr=params, floor_ptr=floor,
            f_ptr=f, n=n, m=m, D=d, P=columns // 16, strip=strip, blocks=blocks,
            z_step=step(z), x_step=step(x), params_step=step(params),
            PROFILES=shortcuts(kernel), L=len(kernel.names), SKIP=skip_diagonal, NEAR=row.near,
            VIA_HISTOGRAM=via_histogram(architecture(z.device)), SIDES=sides,
            BLOCK_N=row.rows, BLOCK_M=row.columns,
            num_warps=row.warps, num_stages=row.stages, enable_fp_fusion=True, **points,
        )  # fmt: skip
    return over_strips(f)[..., :p] * down


def _split_columns(w: Tensor, sides: int) -> tuple[Tensor, Tensor, Tensor]:
    """hi and lo (…, m_rows, columns) of w, zero beyond it, and the scale that undoes theirs."""
    m, p = w.shape[-2:]
    w = w.float()
    up = towards_2_14(w.abs().amax(-2, keepdim=True)) if m else w.new_ones(1, p)
    shape = (*w.shape[:-2], triton.cdiv(m, ROWS) * ROWS, triton.cdiv(p, sides) * sides)
    scaled = w.new_zeros(shape)
    scaled[..., :m, :p] = w * up
    hi = scaled.half()
    return hi, (scaled - hi.float()).half(), 1 / up
