"""The potential and its gradient through tensor cores, from points split into two float16.

One program owns BLOCK_N rows of z and streams a strip of x past them, BLOCK_M columns at a time:

    q/2 = |z|²/2 + |x|²/2 - ⟨z, x⟩     ⟨z, x⟩ in three products: lo·hi + hi·lo + hi·hi
    f  += Σⱼ cⱼ K                      in float32, compensated
    g  += Σⱼ Wⱼ xⱼ,  W = c K_q         W split like the points, scaled row by row; three
                                       products, each tile's sum added in float32

so both products have the accuracy of float32. precision="high" takes hi·hi alone, with the norms of
hi.

What the expanded form does badly it leaves alone: where q < NEAR (|z|² + |x|²) and the kernel can
tell (fused.py), the column is taken out of the tile and put on the program's list; near.py adds
those pairs from differences. So it does with tiles that meet a diagonal of which not all counts."""

import triton
import triton.language as tl

from dmmd_kernels.backends._triton.direct import add, on_diagonal
from dmmd_kernels.backends._triton.mixture import relative_slope, relative_value

CAPACITY = tl.constexpr(512)  # columns on a list; with more, near.py takes the whole strip
_SIZES = ["n", "m", "n_rows", "m_rows", "strip", "blocks", "params_step"]


@triton.jit
def scales(peak):
    """2^k that brings a row whose largest entry is `peak` near 2¹⁴, and 2^-k."""
    exponent = (peak.to(tl.int32, bitcast=True) >> 23) & 0xFF
    exponent = tl.minimum(tl.maximum(exponent, 15), 254)
    up = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    return up, ((exponent - 14) << 23).to(tl.float32, bitcast=True)


@triton.jit
def how_many(flags, VIA_HISTOGRAM: tl.constexpr):
    """How many of the zeros and ones are one. Triton < 3.9 crashes on a plain sum on sm_100."""
    if VIA_HISTOGRAM:
        return tl.sum(tl.histogram(flags, 2) * tl.arange(0, 2), axis=0)
    else:
        return tl.sum(flags, axis=0)


@triton.jit
def anew(index, count):
    """The index, which no compiler can tell from another as long as it does not know count >= 0.

    What is made of it is computed where it is used, and not held in registers from before a loop.
    """
    return index + (count >> 31)


@triton.jit
def leave_near(
    q, both, w, other, floor, rows, cols, n, m, list_ptr, count, all_columns,
    NEAR: tl.constexpr, SKIP: tl.constexpr, SYMMETRIC: tl.constexpr, VIA_HISTOGRAM: tl.constexpr,
):  # fmt: skip
    """Puts columns with a near pair, or all, on the list: (q, weights without them, how many)."""
    slack = q - NEAR * both  # near is what lies below -floor; one fused operation
    if VIA_HISTOGRAM:
        is_any = how_many(tl.max(tl.where(slack < -floor, 1, 0), axis=0), True) > 0
    else:
        is_any = tl.min(tl.min(slack, axis=1), axis=0) < -floor
    if SKIP or SYMMETRIC:
        is_any = is_any | all_columns
    if is_any:
        near = tl.where((slack < -floor) & (rows < n)[:, None], 1, 0)
        if SKIP:
            near = tl.where(rows[:, None] == cols[None, :], 0, near)
        if SYMMETRIC:
            near = tl.where(cols[None, :] < rows[:, None], 0, near)
        column = tl.max(near, axis=0)
        if SKIP or SYMMETRIC:
            column = tl.where(all_columns, 1, column)
        q = tl.where(column[None, :] > 0, 1.0, q)  # what is left of near pairs must be finite
        w = tl.where(column > 0, 0.0, w)
        other = tl.where(column > 0, 0.0, other)
        listed = tl.where(cols < m, column, 0)
        to = count + tl.cumsum(listed, axis=0) - listed
        tl.store(list_ptr + to, cols, mask=(listed > 0) & (to < CAPACITY))
        count += how_many(listed, VIA_HISTOGRAM)
    return q, w, other, count


@triton.jit
def with_nan(count, sums, rows, n, VIA_HISTOGRAM: tl.constexpr):
    """The count, or more than a list holds if a sum is NaN: then near.py finds out what it is."""
    is_nan = tl.where((sums != sums) & (rows < n), 1, 0)
    return tl.where(how_many(is_nan, VIA_HISTOGRAM) > 0, CAPACITY + 1, count)


@triton.jit(do_not_specialize=_SIZES)
def fused_kernel(
    z_hi_ptr, z_lo_ptr, z_half_ptr, x_hi_ptr, x_lo_ptr, x_half_ptr,
    v_ptr, w_ptr, params_ptr, floor_ptr, units_ptr, f_ptr, g_ptr, list_ptr, count_ptr,
    n, m, n_rows, m_rows, strip, blocks, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, P: tl.constexpr, PASSES: tl.constexpr,
    SKIP: tl.constexpr, SYMMETRIC: tl.constexpr, NEAR: tl.constexpr, VIA_HISTOGRAM: tl.constexpr,
    WIDTH: tl.constexpr, LANE_COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    programs = n_rows // BLOCK_N
    block = (tl.program_id(0) // programs).to(tl.int64)
    top = (tl.program_id(0) % programs) * BLOCK_N
    rows = top + tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * strip
    stop = tl.minimum(first + strip, m)
    if SYMMETRIC:
        first = tl.maximum(first, top)
    first = tl.multiple_of(first, 16)
    part = tl.program_id(1) * blocks + tl.program_id(0) // programs
    before = tl.multiple_of(block * m_rows, 16)
    x_hi_ptr += before * WIDTH
    if PASSES == 3:
        x_lo_ptr += before * WIDTH
    x_half_ptr += before
    w_ptr += before * P
    other_ptr = w_ptr + tl.multiple_of(before + m_rows, 16) - before
    params_ptr += block * params_step * 3
    place = part * programs + tl.program_id(0) % programs
    list_ptr += place.to(tl.int64) * CAPACITY

    coords = tl.arange(0, WIDTH)
    mine = (block * n_rows + rows)[:, None] * WIDTH + coords[None, :]
    z_hi = tl.load(z_hi_ptr + mine)
    if PASSES == 3:
        z_lo = tl.load(z_lo_ptr + mine)
    z_half = tl.load(z_half_ptr + block * n_rows + rows)
    unit, floor = tl.load(units_ptr + 3 * block), tl.load(floor_ptr + block)
    if P == 2:
        v = tl.load(v_ptr + block * n_rows * 2 + rows)
        v_other = tl.load(v_ptr + (block * 2 + 1) * n_rows + rows)
    f = tl.zeros([BLOCK_N], tl.float32)
    lost = tl.zeros([BLOCK_N], tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    pulled = tl.zeros([BLOCK_N, WIDTH], tl.float32)
    count = 0
    if LANE_COLUMNS > 0:
        sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        theirs = cols.to(tl.int64)[:, None] * WIDTH + coords[None, :]
        x_hi = tl.load(x_hi_ptr + theirs)
        x_half = tl.load(x_half_ptr + cols)
        if PASSES == 3:
            x_lo = tl.load(x_lo_ptr + theirs)
            product = tl.dot(z_lo, tl.trans(x_hi))
            product = tl.dot(z_hi, tl.trans(x_lo), product)
            product = tl.dot(z_hi, tl.trans(x_hi), product)
        else:
            product = tl.dot(z_hi, tl.trans(x_hi))
        both = z_half[:, None] + x_half[None, :]
        t = both - unit * product
        w = tl.load(w_ptr + cols)
        other = tl.load(other_ptr + cols) if P == 2 else w
        on_top = (start < top + BLOCK_N) & (start + BLOCK_M > top)
        if PASSES == 3:
            t, w, other, count = leave_near(
                t, both, w, other, floor, rows, cols, n, m, list_ptr, count, on_top,
                NEAR, SKIP, SYMMETRIC, VIA_HISTOGRAM,
            )  # fmt: skip
        else:
            t = tl.where(t < 0, 0.0, t)
        if P == 2:
            c = v[:, None] * w[None, :] + v_other[:, None] * other[None, :]
        else:
            c = w[None, :]
        if f_ptr is not None:
            k = c * relative_value(t, params_ptr, PROFILES, L)
            if PASSES == 1 and (SKIP or SYMMETRIC):
                if on_top:
                    k = on_diagonal(k, rows[:, None], cols[None, :], SKIP, SYMMETRIC)
            if LANE_COLUMNS > 0:
                sums += k
                if (start - first) % LANE_COLUMNS == LANE_COLUMNS - BLOCK_M:
                    f, lost = add(f, lost, tl.sum(sums, axis=1))
                    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            else:
                f, lost = add(f, lost, tl.sum(k, axis=1))
        if g_ptr is not None:
            pull = c * relative_slope(t, params_ptr, PROFILES, L)
            if PASSES == 1 and SKIP:
                if on_top:
                    pull = on_diagonal(pull, rows[:, None], cols[None, :], SKIP, False)
            up, down = scales(tl.max(tl.abs(pull), axis=1))
            pull = pull * up[:, None]
            hi = pull.to(tl.float16)
            if PASSES == 3:
                total += down * tl.sum(pull, axis=1)
                lo = (pull - hi.to(tl.float32)).to(tl.float16)
                piece = tl.dot(lo, x_hi)
                piece = tl.dot(hi, x_lo, piece)
                piece = tl.dot(hi, x_hi, piece)
            else:
                total += down * tl.sum(hi.to(tl.float32), axis=1)
                piece = tl.dot(hi, x_hi)
            pulled += piece * down[:, None]

    if LANE_COLUMNS > 0:
        f, _ = add(f, lost, tl.sum(sums, axis=1))
    factor = tl.full([BLOCK_N], 2.0 if SYMMETRIC else 1.0, tl.float32)
    if P == 1:
        if v_ptr is not None:
            factor *= tl.load(v_ptr + block * n_rows + rows)
    if PASSES == 3:
        count = with_nan(count, f + total, rows, n, VIA_HISTOGRAM)
    is_overfull = count > CAPACITY  # near.py takes everything
    if f_ptr is not None:
        f = tl.where(is_overfull, 0.0, f * (factor * tl.load(units_ptr + 3 * block + 1)))
        tl.store(f_ptr + part.to(tl.int64) * n + rows, f, mask=rows < n)
    if g_ptr is not None:
        if P == 2 and f_ptr is not None:  # here registers are short
            mine = (block * n_rows + rows)[:, None] * WIDTH + coords[None, :]
        z = tl.load(z_hi_ptr + mine).to(tl.float32)  # again: not held in the loop
        if PASSES == 3:
            z += tl.load(z_lo_ptr + mine).to(tl.float32)
        factor *= tl.load(units_ptr + 3 * block + 2)
        g = tl.where(is_overfull, 0.0, (total[:, None] * z - pulled) * factor[:, None])
        to = (part.to(tl.int64) * n + rows)[:, None] * WIDTH + coords[None, :]
        tl.store(g_ptr + to, g, mask=(rows < n)[:, None])
    tl.store(count_ptr + place, count)
