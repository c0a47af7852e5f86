"""What sweeps from differences share: a tile of pairs, one coordinate at a time.

A tile is [BLOCK_M, BLOCK_N]: columns (points of x) in the registers of a thread, one row (a point
of z) per lane. Triton lays such a tile out so by itself if BLOCK_N is 32 lanes times the warps. A
coordinate of x is then the same for all lanes, sums over columns stay inside a thread, and no value
ever crosses lanes, so programs need neither shared memory nor barriers.

With GATHER a lane may belong to any block of the batch (launch.py, layout by point), so pointers
have one entry per lane.

Padding: rows beyond n repeat the last one, and are not stored; columns beyond m have weight zero.
"""

import triton
import triton.language as tl


@triton.jit
def place(n, blocks, BLOCK_N: tl.constexpr, GATHER: tl.constexpr):
    """(rows, their block of the batch, whether they exist), [BLOCK_N] each but for one block."""
    lanes = tl.arange(0, BLOCK_N)
    if GATHER:
        point = tl.program_id(0).to(tl.int64) * BLOCK_N + lanes
        exists = point < n * blocks
        point = tl.minimum(point, n * blocks - 1)
        return point % n, point // n, exists
    else:
        programs = tl.cdiv(n, BLOCK_N)
        rows = (tl.program_id(0) % programs).to(tl.int64) * BLOCK_N + lanes
        return tl.minimum(rows, n - 1), (tl.program_id(0) // programs).to(tl.int64), rows < n


@triton.jit
def columns(m, strip):
    """First column, and the one after the last, of this program."""
    first = tl.program_id(1) * (strip * 16)
    return first, tl.minimum(first + strip * 16, m)


@triton.jit
def of_block(ptr, block, step, D, GATHER: tl.constexpr):
    """Where the points of a block begin: block number times its points times D."""
    if GATHER:
        return ptr + block * step * D
    else:
        return ptr + block * (step * 16) * D


@triton.jit
def table_of_block(ptr, block, step, GATHER: tl.constexpr):
    """The same for the kernel's parameters, of three columns."""
    if GATHER:
        return ptr + (block * step * 3)[None, :]
    else:
        return ptr + block * step * 3


@triton.jit
def load_rows(ptr, rows, c, D, n_pitch, GATHER: tl.constexpr):
    """Coordinate c of the lanes' points, [1, BLOCK_N]; zero if there are no points (None)."""
    if ptr is None:
        return 0.0
    elif GATHER:
        return tl.load(ptr + (rows * D + c)).to(tl.float32)[None, :]
    else:
        return tl.load(ptr + c * (n_pitch.to(tl.int64) * 16) + rows)[None, :]


@triton.jit
def load_columns(ptr, cols, m, c, D, m_pitch, GATHER: tl.constexpr):
    """Coordinate c of the points `cols`, zero beyond m: [BLOCK_M, 1], or [BLOCK_M, BLOCK_N]."""
    if ptr is None:
        return 0.0
    elif GATHER:
        offsets = (cols.to(tl.int64) * D + c)[:, None]
        return tl.load(ptr[None, :] + offsets, mask=(cols < m)[:, None], other=0.0).to(tl.float32)
    else:
        return tl.load(ptr + c * (m_pitch.to(tl.int64) * 16) + cols)[:, None]


@triton.jit
def affinities(
    z_ptr, x_ptr, rows, cols, m, D, n_pitch, m_pitch,
    RADIAL: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """q = |z - x|², or ⟨z, x⟩, of all pairs of the tile."""
    q = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, UNROLL):
        for u in tl.static_range(UNROLL):
            z = load_rows(z_ptr, rows, start + u, D, n_pitch, GATHER)
            x = load_columns(x_ptr, cols, m, start + u, D, m_pitch, GATHER)
            if RADIAL:
                diff = z - x
                q += diff * diff
            else:
                q += z * x
    return q


@triton.jit
def affinity_dots(
    z_ptr, x_ptr, a_ptr, b_ptr, rows, cols, m, D, n_pitch, m_pitch,
    RADIAL: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """q, and q̇ = 2⟨z - x, a - b⟩, or ⟨a, x⟩ + ⟨z, b⟩, of all pairs of the tile."""
    q = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    q_dot = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, UNROLL):
        for u in tl.static_range(UNROLL):
            z = load_rows(z_ptr, rows, start + u, D, n_pitch, GATHER)
            x = load_columns(x_ptr, cols, m, start + u, D, m_pitch, GATHER)
            a = load_rows(a_ptr, rows, start + u, D, n_pitch, GATHER)
            b = load_columns(b_ptr, cols, m, start + u, D, m_pitch, GATHER)
            if RADIAL:
                diff = z - x
                q += diff * diff
                q_dot += (2 * diff) * (a - b)
            else:
                q += z * x
                q_dot += a * x + z * b
    return q, q_dot


@triton.jit
def coefficients(
    v_ptr, w_ptr, rows, cols, m, P, n_pitch, m_pitch, RANK: tl.constexpr, GATHER: tl.constexpr
):  # fmt: skip
    """c_ij = ⟨v_i, w_j⟩, zero beyond m; without v it is w_j. RANK is P, if it is small, or 0."""
    c = load_columns(w_ptr, cols, m, 0, P, m_pitch, GATHER)
    if v_ptr is not None:
        c = load_rows(v_ptr, rows, 0, P, n_pitch, GATHER) * c
        if RANK > 0:
            for k in tl.static_range(1, RANK):
                v = load_rows(v_ptr, rows, k, P, n_pitch, GATHER)
                c += v * load_columns(w_ptr, cols, m, k, P, m_pitch, GATHER)
        else:
            for k in range(1, P):
                v = load_rows(v_ptr, rows, k, P, n_pitch, GATHER)
                c += v * load_columns(w_ptr, cols, m, k, P, m_pitch, GATHER)
    return c


@triton.jit
def on_diagonal(pairs, rows, cols, SKIP: tl.constexpr, SYMMETRIC: tl.constexpr):
    """What counts of a tile that meets the diagonal; half the sum, if it is to be doubled."""
    if SYMMETRIC:
        itself = tl.where(rows == cols, 0.0 if SKIP else 0.5 * pairs, pairs)
        return tl.where(cols < rows, 0.0, itself)
    elif SKIP:
        return tl.where(rows == cols, 0.0, pairs)
    else:
        return pairs


@triton.jit
def keep(pairs, rows, cols, SKIP: tl.constexpr):
    """The pairs that count: with SKIP, those off the diagonal."""
    return tl.where(rows[None, :] == cols[:, None], 0.0, pairs) if SKIP else pairs


@triton.jit
def into_slot(slots, part, index, SLOTS: tl.constexpr):
    """Adds part [BLOCK_N] to row `index`, a constant, of slots [SLOTS, BLOCK_N]."""
    rows = tl.arange(0, SLOTS)[:, None]
    return slots + tl.where(rows == index, part[None, :], 0.0)


@triton.jit
def add(total, lost, part):
    """total + part, and what rounding lost of it (Kahan), for sums over very many columns."""
    part = part - lost
    new = total + part
    return new, (new - total) - part


@triton.jit
def accumulate(g_ptr, rows, c, D, n_pitch, part, exists, again, GATHER: tl.constexpr):
    """Writes part to coordinate c of the rows, this program's alone, or adds it there."""
    ptr = g_ptr + (rows * D + c if GATHER else c * (n_pitch.to(tl.int64) * 16) + rows)
    if again:
        part += tl.load(ptr, mask=exists, other=0.0)
    tl.store(ptr, part, mask=exists)


@triton.jit
def store_slots(
    g_ptr, rows, D, n_pitch, g, exists, SLOTS: tl.constexpr, GATHER: tl.constexpr
):  # fmt: skip
    """Writes all coordinates [SLOTS, BLOCK_N] of the rows."""
    coords = tl.arange(0, SLOTS)[:, None]
    if GATHER:
        ptr = (g_ptr + rows * D)[None, :] + coords
    else:
        ptr = (g_ptr + rows)[None, :] + coords * (n_pitch.to(tl.int64) * 16)
    tl.store(ptr, g, mask=exists[None, :] & (coords < D))
