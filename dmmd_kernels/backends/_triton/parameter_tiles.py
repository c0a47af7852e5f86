"""Gradients of the kernel's parameters through tensor cores: Σ c_ij ∂K_ij/∂θ in tiles.

One program owns BLOCK_N rows of z and streams a strip of x past them, as in tangent_tiles.py: a
tile with a near pair is taken from differences, and each row's sums are added up in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton import fused, regimes
from dmmd_kernels.backends._triton.launch import batch, quiet
from dmmd_kernels.backends._triton.mixture import component, theta
from dmmd_kernels.backends._triton.near_tiles import (
    add_to,
    frame,
    has_near,
    offsets_from,
    products,
    program,
    square_distances,
    tile_of,
)
from dmmd_kernels.backends._triton.profile import code
from dmmd_kernels.backends._triton.regimes import PARAMETERS, Regime, architecture, via_histogram
from dmmd_kernels.backends._triton.scaling import LONGEST_STRIP, padded, step, strip_of
from dmmd_kernels.backends._triton.tuning import faster
from dmmd_kernels.kernels import Mixture

_SIZES = [
    "n", "m", "D", "n_rows", "m_rows", "strip", "blocks", "z_step", "x_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def parameter_kernel(
    z_ptr, x_ptr, z_hi_ptr, z_lo_ptr, z_half_ptr, x_hi_ptr, x_lo_ptr, x_half_ptr,
    unit_ptr, floor_ptr, v_ptr, w_ptr, params_ptr, q_ptr,
    n, m, D, n_rows, m_rows, strip, blocks, z_step, x_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, P: tl.constexpr, SKIP: tl.constexpr,
    NEAR: tl.constexpr, VIA_HISTOGRAM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    block, top, first, stop, part = program(n_rows, m, strip, blocks, BLOCK_N)
    rows = top + tl.arange(0, BLOCK_N)
    row = offsets_from(top, n, D, BLOCK_N)
    z_ptr += (block * z_step + top) * D
    x_ptr += block * x_step * D
    params_ptr += block * params_step * 3
    x_hi_ptr += block * m_rows * WIDTH
    x_lo_ptr += block * m_rows * WIDTH
    x_half_ptr += block * m_rows
    w_ptr += block * m_rows * P
    q_ptr += part * 3 * L * n_rows + rows
    unit, floor = tl.load(unit_ptr + block), tl.load(floor_ptr + block)
    lines, coords = block * n_rows + rows, tl.arange(0, WIDTH)
    half = tl.load(z_half_ptr + lines)
    z_hi, z_lo = tile_of(z_hi_ptr, z_lo_ptr, lines, coords, WIDTH)
    v = tl.full([BLOCK_N], 1.0, tl.float32)
    if v_ptr is not None:
        v_ptr += block * n_rows * P + rows
        v = tl.load(v_ptr)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        x_hi, x_lo = tile_of(x_hi_ptr, x_lo_ptr, cols.to(tl.int64), coords, WIDTH)
        both = half[:, None] + tl.load(x_half_ptr + cols)[None, :]
        q = both - products(z_hi, z_lo, x_hi, x_lo)
        if has_near(q, both, floor, NEAR, VIA_HISTOGRAM):
            x_tile_ptr = x_ptr + start * D.to(tl.int64)
            col = offsets_from(start, m, D, BLOCK_M)
            q = square_distances(z_ptr, x_tile_ptr, row, col, D, BLOCK_N, BLOCK_M)
            q *= 0.5 * unit * unit
        c = v[:, None] * tl.load(w_ptr + cols)[None, :]
        if P == 2:
            other = tl.load(v_ptr + n_rows)[:, None]
            c += other * tl.load(w_ptr + m_rows + cols)[None, :]
        if SKIP:
            c = tl.where(rows[:, None] == cols[None, :], 0.0, c)
        again = start > first
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            by_lam, by_s, by_a = theta(q, lam, s, a, (PROFILES >> (8 * l)) % 256)
            add_to(q_ptr + 3 * l * n_rows, tl.sum(c * by_lam, axis=1), again)
            add_to(q_ptr + (3 * l + 1) * n_rows, tl.sum(c * by_s, axis=1), again)
            add_to(q_ptr + (3 * l + 2) * n_rows, tl.sum(c * by_a, axis=1), again)
        tl.debug_barrier()  # the next round may read with other threads what these wrote


def chosen(z: Tensor, x: Tensor, p: int, kernel: Mixture) -> Regime | None:
    """The row of the table, or None if lanes of their own are to do it."""
    (n, d), m = z.shape[-2:], x.shape[-2]
    block = batch(z, x, kernel.params)
    work = d * n * m * (block[0] if block else 1)
    if not kernel.is_radial or p > 2 or work < max(fused.LEAST_WORK, 1):
        return None
    row = regimes.device_regime(d, False, z.device, PARAMETERS)
    if row.kind != "tiles":
        return None
    return faster("parameters", row, code(kernel.names), z.device)


def params_grad_of_tiles(
    z: Tensor, x: Tensor, v: Tensor | None, w: Tensor, kernel: Mixture, row: Regime,
    skip_diagonal: bool,
) -> Tensor:  # fmt: skip
    """(…, L, 3) in float64"""
    n, (m, p), count = z.shape[-2], w.shape[-2:], len(kernel.names)
    block = batch(z, x, v, w, kernel.params)
    both = frame(z, x, block)
    table, floor = both.table(kernel, row.near, grad=True)
    blocks = block[0] if block else 1
    programs = both.z.rows // row.rows * blocks
    strip = min(strip_of(m, programs), LONGEST_STRIP)
    shape = triton.cdiv(m, strip), *block, 3 * count, both.z.rows
    q = z.new_empty(shape, dtype=torch.float32)
    with quiet(parameter_kernel):
        parameter_kernel[(programs, len(q))](
            z_ptr=z, x_ptr=x, floor_ptr=floor, params_ptr=table, q_ptr=q,
            v_ptr=None if v is None else padded(v, both.z.rows, block),
            w_ptr=padded(w, both.x.rows, block), n=n, m=m, D=z.shape[-1], strip=strip,
            blocks=blocks, z_step=step(z), x_step=step(x), params_step=step(table),
            PROFILES=code(kernel.names), L=count, P=p, SKIP=skip_diagonal, NEAR=row.near,
            VIA_HISTOGRAM=via_histogram(architecture(z.device)), BLOCK_N=row.rows,
            BLOCK_M=row.columns, num_warps=row.warps, num_stages=row.stages,
            enable_fp_fusion=True, **both.arguments(),
        )  # fmt: skip
    q = q[..., :n].sum((0, -1), dtype=torch.float64).unflatten(-1, (count, 3))
    return q * both.by_parameter()
