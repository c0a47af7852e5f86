"""q and q̇ of a tile of pairs, for second order: through tensor cores, or from differences.

    q/2 = |z|²/2 + |x|²/2 - ⟨z, x⟩     as in near_tiles.py
    q̇/2 = ⟨z - x, a⟩ or -⟨z - x, b⟩    as ⟨z, a⟩ - ⟨x, a⟩ or ⟨x, b⟩ - ⟨z, b⟩: a second product

A sweep is along the direction a AT_Z, or along b at x. Both together are two sweeps: what they
yield is linear in the direction. But a - b may be small beside a where z is near x. So a tile with
a near pair, which is taken from differences, is the sweep's AT_Z alone.

Points are scaled by r and directions by a power of two of their own, of which only the ratio is
left in q̇: `rate`.
"""

import triton
import triton.language as tl

from dmmd_kernels.backends._triton.near_tiles import has_near, products, streamed_products


@triton.jit
def difference(z_ptr, x_ptr, row, col):
    """z - x of one coordinate of the tile. Pointers are to it; row and col are offsets.

    Without z it is -x, and without x it is z.
    """
    if x_ptr is None:
        return tl.load(z_ptr + row).to(tl.float32)[:, None]
    elif z_ptr is None:
        return -tl.load(x_ptr + col).to(tl.float32)[None, :]
    else:
        z = tl.load(z_ptr + row).to(tl.float32)[:, None]
        return z - tl.load(x_ptr + col).to(tl.float32)[None, :]


@triton.jit
def _differences(
    z_ptr, x_ptr, a_ptr, b_ptr, row, col, D, BY_OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """|z - x|² and ⟨z - x, a - b⟩ of the tile. What moves BY_OFFSET, or else by pointer, is a
    matter of registers.
    """
    q = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    q_dot = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for c in range(0, D):
        if BY_OFFSET:
            diff = difference(z_ptr, x_ptr, c + row, c + col)
            q += diff * diff
            q_dot += diff * difference(a_ptr, b_ptr, c + row, c + col)
        else:
            diff = difference(z_ptr + c, x_ptr + c, row, col)
            q += diff * diff
            if a_ptr is None:
                q_dot += diff * difference(None, b_ptr + c, row, col)
            elif b_ptr is None:
                q_dot += diff * difference(a_ptr + c, None, row, col)
            else:
                q_dot += diff * difference(a_ptr + c, b_ptr + c, row, col)
    return q, q_dot


@triton.jit
def products_along(
    z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, t_hi_ptr, t_lo_ptr, lines, theirs,
    z_hi, z_lo, t_hi, t_lo, x_hi, x_lo, AT_Z: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """⟨z, x⟩, and ⟨a, x⟩ or ⟨z, b⟩: of the tiles, or of rows that are wider."""
    if WIDTH == CHUNK:
        s = products(z_hi, z_lo, x_hi, x_lo)
        if AT_Z:
            return s, products(t_hi, t_lo, x_hi, x_lo)
        else:
            return s, products(z_hi, z_lo, t_hi, t_lo)
    else:
        s = streamed_products(
            z_hi_ptr, z_lo_ptr, x_hi_ptr, x_lo_ptr, lines, theirs,
            WIDTH, CHUNK, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        if AT_Z:
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
def pairs_along(
    s, s_dot, half, z_ptr, x_ptr, a_ptr, b_ptr, x_half_ptr, along_ptr,
    unit, rate, floor, lines, theirs, row, col, base, D,
    AT_Z: tl.constexpr, BY_OFFSET: tl.constexpr, NEAR: tl.constexpr, VIA_HISTOGRAM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """q/2 and q̇/2 of the tile; whether they are from differences, or left to the other sweep."""
    both = half[:, None] + tl.load(x_half_ptr + theirs)[None, :]
    q = both - s
    if AT_Z:
        q_dot = (tl.load(along_ptr + lines)[:, None] - s_dot) * rate
    else:
        q_dot = (tl.load(along_ptr + theirs)[None, :] - s_dot) * rate
    is_near = has_near(q, both, floor, NEAR, VIA_HISTOGRAM)
    if is_near:
        if a_ptr is not None and not AT_Z:
            q = tl.full([BLOCK_N, BLOCK_M], 1.0, tl.float32)
            q_dot = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        else:
            if b_ptr is not None:
                b_ptr += base
            x_ptr += base
            q, q_dot = _differences(
                z_ptr, x_ptr, a_ptr, b_ptr, row, col, D, BY_OFFSET, BLOCK_N, BLOCK_M
            )
            q, q_dot = q * (0.5 * unit * unit), q_dot * (unit * unit)
    return q, q_dot, is_near
