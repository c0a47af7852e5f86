"""Many dimensions: library products of float16 panels, and one Triton kernel between them.

    S = Z Xᵀ      a panel of x at a time: K-concatenated, [lo, hi, hi] [hi, lo, hi]ᵀ, one product
    W = c K_q     panel_kernel: |z - x|²/2 from S, f, near pairs onto the list, W in place of S
    g += W X      [hi, lo] [hi, hi]ᵀ and hi lo, W scaled row by row

No exponential is computed twice, and the panels bound the memory: n × 2048 numbers, twice.
One program of panel_kernel owns BLOCK_N rows of a panel.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton.direct import on_diagonal
from dmmd_kernels.backends._triton.float16 import ROWS, Halves
from dmmd_kernels.backends._triton.mixture import relative_slope, relative_value
from dmmd_kernels.backends._triton.tensor_cores import CAPACITY, leave_near, scales, with_nan

PANEL = 2048  # columns
_ENTRIES = 2**26  # of a panel: 256 MB, and as much again for W

_SIZES = ["n", "m", "n_rows", "m_rows", "s_rows", "top", "width", "base", "blocks", "params_step"]


@triton.jit(do_not_specialize=_SIZES)
def panel_kernel(
    s_ptr, hi_ptr, lo_ptr, total_ptr, down_ptr, z_half_ptr, x_half_ptr,
    v_ptr, w_ptr, params_ptr, floor_ptr, units_ptr, f_ptr, list_ptr, count_ptr,
    n, m, n_rows, m_rows, s_rows, top, width, base, blocks, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, P: tl.constexpr, PASSES: tl.constexpr,
    SKIP: tl.constexpr, SYMMETRIC: tl.constexpr, NEAR: tl.constexpr, VIA_HISTOGRAM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    programs = s_rows // BLOCK_N
    block = (tl.program_id(0) // programs).to(tl.int64)
    index = (tl.program_id(0) % programs) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = top + index
    part = base.to(tl.int64) * blocks + block
    place = (part * n_rows + top) // BLOCK_N + tl.program_id(0) % programs
    list_ptr += place * CAPACITY
    x_half_ptr += block * m_rows
    w_ptr += block * m_rows * P
    params_ptr += block * params_step * 3
    row = block * n_rows + rows
    lines = ((block * s_rows + index) * width)[:, None]
    z_half = tl.load(z_half_ptr + row)
    unit, floor = tl.load(units_ptr + 3 * block), tl.load(floor_ptr + block)
    f = tl.zeros([BLOCK_N], tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    peak = tl.zeros([BLOCK_N], tl.float32)
    count = 0
    for start in range(0, width, BLOCK_M):
        here = start + tl.arange(0, BLOCK_M)
        cols = base * width + here
        exists = cols < m_rows
        x_half = tl.load(x_half_ptr + cols, mask=exists, other=0.0)
        w = tl.load(w_ptr + cols, mask=exists, other=0.0)
        both = z_half[:, None] + x_half[None, :]
        t = both - unit * tl.load(s_ptr + lines + here[None, :])
        other = tl.load(w_ptr + m_rows + cols, mask=exists, other=0.0) if P == 2 else w
        if PASSES == 3:
            t, w, other, count = leave_near(
                t, both, w, other, floor, rows, cols, n, m, list_ptr, count, False,
                NEAR, SKIP, SYMMETRIC, VIA_HISTOGRAM,
            )  # fmt: skip
        else:
            t = tl.where(t < 0, 0.0, t)
        c = w[None, :]
        if P == 2:
            v = tl.load(v_ptr + block * n_rows * 2 + rows)
            v_other = tl.load(v_ptr + (block * 2 + 1) * n_rows + rows)
            c = v[:, None] * c + v_other[:, None] * other[None, :]
        if f_ptr is not None:
            k = c * relative_value(t, params_ptr, PROFILES, L)
            k = on_diagonal(k, rows[:, None], cols[None, :], SKIP, SYMMETRIC)
            f += tl.sum(k, axis=1)
        if hi_ptr is not None:
            pull = c * relative_slope(t, params_ptr, PROFILES, L)
            pull = on_diagonal(pull, rows[:, None], cols[None, :], SKIP, False)
            total += tl.sum(pull, axis=1)
            peak = tl.maximum(peak, tl.max(tl.abs(pull), axis=1))
            tl.store(s_ptr + lines + here[None, :], pull)

    if PASSES == 3:
        count = with_nan(count, f + total, rows, n, VIA_HISTOGRAM)
    factor = tl.full([BLOCK_N], 2.0 if SYMMETRIC else 1.0, tl.float32)
    if P == 1:
        if v_ptr is not None:
            factor *= tl.load(v_ptr + row)
    if f_ptr is not None:
        f *= factor * tl.load(units_ptr + 3 * block + 1)
        f = tl.where(count > CAPACITY, 0.0, f)  # near.py takes everything
        tl.store(f_ptr + part * n + rows, f, mask=rows < n)
    tl.store(count_ptr + place, count)
    if hi_ptr is not None:
        up, down = scales(peak)
        if PASSES == 1:
            total = tl.zeros_like(total)  # the sum has to be that of the rounded W
        tl.debug_barrier()  # the panel's W has been written by other threads
        for start in range(0, width, BLOCK_M):
            here = lines + (start + tl.arange(0, BLOCK_M))[None, :]
            pull = tl.load(s_ptr + here) * up[:, None]
            pull = tl.where(count > CAPACITY, 0.0, pull)
            hi = pull.to(tl.float16)
            tl.store(hi_ptr + here, hi)
            if PASSES == 1:
                total += down * tl.sum(hi.to(tl.float32), axis=1)
            else:
                tl.store(lo_ptr + here, (pull - hi.to(tl.float32)).to(tl.float16))
        total = tl.where(count > CAPACITY, 0.0, total)
        tl.store(total_ptr + row, total + tl.load(total_ptr + row))
        tl.store(down_ptr + row, down)


@dataclass
class Panels:
    """The two clouds as the library multiplies them, and room for one panel of pairs.

    A panel has PANEL columns and as many rows as fit into `_ENTRIES` pairs.
    """

    z: Halves
    x: Halves
    passes: int

    def __post_init__(self):
        z, x = self.z, self.x
        if self.passes == 1:
            self._left, self._right = _blocks(z.hi), _blocks(x.hi)
        else:
            self._left = torch.cat([_blocks(t) for t in (z.lo, z.hi, z.hi)], -1)
            self._right = torch.cat([_blocks(t) for t in (x.hi, x.lo, x.hi)], -1)
        blocks = self._left.shape[0]
        self.rows = max(ROWS, _ENTRIES // (PANEL * blocks) // ROWS * ROWS)

    def products(self, top: int, index: int) -> Tensor:
        """⟨z_i, x_j⟩ of rows from `top` on with a panel of x, (B, rows, PANEL), padded with 0."""
        right = self._right[:, index * PANEL : (index + 1) * PANEL]
        s = product(self._left[:, top : top + self.rows], right.mT)
        return torch.nn.functional.pad(s, (0, PANEL - right.shape[1])).contiguous()

    def pulled(self, index: int, hi: Tensor, lo: Tensor | None) -> Tensor:
        """W X of that panel, (B, rows, width)."""
        columns = slice(index * PANEL, (index + 1) * PANEL)
        x_hi = _blocks(self.x.hi)[:, columns]
        hi = hi[..., : x_hi.shape[1]]
        if lo is None or self.x.lo is None:
            return product(hi, x_hi)
        small = product(lo[..., : x_hi.shape[1]], x_hi)
        return small + product(hi, _blocks(self.x.lo)[:, columns]) + product(hi, x_hi)


def _blocks(t: Tensor) -> Tensor:
    return t if t.ndim == 3 else t[None]


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, float16 in, float32 added and out; TF32 is never used."""
    if a.is_cuda and _has_out_dtype(a.device):
        return torch.bmm(a, b, out_dtype=torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return torch.bmm(a.float(), b.float())
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _has_out_dtype(device: torch.device) -> bool:
    """Whether this torch can add float16 products into float32 there (2.8 and later)."""
    probe = torch.zeros(1, 16, 16, dtype=torch.float16, device=device)
    try:
        torch.bmm(probe, probe, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True
