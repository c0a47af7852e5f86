"""The Triton kernel for the pairs that tensor_cores.py left out: it adds them from differences.

One program owns the same rows and the same strip of x as one program there, one row per lane, and
takes the columns on that program's list, BLOCK_M at a time. An overfull list means that most of the
strip is near: the other program has then left everything out, and this one takes every column.
"""

import triton
import triton.language as tl

from dmmd_kernels.backends._triton.direct import add, on_diagonal
from dmmd_kernels.backends._triton.mixture import slope, value
from dmmd_kernels.backends._triton.tensor_cores import CAPACITY

_SIZES = [
    "n", "m", "D", "g_width", "n_rows", "m_rows", "strip", "base", "blocks",
    "z_step", "x_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def near_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, f_ptr, g_ptr, list_ptr, count_ptr,
    n, m, D, g_width, n_rows, m_rows, strip, base, blocks, z_step, x_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, P: tl.constexpr,
    SKIP: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    programs = n_rows // BLOCK_N
    block = (tl.program_id(0) // programs).to(tl.int64)
    part = (base + tl.program_id(1)).to(tl.int64) * blocks + block
    place = part * programs + tl.program_id(0) % programs
    listed = tl.load(count_ptr + place)
    first = (base + tl.program_id(1)) * strip
    is_whole = listed > CAPACITY
    count = tl.where(is_whole, tl.minimum(strip, m - first), listed)

    rows = (tl.program_id(0) % programs) * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = rows < n
    row = tl.minimum(rows, n - 1)
    z_ptr += (block * z_step + row) * D
    x_ptr += block * x_step * D
    params_ptr += block * params_step * 3
    w_ptr += block * m_rows * P
    f = tl.zeros([BLOCK_N], tl.float32)
    lost = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, count, BLOCK_M):
        index = start + tl.arange(0, BLOCK_M)
        counts = index < count
        cols = first + index
        if is_whole == 0:
            cols = tl.load(list_ptr + place * CAPACITY + index, mask=counts, other=0)
        x_rows = x_ptr + cols.to(tl.int64) * D
        q = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for c in range(0, D):
            z = tl.load(z_ptr + c).to(tl.float32)
            x = tl.load(x_rows + c, mask=counts, other=0.0).to(tl.float32)
            diff = z[None, :] - x[:, None]
            q += diff * diff
        weight = tl.load(w_ptr + cols, mask=counts, other=0.0)[:, None]
        if v_ptr is not None:
            weight = tl.load(v_ptr + block * n_rows * P + row)[None, :] * weight
        if P == 2:
            other = tl.load(w_ptr + m_rows + cols, mask=counts, other=0.0)[:, None]
            weight += tl.load(v_ptr + (block * 2 + 1) * n_rows + row)[None, :] * other
        if f_ptr is not None:
            k = weight * value(q, params_ptr, PROFILES, L)
            k = on_diagonal(k, rows[None, :], cols[:, None], SKIP, SYMMETRIC)
            if SYMMETRIC:
                k *= 2
            f, lost = add(f, lost, tl.sum(k, axis=0))
        if g_ptr is not None:
            pull = 2 * weight * slope(q, params_ptr, PROFILES, L)
            pull = on_diagonal(pull, rows[None, :], cols[:, None], SKIP, False)
            to = g_ptr + ((part - base.to(tl.int64) * blocks) * n + rows) * g_width
            for c in range(0, D):
                z = tl.load(z_ptr + c).to(tl.float32)
                x = tl.load(x_rows + c, mask=counts, other=0.0).to(tl.float32)
                addend = tl.sum(pull * (z[None, :] - x[:, None]), axis=0)
                addend += tl.load(to + c, mask=exists, other=0.0)
                tl.store(to + c, addend, mask=exists)
    if f_ptr is not None:
        if count > 0:
            to = f_ptr + part * n + rows
            tl.store(to, f + tl.load(to, mask=exists, other=0.0), mask=exists)
